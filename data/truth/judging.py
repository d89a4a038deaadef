"""Judge the forecasts of a stream once their horizons have passed: the same pairs as offline, while rows arrive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.trades import Floats, Int64s
from data.truth.streaming import Horizon, StreamingTarget, Targets, horizon_fields


class Judged(NamedTuple):
    """n counted forecasts whose horizon has passed, in order of their rows.

    Attributes:
        row: shape (n,), number of each row in its stream, the first row of the stream being 0.
        event_time: shape (n,), ns since 1970, of the forecast.
        target: shape (n,), realized volatility per horizon.
        forecasts: shape (n, ...), as the caller handed them in with the rows.
    """

    row: Int64s
    event_time: Int64s
    target: Floats
    forecasts: NDArray[Any]


class Judge:
    """Follows one stream, and returns each counted forecast with its target, never before the horizon has passed.

    Forecasts and targets are the pairs of `counted_rows` and `target_volatility` of the whole stream, byte for byte. A
    counted forecast without a target is left out: its segment ended before its horizon. Only the counted forecasts of
    the last horizon stay in memory.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._targets = StreamingTarget(spec)
        self._twelfth = Horizon.of(spec).twelfth
        self._most = horizon_fields(spec)[-1][2][0]
        self._rows = 0
        self._waiting: Judged | None = None  # without targets; None before the first rows

    def follow(self, event_time: Int64s, price: Floats, forecasts: NDArray[Any]) -> Judged:
        """Return the forecasts that the next rows let pass their horizon.

        Splitting the same rows into other batches changes no byte of any target, and leaves out no forecast.

        Args:
            event_time: shape (n,), ns since 1970, not falling, also from batch to batch; a falling time begins a
                segment.
            price: shape (n,), of the same rows.
            forecasts: shape (n, ...), anything that the caller needs of each forecast once it is judged: numbers, or
                objects.
        """
        rows = np.arange(self._rows, self._rows + len(event_time))
        self._rows += len(event_time)
        waiting = Judged(rows, event_time, np.zeros(0), forecasts)
        if self._waiting is not None:
            waiting = Judged(*(np.concatenate(parts) for parts in zip(self._waiting, waiting, strict=True)))
        is_last = np.append(np.diff(-(-waiting.event_time // self._twelfth)) != 0, True)[: len(waiting.row)]
        last = np.flatnonzero(is_last)
        counted = Judged(waiting.row[last], waiting.event_time[last], np.zeros(0), waiting.forecasts[last])
        self._waiting = _take(counted, slice(-self._most, None))
        return _judged(counted, self._targets.follow(event_time, price))

    def end(self) -> Judged:
        """Return the forecasts whose horizon ends with the last row, as the stream has ended."""
        if self._waiting is None:
            return Judged(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        return _judged(self._waiting, self._targets.end())


def _take(rows: Judged, chosen: slice | NDArray[np.intp]) -> Judged:
    return Judged(rows.row[chosen], rows.event_time[chosen], rows.target, rows.forecasts[chosen])


def _judged(counted: Judged, known: Targets) -> Judged:
    """Return the counted forecasts whose targets are known, with the targets."""
    return _take(counted, np.searchsorted(counted.row, known.row))._replace(target=known.target)
