"""Keep the forecasts of one stream for a chart: the last quarter of an hour, and a day of judged forecasts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Floats, Int64s
from data.truth.counting import TWELFTH
from data.truth.judging import Judge, Judged
from data.truth.losses import coverage, qlike
from online.live.arrival import Heard

POINT_NS = NS
"""A point is the last forecast in each second of event time: a chart has no room for more."""
RECENT_POINTS = 900
"""Points that are kept whether they count or not: a quarter of an hour, or more of a quiet market."""
COUNTED_POINTS = 17_280
"""Counted points that are kept: a day."""
HOUR_NS = 3_600 * NS
PACE_S, LEAST_S = 5.0, 1.0
"""Time over which rows a second and the speed of a replay are measured, and the least such time."""
BP = 1e4
"""Basis points in one."""

POINT = np.dtype(
    [
        ("row", "i8"),  # number in the stream
        ("time", "i8"),  # event time, ns since 1970
        ("price", "f8"),
        ("score", "f8"),  # volatility per horizon, as are both ends
        ("lower", "f8"),
        ("upper", "f8"),
        ("model", "i4"),  # index in the versions of the stream
        ("in_sample", "?"),
        ("counted", "?"),
        ("target", "f8"),  # realized volatility per horizon; NaN until judged
    ]
)
Points = NDArray[np.void]


class Ring:
    """Keep the newest points, in order."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buffer = np.zeros(min(capacity, 256), POINT)
        self._start = self._end = 0

    @property
    def points(self) -> Points:
        """The points, oldest first: a view, valid until the next `append`."""
        return self._buffer[self._start : self._end]

    def append(self, new: Points) -> None:
        new = new[-self._capacity :]
        if self._end + len(new) > len(self._buffer):
            kept = self.points[max(0, self._end - self._start + len(new) - self._capacity) :]
            size = min(2 * self._capacity, max(2 * (len(kept) + len(new)), len(self._buffer)))
            buffer = np.zeros(size, POINT)
            buffer[: len(kept)] = kept
            self._buffer, self._start, self._end = buffer, 0, len(kept)
        self._buffer[self._end : self._end + len(new)] = new
        self._end += len(new)
        self._start = max(self._start, self._end - self._capacity)

    def set_targets(self, rows: Int64s, targets: Floats) -> None:
        """Set the targets of points by row number; a row that is not here is left out."""
        points = self.points
        if len(points):
            at = np.minimum(np.searchsorted(points["row"], rows), len(points) - 1)
            here = points["row"][at] == rows
            points["target"][at[here]] = targets[here]


class ModelName(NamedTuple):
    """The model of a forecast, as the record names the model."""

    model_variant: str
    version: str


class Cursor(NamedTuple):
    """Mark what a browser has: row numbers of the newest point, the newest judged point, and the newest row.

    Attributes:
        has_loss: whether the losses could be told, see `Quality.qlike`.
    """

    stream: int
    point: int
    judged: int
    row: int
    has_loss: bool = False


class Quality(NamedTuple):
    """Tell how the judged forecasts of a model went, in-sample forecasts left out.

    Attributes:
        horizons: judged forecasts, twelve in a horizon.
        coverage, below, above: share of targets inside, below and above the interval.
        qlike: mean; None if the variance floor of the model is not known.
    """

    horizons: float
    coverage: float
    below: float
    above: float
    qlike: float | None


class Pace:
    """Measure rows and event time against wall time."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int]] = deque()

    def mark(self, now: float, rows: int, event_time: int) -> None:
        self._marks.append((now, rows, event_time))
        while len(self._marks) > 2 and self._marks[1][0] <= now - PACE_S:
            self._marks.popleft()

    def read(self, now: float) -> tuple[float, float] | None:
        """Return rows a second, and seconds of event time a second; None if too little is known."""
        while len(self._marks) > 1 and self._marks[0][0] < now - 2 * PACE_S:
            self._marks.popleft()
        if len(self._marks) < 2:
            return None
        begin, rows, event_time = self._marks[0]
        elapsed = now - begin
        if elapsed < LEAST_S:
            return None
        return (self._marks[-1][1] - rows) / elapsed, (self._marks[-1][2] - event_time) / NS / elapsed


class LiveStream:
    """Follow the forecasts of one stream.

    Args:
        number: tells this object from each other one.

    Attributes:
        purpose: of the source.
        models: the models of the forecasts, in order of their first forecast.
        newest: the newest record; None before the first.
        has_ended: the source has ended the product.
        rows: number of forecasts.
        heard, seen: place of the newest record on the topic, and when it was read, seconds of the monotonic clock; both
            are noted by the view.
        pace: of the forecasts since the reader has reached the end of the topic.
    """

    def __init__(self, number: int, spec: FeatureSpec) -> None:
        self._number, self._spec = number, spec
        self._judge = Judge(spec)
        self._recent, self._counted = Ring(RECENT_POINTS), Ring(COUNTED_POINTS)
        self._open = np.zeros(0, POINT)  # the point of the second that has not passed
        self._judged = -1
        self.purpose = ""
        self.models: dict[ModelName, int] = {}
        self.newest: Any = None
        self.has_ended = False
        self.rows = 0
        self.heard, self.seen = Heard(0, 0, 0), 0.0
        self.pace = Pace()

    def take(self, records: Sequence[Any]) -> None:
        """Add the next forecasts of the stream, in order.

        Args:
            records: n >= 1, of `data.stream.records.prediction_type`.
        """
        rows = np.zeros(len(records), POINT)
        rows["row"] = np.arange(self.rows, self.rows + len(records))
        for name, field in (("time", "event_time"), ("price", "price"), ("score", "score"), ("in_sample",) * 2):
            rows[name] = [getattr(record, field) for record in records]
        rows["lower"], rows["upper"] = np.array([record.interval for record in records]).T
        names = [ModelName(record.model_variant, record.version) for record in records]
        rows["model"] = [self.models.setdefault(name, len(self.models)) for name in names]
        rows["target"] = np.nan
        self.rows += len(records)
        self.newest, self.purpose, self.has_ended = records[-1], records[-1].purpose, False
        found = self._judge.follow(rows["time"].copy(), rows["price"].copy(), rows["row"].copy())
        self._close_points(np.concatenate([self._open, rows]))
        self._set_targets(found)

    def end(self) -> None:
        """Note that the source has ended the product: no later row can change the newest point."""
        self.has_ended = True
        if len(self._open):
            self._open["counted"] = True
            self._append(self._open)
            self._open = self._open[:0]
        self._set_targets(self._judge.end())

    def _close_points(self, rows: Points) -> None:
        """Keep the last row of each second; the last row of all may still be replaced.

        A row counts if it is the last in its twelfth of a horizon; each last row of a twelfth is the last of a second.
        """
        second = -(-rows["time"] // POINT_NS)
        closed = rows[:-1][np.diff(second) != 0]
        following = rows[1:][np.diff(second) != 0]
        twelfth = self._spec.horizon_s * NS // TWELFTH
        closed["counted"] = -(-closed["time"] // twelfth) != -(-following["time"] // twelfth)
        self._append(closed)
        self._open = rows[-1:].copy()

    def _append(self, closed: Points) -> None:
        self._recent.append(closed)
        self._counted.append(closed[closed["counted"]])

    def _set_targets(self, found: Judged) -> None:
        if len(found.row):
            self._recent.set_targets(found.row, found.target)
            self._counted.set_targets(found.row, found.target)
            self._judged = int(found.row[-1])

    def since(self, cursor: Cursor | None) -> tuple[dict[str, Any] | None, Cursor]:
        """Return what is new since a cursor, and the next cursor; None if nothing is new.

        Without a cursor, with the cursor of another object, and after a gap, the answer holds all points, and `reset`.
        Volatilities are in basis points per horizon, times in ms.
        """
        recent, counted = self._recent.points, self._counted.points
        is_behind = cursor is not None and len(recent) > 0 and cursor.point < recent[0]["row"]
        if cursor is None or cursor.stream != self._number or (is_behind and cursor.point >= 0):
            older = counted[: np.searchsorted(counted["row"], recent[0]["row"])] if len(recent) else counted
            new, judged, is_reset = np.concatenate([older, recent]), counted, True
        elif cursor.row == self.rows and cursor.judged == self._judged:
            return None, cursor
        else:
            new, is_reset = recent[np.searchsorted(recent["row"], cursor.point, "right") :], False
            judged = counted[np.searchsorted(counted["row"], cursor.judged, "right") :]
        judged = judged[~np.isnan(judged["target"])]
        frame: dict[str, Any] = {"reset": is_reset, "models": list(self.models), "points": _columns(new)}
        frame["judged"] = {"row": judged["row"].tolist(), "realized": _bp(judged["target"])}
        frame["tip"] = _columns(self._open) if len(self._open) else None
        last = int(new["row"][-1]) if len(new) else cursor.point if cursor and not is_reset else -1
        return frame, Cursor(self._number, last, self._judged, self.rows)

    def has_loss(self, floor_of: Callable[[ModelName], float | None]) -> bool:
        """Return whether the variance floor of the newest model is known."""
        newest = self.newest
        return newest is not None and floor_of(ModelName(newest.model_variant, newest.version)) is not None

    def quality(self, floor_of: Callable[[ModelName], float | None]) -> dict[str, Quality | None]:
        """Return the quality of the newest model's forecasts: over the last hour of event time, and of all kept points.

        Args:
            floor_of: returns the variance floor of a model, None if not known.
        """
        if self.newest is None:
            return {"hour": None, "all": None}
        name = ModelName(self.newest.model_variant, self.newest.version)
        points = self._counted.points
        points = points[~np.isnan(points["target"])]
        mine = points[(points["model"] == self.models[name]) & ~points["in_sample"]]
        floor = floor_of(name)
        newest = points["time"][-1] if len(points) else 0
        return {"hour": _quality(mine[mine["time"] > newest - HOUR_NS], floor), "all": _quality(mine, floor)}


def _quality(points: Points, floor: float | None) -> Quality | None:
    if not len(points):
        return None
    variance = np.maximum(points["target"] ** 2, floor or 0.0)
    target = np.sqrt(variance)
    loss = None if floor is None else float(np.mean(qlike(points["target"] ** 2, points["score"] ** 2, floor)))
    inside = coverage(target, points["lower"], points["upper"])
    below, above = (float(np.mean(side)) for side in (target < points["lower"], target > points["upper"]))
    return Quality(len(points) / TWELFTH, inside, below, above, loss)


def _bp(volatility: Floats) -> list[float]:
    return np.round(volatility * BP, 4).tolist()  # type: ignore[no-any-return]


def _columns(points: Points) -> dict[str, list[Any]]:
    columns = {name: points[name].tolist() for name in ("row", "price", "model")}
    columns["t"] = np.round(points["time"] / 1e6, 1).tolist()
    columns |= {name: points[name].astype(np.int8).tolist() for name in ("counted", "in_sample")}
    return columns | {name: _bp(points[name]) for name in ("score", "lower", "upper")}
