"""Compute targets while rows arrive: the same bytes as `target_volatility`, a horizon after each counted row.

The compiled functions also serve `data.truth.adaptation`. `w` is the record of one stream, with the fields of
`ROW_FIELDS` and `horizon_fields`; prices and sums are float64, times int64 ns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Floats, Int64s
from data.truth.counting import TWELFTH
from data.truth.targets import squared_return

NO_TWELFTH = -1
"""A twelfth before all twelfths: times start in 1970."""


class Horizon(NamedTuple):
    """The horizon of a spec.

    Attributes:
        step, gap, twelfth: ns; a longer hole than `gap` ends a segment.
    """

    step: int
    gap: int
    twelfth: int

    @classmethod
    def of(cls, spec: FeatureSpec) -> Horizon:
        """Return the horizon of a spec."""
        return cls(spec.grid_step_s * NS, spec.gap_s * NS, spec.horizon_s * NS // TWELFTH)


def horizon_fields(spec: FeatureSpec) -> list[tuple[Any, ...]]:
    """Return the fields of a record that knows the prices of the last horizon, and the rows that wait for a target."""
    step, _, twelfth = Horizon.of(spec)
    waiting = (spec.horizon_s * NS + step) // twelfth + 2
    return [
        ("last_time", "i8"),
        ("last_price", "f8"),
        ("has_rows", "i1"),  # 1 after the first row of a segment
        ("has_point", "i1"),  # 1 after the first grid point of a segment has passed
        ("point", "i8"),  # the newest passed grid point; no later row changes its price
        ("point_price", "f8"),
        ("squares", "f8", (spec.horizon_s // spec.grid_step_s,)),  # squared return into each point, at point % length
        ("twelfth", "i8"),  # of the newest waiting row
        ("oldest", "i8"),  # index of the oldest waiting row, a ring
        ("waiting", "i8"),  # number of waiting rows, each the newest of its twelfth
        ("begins", "i8", (waiting,)),  # first grid point of each waiting row's horizon
    ]


@compiled
def start_segment(w: Any) -> None:
    """Forget the prices and the waiting rows: no target reaches beyond its segment."""
    w.has_rows = 0
    w.has_point = 0
    w.twelfth = NO_TWELFTH
    w.oldest = 0
    w.waiting = 0


@compiled
def is_new_segment(w: Any, t: int, horizon: Horizon) -> bool:
    """Return whether a row at time `t` begins a segment. A falling time begins one too: no index may leave its ring."""
    return bool(w.has_rows == 0 or t - w.last_time > horizon.gap or t < w.last_time)


@compiled
def last_point(w: Any, t: int, horizon: Horizon) -> int:
    """Return the last grid point that a row at time `t` lets pass; -1 if the stream has no rows.

    A row lets pass the points before its time: more rows may come at its time. If the row begins a segment, all points
    of the old segment pass.
    """
    if w.has_rows == 0:
        return -1
    if t - w.last_time > horizon.gap:
        return int(w.last_time // horizon.step)
    return (t - 1) // horizon.step


@compiled
def pass_point(w: Any) -> None:
    """Settle the next grid point: the price of the last row holds there."""
    w.point += 1
    if w.has_point:
        w.squares[w.point % len(w.squares)] = squared_return(w.point_price, w.last_price)
    w.has_point = 1
    w.point_price = w.last_price


@compiled
def is_due(w: Any) -> bool:
    """Return whether the horizon of the oldest waiting row ends at the newest passed grid point."""
    return bool(w.waiting > 0 and w.begins[w.oldest] + len(w.squares) == w.point)


@compiled
def realized_variance(w: Any) -> float:
    """Return the sum of squared returns over the horizon that ends at the newest passed grid point, oldest first."""
    steps = len(w.squares)
    total = 0.0
    for ahead in range(1, steps + 1):
        total += w.squares[(w.point + ahead) % steps]
    return total


@compiled
def leave(w: Any) -> None:
    """Remove the oldest waiting row."""
    w.oldest = (w.oldest + 1) % len(w.begins)
    w.waiting -= 1


@compiled
def wait(w: Any, t: int, price: float, horizon: Horizon) -> int:
    """Let a row wait for its target, in place of an earlier row of the same twelfth; return the row's index.

    The caller has let pass the grid points up to `last_point`, and has called `start_segment` where a segment begins.
    """
    begins = -(-t // horizon.step)
    if w.has_rows == 0:
        w.has_rows = 1
        w.point = begins - 1
    twelfth = -(-t // horizon.twelfth)
    if twelfth != w.twelfth:
        w.twelfth = twelfth
        w.waiting += 1
    at = int((w.oldest + w.waiting - 1) % len(w.begins))
    w.begins[at] = begins
    w.last_time = t
    w.last_price = price
    return at


class Targets(NamedTuple):
    """Targets that have become known.

    Attributes:
        row: shape (n,), number of each row in its stream, the first row of the stream being 0.
        target: shape (n,), volatility per horizon.
    """

    row: Int64s
    target: Floats


class StreamingTarget:
    """Follow one stream, and return the target of each counted row once the row's horizon has passed.

    A counted row without a target is left out: its segment ended before its horizon.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._horizon = Horizon.of(spec)
        fields = horizon_fields(spec)
        self._state = np.zeros(1, np.dtype([*fields, ("row", "i8", fields[-1][2])], align=True))
        start_segment(self._state[0])
        self._rows = 0

    def follow(self, event_time: Int64s, price: Floats) -> Targets:
        """Return the targets that the next rows make known.

        Splitting the same rows into other batches changes no byte of any target.

        Args:
            event_time: shape (n,), ns since 1970, not falling, also from batch to batch.
            price: shape (n,), of the same rows.
        """
        found = _follow(self._state, event_time, price, self._rows, self._horizon)
        self._rows += len(event_time)
        return Targets(*found)

    def end(self) -> Targets:
        """Return the targets that become known as the stream has ended: of horizons that end with the last row."""
        return Targets(*_end(self._state, self._horizon))


Found = tuple[NDArray[np.int64], NDArray[np.float64]]


@compiled
def _settle(w: Any, until: int, rows: Int64s, targets: Floats, count: int) -> int:
    """Settle the grid points up to `until`, and write the targets that become known; return their new number."""
    while w.point < until:
        pass_point(w)
        if is_due(w):
            target = np.sqrt(realized_variance(w))
            while is_due(w):
                rows[count] = w.row[w.oldest]
                targets[count] = target
                count += 1
                leave(w)
    return count


@compiled
def _follow(state: NDArray[np.void], event_time: Int64s, price: Floats, first: int, horizon: Horizon) -> Found:
    w = state[0]
    most = len(event_time) + len(w.begins)
    rows, targets, count = np.empty(most, np.int64), np.empty(most), 0
    for i in range(len(event_time)):
        t = event_time[i]
        count = _settle(w, last_point(w, t, horizon), rows, targets, count)
        if is_new_segment(w, t, horizon):
            start_segment(w)
        w.row[wait(w, t, price[i], horizon)] = first + i
    return rows[:count], targets[:count]


@compiled
def _end(state: NDArray[np.void], horizon: Horizon) -> Found:
    w = state[0]
    rows, targets = np.empty(len(w.begins), np.int64), np.empty(len(w.begins))
    count = 0
    if w.has_rows:
        count = _settle(w, w.last_time // horizon.step, rows, targets, 0)
    start_segment(w)
    return rows[:count], targets[:count]
