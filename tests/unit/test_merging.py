"""Several recordings become one stream: by id, or by the times that the recordings cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.times import NS
from data.trades import Trades
from offline.days.merging import RecordedTrades, merge
from tests.days import trades_at

GAP_S = 300


def at(seconds: list[float], ids: list[int] | None = None, price: float = 100.0) -> Trades:
    trades = trades_at((np.array(seconds) * NS).astype(np.int64))
    numbers = np.arange(1, len(trades) + 1) if ids is None else np.array(ids)
    return replace(trades, trade_id=numbers, price=np.full(len(trades), price))


def merged(
    *recordings: tuple[str, bool, Trades], span_s: tuple[int, int] = (-100_000, 100_000)
) -> tuple[list[tuple[float, int, str]], dict[str, int], bool]:
    """Return second, id and recording of each trade, the dropped trades, and whether all have ids."""
    span = span_s[0] * NS, span_s[1] * NS
    found = merge([RecordedTrades(*each) for each in recordings], span, GAP_S)
    names = [found.names[place] for place in found.recording]
    seconds = (found.trades.event_time / NS).tolist()
    return list(zip(seconds, found.trades.trade_id.tolist(), names, strict=True)), found.dropped, found.has_ids


def test_one_id_is_one_trade() -> None:
    a = ("a", True, at([1, 2, 5], [10, 11, 14], 100.0))
    b = ("b", True, at([2, 3, 4, 5], [11, 12, 13, 14], 100.0))
    expected = [(1.0, 10, "a"), (2.0, 11, "a"), (3.0, 12, "b"), (4.0, 13, "b"), (5.0, 14, "a")]
    dropped = {"duplicates": 2, "conflicts": 0, "fallen": 0, "covered": 0}
    assert merged(a, b) == (expected, dropped, True)


def test_two_prices_of_one_id_are_a_conflict_and_the_first_by_name_wins() -> None:
    a, b = ("a", True, at([1, 2], [10, 11], 100.0)), ("b", True, at([1, 2, 3], [10, 11, 12], 101.0))
    rows, dropped, _ = merged(a, b)
    assert [name for *_, name in rows] == ["a", "a", "b"]
    assert (dropped["duplicates"], dropped["conflicts"]) == (2, 2)


def test_what_falls_by_more_than_a_second_in_the_order_of_ids_is_dropped() -> None:
    """One trade of the 104 trades of b."""
    a, b = (
        ("a", True, at([10, 20], [1, 5])),
        ("b", True, at([9.5, 12, 18.5, 19.5, *range(21, 121)], [2, 3, 6, 7, *range(8, 108)])),
    )
    rows, dropped, has_ids = merged(a, b)
    assert [trade_id for _, trade_id, _ in rows] == [1, 2, 3, 5, *range(7, 108)]
    assert (dropped["fallen"], has_ids) == (1, True)


@pytest.mark.parametrize("is_low_first", [True, False])
def test_ids_of_another_space_count_where_none_before_them_does(is_low_first: bool) -> None:
    """A day of 8,000 trades, and ten minutes of the day with other numbers: by id, the minutes follow the day."""
    few = at(list(range(82_800, 83_400, 6)), list(range(1, 101) if is_low_first else range(90_001, 90_101)))
    day = at([10.8 * i for i in range(8_000)], list(range(50_001, 58_001)))
    rows, dropped, has_ids = merged(("few", True, few), ("many", True, day))
    covered = sum(82_800 <= 10.8 * i <= 83_394 for i in range(8_000))
    assert dropped == {"duplicates": 0, "conflicts": 0, "fallen": 0, "covered": covered}
    assert (len(rows), has_ids) == (8_100 - covered, False)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_the_same_ids_at_other_times_are_another_space() -> None:
    """b and d number their trades alike, and so do a and c."""
    a, b = ("a", True, at([1, 2, 3], [1, 2, 3])), ("b", True, at([1_001, 1_002, 1_003], [1, 2, 3]))
    c, d = ("c", True, at([3, 4], [3, 4])), ("d", True, at([1_003, 1_004], [3, 4]))
    rows, dropped, has_ids = merged(a, b, c, d)
    expected = [(1.0, 1, "a"), (2.0, 2, "a"), (3.0, 3, "a"), (4.0, 4, "c")]
    expected += [(1_001.0, 1, "b"), (1_002.0, 2, "b"), (1_003.0, 3, "b"), (1_004.0, 4, "d")]
    assert (rows, has_ids) == (expected, False)
    assert dropped == {"duplicates": 2, "conflicts": 0, "fallen": 0, "covered": 0}


def test_without_ids_a_recording_counts_where_none_before_it_does() -> None:
    """b covers 0 to 100 and 500 to 600 s: a pause of up to 300 s is covered, a longer hole is not."""
    with_ids = ("z", True, at([50, 90], [7, 8]))
    b = ("b", False, at([0, 20, 60, 100, 500, 600]))
    c = ("c", False, at([10, 99, 150, 550, 601, 700]))
    rows, dropped, has_ids = merged(with_ids, b, c)
    assert rows == [
        (0.0, 1, "b"), (20.0, 2, "b"), (50.0, 7, "z"), (90.0, 8, "z"), (100.0, 4, "b"), (150.0, 3, "c"),
        (500.0, 5, "b"), (600.0, 6, "b"), (601.0, 5, "c"), (700.0, 6, "c"),
    ]  # fmt: skip
    assert dropped == {"duplicates": 0, "conflicts": 0, "fallen": 0, "covered": 4}
    assert not has_ids


def test_a_pause_at_an_end_of_the_span_is_covered_as_one_within_it_is() -> None:
    """Midnight is in no recording: a pause of up to 300 s across midnight belongs to the recording that pauses."""
    b = ("b", False, at([0, 5, 299, 300.5, 699, 701, 999.999999999]))
    whole = ("a", True, at([100, 350, 600, 850], [1, 2, 3, 4]))
    rows, dropped, has_ids = merged(whole, b, span_s=(0, 1_000))
    assert [name for *_, name in rows] == ["a"] * 4
    assert (dropped["covered"], has_ids) == (7, True)
    short = ("a", True, at([300, 699], [1, 2]))  # 399 s between the two, and 301 s to the end, are holes
    rows, *_ = merged(short, b, span_s=(0, 1_000))
    assert [(second, name) for second, _, name in rows] == [
        (300.0, "a"), (300.5, "b"), (699.0, "a"), (701.0, "b"), (999.999999999, "b"),
    ]  # fmt: skip


def test_a_recording_without_ids_that_adds_nothing_leaves_a_stream_with_ids() -> None:
    rows, dropped, has_ids = merged(("z", True, at([1, 2, 3], [7, 8, 9])), ("b", False, at([1, 2.5])))
    assert [name for *_, name in rows] == ["z"] * 3
    assert (dropped["covered"], has_ids) == (2, True)


def test_ties_and_small_falls_of_a_recording_keep_their_order() -> None:
    """The row at 2.9 s counts as 3 s, where the other recording begins."""
    b, c = ("b", False, at([1, 1, 3, 2.9])), ("c", False, at([2.5, 3, 3, 4, 3.5, 4]))
    rows, *_ = merged(b, c)
    assert rows == [
        (1.0, 1, "b"), (1.0, 2, "b"), (3.0, 3, "b"), (2.9, 4, "b"), (4.0, 4, "c"), (3.5, 5, "c"), (4.0, 6, "c"),
    ]  # fmt: skip
