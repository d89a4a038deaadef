"""Seeded trades of any product and UTC day, made without a recording: the market of the first run and of many tests.

The state of the market (level of the price at midnight, volatility) is noise in absolute time, drawn day by day from
seeds of its own. So a day needs no other day, and meets its neighbours at midnight.
"""

from __future__ import annotations

import argparse
import datetime as dt
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.readers import check_product_id, write_csv
from data.trades import FIRST_YEAR, LAST_YEAR, NS, Floats, Side, StreamKey, Trades

DAY_S = 86_400
IDS_A_DAY = 100_000_000
"""Trade ids of a day start at its number since 1970 times this: known without the day before, rising across days."""

FIRST_DAY, LAST_DAY = dt.date(FIRST_YEAR, 1, 1), dt.date(LAST_YEAR, 12, 31)
"""Days whose trades have an id of at least 0 and a time that fits in int64 nanoseconds."""


class _Draw(IntEnum):
    """What a random stream is for: each purpose and day has a stream of its own."""

    LEVEL = 0
    TRADES = 1
    VOLATILITY = 2  # plus the index of the time scale: keep it last


@dataclass(frozen=True)
class Market:
    """What differs between products.

    Attributes:
        price: about which the price moves, quote currency.
        decimals: of the price; the tick is 10 ** -decimals.
        trades_per_s: mean over long times.
        step: standard deviation of the log price's move at one order, in ordinary times.
    """

    price: float
    decimals: int
    trades_per_s: float
    step: float


MARKETS = {
    "BTC-USD": Market(price=100_000.0, decimals=2, trades_per_s=7.0, step=0.55e-4),
    "ETH-USD": Market(price=3_500.0, decimals=2, trades_per_s=6.0, step=0.8e-4),
}

VOLATILITY_SCALES_S = (60, 600, 7_200, 86_400)
"""Lattices of the log volatility: divisors of a day, so that a day draws its own points."""
VOLATILITY_SD = 0.25
"""Standard deviation of the log volatility on each of the scales."""
SEASON, BUSIEST_HOUR = 0.2, 15
"""Hourly season of the log volatility: amplitude, and the UTC hour of its top."""

LEVEL_SD, LEVEL_MEMORY, LEVEL_DAYS = 0.025, 0.98, 400
"""The log price at midnight is a walk of this daily standard deviation that is pulled back to `Market.price`."""

BURST_SHAPE = 6.0
"""Shape of the gamma noise on the rate of each second: less is more bursty."""
FILLS_TAIL, MAX_FILLS = 1.8, 150
"""An order has at least k fills with probability k ** -FILLS_TAIL."""
MOVE_SHARE = 0.45
"""Share of orders after which the price has moved."""
MOVE_WITH_SIDE = 0.65
"""Probability that such a move goes the way of the order's side."""
WALK_SHARE, WALK_STEP = 0.8, 0.2
"""Share of further fills that walk the book, and their mean step in units of `Market.step`."""
WALK_KEPT = 0.4
"""Share of an order's walk by which the price has moved for good."""
SIDE_KEPT = 0.4
"""Probability that an order has the side of the one before for that reason alone."""
SMALLEST_ORDER, SMALLEST_SHARE = 1.2, 0.06
"""Value of the smallest order in quote currency, and the share of trades that have it."""
MEDIAN_ORDER, ORDER_DECADES = 150.0, 1.05
"""Median value of the other trades in quote currency, and the standard deviation of its decimal logarithm."""


def market_of(product_id: str) -> Market:
    """Return the parameters of a product; those of an unlisted one follow from its name."""
    check_product_id(product_id)
    if product_id in MARKETS:
        return MARKETS[product_id]
    rng = np.random.default_rng(_name(product_id))
    price = float(10 ** rng.uniform(-1, 3))
    return Market(
        price=price,
        decimals=max(2, 5 - int(np.floor(np.log10(price)))),
        trades_per_s=float(10 ** rng.uniform(-0.3, 0.7)),
        step=float(rng.uniform(0.6e-4, 1.2e-4)),
    )


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
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"day must be from {FIRST_DAY} to {LAST_DAY}, was {day}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, was {seed}")
    if not 0 <= hours[0] < hours[1] <= 24:
        raise ValueError(f"hours must rise within 0 to 24, were {hours[0]} to {hours[1]}")
    streams = _Streams(product_id, seed)
    rng = streams.open(_Draw.TRADES, day.toordinal())
    volatility = _volatility(streams, day)

    # Orders: more of them in volatile times, in bursts. `second` and all else with a name in the singular is per order.
    mean_fills = float(np.sum(np.arange(1, MAX_FILLS + 1) ** -FILLS_TAIL))
    rate = market.trades_per_s / mean_fills * volatility
    second = np.repeat(np.arange(DAY_S), rng.poisson(rate * rng.gamma(BURST_SHAPE, 1 / BURST_SHAPE, DAY_S)))
    n = len(second)
    microsecond = second * 1_000_000 + rng.integers(0, 1_000_000, n)
    microsecond.sort()
    fills = np.minimum(rng.random(n) ** (-1 / FILLS_TAIL), MAX_FILLS).astype(np.int64)
    side = _persistent_sides(rng, n)
    step = market.step * np.sqrt(volatility[second])

    # Fills of one order share its time and side; further ones walk away from the first.
    first_fill = np.cumsum(fills) - fills
    order = np.repeat(np.arange(n), fills)
    fill_step = WALK_STEP * step[order] * rng.standard_exponential(len(order))
    fill_step[rng.random(len(order)) > WALK_SHARE] = 0.0
    fill_step[first_fill] = 0.0
    walk = np.cumsum(fill_step)
    walk -= walk[first_fill][order]

    # The log price before each order: a bridge between this midnight's level and the next one's. Where the price
    # stays as it was, the bridge adds nothing either: real prices often do not move at all.
    move = step * np.abs(rng.standard_normal(n)) * np.where(rng.random(n) < MOVE_WITH_SIDE, side, -side)
    move[rng.random(n) > MOVE_SHARE] = 0.0
    move += WALK_KEPT * side * walk[first_fill + fills - 1]
    start, end = _level(streams, market, day), _level(streams, market, day + dt.timedelta(days=1))
    share = np.cumsum(np.where(move != 0.0, step**2, 0.0))
    path = np.cumsum(move)
    if n and share[-1] > 0.0:
        path += (end - start - path[-1]) * share / share[-1]
    before = start + np.concatenate(([0.0], path[:-1]))

    # On the grid of ticks: buyers pay the ask, one tick above the bid that sellers get.
    ticks = 10**market.decimals
    bid = np.floor(np.exp(before) * ticks)
    walked = np.rint(walk * np.exp(before[order]) * ticks)
    price = np.maximum((bid + (side == Side.BUY))[order] + side[order] * walked, 1.0) / ticks

    first, last = (int(np.searchsorted(microsecond[order], hour * 3_600_000_000)) for hour in hours)
    number = (day - FIRST_DAY).days
    trades = Trades(
        keys=(StreamKey("", product_id),),
        stream=np.zeros(len(order), np.int32),
        trade_id=number * IDS_A_DAY + np.arange(len(order), dtype=np.int64),
        event_time=number * DAY_S * NS + microsecond[order] * 1_000,
        ingest_time=np.zeros(len(order), np.int64),
        price=price,
        size=_sizes(rng, market, len(order)),
        side=side[order].astype(np.int8),
    )
    return trades.take(slice(first, last))


class _Streams:
    """Random streams of one product: one for each purpose and day."""

    def __init__(self, product_id: str, seed: int) -> None:
        self._key = (seed, _name(product_id))

    def open(self, purpose: int, day: int) -> np.random.Generator:
        return np.random.default_rng((*self._key, purpose, day))


def _name(product_id: str) -> int:
    return zlib.crc32(product_id.encode())


def _level(streams: _Streams, market: Market, day: dt.date) -> float:
    """Return the log price at the start of a day."""
    last = day.toordinal()
    shocks = [streams.open(_Draw.LEVEL, last - age).standard_normal() for age in range(min(LEVEL_DAYS, last))]
    weights = LEVEL_MEMORY ** np.arange(len(shocks))
    return float(np.log(market.price) + LEVEL_SD * np.dot(weights, shocks))


def _volatility(streams: _Streams, day: dt.date) -> Floats:
    """Return the volatility of each second of a day, in units of the product's ordinary one, shape (86400,)."""
    log = SEASON * np.cos(2 * np.pi * (np.arange(DAY_S) / 3_600 - BUSIEST_HOUR) / 24)
    for scale, period in enumerate(VOLATILITY_SCALES_S):
        points = DAY_S // period
        today = streams.open(_Draw.VOLATILITY + scale, day.toordinal()).standard_normal(points)
        tomorrow = streams.open(_Draw.VOLATILITY + scale, day.toordinal() + 1).standard_normal(1)
        lattice = np.concatenate((today, tomorrow))
        u = np.arange(period) / period
        blend = u * u * (3 - 2 * u)
        log += VOLATILITY_SD * (lattice[:-1, None] + np.diff(lattice)[:, None] * blend).ravel()
    return np.exp(log)


def _persistent_sides(rng: np.random.Generator, n: int) -> NDArray[np.int8]:
    """Return sides that often repeat the one before, shape (n,)."""
    side = np.where(rng.random(n) < 0.5, Side.BUY, Side.SELL).astype(np.int8)
    fresh = rng.random(n) >= SIDE_KEPT
    fresh[:1] = True
    return side[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]


def _sizes(rng: np.random.Generator, market: Market, n: int) -> Floats:
    """Return sizes over many decades on the grid of 1e-8, shape (n,)."""
    value = MEDIAN_ORDER * 10 ** (ORDER_DECADES * rng.standard_normal(n))
    value[rng.random(n) < SMALLEST_SHARE] = SMALLEST_ORDER
    return np.maximum(np.rint(value / market.price * 1e8), 1.0) / 1e8


def main() -> None:
    """Write simulated hours of one product as a recording."""
    parser = argparse.ArgumentParser(prog="python -m data.simulator", description=main.__doc__)
    parser.add_argument("--product", default="BTC-USD", help="as BTC-USD, the default")
    parser.add_argument("--day", type=dt.date.fromisoformat, required=True, help="UTC, as 2025-01-06")
    parser.add_argument("--hours", type=int, nargs=2, default=(0, 24), metavar=("FROM", "TO"), help="0 24: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="CSV; with gzip if it ends in .gz")
    args = parser.parse_args()
    try:
        trades = simulate_day(args.product, args.day, args.seed, (args.hours[0], args.hours[1]))
    except ValueError as error:
        parser.error(str(error))
    write_csv(args.out, [trades])
    print(f"{args.out}: {len(trades):,} trades of {args.product}")


if __name__ == "__main__":
    main()
