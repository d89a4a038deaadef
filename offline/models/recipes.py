"""Recipes to make each model from a sample: split, fit, calibrate, check."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.spec import CONTRACT, FeatureSpec
from data.models.input_sets import ALL_COLUMNS, input_sets, with_less_input
from data.models.served import ServedModel
from data.simulator.day import simulate_day
from data.times import NS, second_text, to_datetime
from data.trades import Floats
from offline.evaluation.losses_table import evaluate
from offline.models import ridge as ml
from offline.models.baseline import Baseline, fit, to_onnx
from offline.models.intervals import COVERAGE, Fitted, Model, with_intervals
from offline.promotion.register import Candidate
from offline.samples import CHECKED_HOURS, SHORT_WINDOWS, Sample, TradeSpan, sample

BASELINE, ML = "volatility-baseline", "volatility-ml"
CALIBRATED_EWMA = "calibrated EWMA"
FIT_SHARE = 0.6
"""Share of the training horizons for fitting; the later horizons set the intervals."""

PRODUCTS = ("BTC-USD", "ETH-USD")
SEED = 0
TRAINING_DAYS = tuple(dt.date(2010, 1, day) for day in (4, 5, 6, 7, 8))
"""Days before the first market exchanged bitcoin for dollars: no recorded trade is ever in-sample."""
TEST_DAY = dt.date(2010, 1, 9)

EWMAS = ("ewma_variance_300", "ewma_variance_1200", "ewma_variance_3600")
"""Candidates for the half-life: on real markets 5 to 60 minutes were measured best, and the last minute alone nearly
the worst."""
MAX_OFF = 1e-5
"""Maximum relative difference of a score between graph and fitted model: float32 holds 7 digits."""


class Split(NamedTuple):
    """A sample cut by time: no target of an earlier part reaches into a row's horizon in a later part."""

    fitting: Sample
    intervals: Sample
    test: Sample


def split(rows: Sample, train_end: dt.datetime, spec: FeatureSpec) -> Split:
    """Cut a sample into rows for fitting, rows for the intervals, and test rows from a horizon after `train_end` on.

    Raises:
        ValueError: a part is empty.
    """
    horizon = spec.horizon_s * NS
    step = spec.grid_step_s * NS
    seen_until = -(-rows.event_time // step) * step + horizon  # the last grid point of a row's target
    end = int(train_end.timestamp()) * NS
    training = rows.take(seen_until <= end)
    test = rows.take(rows.event_time > end + horizon)
    if not len(training) or not len(test):
        raise ValueError(
            f"{len(training):,} rows end by {second_text(train_end)} and {len(test):,} begin a horizon later: "
            "training needs both; choose another train_end, or more days"
        )
    distinct = np.unique(training.horizon(spec))
    cut = int(distinct[int(len(distinct) * FIT_SHARE)])
    number = training.horizon(spec)
    parts = training.take(number < cut - 1), training.take(number >= cut)
    if not all(map(len, parts)):
        raise ValueError(f"{len(distinct)} horizons of training are too few to fit a model and to set its intervals")
    return Split(*parts, test)


def train_baseline(rows: Sample, spec: FeatureSpec, train_end: dt.datetime) -> Candidate:
    """Return `volatility-baseline`, fitted up to `train_end` and tested later. The same rows give the same bytes.

    Raises:
        ValueError: the rows show no volatility, or there are too few rows, or the graph differs from the fitted model.
    """
    parts = split(rows, train_end, spec)
    fitted = _baseline(parts, spec)
    graph = to_onnx(fitted, _metadata("baseline", fitted, spec, train_end))
    return _candidate(BASELINE, {CALIBRATED_EWMA: (fitted, graph)}, asdict(fitted), parts, spec)


def train_ml(rows: Sample, spec: FeatureSpec, train_end: dt.datetime) -> Candidate:
    """Return `volatility-ml`, fitted up to `train_end` and tested later, together with the baseline of the same rows.

    Raises:
        ValueError: see `train_baseline`.
    """
    parts = split(rows, train_end, spec)
    ewma = _baseline(parts, spec)
    columns = ml.inputs_of(spec)
    fitting = _columns(parts.fitting, columns, spec)
    fitted = ml.fit(ewma, fitting, columns, parts.fitting.targets, parts.fitting.horizon(spec))
    fitted = _calibrated(fitted, parts, spec)
    graphs: dict[str, tuple[Fitted, bytes]] = {
        ML: (fitted, ml.to_onnx(fitted, _metadata("ml", fitted, spec, train_end))),
        CALIBRATED_EWMA: (ewma, to_onnx(ewma, _metadata("baseline", ewma, spec, train_end))),
    }
    params = {
        "columns": fitted.columns,
        "coefficients": [round(float(value), 6) for value in fitted.ridge[-1].coef_],
        "penalty": fitted.penalty,
        "correction": fitted.correction,
        "weight": fitted.weight,
        "ratios": fitted.ratios,
        "ewma": ewma.columns[-1],
        "ewma_scale": ewma.scale,
        "floor": ewma.floor,
    }
    return _candidate(ML, graphs, params, parts, spec)


def _baseline(parts: Split, spec: FeatureSpec) -> Baseline:
    inputs = (*CONTRACT, *EWMAS)
    fitted = fit(_columns(parts.fitting, inputs, spec), inputs, parts.fitting.targets)
    return _calibrated(fitted, parts, spec)


def _calibrated(fitted: Model, parts: Split, spec: FeatureSpec) -> Model:
    """Return the model with its intervals, from the rows with all columns."""
    values = _columns(parts.intervals, fitted.columns, spec)
    whole = _are_whole(values)
    return with_intervals(fitted, values[whole], parts.intervals.targets[whole])


def _columns(rows: Sample, names: Sequence[str], spec: FeatureSpec) -> Floats:
    return rows.values[:, [spec.columns.index(name) for name in names]]


def _are_whole(values: Floats) -> NDArray[np.bool_]:
    """Return a mask of the rows with all columns; raise ValueError if there are none."""
    whole = input_sets(values) == ALL_COLUMNS
    if not whole.any():
        raise ValueError(f"none of {len(values):,} rows that set the intervals has all columns: more history is needed")
    return np.asarray(whole)


def _metadata(variant: str, fitted: Fitted, spec: FeatureSpec, train_end: dt.datetime) -> dict[str, str]:
    return {
        "variant": variant,
        "columns": ",".join(fitted.columns),
        "spec_id": spec.spec_id,
        "horizon_s": str(spec.horizon_s),
        "train_end": second_text(train_end),
        "coverage": str(COVERAGE),
    }


def _checked(content: bytes, fitted: Fitted, test: Sample, spec: FeatureSpec) -> ServedModel:
    """Load the graph, and compare with the fitted model (scikit-learn's own) on all test rows and input sets."""
    model = ServedModel.load(content, spec_id=spec.spec_id, known_columns=spec.columns)
    values = _columns(test, model.columns, spec)
    asked = np.concatenate(with_less_input(values))
    off = float(np.max(np.abs(model.score(asked).score / fitted.predict(asked) - 1)))
    if not off <= MAX_OFF:
        raise ValueError(f"the ONNX graph differs from the fitted model by {off:.1e} of a score, allowed is {MAX_OFF}")
    return model


def _candidate(
    name: str, graphs: dict[str, tuple[Fitted, bytes]], params: dict[str, Any], parts: Split, spec: FeatureSpec
) -> Candidate:
    """Check and evaluate graphs, and return the first graph as candidate for the registered model `name`.

    Args:
        graphs: fitted model and ONNX file, by name in the evaluation.
    """
    models = {each: _checked(content, fitted, parts.test, spec) for each, (fitted, content) in graphs.items()}
    (forecaster, model), (fitted, content) = next(iter(models.items())), next(iter(graphs.values()))
    evaluation = evaluate(models, parts.test, spec, fitted.floor)
    params = dict(params)
    for part, rows in ("fit", parts.fitting), ("interval", parts.intervals):
        params[f"{part}_rows"] = len(rows)
        params[f"{part}_horizons"] = rows.horizons(spec)
        params[f"{part}_from"] = _text(rows.event_time.min())
        params[f"{part}_to"] = _text(rows.event_time.max())
    example = _columns(parts.intervals, model.columns, spec)
    example = example[_are_whole(example)][:2]
    return Candidate(name, content, model, example, params, evaluation.metrics(forecaster), evaluation)


def _text(ns: np.int64) -> str:
    return second_text(to_datetime(int(ns)))


def simulated_rows(spec: FeatureSpec, hours: tuple[int, int] = (0, 24)) -> Sample:
    """Return the counted rows of the simulated training days and the test day.

    Args:
        hours: first hour (inclusive) and last hour (exclusive) of each day; at least as long as the longest half-life.
    """
    return Sample.join(
        sample(simulate_day(product, day, SEED, hours), spec, SHORT_WINDOWS if day != TEST_DAY else ())
        for day in (*TRAINING_DAYS, TEST_DAY)
        for product in PRODUCTS
    )


def simulated_spans() -> list[TradeSpan]:
    """Return the trades of two products in the first hours of the last training day and of the test day."""
    days = zip(PRODUCTS, (TRAINING_DAYS[-1], TEST_DAY), strict=True)
    parts = [simulate_day(product, day, SEED, (0, CHECKED_HOURS)) for product, day in days]
    return [TradeSpan(trades, int(trades.event_time[0])) for trades in parts]


def train_end_of_simulated_days() -> dt.datetime:
    """Return the begin of the test day, UTC."""
    return dt.datetime.combine(TEST_DAY, dt.time(), dt.UTC)
