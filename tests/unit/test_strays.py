"""A few stray trades cost no others: recordings are judged with a look ahead, live streams start anew after rejects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.admission import (
    AGREEING,
    FALLEN_TIME,
    PASSED_ID,
    REASONS,
    RESTARTED,
    STRAY_ID,
    STRAY_TIME,
    TAKEN,
    Admission,
)
from data.features.spec import FeatureSpec
from data.features.strays import LOOK_ROWS, LookAhead, judged
from data.features.windows import Windows, feature_rows
from data.recordings import lines
from data.recordings.readers import read_trades
from data.times import NS
from data.trades import StreamKey, Trades

A_DAY, A_YEAR = 86_400, 365 * 86_400
START = 20_000 * A_DAY
SMALL = FeatureSpec(
    window_size=4,
    grid_step_s=2,
    lookback_steps=20,
    block_steps=5,
    half_lives=(3, 7),
    trend_half_lives=(4, 9),
    horizon_s=4,
    gap_s=30,
)


def stream(ids: Sequence[int], times_s: Sequence[float], of: Sequence[int] | None = None) -> Trades:
    """Return trades with the given ids and times, seconds after a start; `of` has the product of each."""
    n = len(ids)
    code = np.zeros(n, np.int32) if of is None else np.array(of, np.int32)
    keys = tuple(StreamKey("", f"P{k}-USD") for k in range(int(code.max(initial=0)) + 1))
    times = ((START + np.array(times_s)) * NS).astype(np.int64)
    price = 100 + np.arange(n, dtype=np.float64) % 7
    return Trades(keys, code, np.array(ids), times, np.zeros(n, np.int64), price, price, np.zeros(n, np.int8))


def regular(n: int) -> tuple[list[int], list[float]]:
    """Return ids and times of n trades, one a second."""
    return list(range(1, n + 1)), [float(i) for i in range(n)]


@pytest.mark.parametrize("ahead_s", [5, 100, A_DAY, A_YEAR])
@pytest.mark.parametrize("at", [0, 1, 500, 970])
def test_one_time_ahead_costs_one_trade(at: int, ahead_s: float) -> None:
    ids, times = regular(1_000)
    times[at] += ahead_s
    expected = [TAKEN] * 1_000
    expected[at] = STRAY_TIME
    assert judged(stream(ids, times)).tolist() == expected


@pytest.mark.parametrize("at", [0, 500])
def test_one_id_ahead_costs_one_trade(at: int) -> None:
    ids, times = regular(1_000)
    ids[at] = 2**62
    expected = [TAKEN] * 1_000
    expected[at] = STRAY_ID
    assert judged(stream(ids, times)).tolist() == expected


def test_strays_between_others_cost_themselves_alone() -> None:
    """Trades 2 and 4 of five lie a day ahead: after the first of them, trade 3 falls, and the second does not."""
    ids, times = regular(60)
    times[20] += A_DAY
    times[22] += A_DAY
    status = judged(stream(ids, times))
    assert np.flatnonzero(status != TAKEN).tolist() == [20, 22]


@pytest.mark.parametrize(("run", "lost"), [(19, 19), (20, 180)])
def test_a_run_of_fewer_than_20_trades_is_stray(run: int, lost: int) -> None:
    """200 trades, of which `run` lie a day ahead: 20 trades that agree may be right, and the trades after them fall."""
    ids, times = regular(200)
    for i in range(run):
        times[i] += A_DAY
    status = judged(stream(ids, times))
    assert np.flatnonzero(status == TAKEN).tolist() == (list(range(run, 200)) if run < 20 else list(range(run)))
    assert int(np.sum(status != TAKEN)) == lost


def test_a_hole_is_no_stray() -> None:
    ids, times = regular(100)
    times[50:] = [time + A_YEAR for time in times[50:]]
    assert not judged(stream(ids, times)).any()
    assert not judged(stream(ids[:51], times[:51])).any(), "a last trade a year later"


def test_of_a_repetition_the_first_trades_are_taken() -> None:
    """Ids 91 to 100 come twice, as after a reconnection."""
    ids, times = regular(200)
    again = ids[90:100]
    status = judged(stream(ids[:100] + again + ids[100:], times[:100] + times[90:100] + times[100:]))
    assert np.flatnonzero(status).tolist() == list(range(100, 110))
    assert set(status[100:110]) == {PASSED_ID}


def test_a_late_trade_costs_itself_alone() -> None:
    ids, times = regular(100)
    times[50] -= 5
    status = judged(stream(ids, times))
    assert (np.flatnonzero(status).tolist(), status[50]) == ([50], FALLEN_TIME)


def test_a_stray_is_known_by_its_own_product_alone() -> None:
    """Product 1 has a trade after each 1,000 trades of product 0; its second trade lies a day ahead."""
    n = 4_000
    of = [0] * n
    times = [i / 1_000 for i in range(n)]
    for i, at in enumerate((500, 1_500, 2_500, 3_500)):
        of[at] = 1
        times[at] += A_DAY if i == 1 else 2 * i
    status = judged(stream(list(range(n)), times, of))
    assert np.flatnonzero(status).tolist() == [1_500]


def test_a_look_ahead_ends() -> None:
    """More than `LOOK_ROWS` trades of another product lie between a stray trade and the next of its product."""
    n = LOOK_ROWS + 200
    of = [0] * n
    of[0] = of[-1] = 1
    times = [0.0] * n
    times[0] = A_DAY
    assert np.flatnonzero(judged(stream(list(range(n)), times, of))).tolist() == [n - 1]


@settings(deadline=None)
@given(
    jumps=st.lists(st.tuples(st.integers(0, 299), st.sampled_from([-50, -3, 3, 50, A_DAY])), max_size=12),
    cuts=st.lists(st.integers(0, 9_000), max_size=5),
)
def test_batches_change_no_judgement(jumps: list[tuple[int, int]], cuts: list[int]) -> None:
    n = 9_000  # so that trades settle before the end
    ids, times = regular(n)
    for at, jump in jumps:
        times[at * 30] += jump
    trades = stream(ids, times)
    expected = judged(trades)
    look = LookAhead()
    found = []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), n], strict=True):
        look.add(trades.take(slice(begin, end)), np.arange(begin, end), end)
        found.append(look.take(look.settled))
    found.append(look.take(n - sum(map(len, found))))
    assert np.concatenate(found).tolist() == expected.tolist()


SHIFTS = st.tuples(
    st.integers(0, 8_900),
    st.sampled_from([1, 2, AGREEING - 1, AGREEING, AGREEING + 1, 300]),
    st.sampled_from([(0, -50), (0, -2), (0, 3), (0, A_DAY), (-40, 0), (1, 0), (10**6, 0), (10**6, A_DAY)]),
)
"""First trade, number of trades, and what their ids and times are moved by."""


@settings(deadline=None)
@given(
    shifts=st.lists(SHIFTS, max_size=4),
    cuts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-4_100, -1, 0, 1, 19, 20, 21, 4_097])), max_size=6),
    products=st.sampled_from([1, 3]),
)
def test_calm_blocks_are_judged_as_a_search_judges_them(
    shifts: list[tuple[int, int, tuple[int, int]]], cuts: list[tuple[int, int]], products: int
) -> None:
    """A trade of another product that falls at the end makes one search of all trades; blocks begin near the shifts."""
    n = 9_000
    ids, times = (np.array(column) for column in regular(n))
    for at, length, (by_id, by_s) in shifts:
        ids[at : at + length] += by_id
        times[at : at + length] += by_s
    of = [i * products // n for i in range(n)] if len(shifts) % 2 else [i % products for i in range(n)]
    trades = stream(ids.tolist(), times.tolist(), of)
    falling = stream([*ids.tolist(), 1, 2], [*times.tolist(), 100.0, 0.0], [*of, products, products])
    *expected, fall = judged(falling).tolist()
    assert fall == FALLEN_TIME

    near = [shifts[which][0] + by for which, by in cuts if which < len(shifts)]
    bounds = sorted({0, n, *(at for at in near if 0 < at < n)})
    look = LookAhead()
    found = []
    for begin, end in pairwise(bounds):
        look.add(trades.take(slice(begin, end)), np.arange(begin, end), end)
        found.append(look.take(look.settled))
    found.append(look.take(n - sum(map(len, found))))
    assert np.concatenate(found).tolist() == expected[:-1]


@pytest.mark.parametrize("block_bytes", [50, 1_000, 1 << 20])
def test_a_recording_loses_its_stray_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """Rows of two files: the last of the first file has the time of the next day."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    rows = [f"2025-01-01T00:{i // 60:02}:{i % 60:02}Z,{100 + i},1\n" for i in range(200)]
    rows[99] = rows[99].replace("2025-01-01", "2025-01-02")
    paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
    for path, part in zip(paths, (rows[:100], rows[100:]), strict=True):
        path.write_text("timestamp,price,volume\n" + "".join(part))
    batches = list(read_trades(paths))
    assert [price for batch in batches for price in batch.trades.price] == [100 + i for i in range(200) if i != 99]
    (reject,) = [reject for batch in batches for reject in batch.rejects]
    assert (reject.file, reject.line, reject.reason) == (str(paths[0]), 101, REASONS[STRAY_TIME])
    assert reject.text == rows[99].strip()


def test_a_live_stream_starts_anew_after_20_rejects_that_agree() -> None:
    """One time a day ahead: of 100 later trades, 20 are rejected, and the 21st begins a segment."""
    ids, times = regular(200)
    times[99] += A_DAY
    status = Admission().judge(stream(ids, times))
    assert status.tolist() == [TAKEN] * 100 + [FALLEN_TIME] * AGREEING + [RESTARTED] + [TAKEN] * 79
    rows = feature_rows(stream(ids, times), Windows(SMALL))
    assert rows.status.tolist() == [TAKEN] * 100 + [FALLEN_TIME] * AGREEING + [TAKEN] * 80
    assert rows.trades.trade_id.tolist() == [*range(1, 101), *range(121, 201)]
    assert rows.values[98:103, 0].tolist() == [4, 0, 0, 1, 2], "no return spans the hole before or after the stray"
    alone = feature_rows(stream(ids[120:], times[120:]), Windows(SMALL))
    prices = stream(ids, times).price
    assert alone.trades.event_time.tolist() == rows.trades.event_time[100:].tolist()
    assert rows.trades.price[100:].tolist() == prices[120:].tolist()


def test_a_live_stream_follows_ids_that_were_passed_by_a_stray_id() -> None:
    ids, times = regular(60)
    ids[29] = 2**62
    status = Admission().judge(stream(ids, times))
    assert status.tolist() == [TAKEN] * 30 + [PASSED_ID] * AGREEING + [RESTARTED] + [TAKEN] * 9


def test_rejects_that_contradict_each_other_start_nothing() -> None:
    """Each reject falls behind the reject before, or a taken trade comes between 19 rejects."""
    ids, times = regular(100)
    times[9] += A_DAY
    falling = [times[i] if i < 10 else 1_000 - 5.0 * i for i in range(100)]
    assert Admission().judge(stream(ids, falling)).tolist() == [TAKEN] * 10 + [FALLEN_TIME] * 90
    between = [A_DAY + 9.0 if i % 20 == 9 else time for i, time in enumerate(times)]
    status = Admission().judge(stream(ids, between))
    assert (np.flatnonzero(status == TAKEN)[10:].tolist(), RESTARTED in status) == ([29, 49, 69, 89], False)


def test_a_repetition_is_never_taken_again() -> None:
    """100 trades come twice, also after a hole; each trade has one row downstream."""
    ids, times = regular(200)
    times[100:] = [time + 1_000 for time in times[100:]]
    for begin, end in ((0, 100), (100, 200), (50, 150)):
        status = Admission().judge(stream(ids + ids[begin:end], times + times[begin:end]))
        assert status.tolist() == [TAKEN] * 200 + [PASSED_ID] * (end - begin)


def test_strays_with_ids_and_times_of_their_own_are_left_again() -> None:
    """Three trades of another market, a day and a million ids ahead."""
    ids, times = regular(100)
    at = slice(50, 53)
    ids[at], times[at] = [i + 10**6 for i in ids[at]], [time + A_DAY for time in times[at]]
    status = Admission().judge(stream(ids, times))
    assert status.tolist() == [TAKEN] * 53 + [PASSED_ID] * AGREEING + [RESTARTED] + [TAKEN] * 26


@pytest.mark.parametrize("kind", ["time", "id", "both"])
def test_a_rebuild_at_any_trade_gives_the_same_rows(kind: str) -> None:
    """The rule that carries the system, also around strays: a row is a pure function of a bounded suffix."""
    ids, times = regular(90)
    for i in (40, 41):
        ids[i] += 0 if kind == "time" else 10**6
        times[i] += 0 if kind == "id" else A_DAY
    trades = stream(ids, times)
    position = np.arange(len(trades))
    for stop in range(1, len(trades)):
        windows = Windows(SMALL)
        feature_rows(trades.take(slice(0, stop)), windows, position[:stop])
        start = windows.oldest_needed(trades.keys[0])
        expected = feature_rows(trades.take(slice(stop, None)), windows, position[stop:])
        rebuilt = Windows(SMALL)
        feature_rows(trades.take(slice(start, stop)), rebuilt, position[start:stop])
        found = feature_rows(trades.take(slice(stop, None)), rebuilt, position[stop:])
        assert found.status.tolist() == expected.status.tolist()
        assert found.values.tobytes() == expected.values.tobytes()
