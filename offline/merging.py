"""Several recordings of one product to one stream of trades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.admission import TAKEN, Admission
from data.trades import NS, Int64s, Trades


def counted_times(event_time: Int64s, last_time: int = 0) -> Int64s:
    """Return the times that trades count as: where event time falls, the time before it.

    >>> counted_times(np.array([3, 2, 5]))
    array([3, 3, 5])
    """
    counted = np.maximum.accumulate(event_time)
    return np.maximum(counted, last_time)


class Recorded(NamedTuple):
    """The trades that one recording has of a product and day."""

    name: str
    has_ids: bool
    trades: Trades


class Merged(NamedTuple):
    """One stream of several recordings.

    Attributes:
        recording: shape (n,), index into `names`.
        dropped: how many trades were left out, by why.
    """

    trades: Trades
    recording: NDArray[np.int32]
    names: list[str]
    has_ids: bool
    dropped: dict[str, int]


def merge(recordings: Sequence[Recorded], gap_s: int) -> Merged:
    """Merge recordings, given in the order in which they count: those with ids first, each kind by name.

    Args:
        gap_s: a longer hole in a recording is not covered by it.
    """
    dropped = {"duplicates": 0, "conflicts": 0, "fallen": 0, "covered": 0}
    gap = gap_s * NS
    parts: list[Trades] = []
    sources: list[NDArray[np.int32]] = []
    with_ids = [each for each in recordings if each.has_ids]
    if with_ids:
        joined = with_ids[0].trades if len(with_ids) == 1 else Trades.join([each.trades for each in with_ids])
        source = np.repeat(np.arange(len(with_ids), dtype=np.int32), [len(each.trades) for each in with_ids])
        if len(with_ids) > 1:
            order = np.lexsort((source, joined.trade_id))
            is_first = np.append(True, np.diff(joined.trade_id[order]) > 0)
            taken_of = order[is_first][np.cumsum(is_first) - 1]  # of each row in this order, the row taken for its id
            dropped["duplicates"] = int(np.sum(~is_first))
            dropped["conflicts"] = int(np.sum(joined.price[order] != joined.price[taken_of]))
            joined, source = joined.take(order[is_first]), source[order[is_first]]
            is_taken = Admission().judge(joined) == TAKEN
            dropped["fallen"] = int(np.sum(~is_taken))
            joined, source = joined.take(is_taken), source[is_taken]
        parts.append(joined)
        sources.append(source)
    covered = _segments(counted_times(parts[0].event_time), gap) if parts else np.empty((0, 2), np.int64)
    for place, each in enumerate(recordings[len(with_ids) :], len(with_ids)):
        counted = counted_times(each.trades.event_time)
        is_free = ~_is_within(counted, covered)
        dropped["covered"] += int(np.sum(~is_free))
        parts.append(each.trades.take(is_free))
        sources.append(np.full(int(np.sum(is_free)), place, np.int32))
        covered = _union(np.concatenate([covered, _segments(counted, gap)]))
    trades, source = (Trades.join(parts), np.concatenate(sources)) if len(parts) > 1 else (parts[0], sources[0])
    if len(parts) > 1:
        order = np.argsort(np.concatenate([counted_times(part.event_time) for part in parts]), kind="stable")
        trades, source = trades.take(order), source[order]
    has_ids = bool(with_ids) and not any(map(len, parts[1:]))
    return Merged(trades, source, [each.name for each in recordings], has_ids, dropped)


def _segments(counted: Int64s, gap: int) -> Int64s:
    """Return first and last time of each stretch without a hole, shape (m, 2)."""
    if not len(counted):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(counted) > gap)
    return np.column_stack([counted[np.append(0, breaks + 1)], counted[np.append(breaks, len(counted) - 1)]])


def _union(segments: Int64s) -> Int64s:
    """Return segments that overlap as one, sorted.

    >>> _union(np.array([[5, 9], [1, 3], [3, 4], [7, 8]])).tolist()
    [[1, 4], [5, 9]]
    """
    segments = segments[np.argsort(segments[:, 0], kind="stable")]
    ends = np.maximum.accumulate(segments[:, 1])
    starts_new = np.append(True, segments[1:, 0] > ends[:-1])[: len(segments)]
    return np.column_stack([segments[starts_new, 0], ends[np.append(starts_new[1:], True)[: len(segments)]]])


def _is_within(times: Int64s, segments: Int64s) -> NDArray[np.bool_]:
    """Return which times lie in one of the segments, which are disjoint and sorted; their ends do."""
    at = np.searchsorted(segments[:, 0], times, "right") - 1
    ends = np.append(segments[:, 1], -1)  # the last one for times before all segments
    return times <= ends[at]
