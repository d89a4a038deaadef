"""`volatility-ml`: the ratio of the next variance to the longest known one, from ratios, by a ridge and small trees.

All inputs are ratios, so that a market whose returns are c times as large is forecast c times as volatile. The shape is
shrunk to the calibrated EWMA.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - scikit-learn takes seconds to import, and most callers only ask
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.features.spec import FeatureSpec
from data.models.input_sets import Step
from data.trades import Floats
from data.truth.targets import variance_floor
from offline.models.baseline import ScaledEwma, priors_of, scaled_ewmas, simple_steps
from offline.models.cascade import Cascade, Columns, Rows, StepModel, columns_of
from offline.models.onnx_graph import Graph

HALF_TRUST = 60
"""Training horizons at which the shape and the EWMA weigh the same. Simulated horizons count as no more than these: the
shape of a simulated market carries over to real ones only in part."""

PENALTY = 1e-3
"""Of the ridge, per training row."""

MIN_HORIZONS = 20
"""Fewest training horizons of a step: with fewer, the calibrated EWMA answers alone."""

DAYS_OF_HOURS = 4
"""Days of a real market from which on the hour of day is an input."""

MOST_RATIO, MOST_VOLUME = 1e4, 100.0
"""Limits of the ratios of variances and of relative volumes, and of one over each."""

RARE = 0.05
"""Share of training rows beyond each limit of an input: a ridge without limits extrapolates on markets that trade less
than those of training."""

TREES = {
    "max_iter": 150,
    "max_leaf_nodes": 6,
    "min_samples_leaf": 300,
    "learning_rate": 0.05,
    "early_stopping": False,
    "random_state": 0,
}
TREE_ROWS = 60_000
"""Most rows that trees learn from: of more, each second, third, ... row."""

CLEARANCE = 1e-4
"""Distance by which the threshold of each tree lies above the training value that set the threshold. All inputs are of
the size of 1, and a graph in float32 may compute an input a millionth higher than the fit."""

LEAVES = 8
"""Fewest leaves of the largest size: fewer rows than 8 leaves of 300 make smaller leaves."""


@dataclass(frozen=True)
class Shape:
    """A step: log(next variance / reference), half from a ridge and half from trees; a ridge alone without `trees`.

    The ridge learns the ratio to the reference. The trees learn the ratio to the calibrated EWMA, from all inputs but
    the mean so far: in trials on candles, trees with the mean so far lost a hundredth of QLIKE.

    Attributes:
        reference: column of the longest known weighted variance.
        ratios: columns of variances, divided by the reference.
        volumes: columns of relative volumes.
        signed: columns of trends; their absolute values are inputs too.
        hours: columns of the hour of day.
        scales: of `signed`: what makes a trend of usual size 1.
        limits: lower limits of the inputs, and upper limits, as a float32 holds them; empty before the fit.
        intercept, coefficients: of the ridge on the inputs as they are, corrected in the mean.
        trees: fitted `HistGradientBoostingRegressor`, or None.
        correction: of the trees in the mean.
        weight: of the shape, 0 to 1; the rest is the EWMA's.
        ewma: the calibrated EWMA.
    """

    reference: str
    ratios: tuple[str, ...]
    volumes: tuple[str, ...]
    signed: tuple[str, ...]
    hours: tuple[str, ...]
    scales: tuple[float, ...]
    ewma: ScaledEwma
    limits: tuple[tuple[float, ...], ...] = ()
    intercept: float = 0.0
    coefficients: tuple[float, ...] = ()
    trees: Any = None
    correction: float = 0.0
    weight: float = 0.0

    @property
    def needs(self) -> Step:
        return (self.reference, *self.ratios, *self.volumes, *self.signed, *self.hours)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of ridge and trees, in order."""
        signed = [name for each in self.signed for name in (each, f"|{each}|")]
        ratios = [f"{name} / {self.reference}" for name in self.ratios]
        return (*ratios, *self.volumes, *signed, *self.hours)

    @property
    def seen_by_trees(self) -> list[int]:
        """Indexes of the inputs of the trees."""
        return [i for i, name in enumerate(self.inputs) if not name.startswith("mean_variance")]

    def values(self, columns: Columns) -> Floats:
        """Return the inputs of ridge and trees within their limits, shape (n, inputs), as a float32 holds them."""
        reference = columns[self.reference]
        parts = [np.log(np.clip(columns[name] / reference, 1 / MOST_RATIO, MOST_RATIO)) for name in self.ratios]
        parts += [np.log(np.clip(columns[name], 1 / MOST_VOLUME, MOST_VOLUME)) for name in self.volumes]
        for name, scale in zip(self.signed, self.scales, strict=True):
            parts += [columns[name] * scale, np.abs(columns[name] * scale)]
        parts += [columns[name] for name in self.hours]
        values = np.column_stack(parts).astype(np.float32).astype(np.float64)
        return np.clip(values, *np.array(self.limits)) if self.limits else values

    def variance(self, columns: Columns) -> Floats:
        values, reference = self.values(columns), columns[self.reference]
        shape = values @ np.array(self.coefficients) + self.intercept
        ewma = np.log(np.clip(self.ewma.variance(columns) / reference, 1 / MOST_RATIO, MOST_RATIO))
        if self.trees is not None:
            with one_thread():
                grown = self.trees.predict(values[:, self.seen_by_trees])
            shape = (shape + ewma + grown + self.correction) / 2
        return np.asarray(reference * np.exp(self.weight * shape + (1 - self.weight) * ewma))

    def node(self, graph: Graph) -> str:
        node, constant = graph.node, graph.constant
        reference = graph.column(self.reference)

        def log_ratio(name: str, most: float) -> str:
            return node("Log", node("Clip", name, constant(1 / most), constant(most)))

        inputs = [log_ratio(node("Div", graph.column(name), reference), MOST_RATIO) for name in self.ratios]
        inputs += [log_ratio(graph.column(name), MOST_VOLUME) for name in self.volumes]
        for name, scale in zip(self.signed, self.scales, strict=True):
            trend = node("Mul", graph.column(name), constant(scale))
            inputs += [trend, node("Abs", trend)]
        inputs += [graph.column(name) for name in self.hours]
        ends = zip(inputs, *self.limits, strict=True)
        inputs = [node("Clip", each, constant(low), constant(high)) for each, low, high in ends]
        shape = constant(self.intercept)
        for each, coefficient in zip(inputs, self.coefficients, strict=True):
            shape = node("Add", shape, node("Mul", each, constant(coefficient)))
        ewma = log_ratio(node("Div", self.ewma.node(graph), reference), MOST_RATIO)
        if self.trees is not None:
            grown = graph.trees([inputs[i] for i in self.seen_by_trees], self.trees)
            grown = node("Add", node("Add", grown, constant(self.correction)), ewma)
            shape = node("Mul", node("Add", shape, grown), constant(0.5))
        total = node("Mul", shape, constant(self.weight))
        total = node("Add", total, node("Mul", ewma, constant(1 - self.weight)))
        return node("Mul", reference, node("Exp", total))


def fit(rows: Rows, spec: FeatureSpec) -> Cascade:
    """Fit a shape for each half-life that can be the longest known one. The same rows give the same model.

    Raises:
        ValueError: the rows show no volatility.
    """
    floor = variance_floor(rows.realized)
    ewmas = scaled_ewmas(rows, spec, floor)
    steps: list[StepModel] = []
    for longest in range(len(ewmas) - 1, 0, -1):
        is_last = longest == len(spec.half_lives) - 1
        best = min(ewmas[1 : longest + 1], key=lambda each: each[1])[0]
        for with_volume in (True, False) if is_last else (False,):
            plan = _plan(spec, longest, best, rows, with_volume=with_volume)
            if (fitted := _fitted(plan, rows, floor, with_trees=with_volume)) is not None:
                steps.append(fitted)
    steps += simple_steps(rows, spec, floor)
    return Cascade("ml", columns_of(steps, spec), tuple(steps), priors_of(rows), floor)


def _plan(spec: FeatureSpec, longest: int, ewma: ScaledEwma, rows: Rows, *, with_volume: bool) -> Shape:
    """Return a shape before the fit: its inputs. The mean so far is an input beside the longest half-life alone."""
    shorter = [f"ewma_variance_{half_life}" for half_life in spec.half_lives[:longest]]
    is_last = longest == len(spec.half_lives) - 1
    real_days = len(np.unique(rows.days[~rows.is_simulated]))

    def named(kind: str) -> tuple[str, ...]:
        return tuple(name for name in spec.columns if name.startswith(kind))

    return Shape(
        reference=f"ewma_variance_{spec.half_lives[longest]}",
        ratios=(*shorter, *named("parkinson_variance_"), *(("mean_variance",) if is_last else ())),
        volumes=named("relative_volume_") if with_volume else (),
        signed=named("trend_"),
        hours=named("hour_") if real_days >= DAYS_OF_HOURS else (),
        scales=tuple(float(half_life) ** 0.5 for half_life in spec.trend_half_lives),
        ewma=ewma,
    )


def _fitted(plan: Shape, rows: Rows, floor: float, *, with_trees: bool) -> Shape | None:
    """Fit ridge and trees to the rows that have all columns; None with too few horizons."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge

    known = (rows.columns[plan.reference] > 0) & ~np.any([np.isnan(rows.columns[name]) for name in plan.needs], axis=0)
    mine = rows.take(known)
    real = len(np.unique(mine.horizon[~mine.is_simulated]))
    horizons = real + min(len(np.unique(mine.horizon[mine.is_simulated])), HALF_TRUST)
    if horizons < MIN_HORIZONS:
        return None
    values = plan.values(mine.columns)
    low, high = np.quantile(values, (RARE, 1 - RARE), axis=0).astype(np.float32).tolist()
    plan = replace(plan, limits=(tuple(low), tuple(high)))
    values = plan.values(mine.columns)
    ratio = np.log(np.maximum(mine.realized, floor) / np.maximum(mine.columns[plan.reference], floor))
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread[spread == 0] = 1.0
    ridge = Ridge(alpha=PENALTY * len(values)).fit((values - mean) / spread, ratio)
    coefficients = ridge.coef_ / spread
    intercept = float(ridge.intercept_ - mean @ coefficients)
    intercept += _correction(ratio - (values @ coefficients + intercept))
    trees, correction = None, 0.0
    if with_trees:
        some = slice(None, None, -(-len(values) // TREE_ROWS))
        smallest = min(TREES["min_samples_leaf"], max(len(values[some]) // LEAVES, 1))
        trees = HistGradientBoostingRegressor(**TREES | {"min_samples_leaf": smallest})
        values = values[:, plan.seen_by_trees]
        to_ewma = np.log(np.maximum(mine.realized, floor) / np.maximum(plan.ewma.variance(mine.columns), floor))
        with one_thread():
            trees.fit(values[some], to_ewma[some])
            _clear_thresholds(trees)
            correction = _correction(to_ewma - trees.predict(values))
    return replace(
        plan,
        intercept=intercept,
        coefficients=tuple(float(each) for each in coefficients),
        trees=trees,
        correction=correction,
        weight=horizons / (horizons + HALF_TRUST),
    )


def _clear_thresholds(trees: Any) -> None:
    """Move all thresholds up by `CLEARANCE`: scikit-learn puts a threshold on a value that many training rows share.

    A sparse market has many equal rows, and all of them would take another branch in the graph than in the fit.
    """
    for (predictor,) in trees._predictors:
        predictor.nodes["num_threshold"] += CLEARANCE


def one_thread() -> Any:
    """Return a context with one thread for trees: threads that wait on a busy machine cost ten times the work."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "openmp")


def _correction(residual: Floats) -> float:
    """Return the log of the factor that corrects the exponential of a log forecast in the mean.

    The factor is the geometric mean of two factors: Jensen's factor for normal residuals, and the mean of realized /
    forecast, which alone would follow spikes.
    """
    return float((np.var(residual) / 2 + np.log(np.mean(np.exp(residual)))) / 2)


def shown_weights(steps: Sequence[StepModel]) -> dict[str, float]:
    """Return fitted numbers for people, by name.

    Of a model with shapes: the ridge's coefficients of the best shape, by input. Of another model: the scale of each
    EWMA, by column.
    """
    best = next((step for step in steps if isinstance(step, Shape)), None)
    if best is None:
        return {step.column: step.scale for step in steps if isinstance(step, ScaledEwma)}
    return dict(zip(best.inputs, best.coefficients, strict=True))
