"""Histories: candles become trades, and the grid beneath the rows is the market's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.recordings.dialects.bars.base import Bars
from data.times import NS
from data.trades import Floats, Int64s, StreamKey, Trades
from offline.candles import trades_of_candles
from offline.history import history_of

SPEC = FeatureSpec.for_candles(60)
START = 1_500_000_000 // 3_600 * 3_600 * NS


def bars(close: Floats, start: int = START, high: float = 1.0, low: float = 1.0) -> Bars:
    """Return minute candles; high and low are factors on the greater and the lesser of open and close."""
    n = len(close)
    opened = np.concatenate([close[:1], close[:-1]])
    return Bars(
        (StreamKey("", "BTC-USD"),),
        60,
        np.zeros(n, np.int32),
        start + (np.arange(n) + 1) * 60 * NS,
        opened,
        np.maximum(opened, close) * high,
        np.minimum(opened, close) * low,
        close,
        np.full(n, 2.0),
        np.full(n, np.nan),
    )


def trades_at(seconds: Int64s, price: Floats) -> Trades:
    n = len(price)
    return Trades(
        (StreamKey("", "BTC-USD"),),
        np.zeros(n, np.int32),
        np.arange(1, n + 1),
        START + seconds * NS,
        np.zeros(n, np.int64),
        price,
        np.ones(n),
        np.zeros(n, np.int8),
    )


def test_a_candle_becomes_high_low_and_close_within_its_minute() -> None:
    trades = trades_of_candles(bars(np.array([100.0, 110.0]), high=1.2, low=0.5))
    assert ((trades.event_time - START) // NS).tolist() == [20, 40, 60, 80, 100, 120]
    assert trades.price.tolist() == pytest.approx([120.0, 50.0, 100.0, 132.0, 50.0, 110.0])
    assert trades.size.tolist() == [0, 0, 2, 0, 0, 2]
    assert trades.trade_id.tolist() == [1, 2, 3, 4, 5, 6]


def test_the_range_of_a_candle_and_not_its_close_makes_the_parkinson_variance() -> None:
    """All closes are equal. High / low is e, so each step has 1 / (4 ln 2), and a horizon has 60 steps."""
    candles = bars(np.full(40, 100.0), high=math.exp(0.5), low=math.exp(-0.5))
    history = history_of([trades_of_candles(candles)], SPEC)
    assert history.column("parkinson_variance_20")[-1] == pytest.approx(60 / (4 * math.log(2)))
    assert history.column("ewma_variance_5")[-1] == 0


def test_rows_are_the_closes_and_each_fifth_is_counted() -> None:
    """122 minutes; a target needs 60 minutes, so of the rows at 5, 10, ... the last with a target is at 60."""
    history = history_of([trades_of_candles(bars(np.arange(100.0, 222.0)))], SPEC)
    assert ((history.event_time - START) // NS).tolist() == [60 * minute for minute in range(1, 123)]
    counted = history.counted()
    assert ((counted.event_time - START) // (60 * NS)).tolist() == list(range(5, 65, 5))
    expected = sum(math.log((100 + m + 1) / (100 + m)) ** 2 for m in range(4, 64))  # the close of minute 5 is 104
    assert counted.realized[0] == pytest.approx(expected, rel=1e-12)


def test_mean_variance_uses_as_many_steps_as_the_segment_has() -> None:
    """Closes 100, 110, 121, 121: log returns ln 1.1, ln 1.1, 0; a horizon has 60 steps."""
    history = history_of([trades_of_candles(bars(np.array([100.0, 110.0, 121.0, 121.0])))], SPEC)
    square = math.log(1.1) ** 2
    assert np.isnan(history.mean_variance(2)[0])
    assert history.mean_variance(2)[1:] == pytest.approx([60 * square, 60 * square, 30 * square])
    assert history.mean_variance(60)[3] == pytest.approx(40 * square)
    assert history.known_steps.tolist() == [0, 1, 2, 3]


def test_a_young_row_has_the_mean_so_far_and_the_prior() -> None:
    """No step known: the prior alone; 60 known steps: half of each."""
    close = 100.0 * np.cumprod(np.full(61, 1.1))
    history = history_of([trades_of_candles(bars(close))], SPEC)
    found = history.young_variance(prior=7.0)
    assert found[0] == 7.0
    assert found[60] == pytest.approx((60 * math.log(1.1) ** 2 + 7.0) / 2)


def test_a_hole_ends_the_segment_of_grid_rows_and_targets() -> None:
    """Gap: 300 s. The second segment begins with no known step, and no return spans the hole."""
    first = trades_at(np.arange(0, 100), np.linspace(100, 101, 100))
    second = trades_at(np.arange(401, 481), np.linspace(200, 201, 80))
    joined = Trades.join([first, second])
    history = history_of([replace(joined, trade_id=np.arange(1, 181))], FeatureSpec())
    begins = int(np.flatnonzero(history.event_time == START + 401 * NS)[0])
    assert history.known_steps[begins - 1 : begins + 2].tolist() == [99, 0, 1]
    assert history.age_s[begins - 1 : begins + 2].tolist() == [99, 0, 1]
    assert np.nanmax(np.abs(history.grid.log_return)) < 0.001
    counted = history.counted()
    assert ((counted.event_time - START) // NS).tolist() == [*range(0, 40, 5), *range(405, 425, 5)]


def test_a_row_knows_the_grid_up_to_its_time_alone() -> None:
    """A trade at 10.5 s knows the grid points up to 10 s."""
    whole = trades_at(np.arange(200), np.arange(100.0, 300.0))
    history = history_of([replace(whole, event_time=whole.event_time + NS // 2)], FeatureSpec())
    at = int(np.flatnonzero(history.event_time == START + 10 * NS + NS // 2)[0])
    assert history.grid.time[history.point[at]] == START + 10 * NS
    assert history.grid.log_return[history.point[at]] == pytest.approx(math.log(109 / 108))
