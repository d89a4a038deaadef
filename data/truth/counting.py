"""Choose the forecasts that count, for training, for evaluation, and for the error of live forecasts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Int64s

TWELFTH = 12
"""The last row in each twelfth of a horizon is counted: more rows repeat each other, fewer rows waste data."""


def counted_rows(event_time: Int64s, spec: FeatureSpec) -> NDArray[np.intp]:
    """Return the indexes of counted rows: the last row up to each twelfth of a horizon on the grid.

    Args:
        event_time: shape (n,), ns since 1970, not falling.

    >>> counted_rows(np.array([1, 5, 6, 17, 21]) * NS, FeatureSpec(horizon_s=60))
    array([1, 2, 3, 4])
    """
    twelfth = -(-event_time // (spec.horizon_s * NS // TWELFTH))
    return np.flatnonzero(np.append(np.diff(twelfth) > 0, True))
