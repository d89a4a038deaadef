"""Compute when each trade of a recording is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.times import NS
from data.trades import Floats


@dataclass(frozen=True)
class Speed:
    """Hold the speed of a replay.

    Attributes:
        factor: multiple of the recorded pace; infinity sends all trades at once.
        now: whether event times move to the time of the replay.
    """

    factor: float
    now: bool = False


def parse_speed(text: str) -> Speed:
    """Parse a REPLAY_SPEED.

    Raises:
        ValueError: the text is not a speed; names the allowed values.

    >>> parse_speed("10"), parse_speed("real-time")
    (Speed(factor=10.0, now=False), Speed(factor=1.0, now=True))
    """
    if text == "real-time":
        return Speed(1.0, now=True)
    if text == "max":
        return Speed(math.inf)
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"REPLAY_SPEED must be a number above 0, real-time or max, was {text!r}")
    return Speed(factor)


class Pace:
    """Compute when each trade of a source is due.

    Args:
        speed: multiple of the recorded pace.
        max_wait_s: longest wait between two trades, in seconds.
    """

    def __init__(self, speed: float, max_wait_s: float) -> None:
        self._speed, self._max_wait_s = speed, max_wait_s
        self._due, self._time = 0.0, -1

    def due(self, event_time: NDArray[np.int64]) -> tuple[Floats, dict[int, float]]:
        """Return the due times of the next trades of the source.

        Args:
            event_time: shape (n,), ns since 1970.

        Returns:
            seconds after the first trade of the source, shape (n,), never falling; and by row, the full length in
            seconds of a shortened wait before the row.
        """
        if not len(event_time):
            return np.empty(0), {}
        times = np.maximum.accumulate(np.concatenate([[self._time if self._time >= 0 else event_time[0]], event_time]))
        waits = np.diff(times) / (NS * self._speed)
        cut = {int(row): float(waits[row]) for row in np.flatnonzero(waits > self._max_wait_s)}
        due = self._due + np.cumsum(np.minimum(waits, self._max_wait_s))
        self._due, self._time = float(due[-1]), int(times[-1])
        return np.asarray(due, dtype=np.float64), cut
