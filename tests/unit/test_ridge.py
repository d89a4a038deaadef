"""The ridge: what it gains over the EWMA, how far it is trusted, and that its graph computes it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.features.spec import CONTRACT
from data.models.input_sets import input_sets
from data.models.served import ServedModel
from data.simulator.truth import simulate_truth
from data.times import NS
from data.trades import Floats
from data.truth.losses import qlike
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import simulate
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set, training_sample
from offline.lake.store import Lake
from offline.models import ridge as ml
from offline.models.baseline import Baseline, fit
from offline.models.intervals import with_intervals
from offline.models.recipes import CALIBRATED_EWMA, ML, train_baseline, train_ml
from offline.samples import Sample
from tests.models import METADATA, NAN, SPEC
from tests.proofs import Proof

START = dt.datetime(2010, 1, 4, tzinfo=dt.UTC)
COLUMNS = ml.inputs_of(SPEC)


def market(horizons: int, seed: int = 0, noise: float = 0.6) -> Sample:
    """Twelve rows a horizon of a market whose log variance is the mean of what two EWMAs and the range say.

    Each of them alone is off by noise of its own; the target by noise with mean 1 and standard deviation .3 in log.
    """
    rng = np.random.default_rng(seed)
    count = 12 * horizons
    log_variance = -14 + rng.normal(0, 1, count)
    parts = rng.normal(0, noise, (3, count))
    values: Floats = np.full((count, len(SPEC.columns)), NAN)
    values[:, :3] = np.column_stack([np.full(count, 50), np.zeros(count), np.exp(log_variance / 2 - 1)])
    values[:, 2] *= np.exp(rng.normal(0, 0.5, count))
    values[:, 3:10] = np.exp(log_variance[:, None] + rng.normal(0, 3, (count, 7)))
    for name, part in zip(("ewma_variance_300", "ewma_variance_1200", "parkinson_variance_300"), parts, strict=True):
        values[:, SPEC.columns.index(name)] = np.exp(log_variance + part)
    values[:, SPEC.columns.index("relative_volume_300")] = np.exp(rng.normal(0, 0.3, count))
    targets = np.exp((log_variance + rng.normal(-0.045, 0.3, count)) / 2)
    event_time = (START.timestamp() + 5 * np.arange(count) + 1) * NS
    return Sample(values, targets, event_time.astype(np.int64), int(event_time[-1]))


def fitted(rows: Sample) -> ml.Ml:
    inputs = (*CONTRACT, "ewma_variance_300", "ewma_variance_1200")
    ewma = fit(rows.values[:, [SPEC.columns.index(name) for name in inputs]], inputs, rows.targets)
    values = columns_of(rows)
    return with_intervals(ml.fit(ewma, values, COLUMNS, rows.targets, rows.horizon(SPEC)), values, rows.targets)


def columns_of(rows: Sample) -> Floats:
    return rows.values[:, [SPEC.columns.index(name) for name in COLUMNS]]


def loss(model: ml.Ml | Baseline, rows: Sample) -> float:
    values = rows.values[:, [SPEC.columns.index(name) for name in model.columns]]
    return float(np.mean(qlike(rows.targets**2, model.predict(values) ** 2, model.floor)))


def test_who_reads_several_windows_beats_the_best_one() -> None:
    """One EWMA is off by .6 in log; the mean of three by .6 / sqrt(3), the best that can be done (nearly)."""
    model, test = fitted(market(1_000, seed=1)), market(1_000, seed=2)
    assert loss(model, test) < 0.65 * loss(model.baseline, test)


def test_the_forecast_is_right_in_the_mean_where_the_exponential_of_the_mean_log_is_not() -> None:
    """Jensen: with a residual of sd s in log variance, realized / exp(forecast) has the mean exp(s^2 / 2)."""
    rows = market(2_000, seed=3)
    model = replace(fitted(rows), weight=1.0)
    naive = replace(model, correction=0.0)
    ratios = [float(np.mean(rows.targets**2 / each.predict(columns_of(rows)) ** 2)) for each in (model, naive)]
    assert ratios[0] == pytest.approx(1, abs=0.01)
    assert ratios[1] == pytest.approx(np.exp(model.correction), rel=0.01)
    assert ratios[1] > 1.1


@pytest.mark.parametrize(("horizons", "weight"), [(24, 24 / 144), (120, 0.5), (600, 600 / 720)])
def test_the_ridge_is_trusted_by_the_horizons_it_has_seen(horizons: int, weight: float) -> None:
    rows = market(horizons)
    twice = Sample.join([rows, rows])  # another product in the same minutes is no further horizon
    assert fitted(rows).weight == fitted(twice).weight == pytest.approx(weight)


def test_a_score_is_the_mean_in_log_of_ridge_and_ewma() -> None:
    model, values = fitted(market(120)), columns_of(market(10, seed=4))
    halves = [replace(model, weight=weight).predict(values) for weight in (0.0, 1.0)]
    np.testing.assert_allclose(model.predict(values), np.sqrt(halves[0] * halves[1]), rtol=1e-12)
    ewma = values[:, [COLUMNS.index(name) for name in model.baseline.columns]]
    np.testing.assert_allclose(halves[0], model.baseline.predict(ewma), rtol=1e-12)


def test_a_ridge_that_has_nothing_to_tell_from_is_held_back_by_the_largest_penalty() -> None:
    """60 horizons are too few for folds."""
    assert fitted(market(60)).penalty == max(ml.PENALTIES)


def test_folds_choose_the_penalty_that_forecasts_best() -> None:
    """Where the inputs say all, the least penalty; where they say next to nothing, the largest."""
    assert fitted(market(240, noise=0.01)).penalty == min(ml.PENALTIES)
    rows = market(240)
    rows.targets[:] = np.random.default_rng(5).permutation(rows.targets)
    assert fitted(rows).penalty == max(ml.PENALTIES)


def test_the_graph_computes_what_scikit_learn_does_within_1e_5_for_every_input_set_and_extreme() -> None:
    model = fitted(market(300))
    values = columns_of(market(300, seed=6))
    asked = np.tile(values, (3, 1))
    asked[3_600:7_200, 0], asked[3_600:7_200, 3:] = np.arange(3_600) % 49 + 2, NAN
    asked[7_200:, 0], asked[7_200:, 1:] = 0, NAN
    extremes = np.repeat([[0.0], [1e-30], [1e-9], [1.0], [1e5], [1e30]], len(COLUMNS), axis=1)
    extremes[:, 0] = 50
    asked = np.concatenate([asked, extremes])
    served = ServedModel.load(ml.to_onnx(model, METADATA | {"columns": ",".join(COLUMNS)}), spec_id=SPEC.spec_id)
    answer = served.score(asked)
    expected = model.predict(asked)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(answer.score, expected, rtol=1e-5)
    ratios = np.array(model.ratios)[input_sets(asked)]
    np.testing.assert_allclose(answer.lower, expected * ratios[:, 0], rtol=1e-5)
    np.testing.assert_allclose(answer.upper, expected * ratios[:, 1], rtol=1e-5)


@pytest.mark.parametrize("missing", COLUMNS[3:])
def test_a_row_that_lacks_any_input_is_answered_as_by_the_baseline_from_the_contract(missing: str) -> None:
    model, values = fitted(market(120)), columns_of(market(5))
    values[:, COLUMNS.index(missing)] = NAN
    contract = np.column_stack([values[:, :3], np.full(len(values), NAN)])
    np.testing.assert_array_equal(model.predict(values), model.baseline.predict(contract))


def test_rows_without_an_hour_of_history_cannot_train_it() -> None:
    rows = market(300)
    rows.values[:, SPEC.columns.index("ewma_variance_3600")] = NAN
    with pytest.raises(ValueError, match=r"none of 3600 rows of training has all of .* it needs more history"):
        fitted(rows)


def test_the_same_rows_give_the_same_digest_and_what_comes_after_training_changes_nothing() -> None:
    rows = market(900)
    end = START + dt.timedelta(hours=10)
    digest = train_ml(rows, SPEC, end).model.digest
    assert train_ml(rows, SPEC, end).model.digest == digest
    later = rows.event_time > int(end.timestamp()) * NS
    changed = replace(rows, targets=np.where(later, 1e-3, rows.targets))
    assert train_ml(changed, SPEC, end).model.digest == digest
    sooner = replace(rows, targets=np.where(later, rows.targets, 1.01 * rows.targets))
    assert train_ml(sooner, SPEC, end).model.digest != digest


def test_a_candidate_is_judged_beside_the_baseline_of_the_same_rows() -> None:
    """900 horizons, of which 600 train: 60 % of them fit, the rest set intervals, and a horizon lies between."""
    rows, end = market(900), START + dt.timedelta(hours=10)
    candidate = train_ml(rows, SPEC, end)
    ewma = train_baseline(rows, SPEC, end)
    assert candidate.params["fit_horizons"] + candidate.params["interval_horizons"] == 598  # 2 lie across the cuts
    assert candidate.metrics["test_horizons"] == 299
    assert candidate.metrics["qlike"] < candidate.metrics["qlike_calibrated_ewma"] == ewma.metrics["qlike"]
    assert candidate.metrics["coverage"] == pytest.approx(0.9, abs=0.03)
    assert candidate.model.variant == "ml"


@pytest.mark.acceptance
def test_on_simulated_days_the_ridge_beats_the_calibrated_ewma_and_not_the_oracle(tmp_path: Path, proof: Proof) -> None:
    """Six days of two products through the lake; the last of them is test. The oracle knows the state of the market."""
    lake, first = Lake.open(tmp_path), START.date()
    days, products = [first + dt.timedelta(days=day) for day in range(6)], ("BTC-USD", "ETH-USD")
    for product in products:
        for day in days:
            simulate(lake, product, day)
            make_trades(lake, product, day)
        for day in days:
            make_feature_rows(lake, product, day, SPEC)
        for day in days:
            make_training_set(lake, product, day, SPEC)
    rows = training_sample(lake, SPEC, products, days[0], days[-1], with_short_windows=True)
    end = START + dt.timedelta(days=5)
    candidate = train_ml(rows, SPEC, end)
    assert candidate.evaluation is not None
    ridge, ewma = (candidate.evaluation.losses_of(name) for name in (ML, CALIBRATED_EWMA))
    oracle = []
    for product in products:
        test = training_sample(lake, SPEC, [product], days[-1], days[-1]).after(end + dt.timedelta(seconds=60))
        second = -(-test.event_time // NS) - int(end.timestamp())
        within = second < 86_400
        expected = simulate_truth(product, days[-1]).expected_variance[second[within]]
        oracle.append(qlike(test.targets[within] ** 2, expected, candidate.evaluation.variance_floor))
    best = float(np.mean(np.concatenate(oracle)))
    proof.saw(
        qlike_ridge=ridge.qlike,
        qlike_ewma=ewma.qlike,
        qlike_oracle=best,
        ratio=ridge.qlike / ewma.qlike,
        coverage=ridge.coverage,
        horizons=candidate.evaluation.horizons,
    )
    assert best < ridge.qlike < 0.97 * ewma.qlike
