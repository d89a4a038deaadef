"""Shared parts of the lake's steps: table names, results of a step, and how far days see into each other."""

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
"""Raise the number when a step gives another result for the same inputs: old partitions are then made again."""

SEEN_BY_NEIGHBOURS = FeatureSpec()
"""Spec by which neighbour days see into a day, for `head_hash` and `tail_hash`."""


class StepResult(NamedTuple):
    """Result of a step.

    Attributes:
        partition: None if the inputs are missing.
        is_new: true if the step made or removed the partition now; false if the stored partition is up to date.
        facts: figures for people; without a partition, `missing` says what to do.
    """

    partition: Partition | None
    is_new: bool
    facts: dict[str, float | int | str]


def stored_result(lake: Lake, table: str, product_id: str, day: date) -> StepResult:
    """Return the stored partition as the result of a step whose inputs have not changed."""
    known = lake.partition(table, product_id, day)
    return StepResult(known, False, {} if known is None else json.loads(known.notes["facts"]))


def unchanged_result(lake: Lake, table: str, product_id: str, day: date, inputs: str) -> StepResult | None:
    """Return the stored partition if made from the same inputs; else None."""
    made = stored_result(lake, table, product_id, day)
    return made if made.partition is not None and made.partition.notes["inputs"] == inputs else None


class Tail(NamedTuple):
    """The end of a stream, as far as later rows can see.

    Attributes:
        first: index of the tail's first trade.
        is_whole: no trade before the given trades can be part of the tail.
    """

    first: int
    is_whole: bool


def tail_start(event_time: Int64s, end: int, spec: FeatureSpec) -> Tail:
    """Return the tail of a stream: the trades seen by rows at or after `end`, ns since 1970.

    The kernel gives the same later rows from the tail as from the whole stream.

    Args:
        event_time: shape (n,), n >= 1, ns since 1970, as recorded; counted times lie before `end`.
    """
    n, counted = len(event_time), counted_times(event_time)
    gap = spec.gap_s * NS
    if counted[-1] < end - gap - MAX_FALL_S * NS:
        return Tail(n, True)  # any later trade begins a new segment
    breaks = np.flatnonzero(np.diff(counted) > gap)
    segment = int(breaks[-1]) + 1 if len(breaks) else 0
    by_count = n - (spec.window_size + 1)
    by_grid = int(np.searchsorted(counted, end - spec.lookback_steps * spec.grid_step_s * NS, "right")) - 1
    first = max(min(by_count, by_grid), segment)
    while event_time[first] < counted[first]:  # a stream that begins here would have another counted time
        first -= 1
    return Tail(first, segment > 0 or min(by_count, by_grid) >= 0)


def days_before(spec: FeatureSpec) -> int:
    """Return how many days back a row may look: the reach of the grid, and of a window with the longest holes."""
    return -(-max(spec.lookback_steps * spec.grid_step_s, (spec.window_size + 1) * spec.gap_s) // DAY_S)


def sees_no_further(spec: FeatureSpec) -> bool:
    """Return whether head and tail hash cover all trades of other days that rows and targets of the spec can see."""
    usual = SEEN_BY_NEIGHBOURS
    return (
        spec.window_size <= usual.window_size
        and spec.lookback_steps * spec.grid_step_s <= usual.lookback_steps * usual.grid_step_s
        and spec.gap_s <= usual.gap_s
        and head_s(spec) <= head_s(usual)
    )


def head_s(spec: FeatureSpec) -> int:
    """Return how many seconds the targets of a day look into the next day: a horizon, a hole, and a fall of time."""
    return spec.horizon_s + spec.gap_s + MAX_FALL_S


def remove_partition(lake: Lake, table: str, product_id: str, day: date, missing: str) -> StepResult:
    """Remove the partition, if any, of a step whose inputs are missing.

    Args:
        missing: the missing inputs, and what to do, for `StepResult.facts`.
    """
    is_there = lake.partition(table, product_id, day) is not None
    if is_there:
        lake.delete(table, product_id, day)
    return StepResult(None, is_there, {"rows": 0, "missing": missing})


def check_spec(table: pa.Table, spec: FeatureSpec, what: str) -> None:
    """Check that a table has rows of a spec.

    Args:
        what: name of the rows in the error message.

    Raises:
        ValueError: the rows are of another spec.
    """
    found = table.schema.metadata[b"spec_id"].decode()
    if found != spec.spec_id:
        raise ValueError(f"{what} are of feature spec {found}, asked for is {spec.spec_id}: make them again (backfill)")
