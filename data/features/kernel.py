"""Compiled loops that turn one batch of trades into feature rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled, copy
from data.features.admission import LEAP_ROWS, RESTARTED, TAKEN, goes_on, is_calm, judge_one
from data.features.moments import trailing_moments
from data.features.spec import CONTRACT
from data.times import DAY_S, NS
from data.trades import Floats, Int64s

PARKINSON = 1 / (4 * math.log(2))
"""Squared log range to variance. Source: Parkinson (1980), Journal of Business 53(1), 61-65."""

CHUNK = 512
"""Windows whose moments are computed at once: enough to fill vectors, few enough for the nearest cache."""

NO_POINT = -1
"""A point before all grid points: times start in 1970."""

GRID = len(CONTRACT)
"""Index of the first grid column."""

# Indexes of the sums in each grid step, block and weighted average.
VARIANCE, RANGE, TRADES, VOLUME, STEPS, MOVE = range(6)
SUMS = 6


class Batch(NamedTuple):
    """Columns of n trades, shape (n,), see `Trades`; `position` is offset or line of each trade."""

    trade_id: Int64s
    event_time: Int64s
    price: Floats
    size: Floats
    position: Int64s


class Grid(NamedTuple):
    """The grid of a spec.

    Attributes:
        weights: see `FeatureSpec.block_weights`.
        half_lives, trend_half_lives: in grid steps.
        step, gap: ns.
        block_steps, horizon_steps: numbers of grid steps.
    """

    weights: Floats
    half_lives: Int64s
    trend_half_lives: Int64s
    step: int
    gap: int
    block_steps: int
    horizon_steps: int


FALLEN = 1e-12
"""Share of a price, below which log1p has lost all digits of the smaller price: of 2^-54, it returns -inf."""


@compiled
def far_log_return(before: float, price: float) -> float:
    """Return ln(price / before) of prices that differ by percents: finite for all prices that a trade may have.

    >>> far_log_return(100.0, 1e-100) == math.log(1e-100) - math.log(100.0)
    True
    """
    if price < before * FALLEN:
        return math.log(price) - math.log(before)
    return math.log1p((price - before) / before)


@compiled
def log_return(before: float, price: float) -> float:
    """Return ln(price / before), within an ulp or two.

    ln(price / before) = 2 atanh(s), s = (price - before) / (price + before). The difference of near prices is exact, so
    s is rounded once, while log1p(difference / before) is rounded at its argument already. The series of atanh needs no
    library.

    >>> log_return(100.0, 100.0), round(log_return(100.0, 110.0), 12)
    (0.0, 0.095310179804)
    """
    s = (price - before) / (price + before)
    if abs(s) > 1 / 128:  # beyond, the term after the last one below would count
        return far_log_return(before, price)
    z = s * s
    return 2 * s + 2 * s * z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z / 9)))


# The kernel. `w` is one stream's window, a record of `_window_type`; prices and sums are float64, times int64 ns.


@compiled
def _start_segment(w: Any) -> None:
    """Reset a window for a new segment; `last_id` and `last_time` belong to the stream and stay."""
    w.n = 0
    w.trades = 0
    w.next_anchor = 0
    w.has_grid = 0
    w.open[:] = 0.0
    w.weighted[:] = 0.0
    w.reported_point = NO_POINT
    _start_step(w)


@compiled
def _start_step(w: Any) -> None:
    w.high = -np.inf
    w.low = np.inf
    w.step_trades = 0.0
    w.step_volume = 0.0


@compiled
def _copy_sums(sums: Floats, out: Floats) -> None:
    """Copy the sums of a block; all are read before the first write, as the compiler cannot tell the places apart."""
    first = sums[VARIANCE], sums[RANGE], sums[TRADES]
    second = sums[VOLUME], sums[STEPS], sums[MOVE]
    out[VARIANCE], out[RANGE], out[TRADES] = first
    out[VOLUME], out[STEPS], out[MOVE] = second


@compiled
def _start_block(w: Any, block: int, grid: Grid) -> None:
    """Close the open block if `block` is the next block, and weigh the closed blocks in reach, newest first."""
    if block == w.block:
        return
    blocks = w.closed.shape[0]
    _copy_sums(w.open, w.closed[w.block % blocks])
    w.open[:] = 0.0
    w.block = block
    reach = min(blocks - 1, block - w.first_point // grid.block_steps)
    weights = grid.weights
    for average in range(weights.shape[0]):
        variance = spread = trades = volume = steps = move = 0.0
        closed = block % blocks
        for age in range(1, reach + 1):
            closed = closed - 1 if closed > 0 else blocks - 1
            weight = weights[average, age]
            variance += weight * w.closed[closed, VARIANCE]
            spread += weight * w.closed[closed, RANGE]
            trades += weight * w.closed[closed, TRADES]
            volume += weight * w.closed[closed, VOLUME]
            steps += weight * w.closed[closed, STEPS]
            move += weight * w.closed[closed, MOVE]
        weighted = w.weighted[average]
        weighted[VARIANCE], weighted[RANGE], weighted[TRADES] = variance, spread, trades
        weighted[VOLUME], weighted[STEPS], weighted[MOVE] = volume, steps, move


@compiled
def _add_step(sums: Floats, w: Any, price: float) -> None:
    """Add the open step, which ends at `price`, to `sums`."""
    moved = log_return(w.grid_price, price)
    sums[VARIANCE] += moved * moved
    sums[MOVE] += moved
    if w.step_trades > 0.0:
        log_range = log_return(w.low, w.high)
        sums[RANGE] += log_range * log_range * PARKINSON
        sums[TRADES] += w.step_trades
        sums[VOLUME] += w.step_volume
    sums[STEPS] += 1.0


@compiled
def _pass_points(w: Any, until: int, grid: Grid) -> None:
    """Settle the grid points before `until`: the last price holds at these points, and no later trade changes them."""
    point, block_steps = w.next_point, grid.block_steps
    if w.has_grid:
        _start_block(w, (point - 1) // block_steps, grid)
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
        _start_block(w, block, grid)
        steps = min(until, (block + 1) * block_steps + 1) - point
        w.open[STEPS] += steps
        point += steps - 1
    w.next_point = until


@compiled
def _volume_rate(w: Any, half_life: int) -> float:
    """Return the weighted volume of a grid step, over the closed blocks and `now`."""
    weighted, sums = w.weighted[half_life], w.now
    return float((weighted[VOLUME] + sums[VOLUME]) / (weighted[STEPS] + sums[STEPS]))


@compiled
def _grid_features(w: Any, point: int, out: Floats, grid: Grid) -> None:
    """Write the columns of the grid up to the last point at or before the trade.

    An average is NaN while the segment is younger than its half-life, the plain mean until one step is whole.
    """
    half_lives, horizon_steps = grid.half_lives, grid.horizon_steps
    count, trends = len(half_lives), len(grid.trend_half_lives)
    volumes = out[count + 2 : 2 * count + 1]  # a column for each half-life but the longest
    others = out[2 * count + 1 :]  # the columns after the relative volumes
    out[:] = np.nan
    time_of_day = 2 * math.pi * (point * (grid.step // NS) % DAY_S) / DAY_S
    others[2 + trends], others[3 + trends] = math.sin(time_of_day), math.cos(time_of_day)
    if not w.has_grid or point <= w.first_point:
        return
    sums = w.now
    _copy_sums(w.open, sums)
    if point == w.next_point:  # the trade stands on a grid point: its step counts as it is now, ties may yet change it
        _add_step(sums, w, w.last_price)
    for half_life in range(count):
        if point - w.first_point < half_lives[half_life]:
            break
        weighted = w.weighted[half_life]
        steps = weighted[STEPS] + sums[STEPS]
        out[half_life] = (weighted[VARIANCE] + sums[VARIANCE]) / steps * horizon_steps
        if half_life == 0:
            out[count + 1] = (weighted[TRADES] + sums[TRADES]) / (steps * (grid.step / NS))
        if half_life == 1:
            out[count] = (weighted[RANGE] + sums[RANGE]) / steps * horizon_steps
    if point - w.first_point >= half_lives[count - 1]:
        usual_rate = _volume_rate(w, count - 1)
        if usual_rate > 0.0:
            for half_life in range(count - 1):
                volumes[half_life] = _volume_rate(w, half_life) / usual_rate
    unweighted = w.weighted[count + trends]
    steps = unweighted[STEPS] + sums[STEPS]
    others[0], others[1] = (unweighted[VARIANCE] + sums[VARIANCE]) / steps * horizon_steps, steps
    for trend in range(trends):
        if point - w.first_point < grid.trend_half_lives[trend]:
            break
        weighted = w.weighted[count + trend]
        squares = (weighted[STEPS] + sums[STEPS]) * (weighted[VARIANCE] + sums[VARIANCE])
        ratio = (weighted[MOVE] + sums[MOVE]) / math.sqrt(squares) if squares > 0.0 else 0.0
        others[2 + trend] = min(max(ratio, -1.0), 1.0)  # rounding alone goes beyond 1


@compiled
def _contract(w: Any, rows: Int64s, series: Floats, held: Int64s, values: Floats) -> None:
    """Write n, ret_mean and ret_std of consecutive rows of one stream, and keep the returns that later rows need.

    Args:
        rows: shape (r,), index of each row in `values`.
        series: the kept returns, then one return for each row whose `held` is not 0.
        held: shape (r,), number of returns in each row's window.
    """
    window = len(w.returns) + 1
    scratch = np.empty((4, min(CHUNK, len(rows)) + window))
    mean, deviation = np.empty(CHUNK), np.empty(CHUNK)
    end = w.kept  # of the series up to the row
    i = 0
    while i < len(rows):
        n = held[i]
        alike = 1  # rows from here whose windows are full, or just this one
        while n == window and alike < CHUNK and i + alike < len(rows) and held[i + alike] == window:
            alike += 1
        if n > 0:
            trailing_moments(series[end + 1 - n : end + alike], n, mean, deviation, scratch)
            end += alike
        if n > 1:
            share = 1 / (n - 1)
            for k in range(alike):
                deviation[k] = math.sqrt(deviation[k] * share)
        else:
            deviation[0] = np.nan
        if n == 0:
            mean[0] = np.nan
        for k in range(alike):
            row = rows[i + k]
            values[row, 0] = n
            values[row, 1] = mean[k]
            values[row, 2] = deviation[k]
        i += alike
    w.kept = min(held[-1], window - 1)
    copy(series[end - w.kept : end], w.returns)


@compiled
def _keep_anchors(w: Any, rows: Int64s, anchor: Int64s, trades: int) -> None:
    """Keep the positions of the window's trades; the last `trades` of `rows` belong to the current segment."""
    ring = len(w.anchors)
    fresh = min(len(rows), trades)
    for row in rows[len(rows) - min(fresh, ring) :]:
        w.anchors[w.next_anchor] = anchor[row]
        w.next_anchor = w.next_anchor + 1 if w.next_anchor < ring - 1 else 0


@compiled
def _judge(w: Any, rows: Int64s, batch: Batch, status: NDArray[np.int8], anchor: Int64s) -> int:
    """Judge one stream's trades; an event time that falls a little is replaced by the newest time before.

    Returns:
        the number of taken trades; `rows` then begins with the rows of the taken trades.
    """
    last_id, last_time, newest, memory = w.last_id, w.last_time, w.anchor, w.memory
    taken = 0
    calm = is_calm(memory)
    for row in rows:
        t = batch.event_time[row]
        if calm and goes_on(batch.trade_id[row], t, last_id, last_time):
            status[row] = TAKEN
        else:
            status[row] = judge_one(batch.trade_id[row], t, last_id, last_time, memory)
            calm = is_calm(memory)
            if memory[LEAP_ROWS] == 1 and status[row] == TAKEN:
                w.leap_anchor = newest
        if status[row] == TAKEN or status[row] == RESTARTED:
            if t >= last_time or status[row] == RESTARTED:
                newest, last_time = batch.position[row], t
            batch.event_time[row] = last_time
            anchor[row] = newest
            last_id = batch.trade_id[row]
            rows[taken] = row
            taken += 1
    w.last_id = last_id
    return taken


@compiled
def _move(
    w: Any,
    rows: Int64s,
    batch: Batch,
    status: NDArray[np.int8],
    anchor: Int64s,
    grid: Grid,
    values: Floats,
    series: Floats,
    held: Int64s,
) -> None:
    """Move one stream's window to each trade of `rows`: append the return, and write the grid columns.

    RESTARTED in `status` becomes TAKEN.
    """
    on_grid = values.shape[1] > GRID
    window = len(w.returns) + 1
    price, step = batch.price, grid.step
    # Local variables, because the compiler cannot hold fields of `w` in registers.
    last_time, last_price, n, trades, count = w.last_time, w.last_price, w.n, w.trades, w.kept
    point = point_time = next_time = 0  # the last grid point, its time, and the next one's
    for k in range(len(rows)):
        row = rows[k]
        t = batch.event_time[row]
        if t - last_time > grid.gap or status[row] == RESTARTED:
            _start_segment(w)
            n = trades = 0
            status[row] = TAKEN
        if on_grid:
            if t >= next_time or t < point_time:
                point = t // step
                point_time = point * step
                next_time = point_time + step
            until = point + 1 if t > point_time else point
            if trades == 0:
                w.next_point = until
            elif until > w.next_point:
                _pass_points(w, until, grid)
            if until == point and w.has_grid and point > w.first_point:
                _start_block(w, (point - 1) // grid.block_steps, grid)
            w.high = max(w.high, price[row])
            w.low = min(w.low, price[row])
            w.step_trades += 1.0
            w.step_volume += batch.size[row]
        if trades > 0:
            series[count] = log_return(last_price, price[row])
            count += 1
            n = min(n + 1, window)
        held[k] = n
        trades += 1
        last_time = t
        last_price = price[row]
        if on_grid:
            w.last_price, w.anchor = last_price, anchor[row]
            if point != w.reported_point:
                _grid_features(w, point, w.reported, grid)
                # A trade between grid points changes no point, and no later trade changes a point that has passed.
                w.reported_point = point if t > point_time else NO_POINT
            for column in range(len(w.reported)):
                values[row, GRID + column] = w.reported[column]
    w.last_time, w.last_price, w.n, w.anchor = last_time, last_price, n, anchor[rows[-1]]
    _keep_anchors(w, rows, anchor, trades)
    w.trades = min(trades, window + 1)


@compiled
def window_kernel(
    rows: Int64s, ends: Int64s, slots: Int64s, state: NDArray[np.void], batch: Batch, grid: Grid, values: Floats
) -> NDArray[np.int8]:
    """Write the feature rows of a batch into `values`, and return the status of each trade, shape (n,).

    An event time in `batch` that fell is replaced by the newest time before.

    Why stream by stream: a window stays in the nearest cache, and many rows of a stream are computed at once.
    """
    status = np.empty(len(rows), np.int8)
    anchor = np.empty(len(rows), np.int64)
    for stream in range(len(slots)):
        mine = rows[ends[stream] : ends[stream + 1]]
        if len(mine) > 0:
            w = state[slots[stream]]
            mine = mine[: _judge(w, mine, batch, status, anchor)]
        if len(mine) > 0:
            series, held = np.empty(w.kept + len(mine)), np.empty(len(mine), np.int64)
            copy(w.returns[: w.kept], series)
            _move(w, mine, batch, status, anchor, grid, values, series, held)
            _contract(w, mine, series, held, values)
    return status
