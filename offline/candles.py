"""Turn candles into trades, for feature rows by the same kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.features.spec import FeatureSpec
from data.recordings.dialects.bars.base import Bars
from data.times import NS
from data.trades import Side, Trades

STEPS_S = (1, 60)
"""Lengths of bars that are evaluated, seconds."""


def spec_of_candles(step_s: int, path: Path) -> FeatureSpec:
    """Return the spec of bars: seconds have the spec of trades, minutes the spec of candles.

    Raises:
        ValueError: bars of this length are not evaluated.
    """
    if step_s not in STEPS_S:
        raise ValueError(f"{path}: has bars of {step_s} s; bars of 1 s and of 60 s can be evaluated")
    return FeatureSpec() if step_s == 1 else FeatureSpec.for_candles(step_s)


def trades_of_candles(bars: Bars) -> Trades:
    """Return three trades for each candle: high, low, and the close at the end of the candle, with all of the volume.

    The close is on the grid point that ends the candle, so the three trades lie in the same grid step. The order of
    high and low is unknown; no feature of the grid depends on the order.

    Args:
        bars: n bars of one stream.

    Returns:
        3 n trades; ids are 1, 2, 3, ...
    """
    n, step = len(bars), bars.step_s * NS
    size = np.zeros((n, 3))
    size[:, 2] = bars.volume
    return Trades(
        bars.keys,
        np.repeat(bars.stream, 3),
        np.arange(1, 3 * n + 1),
        (bars.event_time[:, None] - np.array([2 * step // 3, step // 3, 0])).ravel(),
        np.zeros(3 * n, np.int64),
        np.column_stack([bars.high, bars.low, bars.close]).ravel(),
        size.ravel(),
        np.full(3 * n, Side.UNKNOWN, np.int8),
    )
