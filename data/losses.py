"""How wrong a forecast of variance is."""

from __future__ import annotations

import numpy as np

from data.trades import Floats

FLOOR_SHARE = 0.01
"""Of the training median of variance: below it, realized variances count as this floor."""


def variance_floor(training_variance: Floats) -> float:
    """Return the floor that QLIKE lifts realized variances to: a share of the training median.

    Raises:
        ValueError: the median is not above 0, so that no share of it is a floor.

    >>> variance_floor(np.array([1.0, 2.0, 9.0]))
    0.02
    """
    median = float(np.median(training_variance))
    if not median > 0:
        raise ValueError(f"the training median of variance must be above 0 to set a floor, was {median}")
    return FLOOR_SHARE * median


def qlike(realized_variance: Floats, forecast_variance: Floats, floor: float) -> Floats:
    """Return the loss of each forecast: r - ln r - 1 with r = realized / forecast. 0 is perfect.

    Args:
        realized_variance: shape (n,), at least 0; what lies below `floor` counts as `floor`.
        forecast_variance: shape (n,), above 0.
        floor: above 0, see `variance_floor`.

    Source: Patton (2011), Journal of Econometrics 160(1), 246-256.

    >>> qlike(np.array([2.0]), np.array([1.0]), floor=0.1).round(4)
    array([0.3069])
    """
    if not np.all(forecast_variance > 0):
        raise ValueError(f"forecast variances must be above 0, the smallest was {np.min(forecast_variance)}")
    ratio = np.maximum(realized_variance, floor) / forecast_variance
    return np.asarray(ratio - np.log(ratio) - 1, dtype=np.float64)
