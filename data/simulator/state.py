"""Simulate the state of a market: price level, volatility and jumps, each day made alone.

Log volatility is a sum of Ornstein-Uhlenbeck processes, an hourly season and the echoes of jumps. A day's processes run
from the values at its first midnight to the values at its last midnight. The values at midnights are moving averages of
daily shocks: a day needs no other day, meets its neighbours, and still has the law of one endless process.
"""

from __future__ import annotations

import datetime as dt
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.names import check_product_id
from data.times import DAY_S, FIRST_YEAR, LAST_YEAR
from data.trades import Floats

FIRST_DAY, LAST_DAY = dt.date(FIRST_YEAR, 1, 1), dt.date(LAST_YEAR, 12, 31)
"""Days whose trades have an id of at least 0 and a time that fits in int64 nanoseconds."""


@dataclass(frozen=True)
class Market:
    """Parameters of the market of one product.

    Attributes:
        price: usual price, quote currency.
        decimals: decimals of the price; the tick is 10 ** -decimals.
        trades_per_s: mean trades a second in ordinary times.
        step: scale of the moves of the log price at one order, in ordinary times.
    """

    price: float
    decimals: int
    trades_per_s: float
    step: float


MARKETS = {
    "BTC-USD": Market(price=100_000.0, decimals=2, trades_per_s=12.0, step=0.75e-4),
    "ETH-USD": Market(price=3_500.0, decimals=2, trades_per_s=10.0, step=1.1e-4),
}

SCALES_S = (60.0, 600.0, 7_200.0, 172_800.0)
"""Seconds in which each process of the log volatility falls to 1 / e."""
SCALE_SD = (0.15, 0.15, 0.18, 0.22)
"""Standard deviations of the processes."""
SEASON, BUSIEST_HOUR = 0.2, 15
"""Hourly season of the log volatility: amplitude, and the UTC hour of the maximum."""

JUMPS_A_DAY = 6.0
JUMP_STEP, JUMP_TAIL = 6.0, 4.0
"""A jump of the log price is JUMP_STEP plus an exponential of mean JUMP_TAIL, in units of `Market.step` times
volatility."""
ECHO, ECHO_S = 0.5, 120.0
"""After a jump the log volatility is higher by ECHO; the echo falls to 1 / e in ECHO_S seconds."""

LEVEL_SD, LEVEL_MEMORY, LEVEL_DAYS = 0.03, 0.98, 400
"""The log price at midnight is a walk with daily standard deviation LEVEL_SD. The walk returns to `Market.price`:
a shock keeps the share LEVEL_MEMORY each day, and is forgotten after LEVEL_DAYS days."""


class Draw(IntEnum):
    """Purposes of random streams: each purpose and day has its own stream."""

    LEVEL = 0
    TRADES = 1
    JUMPS = 2
    VOLATILITY = 3
    MIDNIGHT = 4  # plus the index of the scale: keep it last


class Streams:
    """Random streams of one product: one stream for each purpose and day."""

    def __init__(self, product_id: str, seed: int) -> None:
        self._key = (seed, _name(product_id))

    def open(self, purpose: int, day: int) -> np.random.Generator:
        """Return the generator of one purpose and day (proleptic ordinal), at its start."""
        return np.random.default_rng((*self._key, purpose, day))


@dataclass(frozen=True)
class MarketShift:
    """A market that follows another law from some second of a day on: a drill for models that were trained before.

    Attributes:
        second: first second of the day with the other law.
        scale_sd: standard deviations of the processes from `second` on. The default makes volatility change fast:
            forecasts get worse, and intervals too narrow.
        log_volatility: added to the log volatility from `second` on.
    """

    second: int
    scale_sd: tuple[float, ...] = (0.6, *SCALE_SD[1:])
    log_volatility: float = 0.0


@dataclass(frozen=True)
class MarketState:
    """The state of one market at the whole seconds of one day, from midnight to midnight.

    Events within a second follow from the state at the start of the second.

    Attributes:
        scales: shape (len(SCALES_S), 86401), the processes of the log volatility, each of standard deviation 1.
        season: shape (86401,), the part of the log volatility from the hour of the day.
        echo: shape (86401,), the part of the log volatility from jumps in earlier seconds.
        jump_second: shape (k,), seconds of the day with a jump, rising.
        jump: shape (k,), moves of the log price, in units of `Market.step` times volatility.
        shift: another law from some second on; None in an ordinary market.
    """

    scales: Floats
    season: Floats
    echo: Floats
    jump_second: NDArray[np.int64]
    jump: Floats
    shift: MarketShift | None = None

    @property
    def volatility(self) -> Floats:
        """Return the volatility in units of the product's ordinary volatility, shape (86401,)."""
        log_volatility = np.array(SCALE_SD) @ self.scales + self.season + self.echo
        if self.shift is not None:
            after = slice(self.shift.second, None)
            log_volatility[after] += (np.array(self.shift.scale_sd) - np.array(SCALE_SD)) @ self.scales[:, after]
            log_volatility[after] += self.shift.log_volatility
        return np.asarray(np.exp(log_volatility))


def market_of(product_id: str) -> Market:
    """Return the parameters of a product; parameters of an unlisted product follow from the product's name.

    Raises:
        ValueError: the text is no product name.
    """
    check_product_id(product_id)
    if product_id in MARKETS:
        return MARKETS[product_id]
    rng = np.random.default_rng(_name(product_id))
    price = float(10 ** rng.uniform(-1, 3))
    return Market(
        price=price,
        decimals=max(2, 5 - int(np.floor(np.log10(price)))),
        trades_per_s=float(10 ** rng.uniform(-0.3, 0.7)),
        step=float(rng.uniform(1.1e-4, 2.1e-4)),
    )


def check_day(day: dt.date, seed: int) -> None:
    """Raise ValueError if day or seed is out of range."""
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"day must be from {FIRST_DAY} to {LAST_DAY}, was {day}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, was {seed}")


def _name(product_id: str) -> int:
    return zlib.crc32(product_id.encode())


def log_levels(streams: Streams, market: Market, day: dt.date) -> tuple[float, float]:
    """Return the log price at the start and at the end of a day."""
    last = day.toordinal() + 1
    shocks = [streams.open(Draw.LEVEL, last - age).standard_normal() for age in range(LEVEL_DAYS + 1)]
    weights = LEVEL_SD * LEVEL_MEMORY ** np.arange(LEVEL_DAYS)
    usual = np.log(market.price)
    return float(usual + np.dot(weights, shocks[1:])), float(usual + np.dot(weights, shocks[:-1]))


def state_of(streams: Streams, day: dt.date) -> MarketState:
    """Return the state of one market on one day."""
    start = day.toordinal()
    scales = streams.open(Draw.VOLATILITY, start).standard_normal((len(SCALES_S), DAY_S + 1))
    for scale, path in enumerate(scales):
        path[0], end = (_midnight(streams, scale, start + i) for i in (0, 1))
        _bridge(path, end, np.exp(-1 / SCALES_S[scale]))
    second = np.arange(DAY_S + 1)
    echo = np.zeros(DAY_S + 1)
    jump_second, jump = _jumps(streams, start)
    for at in (*(_jumps(streams, start - 1)[0] - DAY_S), *jump_second):
        since = second[max(at + 1, 0) :] - (at + 1)
        echo[max(at + 1, 0) :] += ECHO * np.exp(-since / ECHO_S)
    return MarketState(scales, season_of(second), echo, jump_second, jump)


def season_of(second: NDArray[np.int64]) -> Floats:
    """Return the hourly season of the log volatility at seconds of a day, shape as given."""
    return np.asarray(SEASON * np.cos(2 * np.pi * (second / 3_600 - BUSIEST_HOUR) / 24))


def _jumps(streams: Streams, day: int) -> tuple[NDArray[np.int64], Floats]:
    rng = streams.open(Draw.JUMPS, day)
    seconds = np.flatnonzero(rng.random(DAY_S) < JUMPS_A_DAY / DAY_S)
    size = JUMP_STEP + JUMP_TAIL * rng.standard_exponential(len(seconds))
    return seconds, np.where(rng.random(len(seconds)) < 0.5, size, -size)


def _midnight(streams: Streams, scale: int, day: int) -> float:
    """Return one process at the start of a day; over all days, the values have the law of the process at midnights."""
    kept = np.exp(-DAY_S / SCALES_S[scale])
    days = 1 + int(20 * SCALES_S[scale] / DAY_S)  # older shocks weigh less than exp(-20)
    shocks = [streams.open(Draw.MIDNIGHT + scale, day - age).standard_normal() for age in range(days)]
    return float(np.sqrt(1 - kept**2) * np.dot(kept ** np.arange(days), shocks))


@compiled
def _bridge(path: Floats, end: float, kept: float) -> None:
    """Turn normal noise into an Ornstein-Uhlenbeck process from path[0] to `end`, in place.

    The difference between `end` and the end of the free process is spread over the path by the covariance with the end.
    """
    last = len(path) - 1
    spread = np.sqrt(1 - kept * kept)
    for i in range(1, last + 1):
        path[i] = kept * path[i - 1] + spread * path[i]
    lack = (end - path[last]) / (1 - kept ** (2 * last))
    for i in range(last, 0, -1):
        path[i] += lack * (1 - kept ** (2 * i))
        lack *= kept
