"""Stale days, and the reason why each is stale."""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from data.features.spec import FeatureSpec
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import RECORDINGS
from offline.days.steps import DayStep
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
from offline.lake.store import Lake

STEPS: tuple[DayStep[Any], ...] = (make_trades, make_feature_rows, make_training_set)
"""Steps of a product-day, in order."""


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
    steps = [step for step in STEPS if table in (None, step.table)]
    places = {
        place[1:] for name in (RECORDINGS, *(step.table for step in STEPS)) for place in lake.partition_keys(name)
    }
    found = []
    for product, day in sorted(places):
        for step in steps:
            known, inputs = step.stored(lake, product, day).notes, step.inputs(lake, product, day, spec)
            before = None if known is None else known.inputs
            if inputs != before:
                found.append(StaleDay(product, day, step.table, _why(before, inputs)))
    return found


def _why(before: dict[str, str] | None, now: dict[str, str] | None) -> str:
    if now is None:
        return "lost its inputs"
    if before is None:
        return "was never made"
    changes = []
    for name in {**before, **now}:
        if name not in before:
            changes.append(f"{name} is new")
        elif name not in now:
            changes.append(f"{name} is gone")
        elif before[name] != now[name]:
            changes.append(f"{name} has changed")
    return ", ".join(changes)
