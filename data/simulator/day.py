"""Simulate the trades of any product and UTC day from a seed: the market of the first run and of many tests.

`data/simulator/state.py` makes the market's state, and explains why a day needs no other day.
`data/simulator/orders.py` makes orders from the state. `data/simulator/truth.py` computes the best possible forecast.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np

from data.simulator.orders import trades_of_state
from data.simulator.state import FIRST_DAY, Draw, MarketShift, Streams, check_day, log_levels, market_of, state_of
from data.times import DAY_S, NS
from data.trades import StreamKey, Trades

IDS_A_DAY = 100_000_000
"""Trade ids of a day start at the number of days since 1970 times `IDS_A_DAY`: known without the day before, rising
across days."""


def simulate_day(
    product_id: str, day: dt.date, seed: int = 0, hours: tuple[int, int] = (0, 24), shift: MarketShift | None = None
) -> Trades:
    """Return the trades of one product and UTC day, or of some hours of the day.

    The same arguments always give the same bytes, and `hours` only cuts. Price and volatility continue from the end of
    a day to the start of the next day.

    Args:
        product_id: for example `BTC-USD`.
        day: UTC, from `FIRST_DAY` to `LAST_DAY`.
        seed: seed of the whole market, at least 0.
        hours: first hour, and the hour at which the trades end.
        shift: another law of the market from some second of the day on.

    Raises:
        ValueError: an argument is out of range, or the product name is not allowed.
    """
    market = market_of(product_id)
    check_day(day, seed)
    if not 0 <= hours[0] < hours[1] <= 24:
        raise ValueError(f"hours must rise within 0 to 24, were {hours[0]} to {hours[1]}")
    streams = Streams(product_id, seed)
    state = replace(state_of(streams, day), shift=shift)
    rng = streams.open(Draw.TRADES, day.toordinal())
    trades = trades_of_state(rng, market, state, log_levels(streams, market, day))
    first, last = np.searchsorted(trades.event_time, np.array(hours) * 3_600 * NS)
    trades = trades.take(slice(first, last))
    number = (day - FIRST_DAY).days
    return replace(
        trades,
        keys=(StreamKey("", product_id),),
        trade_id=trades.trade_id + number * IDS_A_DAY,
        event_time=trades.event_time + number * DAY_S * NS,
    )
