"""Compute the true state of a simulated market and the best forecast of its variance, to judge models.

The oracle knows the law of the market and the state at a second: each process of the log volatility, the clock, the
echoes of past jumps. The oracle does not know the future, nor the position of the last trade in the spread; that
position matters for the next second alone. The processes are Markov, so the oracle's forecast is also the expectation
given the whole past of the state. A model sees only trades and must estimate the state.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.simulator.orders import trades_of_state
from data.simulator.state import (
    ECHO,
    ECHO_S,
    FIRST_DAY,
    JUMP_STEP,
    JUMP_TAIL,
    JUMPS_A_DAY,
    SCALE_SD,
    SCALES_S,
    Draw,
    MarketState,
    Streams,
    check_day,
    market_of,
    season_of,
    state_of,
)
from data.times import DAY_S, NS
from data.trades import Floats, Int64s

POWERS = (1.5, 2.0)
"""Powers of the volatility: a second's expected squared return is a weighted sum of both powers. The squared step of an
order grows with the volatility, and the number of orders grows with the volatility too: sums of steps grow with the
square, price bounces grow with less."""
SWEPT, CALIBRATION_DAYS, CALIBRATION_SEED = 1.3, 12, 2**32
"""The weights are fitted on CALIBRATION_DAYS days; over a day the log volatility sweeps between -SWEPT and SWEPT."""


class Truth(NamedTuple):
    """True state at each whole second g of a day, from 0:00:00 to 23:59:59.

    Attributes:
        event_time: shape (86400,), g in ns since 1970, UTC.
        volatility: shape (86400,), in the second after g, in units of the product's ordinary volatility.
        trades_per_s: shape (86400,), expected trades in the second after g.
        is_jump: shape (86400,), the price jumps in the second after g.
        expected_variance: shape (86400,), the oracle: expectation of the target's square, the sum of squared log
            returns over the grid steps of (g, g + horizon], given the state at g.
        path_variance: shape (86400,), the same expectation given volatility and jumps of all seconds of the horizon.
            No forecast may use `path_variance`: the difference from the target's square is the noise of single trades.
    """

    event_time: Int64s
    volatility: Floats
    trades_per_s: Floats
    is_jump: NDArray[np.bool_]
    expected_variance: Floats
    path_variance: Floats


def simulate_truth(product_id: str, day: dt.date, seed: int = 0, horizon_s: int = 60) -> Truth:
    """Return the true state behind `simulate_day` with the same arguments.

    Args:
        product_id: for example `BTC-USD`.
        day: UTC, from `FIRST_DAY` to `LAST_DAY`.
        seed: seed of the whole market, at least 0.
        horizon_s: seconds that a target covers, from 1 to a day.

    Raises:
        ValueError: an argument is out of range, or the product name is not allowed.
    """
    market = market_of(product_id)
    check_day(day, seed)
    if not 1 <= horizon_s <= DAY_S:
        raise ValueError(f"horizon_s must be from 1 to {DAY_S}, was {horizon_s}")
    streams = Streams(product_id, seed)
    today, tomorrow = state_of(streams, day), state_of(streams, day + dt.timedelta(days=1))
    volatility = np.concatenate([today.volatility[:DAY_S], tomorrow.volatility[:DAY_S]])
    second_variance = np.zeros(2 * DAY_S)
    for weight, power in zip(second_weights(product_id), POWERS, strict=True):
        second_variance += weight * volatility**power
    for start, state in ((0, today), (DAY_S, tomorrow)):
        at = start + state.jump_second
        second_variance[at] += (market.step * volatility[at] * state.jump) ** 2
    passed = np.concatenate(([0.0], np.cumsum(second_variance)))
    is_jump = np.zeros(DAY_S, np.bool_)
    is_jump[today.jump_second] = True
    return Truth(
        event_time=((day - FIRST_DAY).days * DAY_S + np.arange(DAY_S)) * NS,
        volatility=volatility[:DAY_S],
        trades_per_s=market.trades_per_s * volatility[:DAY_S],
        is_jump=is_jump,
        expected_variance=_expected_variance(product_id, today, horizon_s),
        path_variance=passed[horizon_s : horizon_s + DAY_S] - passed[:DAY_S],
    )


def _expected_variance(product_id: str, state: MarketState, horizon_s: int) -> Floats:
    """Return the expected realized variance after each second of a day given the state at the second, shape (86400,).

    The future log volatility is normal, except for jumps on the way; jumps come independently each second.
    """
    jump_share = JUMPS_A_DAY / DAY_S
    jump_square = JUMP_STEP**2 + 2 * JUMP_STEP * JUMP_TAIL + 2 * JUMP_TAIL**2
    terms = [*zip(second_weights(product_id), POWERS, strict=True)]
    terms.append((jump_share * jump_square * market_of(product_id).step ** 2, 2.0))
    now = np.arange(DAY_S)
    sd, kept = np.array(SCALE_SD), np.exp(-1 / np.array(SCALES_S))
    coming_echoes = [1.0 for _ in terms]  # expectation of exp(power * echo) of jumps on the way
    total = np.zeros(DAY_S)
    for ahead in range(horizon_s):
        faded = np.exp(-ahead / ECHO_S)
        mean = season_of(now + ahead) + state.echo[:DAY_S] * faded + (sd * kept**ahead) @ state.scales[:, :DAY_S]
        variance = float(np.sum(sd**2 * (1 - kept ** (2 * ahead))))
        for i, (weight, power) in enumerate(terms):
            total += weight * coming_echoes[i] * np.exp(power * mean + 0.5 * power**2 * variance)
            coming_echoes[i] *= 1 + jump_share * float(np.expm1(power * ECHO * faded))
    return total


@cache
def second_weights(product_id: str) -> tuple[float, ...]:
    """Return the weights of `POWERS` in the expected squared return of a second without a jump, by simulation.

    No formula covers bounce, ticks, walks and seconds without a trade together. Therefore days without jumps are
    simulated, with their own seed, and the squared returns of their seconds are fitted by weighted least squares. The
    error for BTC-USD is about 0.5 % in ordinary times and 1 % in the wildest and calmest; for sparse products 5 %.
    """
    market = market_of(product_id)
    half = np.linspace(-SWEPT, SWEPT, DAY_S // 2 + 1)
    sweep = np.concatenate((half[:-1], half[::-1]))
    state = MarketState(
        np.zeros((len(SCALES_S), DAY_S + 1)), sweep, np.zeros(DAY_S + 1), np.zeros(0, np.int64), np.zeros(0)
    )
    streams, level = Streams(product_id, CALIBRATION_SEED), float(np.log(market.price))
    squares = np.zeros(DAY_S)
    for day in range(CALIBRATION_DAYS):
        trades = trades_of_state(streams.open(Draw.TRADES, day), market, state, (level, level))
        last = np.searchsorted(trades.event_time, np.arange(DAY_S + 1) * NS, side="right") - 1
        squares += np.diff(np.log(trades.price[np.maximum(last, 0)])) ** 2 / CALIBRATION_DAYS
    volatility = np.exp(sweep[:DAY_S])
    precision = volatility**-2.0  # the spread of a squared return grows as its mean does
    powers = np.stack([volatility**power for power in POWERS], axis=1)
    fitted = np.linalg.lstsq(powers * precision[:, None], squares * precision, rcond=None)[0]
    return tuple(fitted.tolist())
