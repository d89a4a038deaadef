"""Assets of the lake's tables: a partition for each product and UTC day."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from offline.days.feature_rows import make_feature_rows
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
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
        _spec("trades", "One stream of trades of a product and UTC day, merged from all recordings: trades with the "
              "same id are one trade; a recording without ids, or with ids of another kind, counts only for times "
              "not covered by a recording before."),
        _spec("trades_head", "The first minutes of a day, as far as the last targets of the day before reach. The data "
              "version changes only with these trades."),
        _spec("trades_tail", "The end of a day, as far back as the first feature rows of the day after reach. The data "
              "version changes only with these trades."),
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
    """Merge the recordings of a product and day into trades."""
    store, (product_id, day) = lake.open(), partition_of_run(context)
    made = make_trades(store, product_id, day)
    yield from _results(context, report_of(TRADES, product_id, day, made))
    for name, check in CHECKS.items():
        yield check_result(name, [check(store, product_id, day, made)])


@dg.multi_asset(
    name="feature_rows",
    specs=[_spec("feature_rows", "The rows that the forecaster would have published for these trades, byte for byte: "
                 "the same compiled kernel. Needs only the day and the tail of the day before.")],
    partitions_def=PRODUCT_DAYS,
    pool=LAKE,
)  # fmt: skip
def feature_rows(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
    """Make the feature rows of a product and day."""
    product_id, day = partition_of_run(context)
    store, spec = lake.open(), lake.spec
    made = make_feature_rows(store, product_id, day, spec)
    pictures = plots.of_day(store, spec, product_id, day, made)
    yield from _results(context, report_of(FEATURE_ROWS, product_id, day, made, pictures))


@dg.multi_asset(
    name="training_set",
    specs=[_spec("training_set", "The counted rows (the last row in each twelfth of a horizon) with their targets, for "
                 "fitting and judging models.")],
    partitions_def=PRODUCT_DAYS,
    pool=LAKE,
)  # fmt: skip
def training_set(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
    """Make the training rows of a product and day."""
    product_id, day = partition_of_run(context)
    made = make_training_set(lake.open(), product_id, day, lake.spec)
    yield from _results(context, report_of(TRAINING_SET, product_id, day, made))
