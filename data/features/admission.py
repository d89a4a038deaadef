"""Decide which trades a stream takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.times import NS
from data.trades import Int64s, StreamKey, Trades

MAX_FALL_S = 1
"""Seconds by which event time may fall while trade ids rise: matching engines stamp a burst slightly out of order."""


AGREEING = 20
"""Rejects of a stream in a row that agree with each other, after which the stream follows the rejected trades. A run of
fewer trades that leads away from the others is a stray run."""
LEAP_S = 300
"""Seconds; a larger step of time is a leap: behind a leap of stray trades, the trades before the leap go on."""

TAKEN, PASSED_ID, FALLEN_TIME, RESTARTED, STRAY_ID, STRAY_TIME = range(6)
"""Results of judging a trade. RESTARTED: taken, and the begin of a new segment."""

REASONS = {
    PASSED_ID: "trade id was already taken or passed",
    FALLEN_TIME: f"event time falls by more than {MAX_FALL_S} s",
    STRAY_ID: "trade id is a stray: the trades after it go on with lower ids",
    STRAY_TIME: f"event time is a stray: the trades after it go on more than {MAX_FALL_S} s earlier",
}

NOTHING_YET = (np.iinfo(np.int64).min, np.iinfo(np.int64).min // 2)
"""Last id and last time of a stream before its first trade: below all real values, with room for a subtraction."""
_NO_ID = NOTHING_YET[0]

# Indexes of the memory of a stream, beside its last id and its last time.
REJECTS, REJECT_ID, REJECT_TIME = 0, 1, 2  # rejects in a row that agree; id and time of the last of them
LEAP_ROWS, LEAP_ID, LEAP_TIME = 3, 4, 5  # trades since the last leap, with its first; last id and time before the leap
MEMORY = 6

NO_MEMORY = (0, 0, 0, AGREEING, 0, 0)
"""Memory of a stream before its first trade."""


@compiled
def admit_one(trade_id: int, event_time: int, last_id: int, last_time: int) -> int:
    """Judge one trade by the last taken trade of its stream: return TAKEN, PASSED_ID or FALLEN_TIME."""
    if trade_id <= last_id:
        return 1
    if event_time < last_time - MAX_FALL_S * NS:
        return 2
    return 0


@compiled
def goes_on(trade_id: int, event_time: int, last_id: int, last_time: int) -> bool:
    """Return whether a trade is taken without a leap: then `judge_one` changes nothing in a calm memory."""
    return trade_id > last_id and last_time - MAX_FALL_S * NS <= event_time <= last_time + LEAP_S * NS


@compiled
def is_calm(memory: Int64s) -> bool:
    """Return whether the last `AGREEING` trades of a stream were taken without a leap."""
    return bool(memory[REJECTS] == 0 and memory[LEAP_ROWS] == AGREEING)


@compiled
def judge_one(trade_id: int, event_time: int, last_id: int, last_time: int, memory: Int64s) -> int:
    """Judge the next trade of a stream without a look at later trades, and update the stream's memory.

    After `AGREEING` rejects in a row that agree with each other, the next trade that agrees is RESTARTED, unless the
    trades may be a repetition of taken trades: both id and time were passed, and not by a leap of a few stray trades.

    Args:
        memory: shape (MEMORY,). Changed in place.

    Returns:
        TAKEN, PASSED_ID, FALLEN_TIME or RESTARTED.
    """
    status = admit_one(trade_id, event_time, last_id, last_time)
    if status == TAKEN:
        memory[REJECTS] = 0
        if event_time - last_time > LEAP_S * NS and last_id != _NO_ID:
            memory[LEAP_ROWS], memory[LEAP_ID], memory[LEAP_TIME] = 1, last_id, last_time
        elif memory[LEAP_ROWS] < AGREEING:
            memory[LEAP_ROWS] += 1
        return status
    agrees = memory[REJECTS] > 0 and admit_one(trade_id, event_time, memory[REJECT_ID], memory[REJECT_TIME]) == TAKEN
    if agrees and memory[REJECTS] >= AGREEING:
        is_before_leap = memory[LEAP_ROWS] < AGREEING and (
            admit_one(trade_id, event_time, memory[LEAP_ID], memory[LEAP_TIME]) == TAKEN
        )
        if trade_id > last_id or event_time > last_time or is_before_leap:
            memory[REJECTS], memory[LEAP_ROWS] = 0, AGREEING
            return RESTARTED
    memory[REJECT_TIME] = max(event_time, memory[REJECT_TIME]) if agrees else event_time
    memory[REJECT_ID] = trade_id
    memory[REJECTS] = memory[REJECTS] + 1 if agrees else 1
    return status


@compiled
def _admit(
    stream: NDArray[np.int32], trade_id: Int64s, event_time: Int64s, last: Int64s, memory: Int64s
) -> NDArray[np.int8]:
    status = np.empty(len(trade_id), np.int8)
    for i in range(len(trade_id)):
        k = stream[i]
        status[i] = judge_one(trade_id[i], event_time[i], last[k, 0], last[k, 1], memory[k])
        if status[i] == TAKEN:
            last[k, 0] = trade_id[i]
            last[k, 1] = max(last[k, 1], event_time[i])
        elif status[i] == RESTARTED:
            last[k, 0], last[k, 1] = trade_id[i], event_time[i]
    return status


def is_taken(status: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return True for each taken trade, shape (n,)."""
    return np.asarray((status == TAKEN) | (status == RESTARTED), np.bool_)


class StreamState(NamedTuple):
    """What the judgement of a stream's next trade depends on.

    Attributes:
        last_id, last_time: of the last taken trade; the time is the largest since the last restart, ns since 1970.
        memory: shape (MEMORY,), see `judge_one`.
    """

    last_id: int
    last_time: int
    memory: tuple[int, ...]


NEW_STREAM = StreamState(*NOTHING_YET, NO_MEMORY)
"""State of a stream before its first trade."""


class Admission:
    """Judges the trades of each stream as the forecaster does, without a look ahead, see `judge_one`.

    Attributes:
        states: of each stream.
    """

    def __init__(self) -> None:
        self.states: dict[StreamKey, StreamState] = {}

    def judge(self, trades: Trades) -> NDArray[np.int8]:
        """Return TAKEN, RESTARTED, PASSED_ID or FALLEN_TIME for each trade, shape (n,), and remember the trades."""
        return self.judge_columns(trades.keys, trades.stream, trades.trade_id, trades.event_time)

    def judge_columns(
        self, keys: Sequence[StreamKey], stream: NDArray[np.int32], trade_id: Int64s, event_time: Int64s
    ) -> NDArray[np.int8]:
        """Judge trades by the columns that count, see `judge` and `Trades`."""
        states = [self.states.get(key, NEW_STREAM) for key in keys]
        last = np.array([state[:2] for state in states], np.int64).reshape(-1, 2)
        memory = np.array([state.memory for state in states], np.int64).reshape(-1, MEMORY)
        status = _admit(stream, trade_id, event_time, last, memory)
        for key, (last_id, last_time), remembered in zip(keys, last.tolist(), memory.tolist(), strict=True):
            self.states[key] = StreamState(last_id, last_time, tuple(remembered))
        return status
