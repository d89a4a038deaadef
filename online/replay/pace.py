"""How fast a recording is replayed: when each of its trades is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.trades import NS, Floats


@dataclass(frozen=True)
class Speed:
    """How fast to replay: `factor` times the recorded pace, infinity for all at once; `now`: as if it happened now."""

    factor: float
    now: bool = False


def parse_speed(text: str) -> Speed:
    """Read a REPLAY_SPEED.

    Raises:
        ValueError: says what is allowed.

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
    """When each trade of a source is due.

    Args:
        speed: times the recorded pace.
        max_wait_s: no wait between two trades is longer.
    """

    def __init__(self, speed: float, max_wait_s: float) -> None:
        self._speed, self._max_wait_s = speed, max_wait_s
        self._due, self._time = 0.0, -1

    def due(self, event_time: NDArray[np.int64]) -> tuple[Floats, dict[int, float]]:
        """Say when the next trades of the source are due.

        Returns:
            seconds after the first trade of the source, shape (n,), never falling; and the rows before which a wait was
            cut, with the seconds that it had been.
        """
        if not len(event_time):
            return np.empty(0), {}
        times = np.maximum.accumulate(np.concatenate([[self._time if self._time >= 0 else event_time[0]], event_time]))
        waits = np.diff(times) / (NS * self._speed)
        cut = {int(row): float(waits[row]) for row in np.flatnonzero(waits > self._max_wait_s)}
        due = self._due + np.cumsum(np.minimum(waits, self._max_wait_s))
        self._due, self._time = float(due[-1]), int(times[-1])
        return np.asarray(due, dtype=np.float64), cut
