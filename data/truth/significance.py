"""Significance of forecasts: is one forecaster better than another, and are forecasts right in the mean.

A *difference* is the loss of one forecaster minus the loss of its rival on the same rows: below 0 is better. Tests are
one-sided: the p-value is the probability of a mean at least so far below 0 if both forecasters were equally good.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from data.trades import Floats
from data.truth.counting import TWELFTH

LAGS = 3 * TWELFTH
"""Lags of Diebold-Mariano: forecasts each twelfth of a horizon overlap for one horizon; three are counted."""


class Significance(NamedTuple):
    """Result of a one-sided test for a mean difference below 0.

    Attributes:
        statistic: mean difference divided by its standard error, dimensionless; 0 if all differences are 0.
        p_one_sided: 0 to 1.
    """

    statistic: float
    p_one_sided: float


class MincerZarnowitz(NamedTuple):
    """Line of least squares: realized variance = intercept + slope * forecast variance.

    Attributes:
        intercept: variance per horizon; 0 is perfect.
        slope: dimensionless; 1 is perfect.
        r_squared: share of the variance of realized variance that the line explains, 0 to 1.
    """

    intercept: float
    slope: float
    r_squared: float


def diebold_mariano(difference: Floats, lags: int) -> Significance:
    """Test a mean of overlapping, so correlated, differences below 0: Diebold-Mariano with Newey-West errors.

    Args:
        difference: shape (n,), n >= 2, in the order of time.
        lags: number of autocovariances with Bartlett weights 1 - k / (lags + 1); at least 0.

    Raises:
        ValueError: there are fewer than 2 differences, or `lags` is below 0.

    Source: Diebold, Mariano (1995), Journal of Business & Economic Statistics 13(3), 253-263; Newey, West (1987),
    Econometrica 55(3), 703-708.

    >>> diebold_mariano(np.array([-3.0, -1.0, -3.0, -1.0]), lags=0).statistic
    -4.0
    """
    n = len(difference)
    if n < 2 or lags < 0:
        raise ValueError(f"Diebold-Mariano needs 2 differences and lags of 0 or more, were {n} and {lags}")
    mean = float(np.mean(difference))
    off = difference - mean
    variance = _dot(off, off)
    for k in range(1, min(lags, n - 1) + 1):
        variance += 2 * (1 - k / (lags + 1)) * _dot(off[k:], off[:-k])
    statistic = statistic_of(mean, float(np.sqrt(max(variance, 0.0))) / n)
    return Significance(statistic, math.erfc(-statistic / math.sqrt(2)) / 2 if statistic else 1.0)


def mincer_zarnowitz(realized_variance: Floats, forecast_variance: Floats) -> MincerZarnowitz:
    """Fit realized variance to forecast variance: a line of intercept 0 and slope 1 has no bias.

    Args:
        realized_variance, forecast_variance: shape (n,), n >= 2, per horizon.

    Raises:
        ValueError: all forecasts are equal, or there are fewer than 2.

    Source: Mincer, Zarnowitz (1969), in Economic Forecasts and Expectations, 3-46.

    >>> mincer_zarnowitz(np.array([3.0, 5.0, 7.0]), np.array([1.0, 2.0, 3.0]))
    MincerZarnowitz(intercept=1.0, slope=2.0, r_squared=1.0)
    """
    if len(forecast_variance) < 2 or np.ptp(forecast_variance) == 0:
        raise ValueError(f"Mincer-Zarnowitz needs 2 different forecasts, {len(forecast_variance)} were equal")
    forecast, realized = (each - np.mean(each) for each in (forecast_variance, realized_variance))
    slope = float(forecast @ realized / (forecast @ forecast))
    total = float(realized @ realized)
    residual = realized - slope * forecast
    r_squared = 1 - float(residual @ residual) / total if total else 1.0
    intercept = float(np.mean(realized_variance) - slope * np.mean(forecast_variance))
    return MincerZarnowitz(intercept, slope, r_squared)


def _dot(a: Floats, b: Floats) -> float:
    """Return the sum of products, in one thread: on a busy machine the threads of BLAS cost 10 times the sum."""
    return float(np.einsum("i,i", a, b))


def statistic_of(mean: float, error: float) -> float:
    """Return mean / error; 0 for a mean of 0, infinity for differences that are all the same."""
    if mean == 0:
        return 0.0
    return mean / error if error else float(np.copysign(np.inf, mean))
