"""Decide which trades a stream takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.times import NS
from data.trades import Int64s, StreamKey, Trades

MAX_FALL_S = 1
"""Seconds by which event time may fall while trade ids rise: matching engines stamp a burst slightly out of order."""


TAKEN, PASSED_ID, FALLEN_TIME = 0, 1, 2
"""Results of `admit_one`."""

REASONS = {
    PASSED_ID: "trade id was already taken or passed",
    FALLEN_TIME: f"event time falls by more than {MAX_FALL_S} s",
}


@compiled
def admit_one(trade_id: int, event_time: int, last_id: int, last_time: int) -> int:
    """Judge one trade by the last taken trade of its stream: return TAKEN, PASSED_ID or FALLEN_TIME."""
    if trade_id <= last_id:
        return 1
    if event_time < last_time - MAX_FALL_S * NS:
        return 2
    return 0


@compiled
def _admit(stream: NDArray[np.int32], trade_id: Int64s, event_time: Int64s, last: Int64s) -> NDArray[np.int8]:
    status = np.empty(len(trade_id), np.int8)
    for i in range(len(trade_id)):
        row = last[stream[i]]
        status[i] = admit_one(trade_id[i], event_time[i], row[0], row[1])
        if status[i] == TAKEN:
            row[0] = trade_id[i]
            row[1] = max(row[1], event_time[i])
    return status


NOTHING_YET = (np.iinfo(np.int64).min, np.iinfo(np.int64).min // 2)
"""Last id and last time of a stream before its first trade: below all real values, with room for a subtraction."""


class Admission:
    """Judges the trades of each stream: ids must rise, and time may fall by at most `MAX_FALL_S`.

    Every stage may judge the taken trades again: the next stage takes all of them.
    """

    def __init__(self) -> None:
        self._last: dict[StreamKey, Int64s] = {}

    def judge(self, trades: Trades) -> NDArray[np.int8]:
        """Return TAKEN, PASSED_ID or FALLEN_TIME for each trade, shape (n,), and remember the taken trades."""
        last = np.array([self._last.get(key, NOTHING_YET) for key in trades.keys], np.int64).reshape(-1, 2)
        status = _admit(trades.stream, trades.trade_id, trades.event_time, last)
        self._last.update(zip(trades.keys, last, strict=True))
        return status
