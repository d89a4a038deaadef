"""The compiled kernel that makes feature rows, online and offline.

A row is a pure function of a bounded suffix of its stream: the last `window_size + 1` trades and the trades since the
start of the oldest grid block in reach. So nothing here may remember more than that: no recursive average, no sliding
sum, no row number, no age without a cap.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from data.admission import NOTHING_YET, TAKEN, admit_one
from data.spec import FeatureRows, FeatureSpec
from data.trades import NS, Floats, Int64s, StreamKey, Trades

PARKINSON = 1 / (4 * math.log(2))
"""Squared log range to variance. Source: Parkinson (1980), Journal of Business 53(1), 61-65."""

# What is summed in each grid step, block and weighted average.
VARIANCE, RANGE, TRADES, VOLUME, STEPS = range(5)


def _window_type(spec: FeatureSpec) -> np.dtype[Any]:
    """Return the layout of one stream's window. All of it is bounded by the spec."""
    blocks, ring = spec.lookback_steps // spec.block_steps, spec.window_size
    return np.dtype(
        [
            ("last_id", "i8"),
            ("last_time", "i8"),
            ("last_price", "f8"),
            ("anchor", "i8"),  # position of the newest trade whose event time had not fallen: a rebuild may start there
            ("n", "i8"),  # returns in the window
            ("head", "i8"),  # where the next return goes
            ("returns", "f8", (2 * ring,)),  # each return twice, `ring` apart: any window is one contiguous run
            ("trades", "i8"),  # of the segment
            ("anchors", "i8", (ring + 1,)),  # of the trades in the window
            ("next_point", "i8"),  # the first grid point that a coming trade may still change
            ("first_point", "i8"),  # of the segment
            ("has_grid", "i1"),  # the first grid point has passed
            ("grid_price", "f8"),  # at the last passed grid point
            ("high", "f8"),  # of the open step, as are the next three
            ("low", "f8"),
            ("step_trades", "f8"),
            ("step_volume", "f8"),
            ("block", "i8"),  # that the open step belongs to
            ("open", "f8", (5,)),  # sums over the passed steps of the open block
            ("now", "f8", (5,)),  # the same with the open step as it stands: scratch for one row
            ("closed", "f8", (blocks, 5)),  # sums of closed blocks, at block % blocks
            ("block_anchors", "i8", (blocks + 1,)),  # of the trade that sets the price where a block starts, likewise
            ("weighted", "f8", (len(spec.half_lives), 5)),  # weighted sums over the closed blocks
        ],
        align=True,
    )


class Windows:
    """The windows of any number of streams under one spec."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._slots: dict[StreamKey, int] = {}
        self._free: list[int] = []
        self._state = np.zeros(0, _window_type(spec))

    @property
    def open_streams(self) -> tuple[StreamKey, ...]:
        """The streams that have a window."""
        return tuple(self._slots)

    def drop(self, key: StreamKey) -> None:
        """Forget a stream: it has ended, or is somebody else's now."""
        if (slot := self._slots.pop(key, None)) is not None:
            self._free.append(slot)

    def oldest_needed(self, key: StreamKey) -> int:
        """Return the position of the oldest trade from which this stream's window can be rebuilt, byte for byte."""
        w, spec = self._state[self._slots[key]], self.spec
        ring, blocks = len(w["anchors"]), len(w["closed"])
        oldest = int(w["anchors"][w["trades"] % ring if w["trades"] >= ring else 0])
        if not w["has_grid"]:
            return oldest
        oldest_block = max(w["block"] - (blocks - 1), w["first_point"] // spec.block_steps)
        return min(oldest, int(w["block_anchors"][oldest_block % (blocks + 1)]))

    def slots(self, trades: Trades) -> NDArray[np.int64]:
        """Return where each trade's window stands, shape (n,), opening those of new streams."""
        slots = np.zeros(len(trades.keys), np.int64)
        for stream in np.flatnonzero(np.bincount(trades.stream, minlength=len(trades.keys))):
            key = trades.keys[stream]
            slots[stream] = self._slots[key] if key in self._slots else self._open(key)
        return slots[trades.stream]

    @property
    def state(self) -> NDArray[np.void]:
        """One record a slot. It moves when a stream is opened: take it after `slots`."""
        return self._state

    def _open(self, key: StreamKey) -> int:
        if not self._free:
            have = len(self._state)
            self._state = np.concatenate([self._state, np.zeros(max(have, 8), self._state.dtype)])
            self._free.extend(range(len(self._state) - 1, have - 1, -1))
        slot = self._slots[key] = self._free.pop()
        self._state[slot]["last_id"], self._state[slot]["last_time"] = NOTHING_YET
        return slot


def feature_rows(trades: Trades, windows: Windows, position: Int64s | None = None) -> FeatureRows:
    """Return one row for each trade that its stream takes, and leave `windows` ready for the next batch.

    Splitting the same trades into other batches, or mixing in other streams, changes no byte of any row.

    Args:
        trades: within a stream in the order of the source; ids must rise, and time may fall by `MAX_FALL_S`.
        windows: the windows so far. Changed in place.
        position: shape (n,), where each trade can be found again (an offset, a line): what `oldest_needed` gives back.
    """
    spec = windows.spec
    slots = windows.slots(trades)
    event_time = trades.event_time.copy()
    values = np.empty((len(trades), len(spec.columns)))
    status = _window_kernel(
        windows.state,
        slots,
        trades.trade_id,
        event_time,
        trades.price,
        trades.size,
        trades.trade_id if position is None else position,
        spec.block_weights,
        np.array(spec.half_lives),
        spec.grid_step_s * NS,
        spec.gap_s * NS,
        spec.block_steps,
        spec.horizon_s // spec.grid_step_s,
        values,
    )
    taken = replace(trades, event_time=event_time)
    if not status.any():
        return FeatureRows(taken, values, status)
    rows = status == TAKEN
    return FeatureRows(taken.take(rows), values[rows], status)


def compile_kernel(spec: FeatureSpec) -> None:
    """Compile what makes the rows, or load it from the cache, so that the first trade need not wait for it."""
    two = np.arange(1, 3)
    prices = np.ones(2)
    trades = Trades((StreamKey("", ""),), np.zeros(2, np.int32), two, two, two, prices, prices, np.zeros(2, np.int8))
    feature_rows(trades, Windows(spec))


# The kernel. `w` is one stream's window, a record of `_window_type`; prices and sums are float64, times int64 ns.


@numba.njit(cache=True)
def _start_segment(w: Any) -> None:
    """Forget all but `last_id` and `last_time`, which belong to the stream."""
    w.n = 0
    w.head = 0
    w.trades = 0
    w.has_grid = 0
    w.open[:] = 0.0
    w.weighted[:] = 0.0
    _start_step(w)


@numba.njit(cache=True)
def _start_step(w: Any) -> None:
    w.high = -np.inf
    w.low = np.inf
    w.step_trades = 0.0
    w.step_volume = 0.0


@numba.njit(cache=True)
def _start_block(w: Any, block: int, weights: Floats, block_steps: int) -> None:
    """Close the open block if `block` is the next one, and weigh the closed ones in reach, newest first."""
    if block == w.block:
        return
    blocks = w.closed.shape[0]
    w.closed[w.block % blocks] = w.open
    w.open[:] = 0.0
    w.block = block
    w.weighted[:] = 0.0
    for age in range(1, min(blocks - 1, block - w.first_point // block_steps) + 1):
        closed = w.closed[(block - age) % blocks]
        for half_life in range(weights.shape[0]):
            for what in range(5):
                w.weighted[half_life, what] += weights[half_life, age] * closed[what]


@numba.njit(cache=True)
def _add_step(sums: Floats, w: Any, price: float) -> None:
    """Add the open step, which ends at `price`, to `sums`."""
    log_return = math.log1p((price - w.grid_price) / w.grid_price)
    sums[VARIANCE] += log_return * log_return
    if w.step_trades > 0.0:
        log_range = math.log1p((w.high - w.low) / w.low)
        sums[RANGE] += log_range * log_range * PARKINSON
        sums[TRADES] += w.step_trades
        sums[VOLUME] += w.step_volume
    sums[STEPS] += 1.0


@numba.njit(cache=True)
def _pass_points(w: Any, until: int, weights: Floats, block_steps: int) -> None:
    """Settle the grid points before `until`: the last price holds at all of them, and no coming trade changes it."""
    point = w.next_point
    if point >= until:
        return
    if w.has_grid:
        _start_block(w, (point - 1) // block_steps, weights, block_steps)
        _add_step(w.open, w, w.last_price)
    else:  # what traded before the first point belongs to no whole step
        w.has_grid = 1
        w.first_point = point
        w.block = point // block_steps
        w.block_anchors[w.block % len(w.block_anchors)] = w.anchor
    w.grid_price = w.last_price
    _start_step(w)
    while True:
        if point % block_steps == 0:
            w.block_anchors[point // block_steps % len(w.block_anchors)] = w.anchor
        point += 1
        if point >= until:
            break
        block = (point - 1) // block_steps  # steps without a trade, a block at a time
        _start_block(w, block, weights, block_steps)
        steps = min(until, (block + 1) * block_steps + 1) - point
        w.open[STEPS] += steps
        point += steps - 1
    w.next_point = until


@numba.njit(cache=True)
def _take_trade(w: Any, t: int, price: float, size: float, weights: Floats, step: int, block_steps: int) -> None:
    """Move the window to a trade at time `t` of the same segment, or the first of one."""
    ring = w.anchors.shape[0] - 1
    point = -(-t // step)
    if w.trades > 0:
        _pass_points(w, point, weights, block_steps)
        if point * step == t and w.has_grid and point > w.first_point:
            _start_block(w, (point - 1) // block_steps, weights, block_steps)
        log_return = math.log1p((price - w.last_price) / w.last_price)
        w.returns[w.head] = log_return
        w.returns[w.head + ring] = log_return
        w.head = (w.head + 1) % ring
        w.n = min(w.n + 1, ring)
    else:
        w.next_point = point
    w.high = max(w.high, price)
    w.low = min(w.low, price)
    w.step_trades += 1.0
    w.step_volume += size
    w.last_price = price


@numba.njit(cache=True)
def _contract(w: Any, out: Floats) -> None:
    """Write n, ret_mean, ret_std: summed anew each time, oldest first, variance by the corrected two-pass.

    In four lanes, because one chain of 50 additions waits for each of them; the correction, because the rounding of the
    mean would else be all that a nearly flat window shows.
    """
    n = w.n
    start = w.head + w.anchors.shape[0] - 1 - n
    out[0] = n
    if n == 0:
        out[1] = np.nan
        out[2] = np.nan
        return
    lanes = n - n % 4
    a = b = c = d = 0.0
    for i in range(start, start + lanes, 4):
        a += w.returns[i]
        b += w.returns[i + 1]
        c += w.returns[i + 2]
        d += w.returns[i + 3]
    for i in range(start + lanes, start + n):
        a += w.returns[i]
    mean = ((a + b) + (c + d)) / n
    a = b = c = d = 0.0
    aa = bb = cc = dd = 0.0
    for i in range(start, start + lanes, 4):
        x = w.returns[i] - mean
        a += x
        aa += x * x
        x = w.returns[i + 1] - mean
        b += x
        bb += x * x
        x = w.returns[i + 2] - mean
        c += x
        cc += x * x
        x = w.returns[i + 3] - mean
        d += x
        dd += x * x
    for i in range(start + lanes, start + n):
        x = w.returns[i] - mean
        a += x
        aa += x * x
    rest = (a + b) + (c + d)
    out[1] = mean + rest / n
    out[2] = math.sqrt(max(0.0, ((aa + bb) + (cc + dd)) - rest * rest / n) / (n - 1)) if n > 1 else np.nan


@numba.njit(cache=True)
def _grid_features(w: Any, t: int, out: Floats, half_lives: Int64s, step: int, horizon_steps: int) -> None:
    """Write the weighted averages over the grid points up to `t`, NaN while the segment is younger than a half-life."""
    count = len(half_lives)
    out[:] = np.nan
    point = t // step
    if not w.has_grid or point <= w.first_point:
        return
    sums = w.now
    sums[:] = w.open
    if point == w.next_point:  # the trade stands on a grid point: its step counts as it is now, ties may yet change it
        _add_step(sums, w, w.last_price)
    short_rate = np.nan
    for half_life in range(count):
        if point - w.first_point < half_lives[half_life]:
            break
        weighted = w.weighted[half_life]
        steps = weighted[STEPS] + sums[STEPS]
        out[half_life] = (weighted[VARIANCE] + sums[VARIANCE]) / steps * horizon_steps
        if half_life == 0:
            out[count + 1] = (weighted[TRADES] + sums[TRADES]) / (steps * (step / NS))
        if half_life == 1:
            out[count] = (weighted[RANGE] + sums[RANGE]) / steps * horizon_steps
            short_rate = (weighted[VOLUME] + sums[VOLUME]) / steps
        if half_life == count - 1:
            usual_rate = (weighted[VOLUME] + sums[VOLUME]) / steps
            if usual_rate > 0.0:
                out[count + 2] = short_rate / usual_rate


@numba.njit(cache=True)
def _window_kernel(
    state: NDArray[np.void],
    slot: Int64s,
    trade_id: Int64s,
    event_time: Int64s,
    price: Floats,
    size: Floats,
    position: Int64s,
    weights: Floats,
    half_lives: Int64s,
    step: int,
    gap: int,
    block_steps: int,
    horizon_steps: int,
    values: Floats,
) -> NDArray[np.int8]:
    status = np.zeros(len(trade_id), np.int8)
    for i in range(len(trade_id)):
        w = state[slot[i]]
        status[i] = admit_one(trade_id[i], event_time[i], w.last_id, w.last_time)
        if status[i] != TAKEN:
            continue
        has_fallen = event_time[i] < w.last_time
        t = event_time[i] = max(event_time[i], w.last_time)
        if t - w.last_time > gap:
            _start_segment(w)
        _take_trade(w, t, price[i], size[i], weights, step, block_steps)
        w.last_id = trade_id[i]
        w.last_time = t
        if not has_fallen:
            w.anchor = position[i]
        w.anchors[w.trades % len(w.anchors)] = w.anchor
        w.trades += 1
        _contract(w, values[i, :3])
        _grid_features(w, t, values[i, 3:], half_lives, step, horizon_steps)
    return status
