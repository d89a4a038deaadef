"""Intervals of forecasts, from the ratios of target to score on calibration rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from data.models.input_sets import input_sets, with_less_input
from data.trades import Floats

COVERAGE = 0.9
"""Nominal share of targets inside an interval."""

Ratios = tuple[tuple[float, float], ...]


class Fitted(Protocol):
    """A fitted model that predicts in float64, before the export to an ONNX graph.

    Attributes:
        columns: the model's input columns, the contract first.
        floor: smaller realized variances count as `floor` in fitting and in losses.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def floor(self) -> float: ...
    def predict(self, values: Floats) -> Floats: ...


Model = TypeVar("Model", bound=Fitted)


def with_intervals(fitted: Model, values: Floats, targets: Floats) -> Model:
    """Return the model with ratios: for each input set, the ends of an interval with `COVERAGE` of the targets.

    An interval always includes the score: if volatility has changed since the fitted rows, an end that would exclude
    the score is set to the score, and the interval covers more than `COVERAGE`.

    Args:
        values: shape (n, len(fitted.columns)), whole rows, later than the fitted rows. Each row is also scored with
            less input: the contract alone, and nothing.
        targets: shape (n,), volatility per horizon.

    Returns:
        The model; its `ratios` are low and high as multiples of the score, in the order of the input sets.
    """
    tails = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    realized = np.maximum(targets, np.sqrt(fitted.floor))
    ratios = []
    for kind, asked in enumerate(with_less_input(values)):
        rows = input_sets(asked) == kind
        low, high = np.quantile(realized[rows] / fitted.predict(asked[rows]), tails)
        ratios.append((min(float(low), 1.0), max(float(high), 1.0)))
    return replace(fitted, ratios=tuple(ratios))
