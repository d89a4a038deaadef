"""Sum up judged forecasts over windows of event time, in memory that does not grow with the number of forecasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.times import DAY_S, NS
from data.trades import Floats, Int64s
from data.truth.counting import TWELFTH
from data.truth.losses import TERCILES, qlike
from data.truth.significance import LAGS, diebold_mariano

MINUTE_NS = 60 * NS
HOUR_NS = 60 * MINUTE_NS
DAY_MINUTES = DAY_S // 60
CLOSED_HOURS = 22
"""Closed hours that the minutes of a day always hold whole, beside the hour of the newest forecast."""

UNKNOWN_TERCILE = TERCILES
"""Tercile of a forecast whose volatility has no tercile."""

LEAST_HORIZONS = 240
"""Horizons from which a comparison with the baseline has a p-value."""

_SUMS = (
    "forecasts",
    "qlike",
    "bias",
    "realized",
    "forecast",
    "forecast_squared",
    "forecast_times_realized",
    "intervals",
    "below",
    "above",
    "log_width",
    "differences",
    "difference",
)
TERCILE_SUMS = ("forecasts", "qlike", "intervals", "below", "above")
COLUMNS = (*_SUMS, *(f"{name}_{tercile}" for tercile in range(TERCILES) for name in TERCILE_SUMS))


class Judgements(NamedTuple):
    """n judged forecasts of one model.

    Attributes:
        event_time: shape (n,), ns since 1970.
        target: shape (n,), realized volatility per horizon.
        score: shape (n,), forecast volatility per horizon.
        lower, upper: shape (n,), the interval; NaN for a forecast without one.
        rival: shape (n,), the baseline's score for the same row; NaN for a forecast without one, or of the baseline.
        tercile: shape (n,), 0 to 2, or `UNKNOWN_TERCILE`.
    """

    event_time: Int64s
    target: Floats
    score: Floats
    lower: Floats
    upper: Floats
    rival: Floats
    tercile: NDArray[np.intp]


class Losses(NamedTuple):
    """The losses of n judged forecasts.

    Attributes:
        realized: shape (n,), realized variance, at least the floor.
        qlike, bias: shape (n,); 0 without a floor.
        difference: shape (n,), QLIKE less the baseline's; NaN without a baseline's score, or without a floor.
    """

    realized: Floats
    qlike: Floats
    bias: Floats
    difference: Floats


class Differences(NamedTuple):
    """The loss differences of n judged forecasts of one model to the baseline.

    Attributes:
        step: shape (n,), number of the twelfth of a horizon that each forecast counts for, since 1970.
        difference: shape (n,), QLIKE less the baseline's.
    """

    step: Int64s
    difference: Floats


def merge(parts: Sequence[Differences]) -> Floats:
    """Return one difference for each twelfth of a horizon, shape (n,), in the order of event time.

    Two sources that replay the same day give their evidence once.

    Args:
        parts: of one source each; the first part that has a step wins.

    >>> day, again = Differences(np.array([8, 7]), np.array([0.8, 0.7])), Differences(np.array([8, 9]), np.zeros(2))
    >>> merge([day, again]).tolist()
    [0.7, 0.8, 0.0]
    """
    _, first = np.unique(np.concatenate([part.step for part in parts]), return_index=True)
    found: Floats = np.concatenate([part.difference for part in parts])[first]
    return found


def losses_of(judged: Judgements, floor: float | None) -> Losses:
    """Return the losses of forecasts, as `offline.evaluation` computes them.

    Args:
        floor: smaller realized variances count as `floor`; None: unknown, so no QLIKE and no bias.
    """
    realized, none = np.maximum(judged.target**2, floor or 0.0), np.zeros(len(judged.target))
    if floor is None:
        return Losses(realized, none, none, np.full(len(none), np.nan))
    loss = qlike(realized, judged.score**2, 0.0)
    known = ~np.isnan(judged.rival)
    difference = np.full(len(loss), np.nan)
    difference[known] = loss[known] - qlike(realized[known], judged.rival[known] ** 2, 0.0)
    return Losses(realized, loss, np.log(judged.score / np.sqrt(realized)), difference)


class WindowSums:
    """The sums of one model's judged forecasts of one stream, by minute of event time, over the last day.

    Args:
        twelfth_ns: a twelfth of the horizon, ns: one forecast in each counts.
    """

    def __init__(self, twelfth_ns: int) -> None:
        self._twelfth = twelfth_ns
        self._minute = np.full(DAY_MINUTES, -1)
        self._sums = np.zeros((DAY_MINUTES, len(COLUMNS)))  # a minute that was never written costs no memory
        self._time = np.full(DAY_S * NS // twelfth_ns, -1)
        self._difference = np.zeros(len(self._time))

    def add(self, judged: Judgements, losses: Losses) -> None:
        """Add forecasts, in the order of event time."""
        minute = judged.event_time // MINUTE_NS
        at = minute % DAY_MINUTES
        is_new = self._minute[at] != minute
        self._sums[at[is_new]] = 0.0
        self._minute[at] = minute
        np.add.at(self._sums, at, _columns(judged, losses))
        known = ~np.isnan(losses.difference)
        times = judged.event_time[known]
        place = -(-times // self._twelfth) % len(self._time)
        self._time[place] = times
        self._difference[place] = losses.difference[known]

    def over(self, minutes: int, now: int) -> dict[str, float]:
        """Return the sums over the last minutes, the minute of `now` included, by name of `COLUMNS`.

        Args:
            now: event time, ns since 1970.
        """
        found = self._sums[self._minute > now // MINUTE_NS - minutes].sum(axis=0)
        return dict(zip(COLUMNS, found.tolist(), strict=True))

    def has_forecasts(self, now: int) -> bool:
        """Return whether a forecast lies in the last day, the minute of `now` included.

        Args:
            now: event time, ns since 1970.
        """
        return bool((self._minute > max(now // MINUTE_NS - DAY_MINUTES, -1)).any())  # -1: never written

    def by_closed_hour(self, end: int, *names: str) -> Floats:
        """Return the sums of the hours before the hour of `end`, shape (names, `CLOSED_HOURS`), the newest hour first.

        Args:
            end: event time, ns since 1970, up to which all forecasts are judged.
            names: of `COLUMNS`.
        """
        ago = end // HOUR_NS - 1 - self._minute // 60
        mine = np.flatnonzero((ago >= 0) & (ago < CLOSED_HOURS))
        columns = (self._sums[mine, COLUMNS.index(name)] for name in names)
        return np.stack([np.bincount(ago[mine], column, CLOSED_HOURS) for column in columns])

    def differences(self, now: int) -> Differences:
        """Return the loss differences to the baseline over the last day, in no order."""
        mine = np.flatnonzero(self._time // MINUTE_NS > now // MINUTE_NS - DAY_MINUTES)
        return Differences(-(-self._time[mine] // self._twelfth), self._difference[mine])


def _columns(judged: Judgements, losses: Losses) -> Floats:
    """Return what each forecast adds to the sums, shape (n, `COLUMNS`)."""
    target, forecast = np.sqrt(losses.realized), judged.score**2
    has_interval, has_rival = ~np.isnan(judged.lower), ~np.isnan(losses.difference)
    below, above = target < judged.lower, target > judged.upper
    with np.errstate(divide="ignore"):  # an interval from 0 on has an infinite width
        width = np.log(judged.upper / judged.lower)
    parts: list[NDArray[Any]] = [
        np.ones(len(target)),
        losses.qlike,
        losses.bias,
        losses.realized,
        forecast,
        forecast**2,
    ]
    parts += [forecast * losses.realized, has_interval, below, above, np.where(has_interval, width, 0.0)]
    parts += [has_rival, np.where(has_rival, losses.difference, 0.0)]
    for tercile in range(TERCILES):
        mine = judged.tercile == tercile
        parts += [mine, np.where(mine, losses.qlike, 0.0), mine & has_interval, mine & below, mine & above]
    return np.column_stack(parts)


def slope(sums: dict[str, float]) -> float | None:
    """Return the slope of Mincer and Zarnowitz: realized variance on forecast variance; None if forecasts are equal."""
    n, forecast = sums["forecasts"], sums["forecast"]
    spread = n * sums["forecast_squared"] - forecast**2
    if spread <= 1e-12 * forecast**2:  # rounding alone
        return None
    return (n * sums["forecast_times_realized"] - forecast * sums["realized"]) / spread


def worse_p(differences: Floats) -> float | None:
    """Return the one-sided p that the baseline is better; None below `LEAST_HORIZONS`.

    Args:
        differences: shape (n,), QLIKE less the baseline's, in the order of time.
    """
    if len(differences) < LEAST_HORIZONS * TWELFTH:
        return None
    p = diebold_mariano(-differences, LAGS).p_one_sided
    return p if math.isfinite(p) else None
