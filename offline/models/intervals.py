"""Intervals of forecasts, by ratios of the calibration rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from data.models.input_sets import input_sets, mask_to_contract
from data.trades import Floats

COVERAGE = 0.9
"""Nominal share of targets inside an interval."""

Ratios = tuple[tuple[float, float], ...]


class Fitted(Protocol):
    """What a model computes, in float64, before it is a graph.

    Attributes:
        columns: what it reads, the contract first.
        floor: what a smaller realized variance counts as in fitting and in losses.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def floor(self) -> float: ...
    def predict(self, values: Floats) -> Floats: ...


def interval_ratios(fitted: Fitted, values: Floats, targets: Floats) -> Ratios:
    """Return for each input set the ends of intervals that hold `COVERAGE` of the targets, as multiples of the score.

    An interval holds its own score too: where volatility changed between what was fitted and these rows, the end that
    would exclude it is the score itself, and the interval holds more than `COVERAGE`.

    Args:
        values: shape (n, len(fitted.columns)), whole rows, later than those that were fitted. Each row is also asked as
            a client would who knows less: the contract alone, and nothing.
        targets: shape (n,), volatility per horizon.
    """
    tails = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    realized = np.maximum(targets, np.sqrt(fitted.floor))
    ratios = []
    for kind, asked in enumerate((values, mask_to_contract(values), np.full_like(values, np.nan))):
        rows = input_sets(asked) == kind
        low, high = np.quantile(realized[rows] / fitted.predict(asked[rows]), tails)
        ratios.append((min(float(low), 1.0), max(float(high), 1.0)))
    return tuple(ratios)
