"""Compute the losses of forecasts, the coverage of intervals, and terciles of volatility."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.trades import Floats

TERCILES = 3


def qlike(realized_variance: Floats, forecast_variance: Floats, floor: float) -> Floats:
    """Return the loss of each forecast: r - ln r - 1 with r = realized / forecast. 0 is perfect.

    Args:
        realized_variance: shape (n,), at least 0; smaller values than `floor` count as `floor`.
        forecast_variance: shape (n,), above 0.
        floor: above 0, see `variance_floor`.

    Raises:
        ValueError: a forecast variance is not above 0.

    Source: Patton (2011), Journal of Econometrics 160(1), 246-256.

    >>> qlike(np.array([2.0]), np.array([1.0]), floor=0.1).round(4)
    array([0.3069])
    """
    if not np.all(forecast_variance > 0):
        raise ValueError(f"forecast variances must be above 0, the smallest was {np.min(forecast_variance)}")
    ratio = np.maximum(realized_variance, floor) / forecast_variance
    return np.asarray(ratio - np.log(ratio) - 1, dtype=np.float64)


def best_scale(realized_variance: Floats, variance: Floats, floor: float) -> tuple[float, float]:
    """Return the constant on a forecast variance with the least mean QLIKE, and this mean.

    Args:
        realized_variance, variance: shape (n,), n >= 1; `variance` above 0.
        floor: see `qlike`.

    >>> best_scale(np.array([2.0, 4.0]), np.array([1.0, 2.0]), floor=0.1)
    (2.0, 0.0)
    """
    scale = float(np.mean(np.maximum(realized_variance, floor) / variance))  # the mean QLIKE has no other minimum
    return scale, float(np.mean(qlike(realized_variance, scale * variance, floor)))


def coverage(target: Floats, lower: Floats, upper: Floats) -> float:
    """Return the share of targets inside their intervals, both ends included; NaN for no targets.

    Args:
        target: shape (n,), realized volatility, raised to the square root of the variance floor.
        lower, upper: shape (n,), the ends of the intervals.

    >>> coverage(np.array([1.0, 2.0, 5.0, 3.0]), np.zeros(4), np.array([1.0, 3.0, 4.0, 4.0]))
    0.75
    """
    return float(np.mean((lower <= target) & (target <= upper))) if len(target) else float("nan")


def bias(target: Floats, score: Floats) -> float:
    """Return the mean of ln(score / target): above 0, forecasts are too high; NaN for no targets.

    Args:
        target: shape (n,), realized volatility, raised to the square root of the variance floor.
        score: shape (n,), above 0.

    >>> round(bias(np.array([1.0, 2.0]), np.array([2.0, 2.0])), 4)
    0.3466
    """
    return float(np.mean(np.log(score / target))) if len(target) else float("nan")


def volatility_terciles(volatility: Floats) -> NDArray[np.intp]:
    """Return the tercile of each row: 0 for the calmest third of the rows, 2 for the wildest third.

    Rows of equal volatility share a tercile, so terciles of a market with many equal values may differ in size.

    Args:
        volatility: shape (n,), n >= 1. A volatility known at the time of the forecast, as an EWMA, gives terciles that
            the forecaster could know; the target itself selects the surprises.

    >>> volatility_terciles(np.array([5.0, 1.0, 2.0, 9.0, 4.0, 3.0]))
    array([2, 0, 0, 2, 1, 1])
    """
    bounds = np.quantile(volatility, np.arange(1, TERCILES) / TERCILES)
    return np.searchsorted(bounds, volatility)
