"""Judge the trades of recordings with a look ahead: a few stray trades do not cost the trades after them.

A trade that falls behind the taken trades is wrong itself, or a few trades before it are: they led away, and the later
trades go on from before. The smaller group is rejected. A live stream cannot look ahead, see `admission.judge_one`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.features.admission import AGREEING, NOTHING_YET, PASSED_ID, STRAY_ID, STRAY_TIME, TAKEN, admit_one
from data.trades import Int64s, StreamKey, Trades

LOOK_ROWS = 4_096
"""Rows of a recording, of all products and bad rows too, that a judgement may look ahead, and may look back."""
_NONE = -1


@compiled
def _is_stray_run(
    at: int,
    run: int,
    end: int,
    position: Int64s,
    later: Int64s,
    trade_id: Int64s,
    event_time: Int64s,
    last: tuple[int, int],
    before: tuple[int, int],
) -> bool:
    """Return whether more trades go on from before a run of taken trades than there are in the run.

    Args:
        at: index of the trade that falls behind the run.
        run: number of trades in the run.
        end: position behind the last trade to look at.
        position: shape (n,), of each trade in the recording.
        later: shape (n,), index of the next trade of the same stream.
        last, before: last id and time of the stream, with the run and before it.
    """
    last_id, last_time = last
    before_id, before_time = before
    going_on = shared = 0
    i = at
    while i > _NONE and position[i] < end and going_on < 2 * AGREEING and shared < AGREEING:
        goes_on = admit_one(trade_id[i], event_time[i], before_id, before_time) == TAKEN
        if admit_one(trade_id[i], event_time[i], last_id, last_time) == TAKEN:
            shared += 1  # of the run, if later trades fall behind it; else both ways have met
            last_id, last_time = trade_id[i], max(last_time, event_time[i])
        elif goes_on:
            run += shared
            shared = 0
            going_on += 1
            before_id, before_time = trade_id[i], max(before_time, event_time[i])
        i = later[i]
    return going_on > run


@compiled
def _later(stream: NDArray[np.int32], streams: int) -> Int64s:
    """Return the index of the next trade of the same stream, shape (n,); -1 if there is none."""
    found = np.empty(len(stream), np.int64)
    newest = np.full(streams, _NONE, np.int64)
    for i in range(len(stream) - 1, -1, -1):
        found[i] = newest[stream[i]]
        newest[stream[i]] = i
    return found


@compiled
def _settle(
    stream: NDArray[np.int32],
    trade_id: Int64s,
    event_time: Int64s,
    position: Int64s,
    status: NDArray[np.int8],
    before: Int64s,
    done: int,
    limit: int,
    last: Int64s,
) -> None:
    """Judge the trades from `done` up to `limit`; a judgement may change the status of earlier trades.

    Args:
        before: shape (n, 3): last id and time of the stream before the trade, and index of the taken trade before.
        last: shape (streams, 3): last id and time, and index of the last taken trade.
    """
    later = np.empty(0, np.int64)
    for i in range(done, limit):
        k = stream[i]
        fault = admit_one(trade_id[i], event_time[i], last[k, 0], last[k, 1])
        if fault != TAKEN:
            run, first = 1, last[k, 2]
            while first > _NONE and run < AGREEING and position[i] - position[first] <= LOOK_ROWS:
                if admit_one(trade_id[i], event_time[i], before[first, 0], before[first, 1]) == TAKEN:
                    break
                run, first = run + 1, before[first, 2]
            else:
                status[i] = fault
                continue
            if len(later) == 0:
                later = _later(stream, len(last))
            end = position[i] + LOOK_ROWS
            with_run, without = (last[k, 0], last[k, 1]), (before[first, 0], before[first, 1])
            if not _is_stray_run(i, run, end, position, later, trade_id, event_time, with_run, without):
                status[i] = fault
                continue
            stray = last[k, 2]
            while stray >= first:
                status[stray] = STRAY_ID if fault == PASSED_ID else STRAY_TIME
                stray = before[stray, 2]
            last[k] = before[first]
        status[i] = TAKEN
        before[i] = last[k]
        last[k, 0], last[k, 1], last[k, 2] = trade_id[i], max(last[k, 1], event_time[i]), i


class LookAhead:
    """Judges the trades of a source, each when the trades after it are known.

    The result for a trade does not depend on the batches.
    """

    def __init__(self) -> None:
        self._streams: dict[StreamKey, int] = {}
        self._last = np.empty((0, 3), np.int64)
        # Rows of the buffers; they are kept, because fresh memory costs more than the judging.
        self._rows = self._done = self._read = 0
        self._stream = np.empty(0, np.int32)
        self._columns = np.empty((3, 0), np.int64)  # trade id, event time, position
        self._before = np.empty((0, 3), np.int64)
        self._status = np.empty(0, np.int8)

    @property
    def settled(self) -> int:
        """Number of trades whose status no later trade can change, since the last `take`."""
        return self._until(self._read - 2 * LOOK_ROWS)

    def _until(self, position: int) -> int:
        return int(np.searchsorted(self._columns[2, : self._rows], position))

    def add(self, trades: Trades, position: Int64s, read: int) -> None:
        """Add the next trades of the source, and judge all trades that enough rows follow.

        Args:
            position: shape (n,), of each trade among all rows of the source, rising; at least 0.
            read: number of rows that were read.
        """
        for key in trades.keys:
            self._streams.setdefault(key, len(self._streams))
        new = np.tile(np.array([*NOTHING_YET, _NONE], np.int64), (len(self._streams) - len(self._last), 1))
        self._last = np.concatenate([self._last, new])
        begin, end = self._rows, self._rows + len(trades)
        if end > len(self._stream):
            self._grow(max(end, 2 * len(self._stream)))
        np.take(np.array([self._streams[key] for key in trades.keys], np.int32), trades.stream,
                out=self._stream[begin:end], mode="clip")  # fmt: skip
        for column, values in zip(self._columns, (trades.trade_id, trades.event_time, position), strict=True):
            column[begin:end] = values
        self._rows, self._read = end, read
        self._settle(self._until(read - LOOK_ROWS))

    def _grow(self, capacity: int) -> None:
        """Move the rows to larger buffers."""
        n, stream, columns, before, status = self._rows, self._stream, self._columns, self._before, self._status
        self._stream, self._status = np.empty(capacity, np.int32), np.empty(capacity, np.int8)
        self._columns, self._before = np.empty((3, capacity), np.int64), np.empty((capacity, 3), np.int64)
        self._stream[:n], self._status[:n] = stream[:n], status[:n]
        self._columns[:, :n], self._before[:n] = columns[:, :n], before[:n]

    def _settle(self, limit: int) -> None:
        if limit > self._done:
            n = self._rows
            trade_id, event_time, position = (column[:n] for column in self._columns)
            columns = self._stream[:n], trade_id, event_time, position, self._status[:n], self._before[:n]
            _settle(*columns, self._done, limit, self._last)
            self._done = limit

    def take(self, count: int) -> NDArray[np.int8]:
        """Return the status of the next trades, shape (count,): TAKEN, PASSED_ID, FALLEN_TIME, STRAY_ID or STRAY_TIME.

        Trades that are not settled are judged as if no trade followed the added trades.
        """
        if count > self.settled:
            self._settle(self._rows)
        status = self._status[:count].copy()
        rest = self._rows - count
        for buffer in (self._stream, self._status, *self._columns, self._before):
            buffer[:rest] = buffer[count : self._rows]
        self._before[:rest, 2] -= count  # below -1: behind the reach of any judgement
        self._last[:, 2] -= count
        self._rows, self._done = rest, self._done - count
        return status


def judged(trades: Trades) -> NDArray[np.int8]:
    """Return the status of all trades of a source, shape (n,), see `LookAhead.take`."""
    look = LookAhead()
    look.add(trades, np.arange(len(trades)), len(trades))
    return look.take(len(trades))
