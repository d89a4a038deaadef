"""What the steps of the lake share: table names, what a step made, and how far days see into each other."""

from __future__ import annotations

import json
from datetime import date
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from data.features.admission import MAX_FALL_S
from data.features.spec import FeatureSpec
from data.trades import NS, Int64s
from offline.days.merging import counted_times
from offline.days.staging import DAY_S
from offline.lake.store import Lake, Partition

TRADES, FEATURE_ROWS, TRAINING_SET = "trades", "feature_rows", "training_set"
"""Tables of the lake."""

MEANING: Final = {TRADES: "3", FEATURE_ROWS: "1", TRAINING_SET: "1"}
"""Raised whenever a step makes something else of the same inputs: what was made before is made again."""

SEEN_BY_NEIGHBOURS = FeatureSpec()
"""How far the days around a day see into it, for `head_hash` and `tail_hash`."""


class StepResult(NamedTuple):
    """What a step made.

    Attributes:
        partition: None where there is nothing to make it of.
        is_new: whether it was made, or removed, now; else it stood there already, made of the same.
        facts: for people; without a partition, `missing` says what to do.
    """

    partition: Partition | None
    is_new: bool
    facts: dict[str, float | int | str]


def stored_result(lake: Lake, table: str, product_id: str, day: date) -> StepResult:
    """Return what stands in the lake, as the step that made it does where nothing has changed."""
    known = lake.partition(table, product_id, day)
    return StepResult(known, False, {} if known is None else json.loads(known.notes["facts"]))


def unchanged_result(lake: Lake, table: str, product_id: str, day: date, inputs: str) -> StepResult | None:
    """Return what stands in the lake if it was made of these inputs."""
    made = stored_result(lake, table, product_id, day)
    return made if made.partition is not None and made.partition.notes["inputs"] == inputs else None


class Tail(NamedTuple):
    """The end of a stream that what comes after it can see.

    Attributes:
        first: index of its first trade.
        is_whole: trades before those given cannot be part of it.
    """

    first: int
    is_whole: bool


def tail_start(event_time: Int64s, end: int, spec: FeatureSpec) -> Tail:
    """Return from which trade on a stream can be seen by rows at or after `end`, ns since 1970.

    From there on the kernel gives the same rows as from the beginning of the stream.

    Args:
        event_time: shape (n,), n >= 1, as recorded, of trades that count as times before `end`.
    """
    n, counted = len(event_time), counted_times(event_time)
    gap = spec.gap_s * NS
    if counted[-1] < end - gap - MAX_FALL_S * NS:
        return Tail(n, True)  # a new segment follows whatever comes
    breaks = np.flatnonzero(np.diff(counted) > gap)
    segment = int(breaks[-1]) + 1 if len(breaks) else 0
    by_count = n - (spec.window_size + 1)
    by_grid = int(np.searchsorted(counted, end - spec.lookback_steps * spec.grid_step_s * NS, "right")) - 1
    first = max(min(by_count, by_grid), segment)
    while event_time[first] < counted[first]:  # there it would count as another time
        first -= 1
    return Tail(first, segment > 0 or min(by_count, by_grid) >= 0)


def days_before(spec: FeatureSpec) -> int:
    """Return how many days back a row may look: its grid, and its window with the longest holes in it."""
    return -(-max(spec.lookback_steps * spec.grid_step_s, (spec.window_size + 1) * spec.gap_s) // DAY_S)


def sees_no_further(spec: FeatureSpec) -> bool:
    """Whether head and tail hash tell all that rows and targets of this spec can see of other days."""
    usual = SEEN_BY_NEIGHBOURS
    return (
        spec.window_size <= usual.window_size
        and spec.lookback_steps * spec.grid_step_s <= usual.lookback_steps * usual.grid_step_s
        and spec.gap_s <= usual.gap_s
        and head_s(spec) <= head_s(usual)
    )


def head_s(spec: FeatureSpec) -> int:
    """Return how far into a day the targets of the day before look: a horizon, and the hole after which it ends."""
    return spec.horizon_s + spec.gap_s + MAX_FALL_S


def remove_partition(lake: Lake, table: str, product_id: str, day: date, missing: str) -> StepResult:
    """Remove a partition that there is nothing left to make from."""
    is_there = lake.partition(table, product_id, day) is not None
    if is_there:
        lake.delete(table, product_id, day)
    return StepResult(None, is_there, {"rows": 0, "missing": missing})


def check_spec(table: pa.Table, spec: FeatureSpec, what: str) -> None:
    found = table.schema.metadata[b"spec_id"].decode()
    if found != spec.spec_id:
        raise ValueError(f"{what} are of feature spec {found}, asked for is {spec.spec_id}: make them again (backfill)")
