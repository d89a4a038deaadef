"""Describe the trades of a real market in numbers, and compute the same numbers for any trades.

The grid of seconds begins at a segment's first trade. Values of several segments are pooled; no return, pair or
timestamp spans two segments.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.times import NS
from data.trades import Floats, Int64s, Side, Trades

GAP_S, SHORTEST_S = 300, 50
"""Seconds: a hole longer than `GAP_S` starts a segment; a segment shorter than `SHORTEST_S` is left out."""
SMALLEST_SIZE = 1.2e-5
"""The most frequent size, units of bitcoin."""
BP = 1e4


class Widened(Enum):
    """Allowed distance of a fact from the published values."""

    BY_FACTOR = "x 1.5"
    BY_SUM = "± .1"
    NOT_JUDGED = "shown"


class Fact(NamedTuple):
    """One number of a market.

    Attributes:
        name: name and unit.
        published: the measured value of each recording, or the ends of the measured range.
        widened: how the band follows from `published`.
    """

    name: str
    published: tuple[float, ...]
    widened: Widened = Widened.BY_FACTOR

    @property
    def band(self) -> tuple[float, float]:
        """Return the lowest and the highest allowed value."""
        low, high = min(self.published), max(self.published)
        if self.widened is Widened.BY_FACTOR:
            return low / 1.5, high * 1.5
        if self.widened is Widened.BY_SUM:
            return low - 0.1, high + 0.1
        return -np.inf, np.inf


FACTS = (
    Fact("trades a second, mean", (7.2, 23)),
    Fact("trades a second, peak", (102, 243), Widened.NOT_JUDGED),
    Fact("trades a second, variance / mean", (12.8, 36)),
    Fact("trades a second, autocorrelation lag 1", (0.03, 0.24), Widened.BY_SUM),
    Fact("seconds without a trade, share", (0.01, 0.05)),
    Fact("trades at the time of the trade before, share", (0.43, 0.57)),
    Fact("fills a timestamp, mean", (1.7, 2.3)),
    Fact("fills a timestamp, 99 %", (9, 15)),
    Fact("fills a timestamp, max", (46, 118), Widened.NOT_JUDGED),
    Fact("timestamps with several fills, share", (0.28, 0.39)),
    Fact("of these, walking the price, share", (0.74, 0.86)),
    Fact("zero returns by trade, share", (0.27, 0.37)),
    Fact("zero returns by second, share", (0.04, 0.18)),
    Fact("trade return, autocorrelation lag 1", (-0.07, -0.02), Widened.BY_SUM),
    Fact("trade return, standard deviation, bp", (0.29, 0.41)),
    Fact("1 s return, standard deviation, bp", (0.81, 2.16)),
    Fact("1 s return, kurtosis", (7.0, 12.7)),
    Fact("absolute 1 s return, autocorrelation lag 1", (0.01, 0.16), Widened.BY_SUM),
    Fact("absolute 1 s return, autocorrelation lag 10", (-0.01, 0.06), Widened.BY_SUM),
    Fact("absolute 1 s return, autocorrelation lag 60", (-0.05,), Widened.BY_SUM),
    Fact("variance on a 1 s over a 60 s grid", (1.33,)),
    Fact("variance on a 5 s over a 60 s grid", (1.18,)),
    Fact("variance on a 15 s over a 60 s grid", (0.99,)),
    Fact("log trades and absolute return of a second, correlation", (0.5,), Widened.BY_SUM),
    Fact("side, autocorrelation lag 1", (0.74,), Widened.BY_SUM),
    Fact("side, autocorrelation lag 10", (0.22,), Widened.BY_SUM),
    Fact("side, autocorrelation lag 50", (-0.02,), Widened.BY_SUM),
    Fact("side by timestamp, autocorrelation lag 1", (0.3,), Widened.BY_SUM),
    Fact("side by timestamp, autocorrelation lag 10", (0.0,), Widened.BY_SUM),
    Fact("price up at a buy, share", (0.5,)),
    Fact("price down at a buy, share", (0.2,)),
    Fact("size, 10 %", (1.2e-5,)),
    Fact("size, 50 %", (0.0013, 0.002)),
    Fact("size, 90 %", (0.038, 0.05)),
    Fact("size, 99 %", (0.15, 0.25)),
    Fact("sizes of 1.2e-5, share", (0.05, 0.07)),
    Fact("price step that is not 0, 50 %, bp", (0.09, 0.13)),
    Fact("price step that is not 0, 90 %, bp", (0.48, 0.72)),
    Fact("price step that is not 0, 99 %, bp", (1.3, 1.8)),
    Fact("run of one price, mean", (1.4, 1.6)),
    Fact("run of one price, 90 %", (2,)),
    Fact("run of one price, 99 %", (5, 8)),
    Fact("run of one price, max", (88, 89), Widened.NOT_JUDGED),
    Fact("hourly volatility, max / min within a day", (1.6, 2.1)),
)
"""Facts measured on ten minutes of BTC-USD in November 2025, and on two separate minutes of other days of the month."""


class _Segment(NamedTuple):
    """One segment in columns; `grid_log_price`, `second_return` and `counts` are on the grid of seconds."""

    time: Int64s
    price: Floats
    size: Floats
    side: Floats
    first: NDArray[np.intp]  # of the trades of each timestamp
    grid_log_price: Floats
    second_return: Floats
    counts: Floats


def facts_of(trades: Trades) -> dict[str, float]:
    """Return the facts of one stream by their names in `FACTS`.

    A fact that the trades do not show is NaN: facts of sides without sides, facts of long times in a short recording.
    Standard deviations and steps of prices are in basis points, sizes in units of the base currency; shares and
    correlations have no unit.

    Args:
        trades: shape (n,), one stream, event times not falling.

    Raises:
        ValueError: the trades are of several streams, event times fall, or no segment lasts `SHORTEST_S`.
    """
    if len(np.unique(trades.stream)) > 1:
        raise ValueError(f"facts are those of one stream, these trades are of {len(np.unique(trades.stream))}")
    if np.any(np.diff(trades.event_time) < 0):
        raise ValueError("facts need event times that do not fall")
    segments = _segments(trades)
    if not segments:
        raise ValueError(f"facts need a segment of at least {SHORTEST_S} s, the longest of these trades is shorter")
    with np.errstate(invalid="ignore"):  # a constant series has no correlation and no kurtosis: NaN
        facts = _of_arrivals(segments) | _of_returns(segments) | _of_sides(segments) | _of_steps(segments)
    size = np.concatenate([s.size for s in segments])
    for share in (10, 50, 90, 99):
        facts[f"size, {share} %"] = float(np.quantile(size, share / 100))
    facts["sizes of 1.2e-5, share"] = float(np.mean(np.abs(size / SMALLEST_SIZE - 1) < 1e-6))
    facts["hourly volatility, max / min within a day"] = _hourly_ratio(segments)
    return {fact.name: facts[fact.name] for fact in FACTS}


def _segments(trades: Trades) -> list[_Segment]:
    cuts = np.flatnonzero(np.diff(trades.event_time) > GAP_S * NS) + 1
    found = []
    for rows in np.split(np.arange(len(trades)), cuts):
        if not len(rows) or trades.event_time[rows[-1]] - trades.event_time[rows[0]] < SHORTEST_S * NS:
            continue
        cut = slice(rows[0], rows[-1] + 1)
        time, price = trades.event_time[cut], trades.price[cut]
        grid = np.arange(time[0], time[-1] + 1, NS)
        at = np.searchsorted(time, grid, side="right") - 1
        log_price = np.log(price[at])
        found.append(
            _Segment(
                time,
                price,
                trades.size[cut],
                trades.side[cut].astype(np.float64),
                np.flatnonzero(np.concatenate(([True], np.diff(time) > 0))),
                log_price,
                np.diff(log_price),
                np.diff(np.searchsorted(time, grid)).astype(np.float64),
            )
        )
    return found


def _pooled(segments: list[_Segment], values: Callable[[_Segment], Floats]) -> Floats:
    return np.concatenate([values(segment) for segment in segments])


def _autocorrelation(series: list[Floats], lag: int) -> float:
    """Return the pooled autocorrelation; NaN if no series varies and is at least twice as long as the lag."""
    centred = [x - np.mean(x) for x in series if len(x) >= 2 * lag and np.ptp(x) > 0]
    if not centred:
        return np.nan
    return sum(float(np.dot(x[lag:], x[:-lag])) for x in centred) / sum(float(np.dot(x, x)) for x in centred)


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else np.nan


def _share(values: NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _of_arrivals(segments: list[_Segment]) -> dict[str, float]:
    count = _pooled(segments, lambda s: s.counts)
    same = _pooled(segments, lambda s: (np.diff(s.time) == 0).astype(np.float64))
    fills = _pooled(segments, lambda s: np.diff(s.first, append=len(s.time)).astype(np.float64))
    walked = _pooled(segments, lambda s: np.maximum.reduceat(s.price, s.first) - np.minimum.reduceat(s.price, s.first))
    several = fills > 1
    return {
        "trades a second, mean": float(count.mean()),
        "trades a second, peak": float(count.max()),
        "trades a second, variance / mean": float(count.var() / count.mean()),
        "trades a second, autocorrelation lag 1": _autocorrelation([s.counts for s in segments], 1),
        "seconds without a trade, share": float(np.mean(count == 0)),
        "trades at the time of the trade before, share": float(same.mean()),
        "fills a timestamp, mean": float(fills.mean()),
        "fills a timestamp, 99 %": float(np.quantile(fills, 0.99)),
        "fills a timestamp, max": float(fills.max()),
        "timestamps with several fills, share": float(several.mean()),
        "of these, walking the price, share": _share(walked[several] > 0),
    }


def _of_returns(segments: list[_Segment]) -> dict[str, float]:
    by_trade = [np.diff(np.log(s.price)) for s in segments]
    trade_return = np.concatenate(by_trade)
    second = _pooled(segments, lambda s: s.second_return)
    absolute = [np.abs(s.second_return) for s in segments]
    count = _pooled(segments, lambda s: s.counts)
    moments = second - second.mean()
    facts = {
        "zero returns by trade, share": float(np.mean(trade_return == 0)),
        "zero returns by second, share": float(np.mean(second == 0)),
        "trade return, autocorrelation lag 1": _autocorrelation(by_trade, 1),
        "trade return, standard deviation, bp": float(trade_return.std() * BP),
        "1 s return, standard deviation, bp": float(second.std() * BP),
        "1 s return, kurtosis": float(np.mean(moments**4) / np.mean(moments**2) ** 2),
        "log trades and absolute return of a second, correlation": float(
            np.corrcoef(np.log1p(count), np.abs(second))[0, 1]
        ),
    }
    for lag in (1, 10, 60):
        facts[f"absolute 1 s return, autocorrelation lag {lag}"] = _autocorrelation(absolute, lag)
    minute = _variance_a_second(segments, 60)
    for step in (1, 5, 15):
        facts[f"variance on a {step} s over a 60 s grid"] = float(_variance_a_second(segments, step) / minute)
    return facts


def _variance_a_second(segments: list[_Segment], step: int) -> np.float64:
    """Return the mean squared return of grid steps from every second, divided by `step`; NaN for short segments."""
    squares = [(s.grid_log_price[step:] - s.grid_log_price[:-step]) ** 2 for s in segments if len(s.counts) >= 300]
    return np.float64(np.mean(np.concatenate(squares)) / step if squares else np.nan)


def _of_sides(segments: list[_Segment]) -> dict[str, float]:
    facts = {
        f"side, autocorrelation lag {lag}": _autocorrelation([s.side for s in segments], lag) for lag in (1, 10, 50)
    }
    for lag in (1, 10):
        by_timestamp = [s.side[s.first] for s in segments]
        facts[f"side by timestamp, autocorrelation lag {lag}"] = _autocorrelation(by_timestamp, lag)
    at_buy = _pooled(segments, lambda s: np.diff(s.price)[s.side[1:] == Side.BUY])
    facts["price up at a buy, share"] = _share(at_buy > 0)
    facts["price down at a buy, share"] = _share(at_buy < 0)
    return facts


def _of_steps(segments: list[_Segment]) -> dict[str, float]:
    step = _pooled(segments, lambda s: np.abs(np.diff(s.price) / s.price[:-1]) * BP)
    ends = [np.concatenate(([-1], np.flatnonzero(np.diff(s.price)), [len(s.price) - 1])) for s in segments]
    run = np.concatenate([np.diff(end) for end in ends])
    facts = {
        f"price step that is not 0, {share} %, bp": _quantile(step[step > 0], share / 100) for share in (50, 90, 99)
    }
    return facts | {
        "run of one price, mean": float(run.mean()),
        "run of one price, 90 %": float(np.quantile(run, 0.9)),
        "run of one price, 99 %": float(np.quantile(run, 0.99)),
        "run of one price, max": float(run.max()),
    }


def _hourly_ratio(segments: list[_Segment]) -> float:
    """Return the ratio of largest to smallest hourly volatility, from 1 s returns; NaN for fewer than 12 hours."""
    hours = [
        np.sqrt(np.sum(s.second_return[: len(s.second_return) // 3_600 * 3_600].reshape(-1, 3_600) ** 2, axis=1))
        for s in segments
    ]
    volatility = np.concatenate(hours)
    return float(volatility.max() / volatility.min()) if len(volatility) >= 12 else np.nan
