"""`volatility-baseline`: a calibrated EWMA, a forecast from the contract alone, and one graph with both."""

from __future__ import annotations

# ruff: noqa: PLC0415 - scikit-learn takes seconds to import, and most callers only ask
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.features.spec import CONTRACT
from data.models.input_sets import ALL_COLUMNS, CONTRACT_ONLY, UNCONDITIONAL, input_sets
from data.models.served import OUTPUTS
from data.trades import Floats
from data.truth.losses import qlike
from data.truth.targets import variance_floor
from offline.models.intervals import Ratios
from offline.models.onnx_graph import FLOAT, INT64, Graph

MIN_SHARE = 0.01
"""Lower limit of a forecast, as a share of the unconditional forecast; and of `ret_std`, as a share of the median: a
market that stood still for an hour is not forecast to stand still for ever."""

MAX_VARIANCE = 1e6
"""Upper limit of variances: finite input gives a finite answer, in float32 too."""

SHRINKAGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Candidates for `Baseline.shrinkage`: number of returns at which the window's own forecast and the unconditional
forecast weigh the same; chosen by QLIKE."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The fitted parameters. Variances are per horizon.

    Attributes:
        columns: the input columns: the contract and one `ewma_variance_...`.
        scale: forecast variance / weighted realized variance.
        intercept, slope: log variance by log `ret_std` ** 2, for a full window.
        shrinkage: log variance is pulled to the unconditional log variance with weight shrinkage / (n + shrinkage).
        unconditional: mean realized variance.
        min_ret_std: a smaller `ret_std`, above all 0, is read as `min_ret_std`.
        floor: smaller realized variances count as `floor` in fitting and in losses.
        ratios: shape (3, 2), ends of the interval as multiples of the score, for each input set.
    """

    columns: tuple[str, ...]
    scale: float
    intercept: float
    slope: float
    shrinkage: float
    unconditional: float
    min_ret_std: float
    floor: float
    ratios: Ratios = ()

    def predict(self, values: Floats) -> Floats:
        """Return the scores of rows of `columns`, NaN where missing: the computation of the graph, in float64."""
        n, _, ret_std, ewma = values.T
        least = MIN_SHARE**2 * self.unconditional
        window = self.intercept + self.slope * 2 * np.log(np.clip(ret_std, self.min_ret_std, 1.0))
        weight = n / (n + self.shrinkage) if self.shrinkage else np.ones_like(n)
        usual = np.log(self.unconditional)
        by_set = [
            np.clip(self.scale * ewma, least, MAX_VARIANCE),
            np.clip(np.exp(usual + weight * (window - usual)), least, MAX_VARIANCE),
            np.full(len(values), self.unconditional),
        ]
        return np.asarray(np.sqrt(np.choose(input_sets(values), by_set)), dtype=np.float64)


def fit(values: Floats, columns: Sequence[str], targets: Floats) -> Baseline:
    """Choose half-life and scale, and fit the forecast from the contract, all by QLIKE on the given rows.

    Args:
        values: shape (n, len(columns)), rows of features; rows with missing columns are for the contract's fit, and
            rows of short windows choose the shrinkage.
        columns: the contract first; all `ewma_variance_...` among the columns compete.
        targets: shape (n,), volatility per horizon.

    Raises:
        ValueError: there is no `ewma_variance_...` column, or the median `ret_std` of full windows is 0.
    """
    from sklearn.linear_model import LinearRegression

    realized = targets**2
    floor = variance_floor(realized[~np.isnan(values).any(axis=1)])
    realized = np.maximum(realized, floor)

    candidates = [i for i, name in enumerate(columns) if name.startswith("ewma_variance_")]
    if not candidates:
        raise ValueError(f"one column at least must be an ewma_variance_..., columns were {tuple(columns)}")
    rows = ~np.isnan(values[:, candidates]).any(axis=1)
    least = MIN_SHARE**2 * float(np.mean(realized[rows]))
    losses, scales = [], []
    for i in candidates:
        ewma = np.maximum(values[rows, i], least)
        scales.append(float(np.mean(realized[rows] / ewma)))  # where the mean QLIKE is smallest
        losses.append(float(np.mean(qlike(realized[rows], scales[-1] * ewma, floor))))
    best = int(np.argmin(losses))

    n, ret_std = values[:, columns.index("n")], values[:, columns.index("ret_std")]
    full = n == np.max(n)
    min_ret_std = MIN_SHARE * float(np.median(ret_std[full]))
    if not min_ret_std > 0:
        raise ValueError("the median ret_std of full windows is 0: these trades show no volatility to learn from")
    log_square = 2 * np.log(np.clip(ret_std, min_ret_std, 1.0))
    line = LinearRegression().fit(log_square[full, None], np.log(realized[full]))
    slope = float(line.coef_[0])
    residual = np.log(realized[full]) - slope * log_square[full]
    intercept = float(np.log(np.mean(np.exp(residual))))  # mean(realized / forecast) = 1, not mean of logs = 0

    used, usual = (*CONTRACT, columns[candidates[best]]), float(np.mean(realized[full]))
    fitted = Baseline(
        used, scales[best], intercept, slope, shrinkage=0.0, unconditional=usual, min_ret_std=min_ret_std, floor=floor
    )
    windows = np.column_stack([values[:, [columns.index(name) for name in CONTRACT]], np.full(len(values), np.nan)])
    windows, realized = windows[n >= 2], realized[n >= 2]
    fits = [replace(fitted, shrinkage=shrinkage) for shrinkage in SHRINKAGES]
    return min(fits, key=lambda each: float(np.mean(qlike(realized, each.predict(windows) ** 2, floor))))


def to_onnx(baseline: Baseline, metadata: dict[str, str]) -> bytes:
    """Write the baseline as one ONNX graph, see `forecast_graph`."""
    return forecast_graph(baseline, baseline.columns, baseline.ratios, calibrated_ewma, metadata)


def calibrated_ewma(graph: Graph, baseline: Baseline, columns: Sequence[str]) -> str:
    """Add the forecast variance from all columns to a graph: the chosen EWMA, scaled and limited."""
    least, most = graph.constant(MIN_SHARE**2 * baseline.unconditional), graph.constant(MAX_VARIANCE)
    ewma = graph.column(columns.index(baseline.columns[-1]))
    return graph.node("Clip", graph.node("Mul", ewma, graph.constant(baseline.scale)), least, most)


def forecast_graph(
    baseline: Baseline,
    columns: Sequence[str],
    ratios: Ratios,
    from_all_columns: Callable[[Graph, Baseline, Sequence[str]], str],
    metadata: dict[str, str],
) -> bytes:
    """Write one ONNX graph: `X` float32 (any, k) in; `score`, `lower`, `upper` float32 (any,) out.

    `X` is NaN in each of the `missing_columns` of a row, and so shows the input set of the row.

    Args:
        baseline: for rows with the contract alone, or with nothing.
        columns: of `X`, the contract first.
        ratios: see `Baseline.ratios`.
        from_all_columns: adds the forecast variance of rows with all columns to the graph, and returns its name.
        metadata: key-value metadata of the file, see `data.models.served.METADATA`.
    """
    graph = Graph()
    node, constant = graph.node, graph.constant

    def choose(by_set: Sequence[str], name: str = "") -> str:
        rest = node("Where", from_window, by_set[CONTRACT_ONLY], by_set[UNCONDITIONAL])
        return node("Where", from_all, by_set[ALL_COLUMNS], rest, name=name)

    n, ret_std = graph.column(columns.index("n")), graph.column(columns.index("ret_std"))
    absent = node("ReduceMax", node("Cast", node("IsNaN", "X"), to=FLOAT), constant(1, INT64, (1,)), keepdims=0)
    from_all = node("Less", absent, constant(0.5))
    from_window = node("Not", node("IsNaN", ret_std))

    usual = float(np.log(baseline.unconditional))
    least, most = constant(MIN_SHARE**2 * baseline.unconditional), constant(MAX_VARIANCE)
    window = node("Log", node("Clip", ret_std, constant(baseline.min_ret_std), constant(1.0)))
    window = node("Mul", window, constant(2 * baseline.slope))
    window = node("Add", window, constant(baseline.intercept - usual))  # log of forecast / unconditional variance
    weight = node("Div", n, node("Add", n, constant(baseline.shrinkage)))
    window = node("Exp", node("Add", node("Mul", weight, window), constant(usual)))
    variances = (
        from_all_columns(graph, baseline, columns),
        node("Clip", window, least, most),
        constant(baseline.unconditional),
    )
    score = node("Sqrt", choose(variances), name="score")
    for side, name in enumerate(("lower", "upper")):
        node("Mul", score, choose([constant(ratio[side]) for ratio in ratios]), name=name)
    return graph.to_bytes(f"volatility_{metadata['variant']}", len(columns), OUTPUTS, metadata)
