"""Compute targets: the realized volatility of the horizon after each trade."""

from __future__ import annotations

import math

import numpy as np

from data.compiled import compiled
from data.features.kernel import far_log_return
from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Floats, Int64s

FLOOR_SHARE = 0.01
"""The floor of realized variances in QLIKE, as a share of the training median of variance."""


def variance_floor(training_variance: Floats) -> float:
    """Return the floor of realized variances in QLIKE: `FLOOR_SHARE` of the training median.

    Args:
        training_variance: shape (n,), n >= 1.

    Raises:
        ValueError: the median is not above 0.

    >>> variance_floor(np.array([1.0, 2.0, 9.0]))
    0.02
    """
    median = float(np.median(training_variance))
    if not median > 0:
        raise ValueError(
            f"the training median of variance must be above 0 to set a floor, was {median}: half of the targets or "
            "more show no move of the price"
        )
    return FLOOR_SHARE * median


def target_volatility(event_time: Int64s, price: Floats, spec: FeatureSpec) -> Floats:
    """Return the target of each trade: realized volatility over the grid steps of the horizon that follows it.

    The horizon begins at the first grid point at or after the trade. The target is NaN if the segment ends before the
    horizon.

    Args:
        event_time: shape (n,), ns since 1970, not falling; one stream.
        price: shape (n,), of the same trades.
        spec: grid step, horizon, and the gap that ends a segment.

    Returns:
        shape (n,), volatility per horizon.

    Raises:
        ValueError: event times fall.
    """
    if np.any(np.diff(event_time) < 0):
        raise ValueError("targets need event times that do not fall: take those of the feature rows, not the file's")
    return _targets(event_time, price, spec.grid_step_s * NS, spec.horizon_s // spec.grid_step_s, spec.gap_s * NS)


@compiled
def squared_return(before: float, price: float) -> float:
    """Return the squared log return from one grid point to the next.

    >>> squared_return(100.0, 100.0)
    0.0
    """
    moved = far_log_return(before, price)
    return moved * moved


@compiled
def _targets(event_time: Int64s, price: Floats, step: int, horizon_steps: int, gap: int) -> Floats:
    targets = np.full(len(price), np.nan)
    start = 0
    for end in range(1, len(price) + 1):
        if end < len(price) and event_time[end] - event_time[end - 1] <= gap:
            continue
        first, last = -(-event_time[start] // step), event_time[end - 1] // step
        squares = np.zeros(max(last - first + 1, 0))  # of the log return into each grid point
        trade = start
        before = price[start]
        for point in range(first, last + 1):
            while trade + 1 < end and event_time[trade + 1] <= point * step:
                trade += 1
            if point > first:
                squares[point - first] = squared_return(before, price[trade])
            before = price[trade]
        known = -1
        volatility = np.nan
        for i in range(start, end):
            point = -(-event_time[i] // step)
            if point + horizon_steps > last:
                break
            if point != known:
                total = 0.0
                for ahead in range(point + 1, point + horizon_steps + 1):
                    total += squares[ahead - first]
                volatility = math.sqrt(total)
                known = point
            targets[i] = volatility
        start = end
    return targets
