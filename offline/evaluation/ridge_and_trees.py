"""A ridge with trend, shrunk to the calibrated EWMA, in geometric mean with small boosted trees; all on ratios.

If all log returns are multiplied by c, each forecast and each end of an interval is multiplied by c: inputs and targets
are ratios to weighted variances of the same row, and no level of a market is learnt.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - scikit-learn takes seconds to import, and most callers only ask
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from data.trades import Floats, Int64s
from data.truth.losses import qlike
from offline.models.intervals import COVERAGE

HALF_TRUST = 120
"""Training horizons at which ridge and EWMA weigh the same."""

PENALTY = 1e-2
"""Ridge penalty per training row."""

TREES = {
    "max_iter": 150,
    "max_leaf_nodes": 6,
    "min_samples_leaf": 300,
    "learning_rate": 0.05,
    "random_state": 0,
    "early_stopping": False,
}
"""Measured on minute candles: leaves of 100 rows lose all of the gain, a learning rate of .1 half of the gain."""

FOLDS = 4
"""Blocks of time for cross-fitting: the residuals that set the interval are of rows that the fold's fit has not seen."""

RATIO_LIMIT = 100.0
"""Ratios are limited to 1 / RATIO_LIMIT and RATIO_LIMIT; trends, which are in standard errors, to TREND_LIMIT."""
TREND_LIMIT = 10.0

TINY = 1e-30
"""Smallest variance: a market that stood still has a ratio, too."""


class Levels(NamedTuple):
    """Weighted variances of rows; a half-life that is not known yet has the level of the longest known half-life.

    Attributes:
        ewmas: shape (n, half-lives), per horizon, shortest half-life first; NaN where no half-life is known.
        longest: shape (n,), of the longest known half-life.
        middle: shape (n,), geometric mean without the shortest and the longest half-life: the reference of the trees.
            Measured on minute candles: with the longest half-life as reference the trees gain half as much.
    """

    ewmas: Floats
    longest: Floats
    middle: Floats


def levels_of(values: Floats, columns: Sequence[str]) -> Levels:
    """Return the levels of rows.

    Args:
        values: shape (n, len(columns)), NaN where missing.
    """
    ewmas = values[:, [i for i, name in enumerate(columns) if name.startswith("ewma_variance_")]]
    known = (~np.isnan(ewmas)).sum(axis=1)
    longest = np.maximum(ewmas[np.arange(len(ewmas)), np.maximum(known - 1, 0)], TINY)
    ewmas = np.where(np.isnan(ewmas), longest[:, None], np.maximum(ewmas, TINY))
    middle = np.exp(np.mean(np.log(ewmas[:, 1:-1] if ewmas.shape[1] > 2 else ewmas), axis=1))
    return Levels(ewmas, longest, middle)


def inputs_of(values: Floats, columns: Sequence[str], levels: Levels, *, with_hour: bool) -> Floats:
    """Return the inputs of ridge and trees, shape (n, k): log ratios, trends, hour of day; 0 where missing."""

    def column(prefix: str) -> list[Floats]:
        return [values[:, i] for i, name in enumerate(columns) if name.startswith(prefix)]

    limit = float(np.log(RATIO_LIMIT))
    ratios = [levels.ewmas[:, i] / levels.longest for i in range(levels.ewmas.shape[1] - 1)]
    ratios += [range_ / levels.longest for range_ in column("parkinson_variance_")]
    ratios += column("relative_volume_")
    inputs = [np.clip(np.log(np.maximum(ratio, TINY)), -limit, limit) for ratio in ratios]
    for trend in column("trend_"):
        limited = np.clip(trend, -TREND_LIMIT, TREND_LIMIT)
        inputs += [limited, np.abs(limited)]
    if with_hour:
        inputs += column("hour_")
    table = np.column_stack(inputs)
    return np.where(np.isnan(table), 0.0, table)


def input_names(columns: Sequence[str], *, with_hour: bool) -> list[str]:
    """Return the names of the inputs, in the order of `inputs_of`.

    >>> input_names(("n", "ewma_variance_5", "ewma_variance_20", "trend_20", "hour_sin"), with_hour=False)
    ['ewma_variance_5', 'trend_20', 'abs trend_20']
    """

    def named(prefix: str) -> list[str]:
        return [name for name in columns if name.startswith(prefix)]

    trends = [each for name in named("trend_") for each in (name, f"abs {name}")]
    ratios = [*named("ewma_variance_")[:-1], *named("parkinson_variance_"), *named("relative_volume_")]
    return [*ratios, *trends, *(named("hour_") if with_hour else ())]


@dataclass(frozen=True, slots=True)
class RidgeAndTrees:
    """The fitted model. Variances are per horizon.

    Attributes:
        columns: the columns of `values`.
        with_hour: the hour of day is an input.
        half_life: index of the calibrated EWMA among the half-lives.
        scale: forecast variance / weighted variance of the calibrated EWMA.
        ridge, trees: of scikit-learn: inputs to the log of realized variance / level (longest, middle).
        ridge_correction, trees_correction: added to the logs, so that variances are right in the mean.
        weight: of the ridge in log variance, 0 to 1; the rest is the EWMA's.
        ratios: ends of the interval as multiples of the score.
    """

    columns: tuple[str, ...]
    with_hour: bool
    half_life: int
    scale: float
    ridge: Any
    ridge_correction: float
    trees: Any
    trees_correction: float
    weight: float
    ratios: tuple[float, float] = (1.0, 1.0)

    def predict(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Return score, lower and upper end of each row, shape (n,); NaN where no half-life is known.

        Args:
            values: shape (n, len(self.columns)), NaN where missing.
        """
        levels = levels_of(values, self.columns)
        known = ~np.isnan(levels.longest)
        score = np.full(len(values), np.nan)
        if known.any():
            levels = Levels(*(each[known] for each in levels))
            inputs = inputs_of(values[known], self.columns, levels, with_hour=self.with_hour)
            ridge = self.ridge.predict(inputs) + self.ridge_correction + np.log(levels.longest)
            ewma = np.log(self.scale * levels.ewmas[:, self.half_life])
            shrunk = self.weight * ridge + (1 - self.weight) * ewma
            with one_thread():
                trees = self.trees.predict(inputs) + self.trees_correction + np.log(levels.middle)
            score[known] = np.exp((shrunk + trees) / 4)  # half of the mean: volatility, not variance
        return score, score * self.ratios[0], score * self.ratios[1]

    def weights(self) -> dict[str, float]:
        """Return weights, corrections, and the ridge's coefficients (of inputs with mean 0 and deviation 1)."""
        found = {
            "weight of the ridge": self.weight,
            "scale of the EWMA": self.scale,
            "correction of the ridge": self.ridge_correction,
            "correction of the trees": self.trees_correction,
        }
        names = input_names(self.columns, with_hour=self.with_hour)
        return found | dict(zip(names, self.ridge[-1].coef_.tolist(), strict=True))


def fit(
    values: Floats, columns: Sequence[str], targets: Floats, horizon: Int64s, floor: float, *, with_hour: bool
) -> RidgeAndTrees:
    """Fit the model to rows with a known half-life. The same rows give the same model.

    Args:
        values: shape (n, len(columns)), NaN where missing.
        targets: shape (n,), volatility per horizon.
        horizon: shape (n,), the number of the horizon of time in which each row lies.
        floor: smaller realized variances count as `floor`.
        with_hour: use the hour of day: only sensible if the rows cover several days.

    Raises:
        ValueError: no row has a known half-life.
    """
    known = ~np.isnan(levels_of(values, columns).longest)
    if not known.any():
        raise ValueError(f"none of {len(values)} rows of training is as old as the shortest half-life")
    values, targets, horizon = values[known], targets[known], horizon[known]
    realized = np.maximum(targets**2, floor)
    fitted = _fit(values, columns, realized, horizon, floor, with_hour)
    return replace(fitted, ratios=_cross_fitted_ratios(fitted, values, realized, horizon, floor))


def _fit(
    values: Floats, columns: Sequence[str], realized: Floats, horizon: Int64s, floor: float, with_hour: bool
) -> RidgeAndTrees:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    levels = levels_of(values, columns)
    inputs = inputs_of(values, columns, levels, with_hour=with_hour)
    half_life, scale = calibrated(levels.ewmas, realized, floor)
    log_ridge, log_trees = np.log(realized / levels.longest), np.log(realized / levels.middle)
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=PENALTY * len(inputs))).fit(inputs, log_ridge)
    with one_thread():
        trees = HistGradientBoostingRegressor(**TREES).fit(inputs, log_trees)
        off_trees = log_trees - trees.predict(inputs)
    horizons = len(np.unique(horizon))
    return RidgeAndTrees(
        columns=tuple(columns),
        with_hour=with_hour,
        half_life=half_life,
        scale=scale,
        ridge=ridge,
        ridge_correction=mean_correction(log_ridge - ridge.predict(inputs)),
        trees=trees,
        trees_correction=mean_correction(off_trees),
        weight=horizons / (horizons + HALF_TRUST),
    )


def calibrated(ewmas: Floats, realized: Floats, floor: float) -> tuple[int, float]:
    """Return the index of the half-life with the least QLIKE after its calibration, and its scale.

    Args:
        ewmas: shape (n, half-lives), above 0.
        realized: shape (n,), realized variance per horizon.
    """
    scales = [float(np.mean(realized / ewma)) for ewma in ewmas.T]  # where the mean QLIKE is smallest
    losses = [float(np.mean(qlike(realized, s * ewma, floor))) for s, ewma in zip(scales, ewmas.T, strict=True)]
    best = int(np.argmin(losses))
    return best, scales[best]


def mean_correction(residual: Floats) -> float:
    """Return the log of the factor that makes variances right in the mean, for residuals of log variance.

    The factor is the geometric mean of two factors: Jensen's factor for normal residuals, and the mean of realized /
    forecast, which alone would follow spikes.

    >>> mean_correction(np.zeros(3))
    0.0
    """
    return float((np.var(residual) / 2 + np.log(np.mean(np.exp(residual)))) / 2)


def _cross_fitted_ratios(
    fitted: RidgeAndTrees, values: Floats, realized: Floats, horizon: Int64s, floor: float
) -> tuple[float, float]:
    """Return the ends of the interval: quantiles of target / score of rows that the fit has not seen.

    Each of `FOLDS` blocks of time is predicted by a fit on the other blocks, without their rows within two horizons. An
    interval always includes the score.
    """
    blocks = np.array_split(np.unique(horizon), FOLDS)
    ratios = []
    for block in blocks:
        if not len(block):
            continue
        ahead = (block[0] <= horizon) & (horizon <= block[-1])
        others = (horizon < block[0] - 1) | (horizon > block[-1] + 1)
        judge = fitted
        if others.sum() > values.shape[1]:
            judge = _fit(values[others], fitted.columns, realized[others], horizon[others], floor, fitted.with_hour)
        ratios.append(np.sqrt(realized[ahead]) / judge.predict(values[ahead])[0])
    low, high = np.quantile(np.concatenate(ratios), ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return min(float(low), 1.0), max(float(high), 1.0)


def one_thread() -> Any:
    """Return a context in which scikit-learn uses one thread.

    Why: on few rows, threads that wait for each other on a busy machine cost twenty times the work.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)
