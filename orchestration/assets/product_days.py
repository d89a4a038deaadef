"""Assets of the lake's tables: a partition for each product and UTC day."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from offline.days.staleness import STEPS
from offline.days.steps import TRADES, DayStep
from orchestration.assets import plots
from orchestration.assets.checks import CHECKS, check_result
from orchestration.assets.partitions import (
    DAYS_GROUP,
    INPUTS,
    LAKE,
    PRODUCT_DAYS,
    ReportedVersion,
    code_version,
    deps_of,
    input_tags,
    partition_of_run,
    report_of,
)
from orchestration.resources import LakeResource


def evaluation_of(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a check result as an event for a run without materializations."""
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


def _results(context: dg.AssetExecutionContext, versions: list[ReportedVersion]) -> Iterator[dg.MaterializeResult]:
    for each in versions:
        # Dagster itself notes nothing for a missing input, and would not see the input come.
        outside = {name for name in INPUTS[each.asset] if name not in {other.asset for other in versions}}
        tags = input_tags(context.instance, each.asset, each.product_id, each.day)
        yield dg.MaterializeResult(
            asset_key=each.asset,
            metadata=each.metadata,
            data_version=dg.DataVersion(each.version),
            tags={name: value for name, value in tags.items() if name.rpartition("/")[2] in outside},
        )


DESCRIPTIONS = {
    "trades": "One stream of trades of a product and UTC day, merged from all recordings: trades with the same id are "
    "one trade; a recording without ids, or with ids of another kind, counts only for times not covered by a recording "
    "before.",
    "trades_head": "The first minutes of a day, as far as the last targets of the day before reach. The data version "
    "changes only with these trades.",
    "trades_tail": "The end of a day, as far back as the first feature rows of the day after reach. The data version "
    "changes only with these trades.",
    "feature_rows": "The rows that the forecaster would have published for these trades, byte for byte: the same "
    "compiled kernel. Needs only the day and the tail of the day before.",
    "training_set": "The counted rows (the last row in each twelfth of a horizon) with their targets, for fitting and "
    "judging models.",
}


def _asset(step: DayStep[Any]) -> dg.AssetsDefinition:
    """Return the assets of one table: make a product and day, and report versions, pictures and checks."""
    checks = CHECKS if step.table == TRADES else {}
    specs = [
        dg.AssetSpec(
            name,
            deps=deps_of(name),
            description=description,
            group_name=DAYS_GROUP,
            kinds={"parquet"},
            code_version=code_version(name),
        )
        for name, description in DESCRIPTIONS.items()
        if name.startswith(step.table)
    ]
    check_specs = [dg.AssetCheckSpec(name, asset=TRADES, description=check.__doc__) for name, check in checks.items()]

    @dg.multi_asset(name=step.table, specs=specs, check_specs=check_specs, partitions_def=PRODUCT_DAYS, pool=LAKE)
    def make(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
        store, (product_id, day) = lake.open(), partition_of_run(context)
        made = step(store, product_id, day, lake.spec)
        pictures = plots.of_day(store, lake.spec, product_id, day, made)
        yield from _results(context, report_of(step.table, product_id, day, made, pictures))
        for name, check in checks.items():
            yield check_result(name, [check(store, product_id, day, made)])

    return make


trades, feature_rows, training_set = map(_asset, STEPS)
