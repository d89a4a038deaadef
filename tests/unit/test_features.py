"""The kernel against definitions worked by hand or computed by another way, and against itself in other batches."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, localcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.admission import FALLEN_TIME, PASSED_ID, TAKEN
from data.features.kernel import log_return
from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.recordings.readers import read_trades
from data.simulator.day import simulate_day
from data.times import NS
from data.trades import MAX_PRICE, MAX_SIZE, MIN_PRICE, StreamKey, Trades

SPEC = FeatureSpec()
SMALL = FeatureSpec(
    window_size=4,
    grid_step_s=2,
    lookback_steps=20,
    block_steps=5,
    half_lives=(2, 5, 9),
    trend_half_lives=(3, 8),
    horizon_s=10,
    gap_s=30,
)
"""Small enough that a few hundred trades reach past its lookback, on a grid of 2 s."""

KEY = StreamKey("test", "BTC-USD")


def trades_of(times_s: Sequence[float], prices: Sequence[float]) -> Trades:
    n = len(times_s)
    return Trades(
        (KEY,),
        np.zeros(n, np.int32),
        np.arange(1, n + 1),
        np.array([round(t * NS) for t in times_s], np.int64),
        np.zeros(n, np.int64),
        np.array(prices, np.float64),
        np.ones(n),
        np.zeros(n, np.int8),
    )


def table(rows: FeatureRows, spec: FeatureSpec) -> dict[str, list[float]]:
    return dict(zip(spec.columns, rows.values.T.tolist(), strict=True))


def test_three_prices_give_two_returns() -> None:
    """Returns ln 1.1 and ln(1/1.1): their mean is 0, their sample deviation sqrt(2 ln(1.1)^2 / 1)."""
    rows = table(feature_rows(trades_of([0.0, 0.1, 0.2], [100, 110, 100]), Windows(SPEC)), SPEC)
    assert rows["n"] == [0, 1, 2]
    assert math.isnan(rows["ret_mean"][0])
    assert rows["ret_mean"][1:] == pytest.approx([math.log(1.1), 0.0], abs=1e-16)
    assert math.isnan(rows["ret_std"][0])
    assert math.isnan(rows["ret_std"][1])
    assert rows["ret_std"][2] == pytest.approx(math.sqrt(2) * math.log(1.1), rel=1e-14)


def test_the_window_holds_the_newest_returns_only() -> None:
    """The last 4 of returns +, -, +, ... have mean 0; the large return before them leaves the window after 4 more."""
    prices = [100, 200, 202, 200, 202, 200]
    rows = table(feature_rows(trades_of([0.1 * i for i in range(6)], prices), Windows(SMALL)), SMALL)
    assert rows["n"] == [0, 1, 2, 3, 4, 4]
    assert rows["ret_mean"][4] == pytest.approx((math.log(2) + math.log(1.01)) / 4)
    assert rows["ret_mean"][5] == pytest.approx(0, abs=1e-16)


def test_ewma_variance_by_hand() -> None:
    """Grid of 2 s, blocks of 5 steps (10 s), half-lives of 2, 5 and 9 steps, horizon of 5 steps.

    One trade at each grid point from 0 to 12 s, one return of ln 1.1 from 2 to 4 s. At 8 s: 4 steps, one moved, all in
    the open block: mean ln(1.1)^2 / 4, times 5. At 12 s the first block of 5 steps is closed, with the age of one
    block: weight 2^(-5/2) for the half-life of 2; the open block has one step.
    """
    prices = [100, 100, 110, 110, 110, 110, 110]
    rows = table(feature_rows(trades_of([0, 2, 4, 6, 8, 10, 12], prices), Windows(SMALL)), SMALL)
    square, weight = math.log(1.1) ** 2, 2 ** (-5 / 2)
    assert np.isnan(rows["ewma_variance_2"][:2]).all(), "the segment is one step old at 2 s"
    assert rows["ewma_variance_2"][2] == pytest.approx(square / 2 * 5)
    assert rows["ewma_variance_2"][4] == pytest.approx(square / 4 * 5)
    assert rows["ewma_variance_2"][6] == pytest.approx(weight * square / (5 * weight + 1) * 5)
    assert np.isnan(rows["ewma_variance_5"][:5]).all()
    assert rows["ewma_variance_5"][5] == pytest.approx(square / 5 * 5)
    assert rows["trade_rate_2"][4] == pytest.approx(0.5), "one trade in each step of 2 s"


def test_mean_variance_counts_each_known_step_once() -> None:
    """Grid of 2 s, horizon of 5 steps, reach of 4 blocks of 5 steps; a return of ln 1.1 ends at 4 s, one of ln 1.2 at
    48 s.

    At 40 s, 20 steps, one moved: all are in reach, and the mean is ln(1.1)^2 / 20, times 5. At 42 s the fifth block is
    open, with one step, and the first block, with the return, has left the reach: 16 steps.
    """
    prices = [100, 100, *[110] * 22, *[132] * 3]
    rows = table(feature_rows(trades_of(range(0, 54, 2), prices), Windows(SMALL)), SMALL)
    first, second = math.log(1.1) ** 2, math.log(1.2) ** 2
    assert np.isnan([rows["mean_variance"][0], rows["known_steps"][0]]).all(), "no whole step"
    assert rows["known_steps"][1:21] == list(range(1, 21))
    assert rows["known_steps"][21:] == [16, 17, 18, 19, 20, 16]
    assert rows["mean_variance"][1] == 0
    assert rows["mean_variance"][2] == pytest.approx(first / 2 * 5)
    assert rows["mean_variance"][20] == pytest.approx(first / 20 * 5)
    assert rows["mean_variance"][21] == 0
    assert rows["mean_variance"][24] == pytest.approx(second / 19 * 5)


def test_mean_variance_begins_anew_with_a_segment() -> None:
    """The second segment begins inside a step, at 40.5 s: the first point is 42 s, the first mean is at 44 s."""
    times, prices = [0, 2, 40.5, 43.9, 44, 46], [100, 110, 100, 101, 102, 204]
    rows = table(feature_rows(trades_of(times, prices), Windows(SMALL)), SMALL)
    assert rows["known_steps"][1] == 1
    assert np.isnan(rows["known_steps"][2:4]).all()
    assert rows["known_steps"][4:] == [1, 2]
    assert rows["mean_variance"][4] == pytest.approx(math.log(1.02) ** 2 * 5)
    assert rows["mean_variance"][5] == pytest.approx((math.log(1.02) ** 2 + math.log(2) ** 2) / 2 * 5)


def test_trend_by_hand() -> None:
    """Half-lives of 3 and 8 steps, blocks of 5 steps; three returns of ln 1.1, ln 1.1 and -ln 1.1, and calm steps.

    At 6 s: 3 steps, all moved, weights 1: (1 + 1 - 1) / sqrt(3 x 3). At 12 s the first block is closed, its weight is
    2^(-5/3) for the half-life of 3.
    """
    prices = [100, 110, 121, 110, 110, 110, 110, 110, 110]
    rows = table(feature_rows(trades_of(range(0, 18, 2), prices), Windows(SMALL)), SMALL)
    weight = 2 ** (-5 / 3)
    assert np.isnan(rows["trend_3"][:3]).all(), "the segment is two steps old at 4 s"
    assert rows["trend_3"][3] == pytest.approx(1 / 3)
    assert rows["trend_3"][5] == pytest.approx(1 / math.sqrt(5 * 3))
    assert rows["trend_3"][6] == pytest.approx(weight / math.sqrt((5 * weight + 1) * 3 * weight))
    assert np.isnan(rows["trend_8"][:8]).all()
    weight = 2 ** (-5 / 8)
    assert rows["trend_8"][8] == pytest.approx(weight / math.sqrt((5 * weight + 3) * 3 * weight))


def test_the_trend_of_equal_returns_is_one_and_of_a_flat_market_zero() -> None:
    for factor, trend in ((1.1, 1), (1 / 1.1, -1), (1.0, 0)):
        prices = [100 * factor**i for i in range(30)]
        rows = table(feature_rows(trades_of(range(0, 60, 2), prices), Windows(SMALL)), SMALL)
        assert rows["trend_3"][3:] == pytest.approx([trend] * 27, rel=1e-12)
        assert max(map(abs, rows["trend_3"][3:])) <= 1


def test_the_hour_is_that_of_the_last_grid_point() -> None:
    """At 06:00 the sine is 1, at 09:00 both are sqrt(1/2), but with the opposite sign for the cosine; any first row."""
    times = [6 * 3_600, 6 * 3_600 + 1.9, 9 * 3_600 + 1, 86_400, 86_400 + 21_600]
    rows = table(feature_rows(trades_of(times, [100] * 5), Windows(SMALL)), SMALL)
    half = math.sqrt(0.5)
    assert rows["hour_sin"] == pytest.approx([1, 1, half, 0, 1], abs=1e-15)
    assert rows["hour_cos"] == pytest.approx([0, 0, -half, 1, 0], abs=1e-15)


def test_candles_of_a_minute() -> None:
    """Each candle enters as high, low and close, the close at the end of its minute.

    At the fifth close the segment is 4 steps old, as the first candle begins before the first grid point. Each later
    candle closes 1 % higher, from a low of 99 % and a high of 102 % of the close before. The trend needs 20 steps.
    """
    spec = FeatureSpec.for_candles(60)
    assert (spec.grid_step_s, spec.horizon_s, spec.gap_s) == (60, 3_600, 300)
    times, prices, sizes = [], [], []
    for minute in range(26):
        before = 100 * 1.01**minute
        times += [60 * minute + 20, 60 * minute + 40, 60 * minute + 60]
        prices += [before * 1.02, before * 0.99, before * 1.01]
        sizes += [3.0, 3.0, 3.0]
    trades = replace(trades_of(times, prices), size=np.array(sizes))
    closes = {name: column[2::3] for name, column in table(feature_rows(trades, Windows(spec)), spec).items()}
    square = math.log(1.01) ** 2 * 60
    assert np.isnan(closes["ewma_variance_5"][:5]).all()
    assert closes["ewma_variance_5"][5:] == pytest.approx([square] * 21)
    assert np.isnan(closes["ewma_variance_60"]).all()
    parkinson = math.log(1.02 / 0.99) ** 2 / (4 * math.log(2)) * 60
    assert closes["parkinson_variance_20"][20:] == pytest.approx([parkinson] * 6)
    assert closes["trade_rate_5"][5:] == pytest.approx([3 / 60] * 21)
    assert closes["mean_variance"][1:] == pytest.approx([square] * 25)
    assert closes["known_steps"][1:] == list(range(1, 26))
    assert closes["trend_20"][20:] == pytest.approx([1] * 6)
    assert closes["hour_sin"] == pytest.approx([math.sin(2 * math.pi * 60 * k / 86_400) for k in range(1, 27)])


def test_a_row_on_a_grid_point_counts_that_point_as_it_stands() -> None:
    """Two trades at 2 s: the first row sees 110 at the point, the second row sees 121."""
    rows = table(feature_rows(trades_of([0, 1, 4, 4], [100, 100, 110, 121]), Windows(SMALL)), SMALL)
    assert rows["ewma_variance_2"][2] == pytest.approx(math.log(1.1) ** 2 / 2 * 5)
    assert rows["ewma_variance_2"][3] == pytest.approx(math.log(1.21) ** 2 / 2 * 5)


def test_no_return_spans_a_hole() -> None:
    """gap_s is 300: 300 s apart is one segment, 300 s and a nanosecond are two."""
    rows = feature_rows(trades_of([0, 300], [100, 200]), Windows(SPEC))
    assert rows.values[:, 0].tolist() == [0, 1]
    trades = trades_of([0, 300], [100, 200])
    trades.event_time[1] += 1
    assert feature_rows(trades, Windows(SPEC)).values[:, 0].tolist() == [0, 0]


@given(st.floats(1e-6, 1e6), st.floats(-0.5, 0.5), st.integers(0, 12))
def test_a_log_return_is_exact_to_two_units_in_the_last_place(before: float, move: float, decades: int) -> None:
    price = before * (1 + move / 10**decades)
    with localcontext(prec=50):
        expected = float((Decimal(price) / Decimal(before)).ln())
    assert abs(log_return(before, price) - expected) <= 2 * math.ulp(expected)


@given(st.lists(st.sampled_from([MIN_PRICE, MAX_PRICE, 1.0, 1e-12, 3e99]), min_size=2, max_size=60), st.integers(0, 2))
def test_no_trade_that_is_allowed_makes_an_infinite_feature(prices: list[float], step: int) -> None:
    trades = replace(trades_of([i * step for i in range(len(prices))], prices), size=np.full(len(prices), MAX_SIZE))
    assert not np.isinf(feature_rows(trades, Windows(SPEC)).values).any()


def test_contract_only_gives_the_same_three_columns() -> None:
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 1), hours=(13, 14)).take(slice(0, 5_000))
    alone = [feature_rows(trades, Windows(SPEC), contract_only=only).values for only in (False, True)]
    assert alone[1].shape == (5_000, 3)
    assert alone[0][:, :3].tobytes() == alone[1].tobytes()


def test_passed_ids_and_fallen_times_give_no_row() -> None:
    """Id 2 comes twice; the fifth trade falls by 1.5 s; a trade that falls by 0.5 s gets the time before."""
    trades = replace(trades_of([10, 11, 11, 10.5, 9.5, 12], [1, 1, 1, 1, 1, 1]), trade_id=np.array([1, 2, 2, 3, 4, 5]))
    rows = feature_rows(trades, Windows(SPEC))
    assert rows.status.tolist() == [TAKEN, TAKEN, PASSED_ID, TAKEN, FALLEN_TIME, TAKEN]
    assert rows.trades.trade_id.tolist() == [1, 2, 3, 5]
    assert (rows.trades.event_time / NS).tolist() == [10, 11, 11, 12]


def test_a_flat_market_has_no_deviation() -> None:
    rows = feature_rows(trades_of([i * 0.1 for i in range(80)], [91_749.99] * 80), Windows(SPEC))
    assert rows.values[2:, 1].tolist() == [0.0] * 78
    assert rows.values[2:, 2].tolist() == [0.0] * 78


def check_contract(trades: Trades, values: np.ndarray) -> None:
    """Compare with `math.log1p` and `math.fsum` over the file: n exactly, the rest within 1e-12 as the design says."""
    window: list[float] = []
    last: tuple[int, float] | None = None
    for t, price, (n, mean, std) in zip(
        trades.event_time.tolist(), trades.price.tolist(), values[:, :3].tolist(), strict=True
    ):
        if last is None or t - last[0] > 300 * NS:
            window = []
        else:
            window = [*window[-49:], math.log1p((price - last[1]) / last[1])]
        last = t, price
        assert n == len(window)
        if n >= 1:
            expected = math.fsum(window) / n
            assert abs(mean - expected) <= 1e-12 * max(map(abs, window))
        if n >= 2:
            expected = math.sqrt(math.fsum((r - math.fsum(window) / n) ** 2 for r in window) / (n - 1))
            assert std == pytest.approx(expected, rel=1e-12, abs=0)


def test_contract_features_equal_an_independent_computation(shared: Path) -> None:
    for name in ("coinbase_trades_btcusd_20251117.csv", "coinbase_exchange_ticker_btcusd_20251112-13.ndjson.gz"):
        windows = Windows(SPEC)
        batches = [batch.trades for batch in read_trades(shared / name)]
        rows = [feature_rows(trades, windows) for trades in batches]
        for trades, made in zip(batches, rows, strict=True):
            assert len(made.values) == len(trades)
        check_contract(Trades.join(batches), np.concatenate([made.values for made in rows]))


def test_contract_features_of_simulated_trades_equal_an_independent_computation() -> None:
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 1), hours=(13, 14)).take(slice(0, 5_000))
    check_contract(trades, feature_rows(trades, Windows(SPEC)).values)


def by_definition(trades: Trades, spec: FeatureSpec) -> np.ndarray:
    """Return the grid columns of the last row, from the definitions alone, without any state."""
    times, prices = trades.event_time.tolist(), trades.price.tolist()
    step = spec.grid_step_s * NS
    first, now = -(-times[0] // step), times[-1] // step

    def price_at(point: int) -> float:
        return float([p for t, p in zip(times, prices, strict=True) if t <= point * step][-1])

    def in_step(point: int) -> list[int]:
        return [i for i, t in enumerate(times) if (point - 1) * step < t <= point * step]

    age, block = now - first, (now - 1) // spec.block_steps
    blocks = spec.lookback_steps // spec.block_steps
    points = [s for s in range(first + 1, now + 1) if (s - 1) // spec.block_steps > block - blocks]
    returns = {s: math.log(price_at(s) / price_at(s - 1)) for s in points}
    inside = {s: in_step(s) for s in points}
    ranges = {
        s: math.log(max(prices[i] for i in found) / min(prices[i] for i in found)) if (found := inside[s]) else 0.0
        for s in points
    }

    def mean(of: dict[int, float], half_life: float) -> float:
        if not points or (age < half_life < math.inf):
            return math.nan
        weights = {s: 0.5 ** ((block - (s - 1) // spec.block_steps) * spec.block_steps / half_life) for s in points}
        return math.fsum(weights[s] * of[s] for s in points) / math.fsum(weights.values())

    def trend(half_life: int) -> float:
        deviation = math.sqrt(mean(squares, half_life))
        return 0.0 if deviation == 0 else mean(returns, half_life) / deviation

    squares = {s: r * r for s, r in returns.items()}
    angle = 2 * math.pi * (now * spec.grid_step_s / 86_400 % 1)
    horizon = spec.horizon_s / spec.grid_step_s
    volume = {s: math.fsum(trades.size[i] for i in inside[s]) for s in points}
    shortest, short, *_, longest = spec.half_lives
    usual = mean(volume, longest)
    return np.array(
        [
            *(mean(squares, h) * horizon for h in spec.half_lives),
            mean({s: r * r / (4 * math.log(2)) for s, r in ranges.items()}, short) * horizon,
            mean({s: len(found) / spec.grid_step_s for s, found in inside.items()}, shortest),
            *(mean(volume, h) / usual if usual > 0 else math.nan for h in spec.half_lives[:-1]),
            mean(squares, math.inf) * horizon,
            len(points) or math.nan,
            *map(trend, spec.trend_half_lives),
            math.sin(angle),
            math.cos(angle),
        ]
    )


@st.composite
def streams(draw: st.DrawFn, most: int = 120) -> Trades:
    """Trades of up to three streams, mixed: ties, trades on grid points, holes, calm stretches."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = tuple(StreamKey("s", name) for name in ("A-B", "C-D", "E-F"))
    waits = rng.choice(
        [0, 1, NS // 3, NS, 2 * NS, 7 * NS + 5, 29 * NS, 31 * NS], n, p=[0.3, 0.1, 0.3, 0.1, 0.1, 0.06, 0.02, 0.02]
    )
    prices = 100 * np.exp(np.cumsum(rng.choice([0.0, 1e-4, -1e-4, 0.01], n, p=[0.5, 0.2, 0.2, 0.1])))
    return Trades(
        keys,
        rng.integers(0, 3, n).astype(np.int32),
        np.arange(1, n + 1),
        1_700_000_000 * NS + rng.integers(0, 3) * NS + np.cumsum(waits),
        np.zeros(n, np.int64),
        np.round(prices, 2),
        np.round(rng.exponential(1.0, n), 3),
        np.zeros(n, np.int8),
    )


@settings(deadline=None, max_examples=60)
@given(streams())
def test_grid_features_follow_their_definitions(trades: Trades) -> None:
    rows = feature_rows(trades, Windows(SMALL))
    for stream in range(3):
        mine = np.flatnonzero(trades.stream == stream)
        holes = np.flatnonzero(np.diff(trades.event_time[mine]) > SMALL.gap_s * NS)
        for row in mine[-3:]:
            start = max((mine[hole + 1] for hole in holes if mine[hole + 1] <= row), default=mine[0])
            suffix = trades.take(mine[(mine >= start) & (mine <= row)])
            expected = by_definition(suffix, SMALL)
            assert rows.values[row, 3:-4] == pytest.approx(expected[:-4], rel=1e-9, abs=1e-18, nan_ok=True)
            assert rows.values[row, -4:] == pytest.approx(expected[-4:], abs=1e-9, nan_ok=True), "trends, hours"


@settings(deadline=None, max_examples=60)
@given(streams(most=400), st.lists(st.integers(1, 399), max_size=12))
def test_batches_change_no_byte(trades: Trades, cuts: list[int]) -> None:
    """Ties, holes and three mixed streams, in one batch, in some, and one by one."""
    whole = feature_rows(trades, Windows(SMALL)).values.tobytes()
    for places in (sorted({0, *(cut for cut in cuts if cut < len(trades)), len(trades)}), range(len(trades) + 1)):
        windows = Windows(SMALL)
        parts = [feature_rows(trades.take(slice(a, b)), windows).values for a, b in pairwise(places)]
        assert np.concatenate(parts).tobytes() == whole


@settings(deadline=None, max_examples=60)
@given(streams(most=400), st.integers(0, 399))
def test_a_rebuilt_window_gives_the_same_bytes(trades: Trades, stop: int) -> None:
    """The rule that carries the system: a row is a pure function of a bounded suffix of its stream."""
    stop = min(stop, len(trades) - 1)
    position = np.arange(len(trades))
    windows = Windows(SMALL)
    feature_rows(trades.take(slice(0, stop)), windows, position[:stop])
    needed = {key: windows.oldest_needed(key) for key in windows.open_streams}
    expected = feature_rows(trades.take(slice(stop, None)), windows, position[stop:]).values
    first = np.array([needed.get(key, stop) for key in trades.keys])
    rows = (position < stop) & (position >= first[trades.stream])
    rebuilt = Windows(SMALL)
    feature_rows(trades.take(rows), rebuilt, position[rows])
    assert {key: rebuilt.oldest_needed(key) for key in rebuilt.open_streams} == needed
    assert feature_rows(trades.take(slice(stop, None)), rebuilt, position[stop:]).values.tobytes() == expected.tobytes()


def test_fallen_times_do_not_break_a_rebuild() -> None:
    """A rebuild starts at the trade before a fall: without this trade, the fallen trade would keep its earlier time."""
    times = [1.0, 2.0, 3.9, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 4.5, 6.1]
    trades = trades_of(times, [100 + i for i in range(len(times))])
    position = np.arange(len(times))
    for stop in range(1, len(times)):
        windows = Windows(SMALL)
        feature_rows(trades.take(slice(0, stop)), windows, position[:stop])
        start = windows.oldest_needed(KEY)
        expected = feature_rows(trades.take(slice(stop, None)), windows, position[stop:])
        rebuilt = Windows(SMALL)
        feature_rows(trades.take(slice(start, stop)), rebuilt, position[start:stop])
        found = feature_rows(trades.take(slice(stop, None)), rebuilt, position[stop:])
        assert found.values.tobytes() == expected.values.tobytes()
        assert found.trades.event_time.tolist() == expected.trades.event_time.tolist()


def test_the_suffix_is_bounded() -> None:
    """A trade a second for an hour on the small spec: the needed trades stay within window and lookback (20 steps)."""
    trades = trades_of([float(i) for i in range(3_600)], [100 + (i % 7) for i in range(3_600)])
    windows = Windows(SMALL)
    feature_rows(trades, windows, np.arange(3_600))
    assert 3_600 - windows.oldest_needed(KEY) <= SMALL.lookback_steps * SMALL.grid_step_s + 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"window_size": 1}, "window_size must be at least 2, was 1"),
        ({"half_lives": (60,)}, "half_lives must be two or more"),
        ({"half_lives": (300, 60)}, "rising"),
        ({"half_lives": (0, 60)}, "above 0"),
        ({"trend_half_lives": ()}, "trend_half_lives must be one or more"),
        ({"trend_half_lives": (240, 20)}, r"rising and above 0, were \(240, 20\)"),
        ({"trend_half_lives": (20, 14_341)}, "reach one block beyond the longest half-life, 14341; was 14400"),
        ({"lookback_steps": 3_600}, "reach one block beyond the longest half-life, 3600; was 3600"),
        ({"horizon_s": 61, "grid_step_s": 2}, "whole grid steps of 2 s, was 61"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FeatureSpec(**fields)  # type: ignore[arg-type]


def test_each_field_of_a_spec_changes_its_id() -> None:
    changed = [
        FeatureSpec(window_size=51),
        FeatureSpec(lookback_steps=14_460),
        FeatureSpec(half_lives=(60, 300, 1_200, 3_601)),
        FeatureSpec(trend_half_lives=(20, 241)),
        FeatureSpec.for_candles(60),
        FeatureSpec(gap_s=301),
        FeatureSpec(horizon_s=120),
        SPEC,
    ]
    assert len({spec.spec_id for spec in changed}) == len(changed)
