"""The facts of a market equal values worked by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.simulator.facts import FACTS, Widened, facts_of
from data.simulator.report import read_recording
from data.times import NS
from data.trades import Side, StreamKey, Trades


def trades_at(seconds: Sequence[float], prices: Sequence[float], sides: Sequence[int] | None = None) -> Trades:
    n = len(seconds)
    return Trades(
        keys=(StreamKey("", "BTC-USD"),),
        stream=np.zeros(n, np.int32),
        trade_id=np.arange(n),
        event_time=np.rint(np.array(seconds) * NS).astype(np.int64),
        ingest_time=np.zeros(n, np.int64),
        price=np.array(prices, float),
        size=np.full(n, 1.2e-5),
        side=np.array(sides or [0] * n, np.int8),
    )


def test_facts_of_a_price_that_bounces_once_a_second() -> None:
    """121 trades, a second apart, at 100 and 101 in turn: 120 returns of ln 1.01, their signs in turn."""
    facts = facts_of(trades_at([float(i) for i in range(121)], [100, 101] * 60 + [100]))
    expected = {
        "trades a second, mean": 1.0,
        "trades a second, variance / mean": 0.0,
        "seconds without a trade, share": 0.0,
        "trades at the time of the trade before, share": 0.0,
        "fills a timestamp, mean": 1.0,
        "zero returns by trade, share": 0.0,
        "trade return, autocorrelation lag 1": -119 / 120,
        "trade return, standard deviation, bp": math.log(1.01) * 1e4,
        "1 s return, standard deviation, bp": math.log(1.01) * 1e4,
        "1 s return, kurtosis": 1.0,
        "price step that is not 0, 99 %, bp": 100.0,
        "run of one price, mean": 1.0,
        "size, 50 %": 1.2e-5,
        "sizes of 1.2e-5, share": 1.0,
    }
    assert {name: facts[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(facts["side, autocorrelation lag 1"])  # no sides
    assert math.isnan(facts["hourly volatility, max / min within a day"])  # two minutes


def test_facts_of_orders_with_several_fills() -> None:
    """Every other second for 100 s: a buy that fills at 100, 100 and 101, then one more buy half a second later at 100.

    51 of each. The last second on the grid is open, so 50 orders of three fills and 50 of one are in whole seconds.
    """
    seconds = [t for i in range(51) for t in (2 * i, 2 * i, 2 * i, 2 * i + 0.5)]
    facts = facts_of(trades_at(seconds, [100, 100, 101, 100] * 51, [Side.BUY] * 204))
    expected = {
        "trades a second, mean": 2.0,
        "trades a second, peak": 4.0,
        "seconds without a trade, share": 0.5,
        "trades at the time of the trade before, share": 102 / 203,
        "fills a timestamp, mean": 2.0,
        "fills a timestamp, max": 3.0,
        "timestamps with several fills, share": 0.5,
        "of these, walking the price, share": 1.0,
        "zero returns by trade, share": (51 + 50) / 203,
        "price up at a buy, share": 51 / 203,
        "price down at a buy, share": 51 / 203,
        "run of one price, max": 3.0,
    }
    assert {name: facts[name] for name in expected} == pytest.approx(expected)


def test_no_return_or_pair_spans_a_hole() -> None:
    """Two minutes at 100 and, an hour later, two minutes at 200: no return differs from 0."""
    seconds = [float(i) for i in range(121)]
    facts = facts_of(trades_at(seconds + [3_600 + t for t in seconds], [100] * 121 + [200] * 121))
    assert facts["trade return, standard deviation, bp"] == 0.0
    assert facts["zero returns by second, share"] == 1.0
    assert facts["run of one price, max"] == 121.0
    assert math.isnan(facts["1 s return, kurtosis"])


def test_published_facts_are_found_in_the_recordings(shared: Path) -> None:
    """Equal to 1 in the last published digit: rounding, and the open last second, may differ."""
    ten_minutes = facts_of(read_recording(shared / "coinbase_trades_btcusd_20251117.csv"))
    two_minutes = facts_of(read_recording(shared / "coinbase_exchange_ticker_btcusd_20251112-13.ndjson.gz"))
    ends = {
        "trades a second, mean": (7.2, 23, 1),
        "trades a second, peak": (102, 243, 1),
        "trades a second, variance / mean": (12.8, 36, 0.5),
        "seconds without a trade, share": (0.05, 0.01, 0.01),
        "trades at the time of the trade before, share": (0.43, 0.57, 0.01),
        "fills a timestamp, mean": (1.7, 2.3, 0.05),
        "fills a timestamp, 99 %": (9, 15, 0.5),
        "fills a timestamp, max": (46, 118, 0),
        "zero returns by trade, share": (0.37, 0.27, 0.005),
        "zero returns by second, share": (0.18, 0.04, 0.01),
        "trade return, autocorrelation lag 1": (-0.07, -0.02, 0.01),
        "trade return, standard deviation, bp": (0.29, 0.41, 0.005),
        "1 s return, standard deviation, bp": (0.81, 2.16, 0.005),
        "1 s return, kurtosis": (12.7, 7.0, 0.05),
        "absolute 1 s return, autocorrelation lag 1": (0.16, 0.01, 0.005),
        "absolute 1 s return, autocorrelation lag 10": (-0.01, 0.06, 0.006),
        "size, 10 %": (1.2e-5, 1.2e-5, 0),
        "size, 50 %": (0.0013, 0.002, 0.00005),
        "size, 90 %": (0.038, 0.05, 0.0005),
        "size, 99 %": (0.15, 0.25, 0.005),
        "price step that is not 0, 50 %, bp": (0.09, 0.13, 0.005),
        "price step that is not 0, 90 %, bp": (0.48, 0.72, 0.005),
        "price step that is not 0, 99 %, bp": (1.3, 1.8, 0.05),
        "run of one price, mean": (1.6, 1.4, 0.05),
        "run of one price, 90 %": (2, 2, 0),
        "run of one price, 99 %": (8, 5, 0),
        "run of one price, max": (88, 89, 0),
        "log trades and absolute return of a second, correlation": (0.5, 0.5, 0.05),
    }
    for name, (of_ten, of_two, tolerance) in ends.items():
        assert ten_minutes[name] == pytest.approx(of_ten, abs=tolerance), name
        assert two_minutes[name] == pytest.approx(of_two, abs=tolerance), name
    only = {
        "absolute 1 s return, autocorrelation lag 60": (ten_minutes, -0.05, 0.005),
        "variance on a 1 s over a 60 s grid": (ten_minutes, 1.33, 0.05),
        "variance on a 5 s over a 60 s grid": (ten_minutes, 1.18, 0.05),
        "variance on a 15 s over a 60 s grid": (ten_minutes, 0.99, 0.05),
        "side, autocorrelation lag 1": (two_minutes, 0.74, 0.005),
        "side, autocorrelation lag 10": (two_minutes, 0.22, 0.005),
        "side, autocorrelation lag 50": (two_minutes, -0.02, 0.005),
        "price up at a buy, share": (two_minutes, 0.5, 0.02),
        "price down at a buy, share": (two_minutes, 0.2, 0.02),
    }
    for name, (found, published, tolerance) in only.items():
        assert found[name] == pytest.approx(published, abs=tolerance), name


def test_bands_follow_from_what_was_published() -> None:
    bands = {fact.name: fact.band for fact in FACTS}
    assert bands["1 s return, kurtosis"] == pytest.approx((7.0 / 1.5, 12.7 * 1.5))
    assert bands["trade return, autocorrelation lag 1"] == pytest.approx((-0.17, 0.08))
    assert {fact.name for fact in FACTS if fact.widened is Widened.NOT_JUDGED} == {
        name for name in bands if name.endswith((", max", ", peak"))
    }


def test_bad_trades_are_named() -> None:
    trades = trades_at([float(i) for i in range(61)], [100.0] * 61)
    with pytest.raises(ValueError, match="at least 50 s, the longest of these trades is shorter"):
        facts_of(trades.take(slice(0, 50)))
    with pytest.raises(ValueError, match="event times that do not fall"):
        facts_of(replace(trades, event_time=trades.event_time[::-1]))
    with pytest.raises(ValueError, match="one stream, these trades are of 2"):
        facts_of(replace(trades, stream=np.arange(61, dtype=np.int32) % 2))
