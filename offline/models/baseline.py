"""`volatility-baseline`: a calibrated EWMA, and the simple steps of every model."""

from __future__ import annotations

# ruff: noqa: PLC0415 - scikit-learn takes seconds to import, and most callers only ask
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.features.spec import CONTRACT, FeatureSpec
from data.models.input_sets import Step
from data.models.served import ALL_PRODUCTS
from data.trades import Floats
from data.truth.losses import best_scale, qlike
from data.truth.targets import variance_floor
from offline.models.cascade import PRIOR, Cascade, Columns, Rows, StepModel, columns_of
from offline.models.onnx_graph import Graph

MIN_SHARE = 0.01
"""Lower limit of `ret_std`, as a share of the median."""

SHRINKAGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Candidates for `Window.shrinkage`, chosen by QLIKE."""

PRIOR_STEPS = 60
"""Weight of the prior in the first minutes, in grid steps: with 60 known steps, mean and prior weigh the same."""

PRODUCT_HORIZONS = 30
"""Fewest horizons of a product from which the product gets a prior of its own."""

FIRST_COLUMNS = ("known_steps", "mean_variance")


@dataclass(frozen=True)
class ScaledEwma:
    """A weighted variance, multiplied by a constant."""

    column: str
    scale: float

    @property
    def needs(self) -> Step:
        return (self.column,)

    def variance(self, columns: Columns) -> Floats:
        return self.scale * columns[self.column]

    def node(self, graph: Graph) -> str:
        return graph.node("Mul", graph.column(self.column), graph.constant(self.scale))


def with_prior(steps: NDArray[Any], mean: Floats, prior: Floats | float) -> Floats:
    """Return the mean variance of some grid steps, together with the prior, shape (n,)."""
    return np.asarray((steps * mean + PRIOR_STEPS * prior) / (steps + PRIOR_STEPS))


@dataclass(frozen=True)
class FirstMinutes:
    """The mean variance of the segment so far, together with the prior: (n x mean + 60 x prior) / (n + 60)."""

    @property
    def needs(self) -> Step:
        return FIRST_COLUMNS

    def variance(self, columns: Columns) -> Floats:
        steps, mean = (columns[name] for name in FIRST_COLUMNS)
        return with_prior(steps, mean, columns[PRIOR])

    def node(self, graph: Graph) -> str:
        node, weight = graph.node, graph.constant(PRIOR_STEPS)
        steps, mean = (graph.column(name) for name in FIRST_COLUMNS)
        total = node("Add", node("Mul", steps, mean), node("Mul", weight, graph.column(PRIOR)))
        return node("Div", total, node("Add", steps, weight))


@dataclass(frozen=True)
class Window:
    """The forecast from the contract columns alone.

    Attributes:
        intercept, slope: log variance by log `ret_std` ** 2, for a full window.
        shrinkage: log variance is pulled to `usual` with weight shrinkage / (n + shrinkage).
        usual: mean realized variance.
        min_ret_std: a smaller `ret_std` is read as `min_ret_std`.
    """

    intercept: float
    slope: float
    shrinkage: float
    usual: float
    min_ret_std: float

    @property
    def needs(self) -> Step:
        return CONTRACT

    def variance(self, columns: Columns) -> Floats:
        n, ret_std = columns["n"], columns["ret_std"]
        window = self.intercept + self.slope * 2 * np.log(np.clip(ret_std, self.min_ret_std, 1.0))
        usual = np.log(self.usual)
        return np.asarray(np.exp(usual + n / (n + self.shrinkage) * (window - usual)))

    def node(self, graph: Graph) -> str:
        node, constant = graph.node, graph.constant
        n, usual = graph.column("n"), float(np.log(self.usual))
        window = node("Log", node("Clip", graph.column("ret_std"), constant(self.min_ret_std), constant(1.0)))
        window = node("Mul", window, constant(2 * self.slope))
        window = node("Add", window, constant(self.intercept - usual))  # log of forecast / usual variance
        weight = node("Div", n, node("Add", n, constant(self.shrinkage)))
        return node("Exp", node("Add", node("Mul", weight, window), constant(usual)))


@dataclass(frozen=True)
class Unconditional:
    """The prior of the product."""

    @property
    def needs(self) -> Step:
        return ()

    def variance(self, columns: Columns) -> Floats:
        return columns[PRIOR]

    def node(self, graph: Graph) -> str:
        return graph.column(PRIOR)


def fit(rows: Rows, spec: FeatureSpec) -> Cascade:
    """Choose half-life and scale by QLIKE, and fit the forecast from the contract.

    Rows of short windows choose the shrinkage.

    Raises:
        ValueError: the rows show no volatility.
    """
    floor = variance_floor(rows.realized)
    steps = simple_steps(rows, spec, floor)
    return Cascade("baseline", columns_of(steps, spec), steps, priors_of(rows), floor)


def priors_of(rows: Rows) -> dict[str, float]:
    """Return the mean realized variance, by product and of all rows."""
    priors = {ALL_PRODUCTS: float(np.mean(rows.realized))}
    for name in np.unique(rows.product_id):
        mine = rows.product_id == name
        if name and len(np.unique(rows.horizon[mine])) >= PRODUCT_HORIZONS:
            priors[str(name)] = float(np.mean(rows.realized[mine]))
    return {name: prior for name, prior in priors.items() if prior > 0}


def simple_steps(rows: Rows, spec: FeatureSpec, floor: float) -> tuple[StepModel, ...]:
    """Return the steps behind the best one: EWMAs, the first minutes, the contract, and the prior.

    The EWMA of the chosen half-life comes first, then shorter ones, then longer ones. The shortest knows too little,
    and comes after the first minutes.
    """
    ewmas = scaled_ewmas(rows, spec, floor)
    ladder: list[StepModel] = [FirstMinutes(), *(step for step, _ in ewmas[:1])]
    if longer := ewmas[1:]:
        best = int(np.argmin([loss for _, loss in longer]))
        usable = [step for step, _ in longer]
        ladder = [*usable[best::-1], *usable[best + 1 :], *ladder]
    if (window := _window(rows, floor)) is not None:
        ladder.append(window)
    return (*ladder, Unconditional())


def scaled_ewmas(rows: Rows, spec: FeatureSpec, floor: float) -> list[tuple[ScaledEwma, float]]:
    """Return the weighted variances that some rows have, shortest half-life first, each with scale and QLIKE.

    All are compared on the rows that have the longest of them.
    """
    names = [f"ewma_variance_{half_life}" for half_life in spec.half_lives]
    known = [name for name in names if np.sum(rows.columns[name] > 0) > 1]
    if not known:
        return []
    mine = rows.take(rows.columns[known[-1]] > 0)
    found = []
    for name in known:
        scale, loss = best_scale(mine.realized, np.maximum(mine.columns[name], floor), floor)
        found.append((ScaledEwma(name, scale), loss))
    return found


def _window(rows: Rows, floor: float) -> Window | None:
    """Fit the forecast from the contract; None if no row has a window that moved."""
    from sklearn.linear_model import LinearRegression

    mine = rows.take((rows.columns["n"] >= 2) & ~np.isnan(rows.columns["ret_std"]))
    n, ret_std, realized = mine.columns["n"], mine.columns["ret_std"], np.maximum(mine.realized, floor)
    full = n == np.max(n, initial=0)
    min_ret_std = MIN_SHARE * float(np.median(ret_std[full])) if full.any() else 0.0
    if not min_ret_std > 0:
        return None
    log_square = 2 * np.log(np.clip(ret_std, min_ret_std, 1.0))
    line = LinearRegression().fit(log_square[full, None], np.log(realized[full]))
    slope = float(line.coef_[0])
    residual = np.log(realized[full]) - slope * log_square[full]
    intercept = float(np.log(np.mean(np.exp(residual))))  # mean(realized / forecast) = 1, not mean of logs = 0
    fitted = Window(intercept, slope, 0.0, float(np.mean(realized[full])), min_ret_std)
    fits = [replace(fitted, shrinkage=shrinkage) for shrinkage in SHRINKAGES]
    return min(fits, key=lambda each: float(np.mean(qlike(realized, each.variance(mine.columns), floor))))
