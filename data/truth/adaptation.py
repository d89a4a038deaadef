"""Adapt forecasts to their market while the stream runs: a scale, and an offset for each end of the interval.

A counted forecast teaches once its horizon has passed. The state of a stream is a few numbers; each forecast is
published with the state behind it, so a start can rebuild the state from published forecasts. Each version of a model
has a state of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.features.spec import FeatureSpec
from data.slots import Slots
from data.trades import Floats, Int64s, StreamKey, Trades
from data.truth.counting import TWELFTH
from data.truth.streaming import (
    Horizon,
    horizon_fields,
    is_due,
    is_new_segment,
    last_point,
    leave,
    pass_point,
    realized_variance,
    start_segment,
    wait,
)

if TYPE_CHECKING:
    from data.models.served import Scores

MAX_RATIO = 20.0
"""Largest ratio of realized to forecast variance that counts: one bad print must not rule the scale."""

PRIOR_HORIZONS, HALF_LIFE_HORIZONS = 60.0, 240.0
"""Weight of the scale 1 at the start, and half-life of what was learnt, in horizons."""

DECAY = 0.5 ** (1 / (HALF_LIFE_HORIZONS * TWELFTH))
"""Factor on all earlier weights with each judged forecast."""

LEAST_SCALE = 1e-6
"""Smallest scale of a variance: a score stays above 0 in a market without moves."""

TAIL = 0.05
"""Share of targets beyond each end of the interval: nominal coverage is 90 %."""

STEP = 6 * 0.024 / TWELFTH
"""Step of an offset's logarithm with each judged forecast: six times the .024 a horizon of conformal inference over all
past scores. Measured (simulated days; seconds of 2016, both models): at .024 the real coverage after the first hour is
.82 to .84, at six times .024 .91 to .92, at twenty times .024 the intervals of simulated days become 15 % wider."""

MAX_OFFSET = 3.5
"""Largest offset, as a logarithm: an end may move by a factor of 33. In markets with many horizons without a move the
lower end would fall without end. Measured on seconds of 2016, 21 % of them without a move: with 3, coverage is .88 to
.90, with 3.5, .91 to .92, with 4, no better."""

OWN_INTERVAL_HORIZONS = 24
"""Judged horizons before the first interval with offsets; the model's own interval is published until then."""

_DIGITS = 1e6
"""The state is rounded to six decimals: a record of a forecast is 5 % shorter."""

_STATE = ("weighted_sum", "weight", "offset_low", "offset_high")


class Adapted(NamedTuple):
    """Adapted forecasts for n rows, each with the state behind it.

    Attributes:
        score, lower, upper: shape (n,), volatility per horizon, lower <= score <= upper.
        weighted_sum, weight: shape (n,), their ratio is the scale of the model's variance.
        offset_low, offset_high: shape (n,), logarithms of the factors on the ends of the scaled interval.
        judged_horizons: shape (n,), judged forecasts of the stream and version, as horizons of twelve.
        alike: shape (n,), index of the first row with the same state, for writing each state once.
    """

    score: Floats
    lower: Floats
    upper: Floats
    weighted_sum: Floats
    weight: Floats
    offset_low: Floats
    offset_high: Floats
    judged_horizons: Floats
    alike: Int64s


class RawForecasts(NamedTuple):
    """Forecasts of one version for n rows of any streams, in the order of each stream.

    Attributes:
        stream: shape (n,), int32, index of each row's stream.
        event_time: shape (n,), ns since 1970, not falling within a stream.
        price: shape (n,).
        score, lower, upper: shape (n,), as the model forecasts.
        teaches: shape (n,), whether the forecast may teach, see `teaching`.
    """

    stream: NDArray[np.int32]
    event_time: Int64s
    price: Floats
    score: Floats
    lower: Floats
    upper: Floats
    teaches: NDArray[np.bool_]

    @classmethod
    def of(cls, trades: Trades, scores: Scores, teaches: NDArray[np.bool_]) -> Self:
        """Return the forecasts for the feature rows of n trades."""
        columns = trades.stream, trades.event_time, trades.price, scores.score, scores.lower, scores.upper
        return cls(*columns, teaches)


class Published(NamedTuple):
    """n published forecasts of one model for one stream, in order, each with its state of adaptation.

    Attributes:
        event_time: shape (n,), ns since 1970.
        price: shape (n,).
        raw_score: shape (n,), as the model forecast.
        lower, upper: shape (n,), the published interval.
        weighted_sum, weight, offset_low, offset_high, judged_horizons: shape (n,), see `Adapted`.
        teaches: shape (n,), see `RawForecasts`.
    """

    event_time: Int64s
    price: Floats
    raw_score: Floats
    lower: Floats
    upper: Floats
    weighted_sum: Floats
    weight: Floats
    offset_low: Floats
    offset_high: Floats
    judged_horizons: Floats
    teaches: NDArray[np.bool_]


def teaching(values: Floats, event_time: Int64s, train_end: int, spec: FeatureSpec) -> NDArray[np.bool_]:
    """Return for each row whether its forecast may teach: one half-life is known, and the model never saw the data.

    Args:
        values: shape (n, columns of the spec).
        event_time: shape (n,), ns since 1970.
        train_end: newest time of the model's training data, ns since 1970.
    """
    known = ~np.isnan(values[:, spec.columns.index(shortest_ewma(spec))])
    return np.asarray(known & (event_time > train_end), np.bool_)


def shortest_ewma(spec: FeatureSpec) -> str:
    """Return the column that is known from the shortest half-life on.

    >>> shortest_ewma(FeatureSpec())
    'ewma_variance_60'
    """
    return f"ewma_variance_{spec.half_lives[0]}"


def reach_ns(spec: FeatureSpec) -> int:
    """Return how far before a row, in ns, the oldest forecast lies that may still wait for its target."""
    horizon = Horizon.of(spec)
    return horizon.twelfth * TWELFTH + horizon.step


class Adaptations:
    """The states of one version of a model in any number of streams, under one spec."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._horizon = Horizon.of(spec)
        horizon = horizon_fields(spec)
        waiting = horizon[-1][2]
        layout = [
            *horizon,
            *((name, "f8") for name in _STATE),
            ("judged", "i8"),  # forecasts
            ("root", "f8"),  # root of the scale
            ("factor_low", "f8"),  # factors of the offsets
            ("factor_high", "f8"),
            ("alike", "i8"),  # first row of the batch with this state; -1 before
            ("raw_variance", "f8", waiting),  # of each waiting forecast
            ("lower", "f8", waiting),  # ends with offsets, published or not
            ("upper", "f8", waiting),
            ("teaches", "i1", waiting),
        ]
        new = np.zeros(1, np.dtype(layout, align=True))
        _start(new[0])
        self._slots = Slots(new)

    @property
    def open_streams(self) -> tuple[StreamKey, ...]:
        """Return the streams that have a state."""
        return self._slots.keys

    def drop(self, key: StreamKey) -> None:
        """Drop the state of a stream that has ended or has moved to another process."""
        self._slots.drop(key)

    def adapt(self, keys: tuple[StreamKey, ...], raw: RawForecasts) -> Adapted:
        """Return the adapted forecasts, and leave the states ready for the next rows.

        Splitting the same rows into other batches, or mixing in other streams, changes no byte.

        Args:
            keys: the streams that `raw.stream` points into.
        """
        slots = np.full(len(keys), -1)
        for stream in np.flatnonzero(np.bincount(raw.stream, minlength=len(keys))):
            slots[stream] = self._slots.slot(keys[stream])
        n = len(raw.price)
        alike = np.empty(n, np.int64)
        found = Adapted(**{name: np.empty(n) for name in Adapted._fields if name != "alike"}, alike=alike)
        _adapt(self._slots.state, slots, raw, self._horizon, found)
        return found

    def resume(self, key: StreamKey, published: Published) -> None:
        """Rebuild the state of a stream after its newest published forecast.

        Args:
            published: in order, at least all forecasts within `reach_ns` before the newest.
        """
        self._slots.drop(key)
        slot = self._slots.slot(key)
        _resume(self._slots.state, slot, published, self._horizon)


def adapted(
    event_time: Int64s, price: Floats, scores: Scores, teaches: NDArray[np.bool_], spec: FeatureSpec
) -> Adapted:
    """Return the adapted forecasts of one stream and version, from its first row on: the same bytes as online.

    Args:
        event_time: shape (n,), ns since 1970, not falling.
        price: shape (n,).
        scores: of all n rows: a stream without some of its rows has other targets.
        teaches: shape (n,), see `teaching`.
    """
    raw = RawForecasts(
        np.zeros(len(price), np.int32), event_time, price, scores.score, scores.lower, scores.upper, teaches
    )
    return Adaptations(spec).adapt((StreamKey("", ""),), raw)


def compile_adaptation(spec: FeatureSpec) -> None:
    """Compile the kernels, or load the compiled kernels from the cache, so that the first forecast need not wait."""
    key, time, one = StreamKey("", ""), np.zeros(1, np.int64), np.ones(1)
    teaches = np.zeros(1, np.bool_)
    states = Adaptations(spec)
    states.adapt((key,), RawForecasts(np.zeros(1, np.int32), time, one, one, one, one, teaches))
    state = (one, one, one, one, one)
    states.resume(key, Published(time, one, one, one, one, *state, teaches))


# The kernel. `w` is the state of one stream.


@compiled
def _start(w: Any) -> None:
    start_segment(w)
    w.weighted_sum = PRIOR_HORIZONS
    w.weight = PRIOR_HORIZONS
    w.offset_low = 0.0
    w.offset_high = 0.0
    w.judged = 0
    w.alike = -1
    _derive(w)


@compiled
def _derive(w: Any) -> None:
    w.root = math.sqrt(max(w.weighted_sum / w.weight, LEAST_SCALE))
    w.factor_low = math.exp(w.offset_low)
    w.factor_high = math.exp(w.offset_high)


@compiled
def _rounded(value: float) -> float:
    return float(np.rint(value * _DIGITS) / _DIGITS)


@compiled
def _learn(w: Any, variance: float) -> None:
    """Learn from the oldest waiting forecast, whose realized variance is known."""
    at = w.oldest
    ratio = min(variance / w.raw_variance[at], MAX_RATIO)
    w.weighted_sum = _rounded(w.weighted_sum * DECAY + ratio / TWELFTH)
    w.weight = _rounded(w.weight * DECAY + 1 / TWELFTH)
    target = math.sqrt(variance)
    low = -STEP * (1 - TAIL) if target < w.lower[at] else STEP * TAIL
    high = STEP * (1 - TAIL) if target > w.upper[at] else -STEP * TAIL
    w.offset_low = _rounded(min(max(w.offset_low + low, -MAX_OFFSET), MAX_OFFSET))
    w.offset_high = _rounded(min(max(w.offset_high + high, -MAX_OFFSET), MAX_OFFSET))
    w.judged += 1
    w.alike = -1
    _derive(w)


@compiled
def _pass_time(w: Any, t: int, horizon: Horizon) -> None:
    """Learn from all forecasts whose horizon has passed by a row at time `t`; start a segment where `t` begins one."""
    until = last_point(w, t, horizon)
    while w.point < until:
        pass_point(w)
        while is_due(w):
            if w.teaches[w.oldest]:
                _learn(w, realized_variance(w))
            leave(w)
    if is_new_segment(w, t, horizon):
        start_segment(w)


@compiled
def _remember(w: Any, at: int, raw_score: float, lower: float, upper: float, teaches: bool) -> None:
    """Keep what a waiting forecast has to teach; `at` is its index."""
    w.raw_variance[at] = raw_score * raw_score
    w.lower[at] = lower
    w.upper[at] = upper
    w.teaches[at] = teaches


@compiled
def _adapt(state: NDArray[np.void], slots: Int64s, raw: RawForecasts, horizon: Horizon, out: Adapted) -> None:
    for slot in slots:
        if slot >= 0:  # the batch has rows of the stream
            state[slot].alike = -1
    for i in range(len(raw.price)):
        w = state[slots[raw.stream[i]]]
        t = raw.event_time[i]
        _pass_time(w, t, horizon)
        score = raw.score[i] * w.root
        own_lower, own_upper = raw.lower[i] * w.root, raw.upper[i] * w.root
        lower, upper = min(own_lower * w.factor_low, score), max(own_upper * w.factor_high, score)
        has_offsets = w.judged >= OWN_INTERVAL_HORIZONS * TWELFTH
        out.score[i] = score
        out.lower[i] = lower if has_offsets else own_lower
        out.upper[i] = upper if has_offsets else own_upper
        out.weighted_sum[i] = w.weighted_sum
        out.weight[i] = w.weight
        out.offset_low[i] = w.offset_low
        out.offset_high[i] = w.offset_high
        out.judged_horizons[i] = _rounded(w.judged / TWELFTH)
        if w.alike < 0:
            w.alike = i
        out.alike[i] = w.alike
        _remember(w, wait(w, t, raw.price[i], horizon), raw.score[i], lower, upper, raw.teaches[i])


@compiled
def _resume(state: NDArray[np.void], slot: int, rows: Published, horizon: Horizon) -> None:
    w = state[slot]
    for i in range(len(rows.price)):
        t = rows.event_time[i]
        _pass_time(w, t, horizon)
        w.weighted_sum = rows.weighted_sum[i]
        w.weight = rows.weight[i]
        w.offset_low = rows.offset_low[i]
        w.offset_high = rows.offset_high[i]
        w.judged = round(rows.judged_horizons[i] * TWELFTH)
        _derive(w)
        lower, upper = rows.lower[i], rows.upper[i]
        if w.judged < OWN_INTERVAL_HORIZONS * TWELFTH:
            score = rows.raw_score[i] * w.root
            lower, upper = min(lower * w.factor_low, score), max(upper * w.factor_high, score)
        _remember(w, wait(w, t, rows.price[i], horizon), rows.raw_score[i], lower, upper, rows.teaches[i])
