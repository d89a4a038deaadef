"""Recipes to make each model from a sample: split, fit, set the intervals, check."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from data.features.spec import FeatureSpec
from data.models.input_sets import with_less_input
from data.models.served import BASELINE, ML, ServedModel
from data.simulator.day import simulate_day
from data.times import NS, second_text, to_datetime
from data.truth.losses import tercile_bounds
from offline.losses_table import evaluate
from offline.models import baseline, shape
from offline.models.candidate import Candidate, Recipe
from offline.models.cascade import Cascade, Rows
from offline.models.crossfit import COVERAGE, with_intervals
from offline.samples import CHECKED_HOURS, SHORT_WINDOWS, Sample, TradeSpan, sample, scores_of

PRODUCTS = ("BTC-USD", "ETH-USD")
SEED = 0
TRAINING_DAYS = tuple(dt.date(2010, 1, day) for day in (4, 5, 6, 7, 8))
"""Days before the first market exchanged bitcoin for dollars: no recorded trade is ever in-sample."""
TEST_DAY = dt.date(2010, 1, 9)

MAX_OFF = 1e-5
"""Maximum relative difference of a score between graph and fitted model: float32 holds 7 digits."""
USUAL = 0.995
"""Share of scores that must be within `MAX_OFF`."""
MAX_FLIPPED = 0.05
"""Maximum relative difference of the other scores: an input near a threshold may take the other branch of a tree."""


class Split(NamedTuple):
    """A sample cut by time: no target of training reaches into a test row's horizon."""

    training: Sample
    test: Sample


def split(rows: Sample, train_end: dt.datetime, spec: FeatureSpec) -> Split:
    """Cut a sample into rows for training, and test rows from a horizon after `train_end` on.

    Raises:
        ValueError: a part is empty.
    """
    horizon = spec.horizon_s * NS
    end = int(train_end.timestamp()) * NS
    training = rows.take(rows.seen_until(spec) <= end)
    test = rows.take(rows.event_time > end + horizon)
    if not len(training) or not len(test):
        raise ValueError(
            f"{len(training):,} rows end by {second_text(train_end)} and {len(test):,} begin a horizon later: "
            "training needs both; choose another train_end, or more days"
        )
    return Split(training, test)


def rows_of(rows: Sample, spec: FeatureSpec) -> Rows:
    """Return a sample as named columns."""
    return Rows.of(rows.values, rows.targets**2, rows.event_time, rows.product_id, spec)


def fit_with_intervals(rows: Sample, spec: FeatureSpec, fit: Callable[[Rows, FeatureSpec], Cascade]) -> Cascade:
    """Fit a model to all rows of a sample, and set its intervals by cross-fitting."""
    named = rows_of(rows, spec)
    return with_intervals(fit(named, spec), named, lambda part: fit(part, spec), spec.half_lives[1])


def train_baseline(rows: Sample, spec: FeatureSpec, train_end: dt.datetime) -> Candidate:
    """Return `volatility-baseline`, fitted up to `train_end` and tested later. The same rows give the same bytes.

    Raises:
        ValueError: the rows show no volatility, or there are too few rows, or the graph differs from the fitted model.
    """
    parts = split(rows, train_end, spec)
    fitted = fit_with_intervals(parts.training, spec, baseline.fit)
    return _candidate(BASELINE, fitted, parts, spec, train_end)


def train_ml(rows: Sample, spec: FeatureSpec, train_end: dt.datetime) -> Candidate:
    """Return `volatility-ml`, fitted up to `train_end` and tested later. The same rows give the same bytes.

    Raises:
        ValueError: see `train_baseline`.
    """
    parts = split(rows, train_end, spec)
    fitted = fit_with_intervals(parts.training, spec, shape.fit)
    return _candidate(ML, fitted, parts, spec, train_end)


def served(fitted: Cascade, parts: Split, spec: FeatureSpec, train_end: dt.datetime) -> tuple[bytes, ServedModel]:
    """Write the graph of a fitted model, load the graph, and compare both on test rows with all and with less input.

    Raises:
        ValueError: a score of the graph differs from the fitted model's.
    """
    metadata = {
        "spec_id": spec.spec_id,
        "horizon_s": str(spec.horizon_s),
        "train_end": second_text(train_end),
        "coverage": str(COVERAGE),
        "variance_floor": repr(fitted.floor),
    }
    if (bounds := _bounds(fitted, parts.training, spec)) is not None:
        metadata["tercile_bounds"] = ",".join(map(repr, bounds))
    content = fitted.to_onnx(metadata)
    model = ServedModel.load(content, spec_id=spec.spec_id, known_columns=spec.columns)
    for values in with_less_input(parts.test.values):
        asked = replace(parts.test, values=values)
        found = scores_of(model, asked, spec).score
        off = np.abs(found / fitted.forecast(rows_of(asked, spec)).score - 1)
        for allowed, share in ((MAX_OFF, USUAL), (MAX_FLIPPED, 1.0)):
            if not (worst := float(np.quantile(off, share))) <= allowed:
                raise ValueError(
                    f"the ONNX graph differs from the fitted model by {worst:.1e} of a score, allowed is {allowed} for "
                    f"{share:.1%} of the rows"
                )
    return content, model


def _bounds(fitted: Cascade, training: Sample, spec: FeatureSpec) -> tuple[float, float] | None:
    """Return the tercile bounds of the training rows by the calibrated EWMA's column; None for a model without one."""
    column = next((step.column for step in fitted.steps if isinstance(step, baseline.ScaledEwma)), None)
    if column is None:
        return None
    variance = training.values[:, spec.columns.index(column)]
    return tercile_bounds(np.sqrt(np.maximum(variance[~np.isnan(variance)], fitted.floor)))


def _candidate(name: str, fitted: Cascade, parts: Split, spec: FeatureSpec, train_end: dt.datetime) -> Candidate:
    """Check and evaluate a fitted model, and return the model as candidate for the registered model `name`."""
    content, model = served(fitted, parts, spec, train_end)
    evaluation = evaluate({name: model}, parts.test, spec, fitted.floor)
    example = parts.training.values[:, spec.places(model.columns)]
    example = example[~np.isnan(example).any(axis=1)][:2]
    if not len(example):
        example = np.array([[1.0, 0.0] + [np.nan] * (len(model.columns) - 2)] * 2)
    return Candidate(
        name,
        content,
        model,
        example,
        _params(fitted, parts.training, spec),
        evaluation.metrics(name),
        shape.shown_weights(fitted.steps),
    )


def _params(fitted: Cascade, training: Sample, spec: FeatureSpec) -> dict[str, Any]:
    """Return the parameters of the MLflow run."""
    ladder = [step.needs[0] if step.needs else "prior" for step in fitted.steps]
    return {
        "columns": fitted.columns,
        "steps": ladder,
        "intervals": [tuple(round(end, 4) for end in ends) for ends in fitted.intervals],
        "priors": {name or "all": f"{prior:.3g}" for name, prior in fitted.priors.items()},
        "floor": fitted.floor,
        "weights": [round(step.weight, 3) for step in fitted.steps if isinstance(step, shape.Shape)],
        "scales": {step.column: round(step.scale, 4) for step in fitted.steps if isinstance(step, baseline.ScaledEwma)},
        "rows": len(training),
        "horizons": training.horizons(spec),
        "from": _text(training.event_time.min()),
        "to": _text(training.event_time.max()),
    }


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


def simulated_spans(hours: tuple[int, int] = (0, CHECKED_HOURS)) -> list[TradeSpan]:
    """Return the trades of two products in some hours of the last training day and of the test day.

    Args:
        hours: the first hour is that of `simulated_rows`, because a row sees all trades before.
    """
    days = zip(PRODUCTS, (TRAINING_DAYS[-1], TEST_DAY), strict=True)
    parts = [simulate_day(product, day, SEED, hours) for product, day in days]
    return [TradeSpan(trades, int(trades.event_time[0])) for trades in parts]


def train_end_of_simulated_days() -> dt.datetime:
    """Return the begin of the test day, UTC."""
    return dt.datetime.combine(TEST_DAY, dt.time(), dt.UTC)


RECIPES: Mapping[str, Recipe] = {"cascade of scaled EWMAs": train_baseline, "cascade of limited shapes": train_ml}
"""Recipes by name. The gate takes changed code under an old name for a new recipe."""
