"""Forecasters to compare with, and the recipes of a walk-forward: each is fitted to the past of a file alone."""

from __future__ import annotations

# ruff: noqa: PLC0415 - arch takes seconds to import
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import lfilter

from data.features.spec import FeatureSpec
from data.trades import Floats
from offline.evaluation.walk_forward import CALIBRATED_EWMA, Past, Recipe, TooShort
from offline.ewma import CalibratedEwma, calibrate, ewmas_of, with_longest_known
from offline.history import History
from offline.models import baseline, shape
from offline.models.cascade import Cascade, Forecasts, Rows
from offline.models.crossfit import COVERAGE, with_intervals
from offline.models.shape import shown_weights

BASELINE, ML = "baseline", "ml"

DAY, WEEK = 24, 120
"""Horizons of the second and third window of HAR: of minute candles, a day and five days."""

HAR_HORIZONS = 24
"""Least training horizons of HAR: four coefficients."""

CROSS_FIT_HORIZONS = 24
"""Least training horizons for intervals by cross-fitting; with fewer, the fitted rows themselves set the interval."""

GARCH_STEPS = 7_200
"""Grid steps that GARCH is fitted to, the newest: of minute candles, five days."""
GARCH_LEAST = 500
"""Least grid steps for GARCH."""


@dataclass(frozen=True, slots=True)
class Window:
    """The mean variance of the last horizons, as many as the segment has.

    Attributes:
        horizons: length of the window.
        prior: variance per horizon, for rows before the first grid step.
    """

    horizons: int
    prior: float

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows."""
        steps = self.horizons * rows.spec.horizon_s // rows.spec.grid_step_s
        mean = rows.mean_variance(steps)
        return Forecasts.of(np.where(np.isnan(mean), self.prior, mean))

    def weights(self) -> Mapping[str, float]:
        """Return nothing: a window has no fitted number."""
        return {}


@dataclass(frozen=True, slots=True)
class Ewma:
    """A weighted variance times a scale; in a segment's youth the longest known half-life, or the mean so far.

    Attributes:
        half_life: index among the half-lives of the spec.
        scale: forecast variance / weighted variance.
        prior: variance per horizon, see `History.young_variance`.
    """

    half_life: int
    scale: float
    prior: float

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows."""
        known = self.scale * with_longest_known(ewmas_of(rows.values, rows.spec))[:, self.half_life]
        return Forecasts.of(np.where(np.isnan(known), rows.young_variance(self.prior), known))

    def weights(self) -> Mapping[str, float]:
        """Return half-life and scale."""
        return {"half-life index": float(self.half_life), "scale": self.scale}


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The calibrated EWMA; the mean so far, pulled to a prior, for rows that know no half-life.

    Attributes:
        prior: variance per horizon, see `History.young_variance`.
    """

    ewma: CalibratedEwma
    prior: float

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows."""
        return Forecasts.of(self.ewma.forecast(ewmas_of(rows.values, rows.spec), rows.young_variance(self.prior)))

    def weights(self) -> Mapping[str, float]:
        """Return half-life and scale."""
        return {"half-life index": float(self.ewma.best), "scale": self.ewma.scales[self.ewma.best]}


def calibrated_ewma(past: Past) -> Calibrated:
    """Choose half-life and scale by QLIKE on the past.

    Raises:
        TooShort: no row of the past has a known half-life.
    """
    try:
        ewma = calibrate(ewmas_of(past.rows.values, past.rows.spec), past.rows.realized, past.floor)
    except ValueError as error:
        raise TooShort(str(error)) from error
    return Calibrated(ewma, past.prior)


@dataclass(frozen=True, slots=True)
class Har:
    """A line of the variances of three windows, by least squares on levels with weights 1 / variance ** 2.

    Attributes:
        coefficients: shape (4,), of a constant and of the windows of 1, `DAY` and `WEEK` horizons.
        least: positive lower limit of forecasts: the smallest variance of the past.
        prior: see `Window`.

    Source: Corsi (2009), Journal of Financial Econometrics 7(2), 174-196; weights: Clements, Preve (2021), Journal of
    Banking & Finance 133, 106285.
    """

    coefficients: Floats
    least: float
    prior: float

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows."""
        variance = _windows(rows, self.prior) @ self.coefficients
        return Forecasts.of(np.maximum(variance, self.least))

    def weights(self) -> Mapping[str, float]:
        """Return the coefficients."""
        names = ("constant", "1 horizon", f"{DAY} horizons", f"{WEEK} horizons")
        return dict(zip(names, self.coefficients.tolist(), strict=True))


def har(past: Past) -> Har:
    """Fit HAR.

    Raises:
        TooShort: the past has fewer than `HAR_HORIZONS` horizons.
    """
    rows = past.rows.take(past.rows.known_steps > 0)
    horizons = len(np.unique(rows.horizon))
    if horizons < HAR_HORIZONS:
        raise TooShort(f"the past has {horizons} horizons, HAR needs {HAR_HORIZONS}")
    realized, windows = np.maximum(rows.realized, past.floor), _windows(rows, past.prior)
    weight = 1 / np.maximum(windows[:, 1], past.floor)
    coefficients = np.linalg.lstsq(windows * weight[:, None], realized * weight, rcond=None)[0]
    return Har(np.asarray(coefficients, np.float64), float(realized.min()), past.prior)


def _windows(rows: History, prior: float) -> Floats:
    steps = rows.spec.horizon_s // rows.spec.grid_step_s
    means = [rows.mean_variance(horizons * steps) for horizons in (1, DAY, WEEK)]
    return np.column_stack([np.ones(len(rows)), *(np.where(np.isnan(mean), prior, mean) for mean in means)])


@dataclass(frozen=True, slots=True)
class Garch:
    """GARCH(1,1) of the grid's returns, filtered forward from the start of each segment, summed over the horizon.

    Attributes:
        omega, alpha, beta: by product: variance of the next step = omega + alpha * return ** 2 + beta * variance.
        start: by product, variance of a segment's first step.
    """

    omega: dict[int, float]
    alpha: dict[int, float]
    beta: dict[int, float]
    start: dict[int, float]

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows."""
        variance = np.empty(len(rows))
        horizon_steps = rows.spec.horizon_s // rows.spec.grid_step_s
        for product in np.unique(rows.product):
            mine = rows.product == product
            p = int(product)
            following = next_variance(rows, p, self.omega[p], self.alpha[p], self.beta[p], self.start[p])
            known = rows.point[mine] >= 0
            following = np.where(known, following[rows.point[mine]], self.start[p])
            variance[mine] = horizon_variance(following, self.omega[p], self.alpha[p] + self.beta[p], horizon_steps)
        return Forecasts.of(variance)

    def weights(self) -> Mapping[str, float]:
        """Return alpha and beta of the first product."""
        return {"alpha": next(iter(self.alpha.values())), "beta": next(iter(self.beta.values()))}


def next_variance(rows: History, product: int, omega: float, alpha: float, beta: float, start: float) -> Floats:
    """Return the variance of the step after each grid point, shape (grid points,); 0 for points of other products."""
    grid = rows.grid
    found = np.zeros(len(grid.time))
    mine = np.flatnonzero(grid.product == product)
    if not len(mine):
        return found
    begins = mine[np.concatenate([[0], np.flatnonzero(np.diff(grid.segment[mine])) + 1])]
    for begin, end in zip(begins, [*begins[1:], mine[-1] + 1], strict=True):
        found[begin] = start
        if end > begin + 1:
            news = omega + alpha * grid.log_return[begin + 1 : end] ** 2
            found[begin + 1 : end] = lfilter([1.0], [1.0, -beta], news, zi=np.array([beta * start]))[0]
    return found


def horizon_variance(following: Floats, omega: float, persistence: float, steps: int) -> Floats:
    """Return the expected sum of the variances of the next steps.

    Args:
        following: shape (n,), variance of the first step.
        persistence: alpha + beta.

    >>> horizon_variance(np.array([2.0]), omega=0.5, persistence=0.5, steps=2)  # 2, then 0.5 + 0.5 * 2
    array([3.5])
    """
    powers = persistence ** np.arange(steps)
    news = omega * np.concatenate([[0.0], np.cumsum(powers)[:-1]]).sum()
    return np.asarray(following * powers.sum() + news, dtype=np.float64)


def garch(past: Past) -> Garch:
    """Fit GARCH(1,1) with Student's t errors and zero mean to the newest `GARCH_STEPS` returns of each product.

    Raises:
        TooShort: a product has fewer than `GARCH_LEAST` returns, or none that differs from 0.

    Source: Bollerslev (1987), Review of Economics and Statistics 69(3), 542-547.
    """
    from arch.univariate import GARCH, StudentsT, ZeroMean

    if not len(past.rows):
        raise TooShort("the past has no rows")
    fitted = Garch({}, {}, {}, {})
    grid = past.rows.grid
    for product in np.unique(past.rows.product):
        known = (grid.product == product) & (grid.time <= past.until) & ~np.isnan(grid.log_return)
        returns = grid.log_return[known][-GARCH_STEPS:]
        if len(returns) < GARCH_LEAST or not np.any(returns):
            raise TooShort(f"the past has {len(returns)} returns on the grid, GARCH needs {GARCH_LEAST} that move")
        spread = float(np.std(returns))
        model = ZeroMean(returns / spread, volatility=GARCH(1, 0, 1), distribution=StudentsT(), rescale=False)
        found = model.fit(disp="off", show_warning=False).params
        p = int(product)
        fitted.omega[p] = float(found["omega"]) * spread**2
        fitted.alpha[p], fitted.beta[p] = float(found["alpha[1]"]), float(found["beta[1]"])
        fitted.start[p] = spread**2
    return fitted


@dataclass(frozen=True, slots=True)
class Trained:
    """A model as training makes it, see `offline.models`."""

    model: Cascade

    def forecast(self, rows: History) -> Forecasts:
        """Return the forecasts for rows."""
        return self.model.forecast(_named(rows))

    def weights(self) -> Mapping[str, float]:
        """Return fitted numbers, see `shown_weights`."""
        return shown_weights(self.model.steps)


def trained(fit: Callable[[Rows, FeatureSpec], Cascade]) -> Recipe:
    """Return the recipe that fits a model and its intervals as training does."""

    def recipe(past: Past) -> Trained:
        spec, rows = past.rows.spec, _named(past.rows)
        try:
            fitted = fit(rows, spec)
        except ValueError as error:
            raise TooShort(str(error)) from error
        if len(np.unique(rows.horizon)) >= CROSS_FIT_HORIZONS:
            return Trained(with_intervals(fitted, rows, lambda part: fit(part, spec), spec.half_lives[1]))
        ratios = np.maximum(rows.realized, past.floor) ** 0.5 / fitted.forecast(rows).score
        low, high = np.quantile(ratios, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
        ends = min(float(low), 1.0), max(float(high), 1.0)
        return Trained(replace(fitted, intervals=(ends,) * len(fitted.steps)))

    return recipe


def _named(rows: History) -> Rows:
    """Return rows as the fits of `offline.models` take them."""
    product_id = np.array(rows.products)[rows.product]
    return Rows.of(rows.values, rows.realized, rows.event_time, product_id, rows.spec)


def recipes(spec: FeatureSpec) -> dict[str, Recipe]:
    """Return all recipes by name: the models, the rivals that learn, and the rivals that do not."""

    def window(horizons: int) -> Recipe:
        return lambda past: Window(horizons, past.prior)

    def unscaled(half_life: int) -> Recipe:
        return lambda past: Ewma(half_life, 1.0, past.prior)

    unscaled_ewmas = {f"ewma_{name}": unscaled(i) for i, name in enumerate(spec.half_lives)}
    return {
        ML: trained(shape.fit),
        BASELINE: trained(baseline.fit),
        CALIBRATED_EWMA: calibrated_ewma,
        "har": har,
        "garch": garch,
        **unscaled_ewmas,
        "rolling_mean": window(DAY),
        "last_window": window(1),
    }
