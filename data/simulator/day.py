"""Seeded trades of any product and UTC day, made without a recording: the market of the first run and of many tests.

What the market's state is, and why a day needs no other day: `data/simulator/state.py`. How orders follow from it:
`data/simulator/orders.py`. What an all-knowing forecaster would say: `data/simulator/truth.py`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np

from data.simulator.orders import trades_of_state
from data.simulator.state import DAY_S, FIRST_DAY, Draw, Streams, check_day, log_levels, market_of, state_of
from data.trades import NS, StreamKey, Trades

IDS_A_DAY = 100_000_000
"""Trade ids of a day start at its number since 1970 times this: known without the day before, rising across days."""


def simulate_day(product_id: str, day: dt.date, seed: int = 0, hours: tuple[int, int] = (0, 24)) -> Trades:
    """Return the trades of one product and UTC day, or of some hours of it.

    The same arguments give the same bytes, whatever else was made before, and `hours` only cuts. The last price of a
    day and the first of the next are neighbours, and so is their volatility.

    Args:
        product_id: as `BTC-USD`.
        day: UTC, from `FIRST_DAY` to `LAST_DAY`.
        seed: of the whole market, at least 0.
        hours: first hour, and the hour before which to end.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """
    market = market_of(product_id)
    check_day(day, seed)
    if not 0 <= hours[0] < hours[1] <= 24:
        raise ValueError(f"hours must rise within 0 to 24, were {hours[0]} to {hours[1]}")
    streams = Streams(product_id, seed)
    state = state_of(streams, day)
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
