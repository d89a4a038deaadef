"""The reach of a row: trades cut at the reach give an equal row, and without the oldest trade the row changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.features.admission import TAKEN
from data.features.reach import oldest_trade, reach_s
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.times import NS
from data.trades import StreamKey, Trades

SMALL = FeatureSpec(
    window_size=5,
    lookback_steps=60,
    block_steps=10,
    half_lives=(5, 20),
    trend_half_lives=(7, 30),
    horizon_s=10,
    gap_s=30,
)
"""Spec with windows that are full after a minute, so that few trades reach further back."""


def last_row(trades: Trades, spec: FeatureSpec) -> bytes:
    return bytes(feature_rows(trades, Windows(spec)).values[-1].tobytes())


def trades_of(times_s: list[float]) -> Trades:
    """Return trades whose prices double from each trade to the next."""
    n = len(times_s)
    event_time = np.round(np.array(times_s) * NS).astype(np.int64)
    zeros = np.zeros(n, np.int64)
    prices, sides = np.exp2(np.arange(n, dtype=np.float64)), np.zeros(n, np.int8)
    key = (StreamKey("s", "A-B"),)
    return Trades(key, zeros.astype(np.int32), np.arange(n), event_time, zeros, prices, np.ones(n), sides)


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, window_size=2), replace(SMALL, gap_s=3)])
@pytest.mark.parametrize("seed", range(3))
def test_trades_within_reach_give_the_row_of_all_trades(spec: FeatureSpec, seed: int) -> None:
    trades = some_trades(np.random.default_rng(seed))
    rows = feature_rows(trades, Windows(spec))
    taken, counted = trades.take(rows.status == TAKEN), rows.trades.event_time
    cut = 0
    for row in range(len(taken)):
        within = taken.take(slice(int(np.searchsorted(counted, counted[row] - reach_s(spec) * NS)), row + 1))
        assert last_row(within, spec) == rows.values[row].tobytes()
        cut += len(within) <= row
    assert cut > 100


@pytest.mark.parametrize(
    ("spec", "times_s", "oldest"),
    [
        # A full window of 5 returns, each over the longest pause within a segment: 150 s, the whole reach.
        (SMALL, [1_000 + 30 * i for i in range(8)], 2),
        # The row at 1,360.9 s sees the block that begins at 1,300 s, whose price is of 1,270.2 s: 90.7 s of 91.
        (replace(SMALL, window_size=2), [1_245.0, 1_270.2, 1_300.1, 1_330.0, 1_359.9, 1_360.9], 1),
        # A row at 1,361 s is on the next grid point, and sees the block that begins at 1,310 s.
        (replace(SMALL, window_size=2), [1_245.0, 1_270.2, 1_300.1, 1_330.0, 1_359.9, 1_361.0], 2),
    ],
)
def test_a_row_depends_on_the_oldest_seen_trade_and_on_no_older_trade(
    spec: FeatureSpec, times_s: list[float], oldest: int
) -> None:
    trades = trades_of(times_s)
    assert oldest_trade(trades.event_time, spec, counts_as=int(trades.event_time[0]), is_whole=True) == oldest
    assert times_s[-1] - times_s[oldest] <= reach_s(spec)
    assert last_row(trades.take(slice(oldest, None)), spec) == last_row(trades, spec)
    assert last_row(trades.take(slice(oldest + 1, None)), spec) != last_row(trades, spec)


def some_trades(rng: np.random.Generator, n: int = 400) -> Trades:
    """Return trades with ties, falling times and holes; some are seconds apart, to cross blocks and segments."""
    wait = rng.choice([0.0, 0.1, 1.0, 7.0, 29.9, 31.0], n, p=[0.3, 0.3, 0.25, 0.1, 0.03, 0.02])
    time = 1_700_000_000 + np.cumsum(wait) - rng.choice([0, 0.9, 1.0], n, p=[0.8, 0.1, 0.1])
    price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, n)))
    size = np.where(rng.random(n) < 0.02, np.nan, rng.random(n))
    side = np.zeros(n, np.int8)
    event_time = (time * 1000).astype(np.int64) * 1_000_000
    key = (StreamKey("s", "A-B"),)
    return Trades(key, np.zeros(n, np.int32), np.arange(n), event_time, np.zeros(n, np.int64), price, size, side)


@pytest.mark.parametrize("seed", range(5))
def test_a_row_from_the_oldest_trade_in_its_reach_has_the_bytes_of_one_from_the_whole_stream(seed: int) -> None:
    """Includes a stream without the first trades: the kept trades suffice, or the function returns None."""
    everything = some_trades(np.random.default_rng(seed))
    rows = feature_rows(everything, Windows(SMALL))
    taken = everything.take(np.flatnonzero(rows.status == TAKEN))
    cut, answered, refused = len(taken) // 3, 0, 0
    for row in range(len(taken)):
        first = oldest_trade(taken.event_time[: row + 1], SMALL, counts_as=int(taken.event_time[0]), is_whole=True)
        assert first is not None
        made = feature_rows(taken.take(slice(first, row + 1)), Windows(SMALL))
        assert made.values[-1].tobytes() == rows.values[row].tobytes()
        assert made.trades.event_time[-1] == rows.trades.event_time[row]
        if row < cut:
            continue
        counts_as = int(rows.trades.event_time[cut])
        first = oldest_trade(taken.event_time[cut : row + 1], SMALL, counts_as=counts_as, is_whole=False)
        if first is None:
            refused += 1
            continue
        answered += 1
        made = feature_rows(taken.take(slice(cut + first, row + 1)), Windows(SMALL))
        assert made.values[-1].tobytes() == rows.values[row].tobytes()
    assert answered > 100
    assert refused > 0


def test_a_trade_that_counts_as_the_time_before_it_is_no_beginning() -> None:
    """Trade 2 counts at 10 s, the time of trade 1. Without trade 1, trade 2 would count at 9.5 s."""
    event_time = (np.array([0.0, 10.0, 9.5, 10.2, 10.3, 10.4, 10.5, 10.6]) * NS).astype(np.int64)
    assert oldest_trade(event_time, SMALL, counts_as=0, is_whole=True) == 0
    far = np.concatenate([[0, 100 * NS, 99.5 * NS], (100.2 + np.arange(100)) * NS]).astype(np.int64)
    spec = replace(SMALL, gap_s=300)
    assert oldest_trade(far[:8], spec, counts_as=0, is_whole=True) == 0
    # The row at 160.2 s: the open block began at 150 s, the oldest block at 100 s, with the price of trade 2.
    assert oldest_trade(far[:64], spec, counts_as=0, is_whole=True) == 1
    # A second later the oldest block begins at 110 s, with the price of the trade at 109.2 s.
    assert oldest_trade(far[:65], spec, counts_as=0, is_whole=True) == far.tolist().index(109_200_000_000)
