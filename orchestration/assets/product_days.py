"""Assets of the lake's tables: a partition for each product and UTC day."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from offline.days.staleness import STEPS
from offline.days.steps import TRADES, DayStep
from orchestration.assets.checks import CHECKS, check_result
from orchestration.assets.partitions import (
    INPUTS,
    LAKE,
    code_version,
    input_tags,
    mapping_of,
    partition_of_run,
    report_of,
)
from orchestration.resources import LakeResource

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


def product_day_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the assets of all tables but the recordings, in the order of the steps."""
    return [_asset(step, partitions) for step in STEPS]


def _asset(step: DayStep[Any], partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    """Return the assets of one table: make a product and day, and report versions, pictures and checks."""
    checks = CHECKS if step.table == TRADES else {}
    specs = [
        dg.AssetSpec(
            name,
            deps=[dg.AssetDep(each, partition_mapping=mapping_of(offset)) for each, offset in INPUTS[name].items()],
            description=description,
            group_name="product_days",
            kinds={"parquet"},
            code_version=code_version(name),
        )
        for name, description in DESCRIPTIONS.items()
        if name.startswith(step.table)
    ]
    check_specs = [dg.AssetCheckSpec(name, asset=TRADES, description=check.__doc__) for name, check in checks.items()]

    @dg.multi_asset(name=step.table, specs=specs, check_specs=check_specs, partitions_def=partitions, pool=LAKE)
    def make(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
        store, (product_id, day) = lake.open(), partition_of_run(context)
        made = step(store, product_id, day, lake.spec)
        for each in report_of(lake, store, step.table, product_id, day, made):
            # Dagster itself notes nothing for a missing input, and would not see the input come.
            outside = INPUTS[each.asset].keys() - {spec.key.to_user_string() for spec in specs}
            tags = input_tags(context.instance, each.asset, product_id, day)
            yield dg.MaterializeResult(
                asset_key=each.asset,
                metadata=each.metadata,
                data_version=dg.DataVersion(each.version),
                tags={name: value for name, value in tags.items() if name.rpartition("/")[2] in outside},
            )
        for name, check in checks.items():
            yield check_result(name, [check(store, product_id, day, made)])

    return make
