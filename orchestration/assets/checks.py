"""Checks of a product and day: order, holes, parity with the published rows."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - what trains takes seconds to import, and most processes only serve the definitions

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import dagster as dg
from pydantic import Field

from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.figures import publish_or_warn
from data.stream.records import Figure
from offline.checks.faults import doubts_of_merging, faults_of_trades
from offline.days.steps import FEATURE_ROWS, StepResult
from offline.days.trades import TradesFacts
from offline.lake.store import Lake
from orchestration.assets.partitions import LAKE, partition_of_run, table_of
from orchestration.resources import LakeResource

SHOWN = 20
"""Most product-days in a table."""


class CheckVerdict(NamedTuple):
    """CheckVerdict of a check on a product and day.

    Attributes:
        fault: empty if all is well; a doubt, unless `is_error`.
    """

    product_id: str
    day: date
    fault: str
    figures: dict[str, float | int]
    is_error: bool


def check_order(lake: Lake, product_id: str, day: date, made: StepResult[TradesFacts]) -> CheckVerdict:
    """Check that columns are as agreed, ids rise, times lie within the day, and few trades conflict or fall."""
    if made.partition is None:
        return CheckVerdict(product_id, day, "", {"rows": 0}, is_error=False)
    faults = faults_of_trades(lake, product_id, day)
    found = "; ".join([*faults, *doubts_of_merging(made.facts)])
    return CheckVerdict(product_id, day, found, {"rows": made.partition.rows}, bool(faults))


def check_holes(_: Lake, product_id: str, day: date, made: StepResult[TradesFacts]) -> CheckVerdict:
    """Check that no hole is longer than a segment allows (GAP_S)."""
    holes, longest = (made.facts.holes, made.facts.longest_hole_s) if made.partition else (0, 0.0)
    fault = f"{holes} holes, the longest of {longest:,.0f} s: no return spans them" if holes else ""
    return CheckVerdict(product_id, day, fault, {"holes": holes, "longest_hole_s": longest}, False)


CHECKS: Mapping[str, Callable[[Lake, str, date, StepResult[TradesFacts]], CheckVerdict]] = {
    "order": check_order,
    "holes": check_holes,
}
"""Checks of `trades`. A hole is a warning and no error: recordings have holes."""


def check_result(name: str, found: Sequence[CheckVerdict]) -> dg.AssetCheckResult:
    """Return a check result for some product-days."""
    wrong = [each for each in found if each.fault]
    figures: dict[str, Any] = {}
    for each in found:
        for figure, value in each.figures.items():
            combine = max if figure.startswith("longest") else sum
            figures[figure] = combine((figures.get(figure, 0), value))
    metadata = {"product_days": len(found), **figures}
    if wrong:
        shown = ((each.product_id, each.day, each.fault) for each in wrong[:SHOWN])
        metadata["found"] = table_of(("product", "day", "found"), shown)
    return dg.AssetCheckResult(
        asset_key="trades",
        check_name=name,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR if any(each.is_error for each in wrong) else dg.AssetCheckSeverity.WARN,
        description=f"{len(wrong)} of {len(found)} product-days: {wrong[0].product_id} {wrong[0].day}: {wrong[0].fault}"
        if wrong
        else f"{len(found)} product-days are sound",
        metadata=metadata,
    )


class ParityConfig(dg.Config):
    """Product, day and source to compare with the published rows."""

    product_id: str = Field(default="", description="empty: the product of the run's partition, or of the newest rows")
    day: str = Field(default="", description="UTC, as 2025-01-06; empty: the partition's day, or the newest rows' day")
    source_id: str = Field(default="", description="source to compare with; empty: the newest source with these rows")


@dg.asset_check(asset="feature_rows", name="parity", pool=LAKE)
def parity(context: dg.AssetCheckExecutionContext, config: ParityConfig, lake: LakeResource) -> dg.AssetCheckResult:
    """Compare the feature rows of a day with the published rows of the same trades, byte for byte.

    The lake keeps a certificate that holds: the gate asks for one before a new recipe serves. With nothing to compare,
    the check warns, because nothing was certified.
    """
    from offline.checks.certificates import keep_certificate
    from offline.checks.parity import certify

    store = lake.open()
    place = _parity_place(context, config, store)
    if place is None:
        return _not_compared("the lake has no feature rows: ingest or simulate days, and backfill them")
    product_id, day = place
    try:
        # Not as a resource: Dagster shows a resource's fields, and these have passwords.
        kafka = KafkaSettings()
        found = certify(store, lake.spec, product_id, day, kafka, config.source_id or None)
        keep_certificate(store, lake.spec, found)
    except (ValueError, NotRead) as error:
        return _not_compared(str(error))
    differing = 0.0 if found.holds else max(1.0, float(found.missing + found.extra + found.different))
    figure = Figure("parity_different_rows", {"product_id": product_id}, differing, time.time_ns())
    publish_or_warn(kafka, [figure], context.log.warning)
    remade = (
        f"{found.remade:,} rows reach back beyond the source's first trade: they are compared as it saw them. "
        if found.remade
        else ""
    )
    strays = f"{found.strays:,} rows of stray trades, which the stream left behind, are apart. " if found.strays else ""
    return dg.AssetCheckResult(
        passed=found.holds,
        description=f"{product_id} {day}, source {found.source_id}: {found.equal:,} rows equal, {found.missing:,} "
        f"missing, {found.extra:,} extra, {found.different:,} different; covers "
        f"from {found.covers_from} to {found.covers_to}, {found.compared:,} of {found.rows_of_day:,} rows of the day. "
        f"{remade}{strays}{found.first_difference}".rstrip(),
        metadata={
            name: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            for name, value in found._asdict().items()
        },
    )


def _parity_place(context: dg.AssetCheckExecutionContext, config: ParityConfig, lake: Lake) -> tuple[str, date] | None:
    if config.product_id and config.day:
        return config.product_id, date.fromisoformat(config.day)
    if context.has_partition_key:
        return partition_of_run(context)
    places = sorted(lake.partition_keys(FEATURE_ROWS), key=lambda place: (place.day, place.product_id))
    return (places[-1].product_id, places[-1].day) if places else None


def _not_compared(why: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False, severity=dg.AssetCheckSeverity.WARN, description=f"Not compared: {why}", metadata={"equal": 0}
    )
