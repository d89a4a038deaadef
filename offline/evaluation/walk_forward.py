"""Purged walk-forward: each forecast comes from a model that was fitted to earlier rows alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.times import DAY_S, NS
from data.trades import Floats, Int64s, StreamKey
from data.truth.adaptation import Adaptations, RawForecasts, teaching
from data.truth.targets import variance_floor
from offline.history import History
from offline.models.cascade import Forecasts

CALIBRATED_EWMA = "calibrated_ewma"
"""The forecaster to which others are compared."""

FIRST_HORIZONS = 120
"""Horizons of history before the first forecast: 5 days of minute candles, 2 hours of trades."""

LEAST_HORIZONS = 8
"""Shortest span of a file that can be walked forward."""

GROWTH = 0.25
"""Models are refitted when their history has grown by this share, and at least daily."""

EMBARGO = 2
"""Horizons between a training row and a refit: the first holds the row's target, the second is the embargo."""


class Forecaster(Protocol):
    """A fitted forecaster."""

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows; a row's forecast depends on nothing later than the row."""
        ...

    def weights(self) -> Mapping[str, float]:
        """Return fitted numbers to show."""
        ...


class Past(NamedTuple):
    """What a recipe may learn from at a refit.

    Attributes:
        rows: rows whose targets were known one horizon before the refit.
        until: time of the refit, ns since 1970: the grid is known up to `until`.
        floor: variance floor, from the training rows.
        prior: mean realized variance of the training rows.
    """

    rows: History
    until: int
    floor: float
    prior: float


Recipe = Callable[[Past], Forecaster]
"""Fits a forecaster; raises `TooShort` if the past is too short for the model."""


class TooShort(ValueError):
    """The past is too short for a model."""


class JudgedRows(Protocol):
    """Rows with known targets, ordered by event time; see `History` for the attributes."""

    @property
    def spec(self) -> FeatureSpec: ...
    @property
    def products(self) -> tuple[str, ...]: ...
    @property
    def product(self) -> NDArray[np.intp]: ...
    @property
    def event_time(self) -> Int64s: ...
    @property
    def targets(self) -> Floats: ...
    @property
    def age_s(self) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Run:
    """Forecasts of all forecasters on the same rows.

    Attributes:
        rows: the n rows with forecasts.
        forecasts: by name.
        floor: shape (n,), variance floor of each row, from the training rows of the row's refit.
        left_out: reason by name of each forecaster without forecasts.
        refits: times of the refits, ns since 1970.
        weights: by name, the fitted numbers at each refit.
        jumps: times of the market's jumps, where known, ns since 1970, rising.
        reference: the forecaster to which all others are compared.
        own_floors: variance floor by name of each forecaster that states one; `floor` holds for all others.
    """

    rows: JudgedRows
    forecasts: dict[str, Forecasts]
    floor: Floats
    left_out: dict[str, str]
    refits: Int64s
    weights: dict[str, list[Mapping[str, float]]]
    jumps: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    reference: str = CALIBRATED_EWMA
    own_floors: Mapping[str, float] = field(default_factory=dict)

    def realized(self, name: str) -> Floats:
        """Return the realized variance of each row's horizon, at least the floor of a forecaster, shape (n,)."""
        return np.maximum(self.rows.targets**2, self.own_floors.get(name, self.floor))


def refit_times(history: History) -> Int64s:
    """Return the times of refits, ns since 1970; the first is also the time of the first forecast.

    The first refit comes after `FIRST_HORIZONS` horizons; if the rows span less than 6 fifths of this time, after half
    of the span. Refits lie on UTC multiples of 24 horizons if the history is long enough for this, else of a horizon.

    Raises:
        ValueError: the rows span less than `LEAST_HORIZONS` horizons.
    """
    horizon = history.spec.horizon_s * NS
    begin, end = int(history.event_time[0]), int(history.event_time[-1])
    span = end - begin
    if span < LEAST_HORIZONS * horizon * 0.8:
        raise ValueError(
            f"the forecasts that can be judged span {span / NS:,.0f} s; a walk-forward needs "
            f"{LEAST_HORIZONS} horizons of {history.spec.horizon_s:,} s"
        )
    is_long = span >= 1.2 * FIRST_HORIZONS * horizon
    unit = 24 * horizon if is_long else horizon
    return growing_times(begin, begin + (FIRST_HORIZONS * horizon if is_long else span // 2), end, unit)


def growing_times(begin: int, first: int, end: int, unit: int) -> Int64s:
    """Return multiples of a unit from `first` to `end`: the next one after `GROWTH` of the time passed, or a day.

    Args:
        begin: of the history; all in ns since 1970.
    """
    time, found = -(-first // unit) * unit, []
    while time <= end:
        found.append(time)
        time += max(int(min(DAY_S * NS, GROWTH * (time - begin))) // unit, 1) * unit
    return np.array(found, np.int64)


def walk_forward(history: History, recipes: Mapping[str, Recipe], adaptive: Collection[str] = ()) -> Run:
    """Refit each recipe on the past at each refit, and forecast the rows up to the next refit.

    A forecaster that cannot be fitted at the first refit is left out.

    Args:
        adaptive: names of forecasters whose interval adapts while the market goes on, see `with_offsets`.

    Raises:
        ValueError: the history is too short, or shows no volatility.
    """
    counted = history.counted()
    refits = refit_times(counted)
    horizon = history.spec.horizon_s * NS
    left_out: dict[str, str] = {}
    parts: dict[str, list[Forecasts]] = {name: [] for name in recipes}
    weights: dict[str, list[Mapping[str, float]]] = {name: [] for name in recipes}
    tests, floors = [], []
    for time, until in zip(refits, [*refits[1:], np.iinfo(np.int64).max], strict=True):
        rows = np.flatnonzero((history.event_time >= time) & (history.event_time < until))
        if not len(rows):
            continue
        test, training = history.take(rows), counted.take(counted.event_time <= time - EMBARGO * horizon)
        if not len(training):
            raise ValueError("no target is known a horizon before the first refit: a longer recording is needed")
        floor = variance_floor(training.realized)
        past = Past(training, int(time), floor, float(np.mean(np.maximum(training.realized, floor))))
        for name, recipe in recipes.items():
            if name in left_out:
                continue
            try:
                forecaster = recipe(past)
            except TooShort as reason:
                left_out[name] = str(reason)
                continue
            least = np.sqrt(floor)
            parts[name].append(Forecasts(*(np.maximum(each, least) for each in forecaster.forecast(test))))
            weights[name].append(forecaster.weights())
        tests.append(rows)
        floors.append(np.full(len(rows), floor))
    rows = np.concatenate([np.empty(0, np.intp), *tests])
    test = history.take(rows)
    is_counted = ~np.isnan(test.targets)
    if not is_counted.any():
        raise ValueError("no forecast can be judged after the first refit: a longer recording is needed")
    forecasts = {
        name: Forecasts(*(np.concatenate(each) for each in zip(*found, strict=True)))
        for name, found in parts.items()
        if name not in left_out
    }
    forecasts |= {name: with_offsets(test, forecasts[name]) for name in adaptive if name in forecasts}
    return Run(
        test.take(is_counted),
        {name: each.take(is_counted) for name, each in forecasts.items()},
        np.concatenate(floors)[is_counted],
        left_out,
        refits,
        {name: weights[name] for name in forecasts},
    )


def adapted_forecasts(rows: History, raw: Forecasts, train_end: int = 0) -> Forecasts:
    """Return forecasts of one model after adaptation: the same as online, product by product.

    Args:
        rows: the last row of each grid step: no other price decides a target, and no other forecast counts.
        raw: of these rows.
        train_end: newest time of the model's training data, ns since 1970.
    """
    keys = tuple(StreamKey("", product) for product in rows.products)
    teaches = teaching(rows.values, rows.event_time, train_end, rows.spec)
    stream = rows.product.astype(np.int32)
    given = RawForecasts(stream, rows.event_time, rows.price, raw.score, raw.lower, raw.upper, teaches)
    found = Adaptations(rows.spec).adapt(keys, given)
    return Forecasts(found.score, found.lower, found.upper)


def with_offsets(rows: History, raw: Forecasts) -> Forecasts:
    """Return forecasts whose interval adapts, with the score as forecast: a refit model needs no scale."""
    found = adapted_forecasts(rows, raw)
    factor = raw.score / found.score
    return Forecasts(raw.score, found.lower * factor, found.upper * factor)
