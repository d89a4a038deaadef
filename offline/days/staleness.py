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
from offline.lake.state import ProductState
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

    One read of each product's manifest is all that the lake is asked for.

    Only the present content of the lake counts: a stale partition, once made again, may turn later steps stale.

    Args:
        table: of one step; None: all steps.
    """
    return [each for product_id in lake.product_ids() for each in stale_days(lake.product(product_id), spec, table)]


def stale_days(state: ProductState, spec: FeatureSpec, table: str | None = None) -> list[StaleDay]:
    """Return the stale partitions of a product, sorted by day and step, see `stale`."""
    steps = [step for step in STEPS if table in (None, step.table)]
    tables = [*state.sub_tables(RECORDINGS), *(step.table for step in STEPS)]
    found = []
    for day in sorted({day for name in tables for day in state.tables.get(name, ())}):
        for step in steps:
            notes, inputs = step.noted(state, day), step.inputs(state, day, spec)
            before = None if notes is None else notes.inputs
            if inputs != before:
                found.append(StaleDay(state.product_id, day, step.table, _why(before, inputs)))
    return found


def _why(before: dict[str, str] | None, now: dict[str, str] | None) -> str:
    if now is None:
        return "lost its inputs"
    if before is None:
        return "was never made"
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    words = dict.fromkeys(changed, "has changed")
    words |= dict.fromkeys(now.keys() - before.keys(), "is new") | dict.fromkeys(before.keys() - now.keys(), "is gone")
    return ", ".join(f"{name} {words[name]}" for name in changed)
