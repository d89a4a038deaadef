"""Simulated trades of 12 products, mixed as they happen."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

from data.simulator import simulate_day
from data.trades import StreamKey, Trades

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD", "ADA-USD", "LTC-USD", "LINK-USD", "AVAX-USD",
            "DOT-USD", "UNI-USD", "AAVE-USD")  # fmt: skip


def mixed_day(day: dt.date, source_id: str = "bench") -> Trades:
    """Return the trades of all products and one UTC day, by time."""
    each = [simulate_day(product, day) for product in PRODUCTS]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(trades, name) for trades in each])
        for name in ("trade_id", "event_time", "ingest_time", "price", "size", "side")
    }
    stream = np.repeat(np.arange(len(each), dtype=np.int32), [len(trades) for trades in each])
    keys = tuple(StreamKey(source_id, product) for product in PRODUCTS)
    return Trades(keys, stream, **columns).take(np.argsort(columns["event_time"], kind="stable"))
