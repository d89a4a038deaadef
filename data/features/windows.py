"""Make feature rows from trades, online and offline, with the windows of all streams.

A row is a pure function of a bounded suffix of its stream, see `data.features.reach`. So a window may remember no more:
no recursive average, no sliding sum, no row number, no age without a cap.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.features.admission import AGREEING, LEAP_ROWS, MEMORY, NO_MEMORY, NOTHING_YET, TAKEN
from data.features.kernel import GRID, SUMS, Batch, Grid, window_kernel
from data.features.spec import FeatureRows, FeatureSpec
from data.slots import Slots
from data.times import NS
from data.trades import Int64s, StreamKey, Trades


def _window_type(spec: FeatureSpec) -> np.dtype[Any]:
    """Return the layout of one stream's window; the spec bounds the size of each field."""
    blocks, ring = spec.blocks, spec.window_size
    return np.dtype(
        [
            ("last_id", "i8"),
            ("last_time", "i8"),
            ("memory", "i8", (MEMORY,)),  # of the judging of trades
            ("leap_anchor", "i8"),  # anchor of the last trade before the last leap
            ("last_price", "f8"),
            ("anchor", "i8"),  # position of the newest trade whose event time had not fallen: a rebuild may start there
            ("n", "i8"),  # returns in the window
            ("kept", "i8"),  # number of returns kept for the next row's window
            ("returns", "f8", (ring - 1,)),  # the kept returns, oldest first
            ("trades", "i8"),  # trades of the segment, at most `window_size` + 1
            ("anchors", "i8", (ring + 1,)),  # anchors of the trades in the window, a ring
            ("next_anchor", "i8"),  # next index in `anchors`
            ("next_point", "i8"),  # the first grid point that a later trade may still change
            ("first_point", "i8"),  # first grid point of the segment
            ("has_grid", "i1"),  # 1 after the first grid point has passed
            ("grid_price", "f8"),  # price at the last passed grid point
            ("high", "f8"),  # high, low, trades and volume are of the open step
            ("low", "f8"),
            ("step_trades", "f8"),
            ("step_volume", "f8"),
            ("block", "i8"),  # block of the open step
            ("open", "f8", (SUMS,)),  # sums over the passed steps of the open block
            ("now", "f8", (SUMS,)),  # `open` plus the open step: scratch for one row
            ("closed", "f8", (blocks, SUMS)),  # sums of closed blocks, at block % blocks
            ("block_anchors", "i8", (blocks + 1,)),  # anchor of the price at a block's start, at block % (blocks + 1)
            ("weighted", "f8", (len(spec.block_weights), SUMS)),  # weighted sums over the closed blocks
            ("reported_point", "i8"),  # grid point of `reported`
            ("reported", "f8", (len(spec.columns) - GRID,)),  # grid features up to the next point
        ],
        align=True,
    )


class Windows:
    """The windows of any number of streams under one spec.

    Attributes:
        grid: the grid of the spec.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        new = np.zeros(1, _window_type(spec))
        new["last_id"], new["last_time"] = NOTHING_YET
        new["memory"] = NO_MEMORY
        self._slots = Slots(new)
        self.grid = Grid(
            spec.block_weights,
            np.array(spec.half_lives),
            np.array(spec.trend_half_lives),
            spec.grid_step_s * NS,
            spec.gap_s * NS,
            spec.block_steps,
            spec.horizon_s // spec.grid_step_s,
        )

    @property
    def open_streams(self) -> tuple[StreamKey, ...]:
        """Return the streams that have a window."""
        return self._slots.keys

    @property
    def state(self) -> NDArray[np.void]:
        """Return one record a slot; a call of `slot` may move the array."""
        return self._slots.state

    def drop(self, key: StreamKey) -> None:
        """Drop the window of a stream that has ended or has moved to another process."""
        self._slots.drop(key)

    def oldest_needed(self, key: StreamKey) -> int:
        """Return the position of the oldest trade that a rebuild of the stream's window needs, byte for byte."""
        w, spec = self._slots.record(key), self.spec
        ring, blocks = len(w["anchors"]), len(w["closed"])
        oldest = int(w["anchors"][w["next_anchor"] if w["trades"] == ring else 0])
        if w["memory"][LEAP_ROWS] < AGREEING:  # the trades before the leap may go on
            oldest = min(oldest, int(w["leap_anchor"]))
        if not w["has_grid"]:
            return oldest
        oldest_block = max(w["block"] - (blocks - 1), w["first_point"] // spec.block_steps)
        return min(oldest, int(w["block_anchors"][oldest_block % (blocks + 1)]))

    def slot(self, key: StreamKey) -> int:
        """Return the index of a stream's window in `state`; a new stream gets a window."""
        return self._slots.slot(key)


def feature_rows(
    trades: Trades, windows: Windows, position: Int64s | None = None, *, contract_only: bool = False
) -> FeatureRows:
    """Return one row for each taken trade, and leave `windows` ready for the next batch.

    Splitting the same trades into other batches, or mixing in other streams, changes no byte of any row.

    Args:
        trades: within a stream in the order of the source; ids must rise, and time may fall by `MAX_FALL_S`.
        windows: the windows before the batch. Changed in place.
        position: shape (n,), offset or line of each trade, in the unit of `oldest_needed`; None: the trade ids.
        contract_only: leave the grid columns out of `values`; must be equal for all batches of a stream.
    """
    spec = windows.spec
    rows, ends = _by_stream(trades.stream, len(trades.keys))
    slots = np.zeros(len(trades.keys), np.int64)
    for stream in np.flatnonzero(np.diff(ends)):
        slots[stream] = windows.slot(trades.keys[stream])
    event_time = trades.event_time.copy()
    values = np.empty((len(trades), GRID if contract_only else len(spec.columns)))
    position = trades.trade_id if position is None else position
    batch = Batch(trades.trade_id, event_time, trades.price, trades.size, position)
    status = window_kernel(rows, ends, slots, windows.state, batch, windows.grid, values)
    taken = replace(trades, event_time=event_time)
    if not status.any():
        return FeatureRows(taken, values, status)
    kept = status == TAKEN
    return FeatureRows(taken.take(kept), values[kept], status)


def compile_kernel(spec: FeatureSpec) -> None:
    """Compile the kernel, or load the compiled kernel from the cache, so that the first trade need not wait."""
    two = np.arange(1, 3)
    prices = np.ones(2)
    trades = Trades((StreamKey("", ""),), np.zeros(2, np.int32), two, two, two, prices, prices, np.zeros(2, np.int8))
    feature_rows(trades, Windows(spec))


@compiled
def _by_stream(stream: NDArray[np.int32], streams: int) -> tuple[Int64s, Int64s]:
    """Return the rows sorted by stream, in order within a stream, and the bounds of each stream's rows."""
    ends = np.zeros(streams + 1, np.int64)
    for i in range(len(stream)):
        ends[stream[i] + 1] += 1
    ends = np.cumsum(ends)
    free = ends.copy()
    rows = np.empty(len(stream), np.int64)
    for i in range(len(stream)):
        rows[free[stream[i]]] = i
        free[stream[i]] += 1
    return rows, ends
