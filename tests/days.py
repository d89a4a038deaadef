"""Trades with difficult days, for tests of the lake."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.recordings.readers import write_csv
from data.times import NS
from data.trades import Int64s, StreamKey, Trades

DAY = dt.date(2025, 3, 5)
DAY_NS = 86_400 * NS
MIDNIGHT = (DAY - dt.date(1970, 1, 1)).days * DAY_NS
"""Start of `DAY`, ns since 1970."""


def trades_at(
    event_time: Int64s, product_id: str = "BTC-USD", seed: int = 0, first_id: int = 1, step: int = 10
) -> Trades:
    """Return trades at the given times with walking prices; ids leave room for late trades in between."""
    rng = np.random.default_rng(seed)
    n = len(event_time)
    price = np.round(100 * np.exp(np.cumsum(rng.normal(0, 2e-4, n))), 2)
    return Trades(
        (StreamKey("", product_id),),
        np.zeros(n, np.int32),
        first_id + np.arange(n) * step,
        event_time,
        np.zeros(n, np.int64),
        price,
        np.round(rng.exponential(0.1, n), 8) + 1e-8,
        rng.choice(np.array([-1, 0, 1], np.int8), n),
    )


def rough_times(start: int, end: int, mean_s: float, seed: int = 0) -> Int64s:
    """Return times from `start` to `end`, ns since 1970, with ties and small falls, at each midnight too."""
    rng = np.random.default_rng(seed)
    steps = rng.exponential(mean_s * NS, int((end - start) / NS / mean_s * 1.5) + 10)
    steps[rng.random(len(steps)) < 0.3] = 0
    times = start + np.cumsum(steps).astype(np.int64)
    times = times[times < end]
    for midnight in range(-(-start // DAY_NS) * DAY_NS, end, DAY_NS):
        at = int(np.searchsorted(times, midnight))
        # On either side of it, on it, and one before it that comes after it.
        around = midnight + np.array([-300, -1, 0, 0, 0, -200_000_000, 100, -150_000_000, 400_000_000])
        times = np.insert(times, at, around)
    falls = rng.random(len(times)) < 0.02
    return times - np.where(falls, rng.integers(0, 400_000_000, len(times)), 0)


def without(trades: Trades, holes: Sequence[tuple[int, int]]) -> Trades:
    """Return the trades outside some stretches of time, ns since 1970."""
    kept = np.ones(len(trades), np.bool_)
    for start, end in holes:
        kept &= ~((trades.event_time >= start) & (trades.event_time < end))
    return trades.take(kept)


def recorded(path: Path, *trades: Trades) -> Path:
    """Write trades, of several products in the order of their times, as a recording."""
    joined = Trades.join(trades)
    order = np.argsort(joined.event_time, kind="stable") if len(trades) > 1 else np.arange(len(joined))
    write_csv(path, [joined.take(order)])
    return path


def with_ids(trades: Trades, trade_id: Int64s) -> Trades:
    return replace(trades, trade_id=trade_id)
