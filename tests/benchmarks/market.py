"""Simulated trades of 12 products, mixed as they happen."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np

from data.simulator.day import simulate_day
from data.trades import StreamKey, Trades

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD", "ADA-USD", "LTC-USD", "LINK-USD", "AVAX-USD",
            "DOT-USD", "UNI-USD", "AAVE-USD")  # fmt: skip


def mixed_day(day: dt.date, source_id: str = "bench") -> Trades:
    """Return the trades of all products and one UTC day, by time."""
    each = [replace(simulate_day(product, day), keys=(StreamKey(source_id, product),)) for product in PRODUCTS]
    trades = Trades.join(each)
    return trades.take(np.argsort(trades.event_time, kind="stable"))
