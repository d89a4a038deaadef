"""`volatility-ml`: ridge on log variance, corrected in the mean, and shrunk to the calibrated EWMA.

The hour of day helped on real candles, but is no column of the spec, and so is left out.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - scikit-learn takes seconds to import, and most callers only ask
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.features.spec import CONTRACT, FeatureSpec
from data.models.input_sets import ALL_COLUMNS, CONTRACT_ONLY, input_sets, with_less_input
from data.trades import Floats, Int64s
from data.truth.losses import qlike
from offline.models.baseline import MAX_VARIANCE, MIN_SHARE, Baseline, calibrated_ewma, forecast_graph
from offline.models.intervals import Ratios
from offline.models.onnx_graph import Graph

HALF_TRUST = 120
"""Training horizons at which ridge and EWMA weigh the same. Measured: on 24 horizons, the ridge alone is 14 times
worse, and ridge and EWMA together are better; on 240 both are good."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Candidate ridge penalties per training row; one is chosen by QLIKE on folds later than the fitted rows."""

FOLDS = 4

RELATIVE_VOLUMES = (0.01, 100.0)
"""Limits of a relative volume: half-lives that differ by a factor of 12 give about this range at most."""


@dataclass(frozen=True, slots=True)
class Ml:
    """The fitted model. Variances are per horizon.

    Attributes:
        baseline: target of the shrinkage, and the model for rows with missing columns.
        columns: the contract, then the inputs of the ridge.
        ridge: scikit-learn's pipeline: scaler and ridge, from log inputs to log variance.
        penalty: of the ridge, per training row.
        correction: added to the ridge's log variance, so that variances are right in the mean.
        weight: of the ridge in log variance, 0 to 1; the rest is the EWMA's.
        ratios: see `Baseline.ratios`.
    """

    baseline: Baseline
    columns: tuple[str, ...]
    ridge: Any
    penalty: float
    correction: float
    weight: float
    ratios: Ratios = ()

    @property
    def floor(self) -> float:
        return self.baseline.floor

    def predict(self, values: Floats) -> Floats:
        """Return the scores of rows of `columns`, NaN where missing: the computation of the graph, in float64."""
        whole = input_sets(values) == ALL_COLUMNS
        contract = with_less_input(values)[CONTRACT_ONLY]  # the EWMA answers no incomplete row
        asked = np.where(whole[:, None], values, contract)
        score = self.baseline.predict(asked[:, [self.columns.index(name) for name in self.baseline.columns]])
        if whole.any():
            inputs = _log_inputs(values[whole, len(CONTRACT) :], self.columns, self.baseline)
            log_ridge = self.ridge.predict(inputs) + self.correction
            log_variance = self.weight * log_ridge + (1 - self.weight) * np.log(score[whole] ** 2)
            least = MIN_SHARE**2 * self.baseline.unconditional
            score[whole] = np.sqrt(np.clip(np.exp(log_variance), least, MAX_VARIANCE))
        return score


def inputs_of(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the model's input columns: the contract, all EWMAs, Parkinson range and relative volume.

    >>> inputs_of(FeatureSpec())[3:]
    ('ewma_variance_60', 'ewma_variance_300', 'ewma_variance_1200', 'ewma_variance_3600', 'parkinson_variance_300', \
'relative_volume_300')
    """
    kinds = ("ewma_variance_", "parkinson_variance_", "relative_volume_")
    return (*CONTRACT, *(name for name in spec.columns if name.startswith(kinds)))


def fit(baseline: Baseline, values: Floats, columns: Sequence[str], targets: Floats, horizon: Int64s) -> Ml:
    """Fit the ridge to rows with all columns. The same rows give the same model.

    Args:
        baseline: fitted to the same rows.
        values: shape (n, len(columns)).
        columns: see `inputs_of`.
        targets: shape (n,), volatility per horizon.
        horizon: shape (n,), the number of the horizon of time in which each row lies.

    Raises:
        ValueError: no row has all columns.
    """
    whole = input_sets(values) == ALL_COLUMNS
    if not whole.any():
        raise ValueError(f"none of {len(values)} rows of training has all of {tuple(columns)}: it needs more history")
    inputs = _log_inputs(values[whole, len(CONTRACT) :], columns, baseline)
    realized, horizon = np.maximum(targets[whole] ** 2, baseline.floor), horizon[whole]
    penalty = _choose_penalty(inputs, realized, horizon, baseline.floor)
    ridge, correction = _corrected_ridge(inputs, realized, penalty)
    horizons = len(np.unique(horizon))
    return Ml(baseline, tuple(columns), ridge, penalty, correction, weight=horizons / (horizons + HALF_TRUST))


def to_onnx(model: Ml, metadata: dict[str, str]) -> bytes:
    """Write the model as one ONNX graph, see `offline.models.baseline.forecast_graph`."""

    def from_all_columns(graph: Graph, baseline: Baseline, columns: Sequence[str]) -> str:
        node, constant = graph.node, graph.constant
        scaler, ridge = model.ridge[0], model.ridge[-1]
        usual = float(np.log(baseline.unconditional))
        # All logs are of ratios to a usual value: near 0, where float32 is finest.
        total = constant(float(ridge.intercept_) + model.correction - usual)
        for i, name in enumerate(columns[len(CONTRACT) :]):
            low, high = _limits(name, baseline)
            value = node("Clip", graph.column(len(CONTRACT) + i), constant(low), constant(high))
            value = node("Log", node("Mul", value, constant(float(np.exp(-scaler.mean_[i])))))
            total = node("Add", total, node("Mul", value, constant(float(ridge.coef_[i] / scaler.scale_[i]))))
        ewma = node("Mul", calibrated_ewma(graph, baseline, columns), constant(1 / baseline.unconditional))
        total = node("Mul", total, constant(model.weight))
        total = node("Add", total, node("Mul", node("Log", ewma), constant(1 - model.weight)))
        variance = node("Exp", node("Add", total, constant(usual)))
        return node("Clip", variance, constant(MIN_SHARE**2 * baseline.unconditional), constant(MAX_VARIANCE))

    return forecast_graph(model.baseline, model.columns, model.ratios, from_all_columns, metadata)


def _limits(column: str, baseline: Baseline) -> tuple[float, float]:
    if column.startswith("relative_volume_"):
        return RELATIVE_VOLUMES
    return MIN_SHARE**2 * baseline.unconditional, MAX_VARIANCE


def _log_inputs(values: Floats, columns: Sequence[str], baseline: Baseline) -> Floats:
    low, high = np.array([_limits(name, baseline) for name in columns[len(CONTRACT) :]]).T
    return np.asarray(np.log(np.clip(values, low, high)), dtype=np.float64)


def _corrected_ridge(inputs: Floats, realized: Floats, penalty: float) -> tuple[Any, float]:
    """Fit log variance; return the ridge, and the log of the factor that corrects the exponential in the mean.

    The factor is the geometric mean of two factors: Jensen's factor for normal residuals, and the mean of realized /
    forecast, which alone would follow spikes.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = make_pipeline(StandardScaler(), Ridge(alpha=penalty * len(inputs)))
    ridge.fit(inputs, np.log(realized))
    residual = np.log(realized) - ridge.predict(inputs)
    return ridge, float((np.var(residual) / 2 + np.log(np.mean(np.exp(residual)))) / 2)


def _choose_penalty(inputs: Floats, realized: Floats, horizon: Int64s, floor: float) -> float:
    """Return the penalty with the least QLIKE on folds in time, each fitted to rows a horizon earlier or more.

    With too few horizons to choose, the largest penalty is returned.
    """
    distinct = np.unique(horizon)
    if len(distinct) < HALF_TRUST:
        return PENALTIES[-1]
    folds = np.array_split(distinct, FOLDS + 1)[1:]
    losses = np.zeros(len(PENALTIES))
    for fold in folds:
        past, ahead = horizon < fold[0] - 1, (fold[0] <= horizon) & (horizon <= fold[-1])
        for i, penalty in enumerate(PENALTIES):
            ridge, correction = _corrected_ridge(inputs[past], realized[past], penalty)
            forecast = np.exp(ridge.predict(inputs[ahead]) + correction)
            losses[i] += np.sum(qlike(realized[ahead], forecast, floor))
    return PENALTIES[int(np.argmin(losses))]
