"""What the lineage graph shows of product-days, recordings to training sets. Each step is one call of `offline`."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - what trains takes seconds to import, and most processes only serve the definitions

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from pydantic import Field

from data.lake import Lake
from data.readers import check_product_id
from offline import days
from offline.days import Made
from offline.recordings import RECORDINGS, ingest
from offline.soundness import doubts_of_merging, faults_of_trades
from orchestration import plots
from orchestration.partitions import (
    INPUTS,
    PRODUCT_DAYS,
    PRODUCTS,
    Told,
    code_version,
    deps_of,
    input_tags,
    place_of,
    table_of,
    told_of,
    told_of_recordings,
)
from orchestration.resources import KafkaResource, LakeResource

SHOWN = 20
"""Product-days in a table, at most."""

LAKE = "lake"
"""Pool: of the runs that write there, one goes on at a time."""
RECORDINGS_GROUP, DAYS_GROUP = "recordings", "product_days"


class InboxConfig(dg.Config):
    """Where recordings come from."""

    inbox: str = Field(default="", description="a folder; empty: INBOX_DIR")
    product_id: str = Field(default="BTC-USD", description="of trades in recordings that name none")


class Inbox(dg.ConfigurableResource):
    """The folder that is looked into for recordings."""

    path: str

    def files(self, folder: str = "") -> list[tuple[str, Path]]:
        """Return the recordings in it with their names: paths below it; hidden files are on their way.

        Raises:
            Failure: it is not there, which would look like one without recordings.
        """
        root = Path(folder or self.path).expanduser()
        if not root.is_dir():
            raise dg.Failure(f"the inbox: there is no folder {root}", allow_retries=False)
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        relative = [path.relative_to(root) for path in paths]
        return [
            (name.as_posix(), path)
            for name, path in zip(relative, paths, strict=True)
            if not any(part.startswith(".") for part in name.parts)
        ]


def stage_inbox(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, lake: Lake, inbox: Inbox, config: InboxConfig
) -> tuple[list[tuple[str, date]], list[str]]:
    """Stage all recordings in the inbox; return the products and days that changed, and what is wrong with the rest."""
    check_product_id(config.product_id)
    changed, wrong = [], []
    for name, path in inbox.files(config.inbox):
        try:
            found = ingest(lake, path, config.product_id, name)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
            context.log.error(f"not taken: {name}: {error}")
            continue
        rows = sum(each.rows for each in found.days)
        rejected = sum(found.rejects.values())
        if found.is_new:
            context.log.info(f"{name}: {rows:,} trades on {len(found.days)} product-days, {rejected:,} rows rejected")
            changed += [(each.product_id, each.day) for each in found.days if each.is_new]
    add_products(context.instance, lake)
    return sorted(set(changed)), wrong


def add_products(instance: dg.DagsterInstance, lake: Lake) -> None:
    """Let Dagster know all products that the lake has recordings of."""
    instance.add_dynamic_partitions(str(PRODUCTS.name), lake.products(RECORDINGS))


@dg.asset(
    partitions_def=PRODUCT_DAYS,
    group_name=RECORDINGS_GROUP,
    kinds={"parquet"},
    pool=LAKE,
    code_version=code_version("recordings"),
)
def recordings(
    context: dg.AssetExecutionContext, config: InboxConfig, lake: LakeResource, inbox: Inbox
) -> dg.MaterializeResult:
    """Trades as recorded, staged by product and day: what lies in the inbox, or was simulated. Each file is read once.

    The job `ingest` takes all that is new in the inbox, and so does materializing any one day here.
    """
    store = lake.open()
    changed, wrong = stage_inbox(context, store, inbox, config)
    product_id, day = place_of(context)
    told = told_of_recordings(store, product_id, day)
    metadata = {**told.metadata, "staged now": len(changed), "not taken": len(wrong)}
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(told.version))


class Found(NamedTuple):
    """What a check found of one product and day; `fault` is empty where all is well, a doubt unless `is_error`."""

    product_id: str
    day: date
    fault: str
    figures: dict[str, float | int]
    is_error: bool


def check_order(lake: Lake, product_id: str, day: date, made: Made) -> Found:
    """Read the trades, and compare them with what is agreed; look at how many the merging left out."""
    faults = [] if made.partition is None else faults_of_trades(lake, product_id, day)
    found = "; ".join([*faults, *doubts_of_merging(made.facts)])
    return Found(product_id, day, found, {"rows": made.partition.rows if made.partition else 0}, bool(faults))


def check_holes(_: Lake, product_id: str, day: date, made: Made) -> Found:
    """Look at the holes that were counted as the day was made."""
    holes, longest = int(made.facts.get("holes", 0)), float(made.facts.get("longest_hole_s", 0.0))
    fault = f"{holes} holes, the longest of {longest:,.0f} s: no return spans them" if holes else ""
    return Found(product_id, day, fault, {"holes": holes, "longest_hole_s": longest}, False)


CHECKS: Mapping[str, Callable[[Lake, str, date, Made], Found]] = {"order": check_order, "holes": check_holes}
"""Of `trades`. A hole is no error: recordings have them; it is a warning."""


def check_result(name: str, found: Sequence[Found]) -> dg.AssetCheckResult:
    """Return one verdict on some product-days."""
    wrong = [each for each in found if each.fault]
    figures: dict[str, Any] = {}
    for each in found:
        for figure, value in each.figures.items():
            combine = max if figure.startswith("longest") else sum
            figures[figure] = combine((figures.get(figure, 0), value))
    metadata = {"product_days": len(found), **figures}
    if wrong:
        shown = ((each.product_id, each.day, each.fault) for each in wrong[:SHOWN])
        metadata["found"] = dg.MetadataValue.md(table_of(("product", "day", "found"), shown))
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


def evaluation_of(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a verdict as the event of a run that is no materialization."""
    assert result.asset_key is not None
    assert result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )


def _results(context: dg.AssetExecutionContext, told: list[Told]) -> Iterator[dg.MaterializeResult]:
    for each in told:
        # Dagster itself notes nothing for an input that is not there, and would not see it come.
        outside = {name for name in INPUTS[each.asset] if name not in {other.asset for other in told}}
        tags = input_tags(context.instance, each.asset, each.product_id, each.day)
        yield dg.MaterializeResult(
            asset_key=each.asset,
            metadata=each.metadata,
            data_version=dg.DataVersion(each.version),
            tags={name: value for name, value in tags.items() if name.rpartition("/")[2] in outside},
        )


def _spec(asset: str, description: str, group: str = DAYS_GROUP) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset,
        deps=deps_of(asset),
        description=description,
        group_name=group,
        kinds={"parquet"},
        code_version=code_version(asset),
    )


@dg.multi_asset(
    name="trades",
    specs=[
        _spec("trades", "One stream of trades of a product and UTC day, merged from all recordings that have some: "
              "with ids a trade is its id; without, or with ids of another kind, a recording counts only for "
              "times that none before it covers."),
        _spec("trades_head", "The first minutes of a day: all that the last targets of the day before can see. Its "
              "data version changes only when they do."),
        _spec("trades_tail", "The end of a day: all that the first feature rows of the day after can see. Its data "
              "version changes only when they do."),
    ],
    check_specs=[
        dg.AssetCheckSpec("order", asset="trades", description="Columns are as agreed, ids rise, times lie within, few "
                          "conflicts or falls."),
        dg.AssetCheckSpec("holes", asset="trades", description="No hole is longer than a segment allows (GAP_S)."),
    ],
    partitions_def=PRODUCT_DAYS,
    pool=LAKE,
)  # fmt: skip
def trades(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
    """Merge what the recordings have of one product and day."""
    store, (product_id, day) = lake.open(), place_of(context)
    made = days.make_trades(store, product_id, day)
    yield from _results(context, told_of(days.TRADES, product_id, day, made))
    for name, check in CHECKS.items():
        yield check_result(name, [check(store, product_id, day, made)])


@dg.multi_asset(
    name="feature_rows",
    specs=[_spec("feature_rows", "What the forecaster would have published for these trades, byte for byte: the "
                 "same compiled kernel. Needs the day and the tail of the day before, and nothing else.")],
    partitions_def=PRODUCT_DAYS,
    pool=LAKE,
)  # fmt: skip
def feature_rows(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
    """Make the feature rows of one product and day."""
    product_id, day = place_of(context)
    store, spec = lake.open(), lake.spec
    made = days.make_feature_rows(store, product_id, day, spec)
    pictures = plots.of_day(store, spec, product_id, day, made)
    yield from _results(context, told_of(days.FEATURE_ROWS, product_id, day, made, pictures))


@dg.multi_asset(
    name="training_set",
    specs=[_spec("training_set", "The rows that count (the last one in each twelfth of a horizon) with what came after "
                 "them: what models are fitted to and judged by.")],
    partitions_def=PRODUCT_DAYS,
    pool=LAKE,
)  # fmt: skip
def training_set(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
    """Make the training rows of one product and day."""
    product_id, day = place_of(context)
    made = days.make_training_set(lake.open(), product_id, day, lake.spec)
    yield from _results(context, told_of(days.TRAINING_SET, product_id, day, made))


class ParityConfig(dg.Config):
    """What is compared with what was published."""

    product_id: str = Field(default="", description="empty: that of the run's partition, else of the newest rows")
    day: str = Field(default="", description="UTC, as 2025-01-06; empty: likewise")
    source_id: str = Field(default="", description="the source to compare with; empty: the newest that has these rows")


@dg.asset_check(asset="feature_rows", name="parity", pool=LAKE)
def parity(
    context: dg.AssetCheckExecutionContext, config: ParityConfig, lake: LakeResource, kafka: KafkaResource
) -> dg.AssetCheckResult:
    """Feature rows of a day equal what the forecaster published for these trades, byte for byte.

    Where nothing can be compared, that is said, as a warning: nothing was certified.
    """
    from data.topic_reader import NotRead
    from offline.parity import certify

    store = lake.open()
    place = _parity_place(context, config, store)
    if place is None:
        return _not_compared("the lake has no feature rows: ingest or simulate days, and backfill them")
    product_id, day = place
    try:
        found = certify(store, lake.spec, product_id, day, kafka.client_config(), config.source_id or None)
    except (ValueError, NotRead) as error:
        return _not_compared(str(error))
    remade = (
        f"{found.remade:,} rows reach back beyond the source's first trade: they are compared as it saw them. "
        if found.remade
        else ""
    )
    return dg.AssetCheckResult(
        passed=found.holds,
        description=f"{product_id} {day}, source {found.source_id}: {found.equal:,} rows equal, {found.missing:,} "
        f"missing, {found.extra:,} extra, {found.different:,} different; covers "
        f"from {found.covers_from} to {found.covers_to}, {found.compared:,} of {found.rows_of_day:,} rows of the day. "
        f"{remade}{found.first_difference}".rstrip(),
        metadata={
            name: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            for name, value in found._asdict().items()
        },
    )


def _parity_place(context: dg.AssetCheckExecutionContext, config: ParityConfig, lake: Lake) -> tuple[str, date] | None:
    if config.product_id and config.day:
        return config.product_id, date.fromisoformat(config.day)
    if context.has_partition_key:
        return place_of(context)
    places = sorted(lake.places(days.FEATURE_ROWS), key=lambda place: (place.day, place.product_id))
    return (places[-1].product_id, places[-1].day) if places else None


def _not_compared(why: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False, severity=dg.AssetCheckSeverity.WARN, description=f"Not compared: {why}", metadata={"equal": 0}
    )
