"""Simulate orders and their fills for a given state of the market.

Orders arrive in bursts, fill several trades at one time, walk the book and move the quotes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.simulator.state import Market, MarketState
from data.times import DAY_S
from data.trades import Floats, Int64s, Side, StreamKey, Trades

RATE_SHAPE = 10.0
"""Shape of the gamma noise on the rate of each second."""
BURST_TAIL, MAX_BURST = 2.3, 60
"""Orders come in bursts: a burst has at least k orders with probability k ** -BURST_TAIL, and at most MAX_BURST."""
BURST_GAP_US = 15_000.0
"""Mean time between orders of a burst, microseconds."""
FILLS_TAIL, MAX_FILLS = 1.68, 150
"""An order has at least k fills with probability k ** -FILLS_TAIL, and at most MAX_FILLS."""
TREND_KEPT, WITH_TREND = 0.72, 0.71
"""Takers have a trend. Probability that the trend outlives an order, and probability that an order takes the trend's
side because of the trend, not by chance."""

CHANGE_SHARE = 0.42
"""Share of orders after which the quotes change, besides all orders that walked the book."""
MOVE, MOVE_WITH_SIDE = 0.42, 0.33
"""A change moves the price by MOVE times a squared normal, in units of the step, and with probability MOVE_WITH_SIDE in
the direction of the order's side."""
HALF_SPREAD, ONE_TICK_SHARE = 0.06, 0.2
"""Mean of the exponential half spread after a change, in units of the step; with probability ONE_TICK_SHARE the half
spread is one tick."""
WALK_SHARE, FILL_WALK_SHARE, WALK = 0.9, 0.84, 0.15
"""Share of orders with several fills that walk the book, share of their further fills that step on, and the scale of
a fill's step: WALK times a squared normal, in units of the market's step."""
WALK_KEPT = 0.45
"""Share of an order's walk that stays in the price."""

SMALLEST_ORDER = 1.2
"""Value of the smallest order in quote currency."""
SIZE_SHARES = (0.0, 0.01, 0.05, 0.065, 0.125, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999, 1.0)
SIZE_DECADES = (-2.0, -1.1, -0.3, *(np.log10(SMALLEST_ORDER),) * 2, 0.5, 1.2, 2.2, 2.95, 3.64, 3.9, 4.3, 5.0, 5.7)
"""Decimal logarithm of the value below which each share of `SIZE_SHARES` lies. Many orders have the smallest value."""


def trades_of_state(
    rng: np.random.Generator, market: Market, state: MarketState, log_levels: tuple[float, float]
) -> Trades:
    """Return the trades of a day with a given state, for a stream without a name, ids from 0, ns since midnight.

    Args:
        log_levels: log prices before the first and after the last order.
    """
    # Arrays named in the singular have one value an order.
    volatility = state.volatility
    microsecond = _arrivals(rng, market.trades_per_s / _mean(FILLS_TAIL, MAX_FILLS) * volatility[:DAY_S])
    n = len(microsecond)
    side = _sides(rng, n)
    step = market.step * np.sqrt(volatility[microsecond // 1_000_000])
    fills = _at_least_one(rng, FILLS_TAIL, MAX_FILLS, n)
    order = np.repeat(np.arange(n), fills)
    walk = _walks(rng, fills, order, step)
    walked = walk[np.cumsum(fills) - 1]

    # Moves of the middle of the quotes after each order; 0 without a change.
    changes = (walked > 0.0) | (rng.random(n) < CHANGE_SHARE)
    move = MOVE * step * rng.standard_normal(n) ** 2 * np.where(rng.random(n) < MOVE_WITH_SIDE, side, -side)
    move = np.where(changes, move + WALK_KEPT * side * walked, 0.0)
    before_jump = np.searchsorted(microsecond, state.jump_second * 1_000_000) - 1
    jump = (market.step * volatility[state.jump_second] * state.jump)[before_jump >= 0]
    before_jump = before_jump[before_jump >= 0]
    np.add.at(move, before_jump, jump)
    changes[before_jump] = True

    # The middle goes from one midnight's level to the next one's, and stays where the quotes do not change.
    start, end = log_levels
    share = np.cumsum(np.where(changes, step**2, 0.0))
    path = np.cumsum(move)
    if n and share[-1] > 0.0:
        path += (end - start - path[-1]) * share / share[-1]
    middle = start + np.concatenate(([0.0], path[:-1]))
    half_spread = HALF_SPREAD * step * rng.standard_exponential(n)
    half_spread[rng.random(n) < ONE_TICK_SHARE] = 0.0
    changed = np.concatenate(([True], changes[:-1]))[:n]
    half_spread = half_spread[np.maximum.accumulate(np.where(changed, np.arange(n), 0))]

    # On the grid of ticks: buyers pay the ask, at least one tick above the bid that sellers get.
    ticks = 10**market.decimals
    quote = np.exp(middle + side * half_spread) * ticks
    walked_ticks = np.rint(walk * quote[order])
    price = np.maximum((np.floor(quote) + (side == Side.BUY))[order] + side[order] * walked_ticks, 1.0) / ticks
    return Trades(
        keys=(StreamKey("", ""),),
        stream=np.zeros(len(order), np.int32),
        trade_id=np.arange(len(order), dtype=np.int64),
        event_time=microsecond[order] * 1_000,
        ingest_time=np.zeros(len(order), np.int64),
        price=price,
        size=_sizes(rng, market, len(order)),
        side=side[order].astype(np.int8),
    )


def _mean(tail: float, most: int) -> float:
    """Return the mean of `_at_least_one`."""
    return float(np.sum(np.arange(1, most + 1) ** -tail))


def _at_least_one(rng: np.random.Generator, tail: float, most: int, n: int) -> Int64s:
    """Return n numbers that are at least k with probability k ** -tail, up to `most`."""
    return np.minimum(rng.random(n) ** (-1 / tail), most).astype(np.int64)


def _arrivals(rng: np.random.Generator, rate: Floats) -> Int64s:
    """Return the times of orders in microseconds of the day, rising.

    Args:
        rate: shape (86400,), mean number of orders in each second.
    """
    bursts = rng.poisson(rate / _mean(BURST_TAIL, MAX_BURST) * rng.gamma(RATE_SHAPE, 1 / RATE_SHAPE, DAY_S))
    start = np.repeat(np.arange(DAY_S), bursts) * 1_000_000 + rng.integers(0, 1_000_000, bursts.sum())
    orders = _at_least_one(rng, BURST_TAIL, MAX_BURST, len(start))
    delay = np.cumsum(BURST_GAP_US * rng.standard_exponential(orders.sum())).astype(np.int64)
    first = np.cumsum(orders) - orders
    microsecond = np.repeat(start - delay[first], orders) + delay
    microsecond.sort()
    return microsecond[: np.searchsorted(microsecond, DAY_S * 1_000_000)]


def _walks(rng: np.random.Generator, fills: Int64s, order: Int64s, step: Floats) -> Floats:
    """Return the distance of each fill from its order's first fill, in log price, shape (fills.sum(),).

    Args:
        fills: shape (orders,), number of fills.
        order: shape (fills.sum(),), index of each fill's order.
        step: shape (orders,), scale of the market's moves.
    """
    first = np.cumsum(fills) - fills
    is_further = np.ones(len(order), np.bool_)
    is_further[first] = False
    further = rng.standard_normal(len(order) - len(fills)) ** 2
    further[rng.random(len(further)) > FILL_WALK_SHARE] = 0.0
    further *= (WALK * step * (rng.random(len(fills)) < WALK_SHARE))[order[is_further]]
    walk = np.zeros(len(order))
    walk[is_further] = further
    np.cumsum(walk, out=walk)
    return np.asarray(walk - walk[first][order])


def _sides(rng: np.random.Generator, n: int) -> NDArray[np.int8]:
    """Return the sides of n orders, some with a trend, shape (n,)."""
    own, trend = np.where(rng.random((2, n)) < 0.5, Side.BUY, Side.SELL).astype(np.int8)
    fresh = rng.random(n) >= TREND_KEPT
    fresh[:1] = True
    trend = trend[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]
    return np.asarray(np.where(rng.random(n) < WITH_TREND, trend, own), np.int8)


def _sizes(rng: np.random.Generator, market: Market, n: int) -> Floats:
    """Return sizes over many decades on the grid of 1e-8, shape (n,)."""
    value = np.exp(np.log(10) * np.interp(rng.random(n), SIZE_SHARES, SIZE_DECADES))
    return np.asarray(np.maximum(np.rint(value / market.price * 1e8), 1.0) / 1e8)
