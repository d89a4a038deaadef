"""Stale days, and the reason why each is stale."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from data.features.spec import FeatureSpec
from offline.days.feature_rows import feature_inputs
from offline.days.staging import RECORDINGS
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET
from offline.days.trades import text_of_inputs, trade_inputs
from offline.days.training_set import training_inputs
from offline.lake.store import Lake, Partition


class StaleDay(NamedTuple):
    """A partition to be made again or removed by its step."""

    product_id: str
    day: date
    table: str
    why: str


def stale(lake: Lake, spec: FeatureSpec, table: str | None = None) -> list[StaleDay]:
    """Return the stale partitions, sorted by product, day and step: a step run now would make or remove them.

    Only the present content of the lake counts: a stale partition, once made again, may turn later steps stale.

    Args:
        table: of one step; None: all steps.
    """
    staged = {(place.product_id, place.day) for place in lake.partition_keys(RECORDINGS)}
    steps: dict[str, Callable[[str, date], str | None]] = {
        TRADES: lambda product, day: text_of_inputs(trade_inputs(lake, product, day)),
        FEATURE_ROWS: lambda product, day: feature_inputs(lake, product, day, spec),
        TRAINING_SET: lambda product, day: training_inputs(lake, product, day, spec),
    }
    made = [{(place.product_id, place.day) for place in lake.partition_keys(each)} for each in steps]
    found = []
    for product, day in sorted(staged.union(*made)):
        for each in steps if table is None else (table,):
            known = lake.partition(each, product, day)
            inputs = steps[each](product, day)
            if inputs == (None if known is None else known.notes["inputs"]):
                continue
            found.append(StaleDay(product, day, each, _why(known, inputs)))
    return found


def _why(known: Partition | None, inputs: str | None) -> str:
    if inputs is None:
        return "lost its inputs"
    if known is None:
        return "was never made"
    before, now = json.loads(known.notes["inputs"]), json.loads(inputs)
    changes = []
    for name in {**before, **now}:
        if name not in before:
            changes.append(f"{name} is new")
        elif name not in now:
            changes.append(f"{name} is gone")
        elif before[name] != now[name]:
            changes.append(f"{name} has changed")
    return ", ".join(changes) or "the order of its inputs has changed"
