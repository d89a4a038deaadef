"""A fitted model: steps of a cascade with an interval each, computed in float64, and as one ONNX graph."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.arrow import Mask
from data.features.spec import CONTRACT, FeatureSpec
from data.models.input_sets import Step, Steps
from data.models.served import ADDED, ALL_PRODUCTS, OUTPUTS
from data.times import DAY_S, NS, start_ns
from data.trades import Floats, Int64s
from offline.models.onnx_graph import Graph

LEAST_VARIANCE, MOST_VARIANCE = 1e-16, 1e6
"""Limits of variances: finite input gives a finite answer above 0, in float32 too."""

PRIOR = ADDED[0]

FIRST_MARKET = dt.date(2010, 3, 17)
"""Opening of the first exchange of bitcoin for dollars: earlier trades are simulated."""

Interval = tuple[float, float]
"""Ends of an interval, as multiples of the score."""

Columns = Mapping[str, Floats]
"""Columns of n rows by name, each of shape (n,), and the prior variance under the name `prior`."""


class Forecasts(NamedTuple):
    """Forecasts for n rows; the ends of the interval are NaN for a forecaster without intervals.

    Attributes:
        score, lower, upper: shape (n,), volatility per horizon.
    """

    score: Floats
    lower: Floats
    upper: Floats

    @classmethod
    def of(cls, variance: Floats) -> Forecasts:
        """Return forecasts of a variance per horizon, without intervals."""
        unknown = np.full(len(variance), np.nan)
        return cls(np.sqrt(variance), unknown, unknown)

    def take(self, rows: Mask) -> Forecasts:
        """Return the forecasts of the chosen rows."""
        return Forecasts(*(each[rows] for each in self))


class StepModel(Protocol):
    """A step: the forecast variance of the rows that have its columns."""

    @property
    def needs(self) -> Step:
        """The columns of the step, the reference first."""

    def variance(self, columns: Columns) -> Floats:
        """Return the forecast variance of each row, shape (n,)."""

    def node(self, graph: Graph) -> str:
        """Add the same computation to a graph."""


class Rows(NamedTuple):
    """Rows of a sample for a fit.

    Attributes:
        columns: by name, each of shape (n,), NaN where missing.
        realized: shape (n,), realized variance per horizon.
        horizon: shape (n,), number of the horizon of time in which each row lies.
        product_id: shape (n,), text.
        is_simulated: shape (n,).
        days: shape (n,), number of each row's UTC day.
    """

    columns: Columns
    realized: Floats
    horizon: NDArray[np.int64]
    product_id: NDArray[np.str_]
    is_simulated: NDArray[np.bool_]
    days: NDArray[np.int64]

    @classmethod
    def of(
        cls, values: Floats, realized: Floats, event_time: Int64s, product_id: NDArray[np.str_], spec: FeatureSpec
    ) -> Rows:
        """Return rows by the columns of a spec.

        Args:
            values: shape (n, columns of the spec).
            event_time: shape (n,), ns since 1970.
        """
        return cls(
            dict(zip(spec.columns, values.T, strict=True)),
            realized,
            event_time // (spec.horizon_s * NS),
            product_id,
            event_time < start_ns(FIRST_MARKET),
            event_time // (DAY_S * NS),
        )

    def take(self, rows: NDArray[np.bool_]) -> Rows:
        """Return the chosen rows."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        realized, horizon, product_id = self.realized[rows], self.horizon[rows], self.product_id[rows]
        return Rows(columns, realized, horizon, product_id, self.is_simulated[rows], self.days[rows])

    def with_prior(self, priors: Mapping[str, float]) -> Columns:
        """Return the columns with the prior of each row's product."""
        names, of_row = np.unique(self.product_id, return_inverse=True)
        known = np.array([priors.get(str(name), priors[ALL_PRODUCTS]) for name in names])
        return {**self.columns, PRIOR: known[of_row] if len(names) else np.empty(0)}


def columns_of(steps: Sequence[StepModel], spec: FeatureSpec) -> tuple[str, ...]:
    """Return the columns that some steps need: the contract, then the others in the order of the spec."""
    needed = {name for step in steps for name in step.needs} - set(CONTRACT)
    return (*CONTRACT, *(name for name in spec.columns if name in needed))


@dataclass(frozen=True)
class Cascade:
    """A fitted model.

    Attributes:
        variant: `baseline` or `ml`.
        columns: the model's input columns, the contract first.
        steps: the best first; the last one needs no column.
        intervals: of each step.
        priors: see `data.models.served.ServedModel`.
        floor: smaller realized variances count as `floor` in fitting and in losses.
    """

    variant: str
    columns: tuple[str, ...]
    steps: tuple[StepModel, ...]
    priors: Mapping[str, float]
    floor: float
    intervals: tuple[Interval, ...] = ()

    @property
    def rule(self) -> Steps:
        """The rule by which a step answers a row."""
        return Steps(self.columns, [step.needs for step in self.steps])

    def forecast(self, rows: Rows) -> Forecasts:
        """Return the forecasts of rows: the computation of the graph, in float64."""
        columns = rows.with_prior(self.priors)
        answered = self.rule.answered(np.column_stack([columns[name] for name in self.columns])).step
        variance = np.empty(len(rows.realized))
        for i, step in enumerate(self.steps):
            mine = answered == i
            if mine.any():
                variance[mine] = step.variance({name: column[mine] for name, column in columns.items()})
        score = np.sqrt(np.clip(variance, LEAST_VARIANCE, MOST_VARIANCE))
        ends = np.array(self.intervals)[answered] if self.intervals else np.ones((len(score), 2))
        return Forecasts(score, score * ends[:, 0], score * ends[:, 1])

    def to_onnx(self, metadata: Mapping[str, str]) -> bytes:
        """Write the model as one ONNX graph: `X` float32 (any, k + 2) in; `score`, `lower`, `upper` float32 (any,) out.

        Args:
            metadata: key-value metadata of the file, besides those of the model itself.
        """
        graph = Graph((*self.columns, *ADDED))
        node, constant = graph.node, graph.constant
        step = graph.column(ADDED[1])
        is_before = [node("Less", step, constant(i + 0.5)) for i in range(len(self.steps) - 1)]

        def choose(by_step: Sequence[str]) -> str:
            chosen = by_step[-1]
            for is_mine, each in zip(reversed(is_before), reversed(by_step[:-1]), strict=True):
                chosen = node("Where", is_mine, each, chosen)
            return chosen

        variance = choose([each.node(graph) for each in self.steps])
        variance = node("Clip", variance, constant(LEAST_VARIANCE), constant(MOST_VARIANCE))
        score = node("Sqrt", variance, name="score")
        for side, name in enumerate(("lower", "upper")):
            node("Mul", score, choose([constant(ends[side]) for ends in self.intervals]), name=name)
        own = {
            "variant": self.variant,
            "columns": ",".join(self.columns),
            "steps": json.dumps([step.needs for step in self.steps]),
            "priors": json.dumps(dict(self.priors), sort_keys=True),
        }
        return graph.to_bytes(f"volatility_{self.variant}", OUTPUTS, own | dict(metadata))
