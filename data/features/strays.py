"""Judge the trades of recordings with a look ahead: a few stray trades do not cost the trades after them.

A trade that falls behind the taken trades is wrong itself, or a few trades before it are: they led away, and the later
trades go on from before. The smaller group is rejected. A live stream cannot look ahead, see `admission.judge_one`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled, copy
from data.features.admission import AGREEING, NOTHING_YET, PASSED_ID, STRAY_ID, STRAY_TIME, TAKEN, admit_one
from data.trades import Int64s, StreamKey, Trades

LOOK_ROWS = 4_096
"""Rows of a recording, of all products and bad rows too, that a judgement may look ahead, and may look back."""
_NONE = -1


@compiled
def _are_taken(stream: NDArray[np.int32], trade_id: Int64s, event_time: Int64s, last: Int64s) -> bool:
    """Return whether each trade is taken by those before it; if so, `last` is moved behind the trades.

    Args:
        last: shape (streams, 2), last id and time. Changed in place, and without meaning if a trade is not taken.
    """
    for i in range(len(trade_id)):
        k = stream[i]
        if admit_one(trade_id[i], event_time[i], last[k, 0], last[k, 1]) != TAKEN:
            return False
        last[k, 0] = trade_id[i]
        last[k, 1] = max(last[k, 1], event_time[i])
    return True


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
            copy(before[first], last[k])
        status[i] = TAKEN
        copy(last[k], before[i])
        last[k, 0], last[k, 1], last[k, 2] = trade_id[i], max(last[k, 1], event_time[i]), i


class _Rows(NamedTuple):
    """Trades of a source in columns, each of shape (n,); `stream` has the number of each trade's stream."""

    stream: NDArray[np.int32]
    trade_id: Int64s
    event_time: Int64s
    position: Int64s

    @property
    def total(self) -> int:
        """Return the number of trades."""
        return len(self.position)

    def take(self, rows: slice | NDArray[np.bool_]) -> _Rows:
        """Return the chosen trades."""
        return _Rows(self.stream[rows], self.trade_id[rows], self.event_time[rows], self.position[rows])

    def followed_by(self, rows: _Rows) -> _Rows:
        """Return these trades, and others after them."""
        return _Rows(
            np.concatenate([self.stream, rows.stream]),
            np.concatenate([self.trade_id, rows.trade_id]),
            np.concatenate([self.event_time, rows.event_time]),
            np.concatenate([self.position, rows.position]),
        )

    def are_taken(self, last: Int64s) -> bool:
        """Return whether each trade is taken, see `_are_taken`."""
        return _are_taken(self.stream, self.trade_id, self.event_time, last)

    def until(self, position: int) -> int:
        """Return the number of trades before a position."""
        return int(np.searchsorted(self.position, position))


class _Calm(NamedTuple):
    """Trades that are all taken, as far as is known, and last id and time of each stream behind them."""

    rows: _Rows
    last: Int64s


class _Search:
    """Judges trades one by one and keeps the ways back.

    Attributes:
        begin: shape (streams, 2), last id and time of each stream before the trades.
        rows: the trades.
    """

    def __init__(self, begin: Int64s, rows: Sequence[_Rows]) -> None:
        self.begin, self.rows = begin, rows[0].take(slice(0, 0))
        self._last = np.column_stack([begin, np.full(len(begin), _NONE)])
        self._before = np.empty((0, 3), np.int64)
        self._status = np.empty(0, np.int8)
        self._done = 0
        for each in rows:
            self.add(each, len(begin))

    def add(self, rows: _Rows, streams: int) -> None:
        """Add the next trades; there are `streams` streams now."""
        nothing_yet = np.tile(np.array([*NOTHING_YET, _NONE], np.int64), (streams - len(self._last), 1))
        self.begin = _with_streams(self.begin, streams)
        self._last = np.concatenate([self._last, nothing_yet])
        self.rows = self.rows.followed_by(rows)
        self._status = np.concatenate([self._status, np.empty(rows.total, np.int8)])
        self._before = np.concatenate([self._before, np.empty((rows.total, 3), np.int64)])

    def settle(self, limit: int) -> None:
        """Judge the trades up to `limit`."""
        if limit > self._done:
            stream, trade_id, event_time, position = self.rows
            columns = stream, trade_id, event_time, position, self._status, self._before
            _settle(*columns, self._done, limit, self._last)
            self._done = limit

    def take(self, count: int) -> NDArray[np.int8]:
        """Return the status of the first trades, and forget them."""
        status = self._status[:count]
        self.rows.take(slice(0, count)).take(status == TAKEN).are_taken(self.begin)
        self.rows = self.rows.take(slice(count, None))
        self._status, self._before = self._status[count:], self._before[count:]
        self._before[:, 2] -= count  # below -1: behind the reach of any judgement
        self._last[:, 2] -= count
        self._done -= count
        return status


class LookAhead:
    """Judges the trades of a source, each when the trades after it are known.

    The result for a trade does not depend on the batches. While no trade falls behind the trades before, all are taken:
    a search begins with the first trade that falls, and ends when the trades that are known are all taken again.
    """

    def __init__(self) -> None:
        self._streams: dict[StreamKey, int] = {}
        self._read = 0
        self._begin = np.empty((0, 2), np.int64)  # last id and time of each stream before the first of `_calm`
        self._calm: deque[_Calm] = deque()
        self._search: _Search | None = None

    @property
    def settled(self) -> int:
        """Number of trades whose status no later trade can change, since the last `take`."""
        known = [self._search.rows] if self._search is not None else [calm.rows for calm in self._calm]
        return sum(rows.until(self._read - 2 * LOOK_ROWS) for rows in known)

    def add(self, trades: Trades, position: Int64s, read: int) -> None:
        """Add the next trades of the source, and judge all trades that enough rows follow.

        Args:
            position: shape (n,), of each trade among all rows of the source, rising; at least 0.
            read: number of rows that were read.
        """
        code = np.array([self._streams.setdefault(key, len(self._streams)) for key in trades.keys], np.int32)
        rows = _Rows(
            np.take(code, trades.stream, mode="clip"),
            # A read-only array would be compiled for again.
            np.require(trades.trade_id, requirements=["C", "W"]),
            np.require(trades.event_time, requirements=["C", "W"]),
            position,
        )
        self._read = read
        if self._search is None:
            last = _with_streams(self._calm[-1].last if self._calm else self._begin, len(self._streams))
            if rows.are_taken(last):
                self._calm.append(_Calm(rows, last))
                return
            begin = _with_streams(self._begin, len(self._streams))
            self._search = _Search(begin, [*(calm.rows for calm in self._calm), rows])
            self._calm.clear()
        else:
            self._search.add(rows, len(self._streams))
        self._search.settle(self._search.rows.until(read - LOOK_ROWS))

    def take(self, count: int) -> NDArray[np.int8]:
        """Return the status of the next trades, shape (count,): TAKEN, PASSED_ID, FALLEN_TIME, STRAY_ID or STRAY_TIME.

        Trades that are not settled are judged as if no trade followed the added trades.
        """
        if self._search is None:
            self._forget(count)
            return np.full(count, TAKEN, np.int8)
        search = self._search
        if count > self.settled:
            search.settle(search.rows.total)
        status = search.take(count)
        last = search.begin.copy()
        if search.rows.are_taken(last):
            self._begin, self._search = search.begin, None
            self._calm.append(_Calm(search.rows, last))
        return status

    def _forget(self, count: int) -> None:
        """Drop the first of the calm trades."""
        while count:
            rows, last = self._calm.popleft()
            if rows.total > count:
                self._begin = _with_streams(self._begin, len(last))
                rows.take(slice(0, count)).are_taken(self._begin)
                self._calm.appendleft(_Calm(rows.take(slice(count, None)), last))
                return
            self._begin = last
            count -= rows.total


def _with_streams(last: Int64s, streams: int) -> Int64s:
    """Return a copy of last ids and times with rows for new streams."""
    return np.concatenate([last, np.tile(np.array(NOTHING_YET, np.int64), (streams - len(last), 1))])


def judged(trades: Trades) -> NDArray[np.int8]:
    """Return the status of all trades of a source, shape (n,), see `LookAhead.take`."""
    look = LookAhead()
    look.add(trades, np.arange(len(trades)), len(trades))
    return look.take(len(trades))
