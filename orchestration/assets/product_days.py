"""Assets of the lake's tables: a partition for each product and UTC day."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from data.features.spec import FeatureSpec
from offline.days.feature_rows import make_feature_rows
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET, StepResult
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
from offline.lake.store import Lake
from orchestration.assets.checks import CHECKS, check_result
from orchestration.assets.partitions import (
    INPUTS,
    LAKE,
    PRODUCT_DAYS,
    code_version,
    input_tags,
    mapping_of,
    partition_of_run,
    report_of,
)
from orchestration.resources import LakeResource

STEPS: Mapping[str, Callable[[Lake, str, date, FeatureSpec], StepResult]] = {
    TRADES: lambda lake, product_id, day, _: make_trades(lake, product_id, day),
    FEATURE_ROWS: make_feature_rows,
    TRAINING_SET: make_training_set,
}
"""Step of each table, in the order of the steps."""


def _table(
    table: str, what: str, assets: Mapping[str, str], checks: Sequence[dg.AssetCheckSpec] = ()
) -> dg.AssetsDefinition:
    """Return the definition of a table's assets.

    Args:
        what: description of the step.
        assets: names and descriptions.
    """
    specs = [
        dg.AssetSpec(
            name,
            deps=[dg.AssetDep(each, partition_mapping=mapping_of(offset)) for each, offset in INPUTS[name].items()],
            description=description,
            group_name="product_days",
            kinds={"parquet"},
            code_version=code_version(name),
        )
        for name, description in assets.items()
    ]

    @dg.multi_asset(
        name=table, description=what, specs=specs, check_specs=checks, partitions_def=PRODUCT_DAYS, pool=LAKE
    )
    def step(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
        store, spec, (product_id, day) = lake.open(), lake.spec, partition_of_run(context)
        made = STEPS[table](store, product_id, day, spec)
        for each in report_of(store, spec, table, product_id, day, made):
            # Dagster itself notes nothing for a missing input, and would not see the input come.
            outside = INPUTS[each.asset].keys() - assets.keys()
            tags = input_tags(context.instance, each.asset, product_id, day)
            yield dg.MaterializeResult(
                asset_key=each.asset,
                metadata=each.metadata,
                data_version=dg.DataVersion(each.version),
                tags={name: value for name, value in tags.items() if name.rpartition("/")[2] in outside},
            )
        for check in checks:
            yield check_result(check.name, [CHECKS[check.name](store, product_id, day, made)])

    return step


trades = _table(
    TRADES,
    "Merge the recordings of a product and day into trades.",
    {
        "trades": "One stream of trades of a product and UTC day, merged from all recordings: trades with the same id "
        "are one trade; a recording without ids, or with ids of another kind, counts only for times not covered by a "
        "recording before.",
        "trades_head": "The first minutes of a day, as far as the last targets of the day before reach. The data "
        "version changes only with these trades.",
        "trades_tail": "The end of a day, as far back as the first feature rows of the day after reach. The data "
        "version changes only with these trades.",
    },
    [
        dg.AssetCheckSpec("order", asset="trades", description="Columns are as agreed, ids rise, times lie within, few "
                          "conflicts or falls."),
        dg.AssetCheckSpec("holes", asset="trades", description="No hole is longer than a segment allows (GAP_S)."),
    ],
)  # fmt: skip
feature_rows = _table(
    FEATURE_ROWS,
    "Make the feature rows of a product and day.",
    {
        "feature_rows": "The rows that the forecaster would have published for these trades, byte for byte: the same "
        "compiled kernel. Needs only the day and the tail of the day before."
    },
)
training_set = _table(
    TRAINING_SET,
    "Make the training rows of a product and day.",
    {
        "training_set": "The counted rows (the last row in each twelfth of a horizon) with their targets, for fitting "
        "and judging models."
    },
)
