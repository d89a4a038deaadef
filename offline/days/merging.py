"""Merging of several recordings of one product to one stream of trades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.admission import MAX_FALL_S, TAKEN
from data.features.strays import judged
from data.times import NS
from data.trades import Int64s, Trades

STRANGE_SHARE = 0.01
"""If a larger share of a recording's trades disagrees with another recording, the two have different id spaces."""


def counted_times(event_time: Int64s, last_time: int = 0) -> Int64s:
    """Return counted times: the largest event time so far, at least `last_time`; ns since 1970, never falling.

    >>> counted_times(np.array([3, 2, 5]))
    array([3, 3, 5])
    """
    counted = np.maximum.accumulate(event_time)
    return np.maximum(counted, last_time)


class RecordedTrades(NamedTuple):
    """Trades of a product and day in one recording."""

    name: str
    has_ids: bool
    trades: Trades


class Merged(NamedTuple):
    """One stream of trades from several recordings.

    Attributes:
        recording: shape (n,), index into `names`.
        has_ids: all trades have ids of one id space.
        dropped: number of dropped trades, by reason.
        id_spaces: number of id spaces: different ways in which recordings number trades.
    """

    trades: Trades
    recording: NDArray[np.int32]
    names: list[str]
    has_ids: bool
    dropped: dict[str, int]
    id_spaces: int


def merge(recordings: Sequence[RecordedTrades], span: tuple[int, int], gap_s: int) -> Merged:
    """Merge recordings of one product.

    Recordings with ids are joined and sorted by id; if two recordings give one id different prices, the first recording
    wins. A recording without ids adds only trades at times that no earlier recording covers. A recording whose ids and
    times disagree with the earlier recordings is of another id space, and is merged like a recording without ids.

    Args:
        recordings: in the order of priority: recordings with ids first, then by name.
        span: start (inclusive) and end (exclusive) of all trades, ns since 1970; trades outside are merged elsewhere.
        gap_s: a recording covers a hole of up to `gap_s` seconds, also a hole at an end of the span, and no longer one.
    """
    dropped = {"duplicates": 0, "conflicts": 0, "fallen": 0, "covered": 0}
    gap = gap_s * NS
    with_ids = [place for place, each in enumerate(recordings) if each.has_ids]
    spaces = _id_spaces(recordings, with_ids)
    parts: list[Trades] = []
    sources: list[NDArray[np.int32]] = []
    covered = np.empty((0, 2), np.int64)
    for places in (*spaces, *([place] for place in range(len(with_ids), len(recordings)))):
        trades, source = _joined(recordings, places, dropped)
        counted = counted_times(trades.event_time)
        if parts:
            is_free = ~_is_within(counted, covered)
            dropped["covered"] += int(np.sum(~is_free))
            trades, source = trades.take(is_free), source[is_free]
        parts.append(trades)
        sources.append(source)
        covered = _union(np.concatenate([covered, _segments(counted, span, gap)]))
    trades, source = (Trades.join(parts), np.concatenate(sources)) if len(parts) > 1 else (parts[0], sources[0])
    if len(parts) > 1:
        order = np.argsort(np.concatenate([counted_times(part.event_time) for part in parts]), kind="stable")
        trades, source = trades.take(order), source[order]
    has_ids = bool(with_ids) and not any(map(len, parts[1:]))
    names = [each.name for each in recordings]
    return Merged(trades, source, names, has_ids=has_ids, dropped=dropped, id_spaces=len(spaces))


def _id_spaces(recordings: Sequence[RecordedTrades], with_ids: Sequence[int]) -> list[list[int]]:
    """Group the recordings by id space, each group in the given order.

    Args:
        with_ids: indexes of the recordings with ids.
    """
    spaces: list[list[int]] = []
    for place in with_ids:
        mine = recordings[place].trades
        for space in spaces:
            strange = max(_strangers(mine, recordings[other].trades) for other in space)
            if strange <= STRANGE_SHARE * len(mine):
                space.append(place)
                break
        else:
            spaces.append([place])
    return spaces


def _strangers(trades: Trades, known: Trades) -> int:
    """Count trades that disagree with `known`: before a trade with the same or a smaller id, or after a larger id."""
    counted, times = counted_times(trades.event_time), counted_times(known.event_time)
    slack = MAX_FALL_S * NS
    before = np.append(0, times)[np.searchsorted(known.trade_id, trades.trade_id, "right")]
    after = np.append(times, np.iinfo(np.int64).max - slack)[np.searchsorted(known.trade_id, trades.trade_id)]
    return int(np.sum((counted < before - slack) | (counted > after + slack)))


def _joined(
    recordings: Sequence[RecordedTrades], places: Sequence[int], dropped: dict[str, int]
) -> tuple[Trades, NDArray[np.int32]]:
    """Join the recordings of one id space, and add the dropped trades to `dropped`.

    Args:
        places: indexes of the recordings.

    Returns:
        The trades, and the index of each trade's recording.
    """
    if len(places) == 1:
        trades = recordings[places[0]].trades
        return trades, np.full(len(trades), places[0], np.int32)
    joined = Trades.join([recordings[place].trades for place in places])
    source = np.repeat(np.array(places, np.int32), [len(recordings[place].trades) for place in places])
    order = np.lexsort((source, joined.trade_id))
    is_first = np.append(True, np.diff(joined.trade_id[order]) > 0)
    taken_of = order[is_first][np.cumsum(is_first) - 1]  # of each row in this order, the row taken for its id
    dropped["duplicates"] += int(np.sum(~is_first))
    dropped["conflicts"] += int(np.sum(joined.price[order] != joined.price[taken_of]))
    joined, source = joined.take(order[is_first]), source[order[is_first]]
    is_taken = judged(joined) == TAKEN
    dropped["fallen"] += int(np.sum(~is_taken))
    return joined.take(is_taken), source[is_taken]


def _segments(counted: Int64s, span: tuple[int, int], gap: int) -> Int64s:
    """Return begin and end of stretches without a hole, shape (m, 2), extended to an end of the span within `gap`."""
    if not len(counted):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(counted) > gap)
    found = np.column_stack([counted[np.append(0, breaks + 1)], counted[np.append(breaks, len(counted) - 1)]])
    if found[0, 0] - span[0] <= gap:
        found[0, 0] = span[0]
    if span[1] - found[-1, 1] <= gap:
        found[-1, 1] = span[1] - 1
    return found


def _union(segments: Int64s) -> Int64s:
    """Join overlapping segments, and return all segments sorted.

    >>> _union(np.array([[5, 9], [1, 3], [3, 4], [7, 8]])).tolist()
    [[1, 4], [5, 9]]
    """
    segments = segments[np.argsort(segments[:, 0], kind="stable")]
    ends = np.maximum.accumulate(segments[:, 1])
    starts_new = np.append(True, segments[1:, 0] > ends[:-1])[: len(segments)]
    return np.column_stack([segments[starts_new, 0], ends[np.append(starts_new[1:], True)[: len(segments)]]])


def _is_within(times: Int64s, segments: Int64s) -> NDArray[np.bool_]:
    """Return a mask of the times inside a segment, ends included; segments are disjoint and sorted."""
    at = np.searchsorted(segments[:, 0], times, "right") - 1
    ends = np.append(segments[:, 1], -1)  # the last end is for times before all segments
    return times <= ends[at]
