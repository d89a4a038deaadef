"""The shape: what it gains over the EWMA, how far it is trusted, and that its graph computes it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.features.spec import CONTRACT
from data.models.served import ServedModel
from data.simulator.truth import simulate_truth
from data.times import NS, start_ns
from data.trades import Floats
from data.truth.losses import qlike
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import simulate
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set, training_sample
from offline.lake.store import Lake
from offline.models import baseline, shape
from offline.models.cascade import Cascade, Rows, StepModel
from offline.models.recipes import fit_with_intervals, rows_of, train_baseline, train_ml
from offline.models.shape import Shape
from offline.samples import Sample
from tests.models import NAN, SPEC, model_bytes
from tests.proofs import Proof

REAL, SIMULATED = dt.date(2015, 1, 5), dt.date(2010, 1, 4)
COLUMNS = (
    *CONTRACT,
    *("ewma_variance_60", "ewma_variance_300", "ewma_variance_1200", "ewma_variance_3600", "parkinson_variance_300"),
    *("relative_volume_60", "relative_volume_300", "relative_volume_1200"),
    *("mean_variance", "known_steps", "trend_20", "trend_240"),
)
VOLUMES = ("relative_volume_60", "relative_volume_300", "relative_volume_1200")
"""Columns of the model on fewer than 4 real days, in the order of the spec."""


def market(horizons: int, seed: int = 0, day: dt.date = REAL, noise: float = 0.6) -> Sample:
    """Twelve rows a horizon of a market whose log variance is the mean of what two EWMAs and the range say.

    Each of the three alone is off by noise of its own, the other variances by noise of 1; the target by noise with
    mean 1 and standard deviation .3 in log.
    """
    rng = np.random.default_rng(seed)
    count = 12 * horizons
    log_variance = -14 + rng.normal(0, 1, count)
    columns: dict[str, Floats] = {
        "n": np.full(count, 50.0),
        "ret_mean": np.zeros(count),
        "ret_std": np.exp(log_variance / 2 - 1 + rng.normal(0, 0.5, count)),
        "known_steps": np.full(count, 7_200.0),
        "trend_20": rng.normal(0, 0.2, count),
        "trend_240": rng.normal(0, 0.06, count),
    }
    for name in VOLUMES:
        columns[name] = np.exp(rng.normal(0, 0.3, count))
    for name in ("ewma_variance_60", "ewma_variance_3600", "mean_variance"):
        columns[name] = np.exp(log_variance + rng.normal(0, 1, count))
    for name in ("ewma_variance_300", "ewma_variance_1200", "parkinson_variance_300"):
        columns[name] = np.exp(log_variance + rng.normal(0, noise, count))
    values = np.column_stack([columns.get(name, np.full(count, NAN)) for name in SPEC.columns])
    targets = np.exp((log_variance + rng.normal(-0.045, 0.3, count)) / 2)
    event_time = start_ns(day) + (5 * np.arange(count) + 1) * NS
    return Sample(values, targets, event_time, int(event_time[-1]), np.full(count, "BTC-USD"))


def fitted(rows: Sample) -> Cascade:
    return shape.fit(rows_of(rows, SPEC), SPEC)


def first(model: Cascade) -> Shape:
    step = model.steps[0]
    assert isinstance(step, Shape)
    return step


def columns_of(rows: Sample) -> dict[str, Floats]:
    return dict(rows_of(rows, SPEC).columns)


def loss(step: StepModel, rows: Sample) -> float:
    return float(np.mean(qlike(rows.targets**2, step.variance(columns_of(rows)), 1e-12)))


@pytest.fixture(scope="module")
def model() -> Cascade:
    """A model with intervals, of 300 real horizons."""
    return fit_with_intervals(market(300), SPEC, shape.fit)


def test_who_reads_several_windows_beats_the_best_one() -> None:
    """One EWMA is off by .6 in log; the mean of three by .6 / sqrt(3), the best that can be done (nearly)."""
    step, test = first(fitted(market(1_000, seed=1))), market(1_000, seed=2)
    assert loss(step, test) < 0.65 * loss(step.ewma, test)


def test_the_forecast_is_right_in_the_mean_where_the_exponential_of_the_mean_log_is_not() -> None:
    """Jensen: with a residual of sd s in log variance, realized / exp(forecast) has the mean exp(s^2 / 2)."""
    rows = market(2_000, seed=3)
    step = replace(first(fitted(rows)), weight=1.0, trees=None)
    columns = columns_of(rows)
    log_ratio = np.log(rows.targets**2 / step.variance(columns))
    correction = -float(np.mean(log_ratio))
    ratio = float(np.mean(np.exp(log_ratio)))
    assert ratio == pytest.approx(1, abs=0.01)
    assert correction == pytest.approx(np.var(log_ratio) / 2, rel=0.05)
    assert np.exp(correction) > 1.05, "what the forecast gains over the exponential of the mean log"


@pytest.mark.parametrize("horizons", [24, 60, 600])
def test_the_shape_is_trusted_by_the_horizons_it_has_seen(horizons: int) -> None:
    """n / (n + 60) by real horizons; another product in the same minutes is no further horizon."""
    rows = market(horizons)
    assert first(fitted(rows)).weight == pytest.approx(horizons / (horizons + 60))
    assert first(fitted(Sample.join([rows, rows]))).weight == pytest.approx(horizons / (horizons + 60))


def test_simulated_horizons_count_as_60_at_most() -> None:
    """24 / 84; 600 count as 60, so 60 / 120; and 60 of them beside 90 real ones: 150 / 210."""
    assert first(fitted(market(24, day=SIMULATED))).weight == pytest.approx(24 / 84)
    assert first(fitted(market(600, day=SIMULATED))).weight == pytest.approx(0.5)
    both = Sample.join([market(600, day=SIMULATED), market(90)])
    assert first(fitted(both)).weight == pytest.approx(150 / 210)


def test_with_fewer_than_20_horizons_the_ewma_answers_alone() -> None:
    assert not any(isinstance(step, Shape) for step in fitted(market(19)).steps)
    assert isinstance(fitted(market(20)).steps[0], Shape)


def test_a_forecast_is_the_mean_in_log_of_shape_and_ewma() -> None:
    """With weight w: shape^w * ewma^(1 - w)."""
    step, columns = first(fitted(market(120))), columns_of(market(10, seed=4))
    ewma, alone, half = (replace(step, weight=weight).variance(columns) for weight in (0.0, 1.0, 0.5))
    np.testing.assert_allclose(half, np.sqrt(ewma * alone), rtol=1e-12)
    np.testing.assert_allclose(ewma, step.ewma.variance(columns), rtol=1e-12)
    assert step.weight == pytest.approx(120 / 180)


def test_the_shape_is_half_ridge_and_half_trees() -> None:
    step, columns = replace(first(fitted(market(120))), weight=1.0), columns_of(market(10, seed=4))
    ridge = replace(step, trees=None).variance(columns)
    grown = step.trees.predict(step.values(columns)[:, step.seen_by_trees])
    trees = step.ewma.variance(columns) * np.exp(grown + step.correction)
    np.testing.assert_allclose(step.variance(columns), np.sqrt(ridge * trees), rtol=1e-12)


def test_an_input_beyond_nearly_all_of_training_is_read_as_the_limit() -> None:
    """A twentieth of the rows lies beyond each limit: a minute without a move is read as the calmest usual minute."""
    rows = market(120)
    step, columns = first(fitted(rows)), columns_of(rows)
    ratio = np.log(columns["ewma_variance_60"] / columns["ewma_variance_3600"])
    low, high = (limits[0] for limits in step.limits)
    assert (np.mean(ratio < low), np.mean(ratio > high)) == pytest.approx((0.05, 0.05), abs=0.001)
    found = []
    for log_ratio in (low - 0.1, low - 9, high + 0.1, high + 9):
        columns["ewma_variance_60"] = columns["ewma_variance_3600"] * np.exp(log_ratio)
        found.append(step.variance(columns))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize(("days", "hours"), [(3, ()), (4, ("hour_sin", "hour_cos"))])
def test_the_hour_of_day_is_an_input_from_four_real_days_on(days: int, hours: tuple[str, ...]) -> None:
    """Six minutes of each day."""
    rows = Sample.join(market(6, seed=day, day=REAL + dt.timedelta(days=day)) for day in range(days))
    simulated = Sample.join(market(6, seed=day, day=SIMULATED + dt.timedelta(days=day)) for day in range(4))
    rows = Sample.join([rows, simulated])
    for name in ("hour_sin", "hour_cos"):
        rows.values[:, SPEC.columns.index(name)] = 0.5
    assert first(fitted(rows)).hours == hours


def test_no_level_of_price_and_no_date_is_an_input(model: Cascade) -> None:
    """The whitelist: variances, relative volumes, trends and the hour of day."""
    assert model.columns == COLUMNS
    reads = [name for step in model.steps if isinstance(step, Shape) for name in step.needs]
    assert {name.rsplit("_", 1)[0] for name in reads} == {
        *("ewma_variance", "parkinson_variance", "mean", "relative_volume", "trend")
    }


# The steps

AGES = {
    "everything": ("Shape", "ewma_variance_3600", ()),
    "without sizes": ("Shape", "ewma_variance_3600", VOLUMES),
    "half an hour": (
        "Shape",
        "ewma_variance_1200",
        ("ewma_variance_3600", *VOLUMES, "mean_variance"),
    ),
    "ten minutes": (
        "Shape",
        "ewma_variance_300",
        ("ewma_variance_1200", "ewma_variance_3600", *VOLUMES, "mean_variance"),
    ),
    "ten minutes without a trend": (
        "ScaledEwma",
        "ewma_variance_300",
        (
            *("ewma_variance_60", "ewma_variance_1200", "ewma_variance_3600", "parkinson_variance_300"),
            *VOLUMES,
            *("mean_variance", "trend_20", "trend_240"),
        ),
    ),
    "two minutes": ("FirstMinutes", "known_steps", (*COLUMNS[3:8], *VOLUMES, "trend_20", "trend_240")),
    "the contract": ("Window", "n", COLUMNS[3:]),
    "one return": ("Unconditional", "", COLUMNS[2:]),
    "nothing": ("Unconditional", "", COLUMNS[1:]),
}
"""Step and reference by what a row has, and the columns without a part in the answer."""


def asked(kind: str, row: Floats) -> Floats:
    """Return a row of the model's columns with what the kind of row knows."""
    unknown: dict[str, tuple[str, ...]] = {
        "everything": (),
        "without sizes": VOLUMES,
        "half an hour": ("ewma_variance_3600",),
        "ten minutes": ("ewma_variance_3600", "ewma_variance_1200"),
        "ten minutes without a trend": ("ewma_variance_3600", "ewma_variance_1200", "trend_240"),
        "two minutes": (
            *("ewma_variance_3600", "ewma_variance_1200", "ewma_variance_300", "parkinson_variance_300", "trend_240"),
            *VOLUMES,
        ),
        "the contract": COLUMNS[3:],
        "one return": COLUMNS[2:],
        "nothing": COLUMNS[1:],
    }
    row = row.copy()
    row[[COLUMNS.index(name) for name in unknown[kind]]] = NAN
    if kind in ("one return", "nothing"):
        row[0] = 1 if kind == "one return" else 0
    return row


@pytest.mark.parametrize("kind", AGES)
def test_each_row_is_answered_from_all_that_it_has(model: Cascade, kind: str) -> None:
    row = asked(kind, model_values(market(1))[0])
    name, reference, missing = AGES[kind]
    answered = model.rule.answered(row[None])
    step = model.steps[int(answered.step[0])]
    assert (type(step).__name__, (*step.needs, "")[0]) == (name, reference)
    assert tuple(np.array(COLUMNS)[answered.missing[0]]) == missing


def test_a_market_that_never_moved_is_answered_by_the_mean_so_far_and_the_prior(model: Cascade) -> None:
    """All variances are 0, so no EWMA is a level: (300 * 0 + 60 * prior) / 360 = prior / 6."""
    row = model_values(market(1))[:1]
    row[:, [COLUMNS.index(name) for name in COLUMNS if "variance" in name]] = 0
    row[:, COLUMNS.index("known_steps")] = 300
    served = ServedModel.load(model_bytes(model), spec_id=SPEC.spec_id)
    assert served.score(row).score[0] == pytest.approx((served.priors[""] / 6) ** 0.5, rel=1e-6)


def model_values(rows: Sample) -> Floats:
    return rows.values[:, [SPEC.columns.index(name) for name in COLUMNS]]


# The graph


def test_the_graph_computes_what_was_fitted_on_every_step_and_extreme(model: Cascade) -> None:
    """Within 1e-5 on 99.5 % of the rows and 5 % on all: an input near a threshold may take the other branch."""
    rows = model_values(market(100, seed=6))
    every = np.concatenate([np.array([asked(kind, row) for row in rows]) for kind in AGES])
    extremes = np.repeat([[0.0], [1e-30], [1e-9], [1.0], [1e5], [1e9]], len(COLUMNS), axis=1)
    extremes[:, 0] = 50
    every = np.concatenate([every, extremes])
    count = len(every)
    zeros, names = np.zeros(count, np.int64), np.full(count, "BTC-USD")
    columns = dict(zip(COLUMNS, every.T, strict=True))
    expected = model.forecast(Rows(columns, np.ones(count), zeros, names, zeros > 0, zeros))
    served = ServedModel.load(model_bytes(model), spec_id=SPEC.spec_id)
    found = served.score(every, names.tolist())
    assert set(model.rule.answered(every).step) >= {0, 1, 2, 3, len(model.steps) - 1}
    assert found.are_usable().all()
    for name in ("score", "lower", "upper"):
        off = np.abs(getattr(found, name) / getattr(expected, name) - 1)
        assert np.quantile(off, 0.995) < 1e-5, name
        assert off.max() < 0.05, name


def test_rows_that_share_an_input_take_the_branch_of_the_fit() -> None:
    """A sparse market: each ratio is one of 400 values, so thresholds of trees lie on the values of many rows."""
    rows = market(600, seed=8)
    reference = rows.values[:, SPEC.columns.index("ewma_variance_3600")]
    for name in COLUMNS[3:6]:
        column = rows.values[:, SPEC.columns.index(name)]
        column[:] = np.exp(np.round(np.log(column / reference) * 50) / 50) * reference
    model = fitted(rows)
    model = replace(model, intervals=((0.5, 2.0),) * len(model.steps))
    served = ServedModel.load(model_bytes(model), spec_id=SPEC.spec_id)
    found = served.score(model_values(rows), rows.product_id.tolist()).score
    off = np.abs(found / model.forecast(rows_of(rows, SPEC)).score - 1)
    assert np.mean(off > 1e-5) == 0


def test_the_same_rows_give_the_same_digest_and_what_comes_after_training_changes_nothing() -> None:
    rows = market(150)
    end = dt.datetime.combine(REAL, dt.time(2), dt.UTC)
    digest = train_ml(rows, SPEC, end).model.digest
    assert train_ml(rows, SPEC, end).model.digest == digest
    later = rows.event_time > int(end.timestamp()) * NS
    changed = replace(rows, targets=np.where(later, 1e-3, rows.targets))
    assert train_ml(changed, SPEC, end).model.digest == digest
    sooner = replace(rows, targets=np.where(later, rows.targets, 1.01 * rows.targets))
    assert train_ml(sooner, SPEC, end).model.digest != digest


def test_a_candidate_beats_the_baseline_of_the_same_rows() -> None:
    """900 horizons, of which 600 train; a horizon lies between training and test."""
    rows, end = market(900), dt.datetime.combine(REAL, dt.time(10), dt.UTC)
    candidate = train_ml(rows, SPEC, end)
    ewma = train_baseline(rows, SPEC, end)
    assert candidate.params["horizons"] == 599  # the targets of the last one reach beyond the end
    assert candidate.metrics["test_horizons"] == 299
    assert candidate.metrics["qlike"] < ewma.metrics["qlike"]
    assert candidate.metrics["coverage"] == pytest.approx(0.9, abs=0.03)
    assert candidate.model.variant == "ml"


# Intervals and priors


def test_intervals_hold_nine_tenths_of_rows_that_nobody_has_seen(model: Cascade) -> None:
    test = rows_of(market(600, seed=7), SPEC)
    found = model.forecast(test)
    target = np.sqrt(test.realized)
    assert np.mean((found.lower <= target) & (target <= found.upper)) == pytest.approx(0.9, abs=0.03)
    assert ((found.lower <= found.score) & (found.score <= found.upper)).all()


def test_a_product_with_30_horizons_has_a_prior_of_its_own(model: Cascade) -> None:
    """Realized variances 1e-6 and 9e-6 over 30 and 29 horizons: the mean of all is (30 * 1 + 29 * 9) / 59 * 1e-6."""
    parts = [market(30), replace(market(29), product_id=np.full(348, "ETH-USD"))]
    for part, variance in zip(parts, (1e-6, 9e-6), strict=True):
        part.targets[:] = variance**0.5
    priors = baseline.priors_of(rows_of(Sample.join(parts), SPEC))
    assert priors == pytest.approx({"": 291e-6 / 59, "BTC-USD": 1e-6})
    served = ServedModel.load(model_bytes(replace(model, priors=priors)), spec_id=SPEC.spec_id)
    nothing = np.full((3, len(COLUMNS)), NAN)
    nothing[:, 0] = 0
    scores = served.score(nothing, ["BTC-USD", "ETH-USD", ""]).score
    assert scores == pytest.approx([1e-3, (291e-6 / 59) ** 0.5, (291e-6 / 59) ** 0.5], rel=1e-6)


def test_the_first_minutes_weigh_mean_and_prior(model: Cascade) -> None:
    """60 steps of 4e-6 beside 60 of 2e-6: 3e-6. 180 steps: (180 * 4 + 60 * 2) / 240 = 3.5e-6. No step: no mean."""
    served = ServedModel.load(model_bytes(replace(model, priors={"": 1e-6, "A": 2e-6})), spec_id=SPEC.spec_id)
    rows = np.full((3, len(COLUMNS)), NAN)
    rows[:, 0] = 0
    rows[:2, [COLUMNS.index("known_steps"), COLUMNS.index("mean_variance")]] = [[60, 4e-6], [180, 4e-6]]
    assert served.score(rows, ["A"] * 3).score == pytest.approx(np.sqrt([3e-6, 3.5e-6, 2e-6]), rel=1e-6)


def test_a_market_that_never_moved_cannot_train() -> None:
    rows = market(30)
    rows.targets[:] = 0
    with pytest.raises(ValueError, match="the training median of variance must be above 0"):
        fitted(rows)


def test_young_and_sparse_rows_train_a_model_of_what_they_know() -> None:
    """Forty minutes: no hour is known. Some rows have no return, or one."""
    rows = market(40)
    rows.values[:, [SPEC.columns.index(name) for name in ("ewma_variance_3600", *VOLUMES)]] = NAN
    rows.values[:60, 0], rows.values[:60, 2] = 1, NAN
    rows.values[:30, 0], rows.values[:30, 1] = 0, NAN
    end = dt.datetime.combine(REAL, dt.time(0, 30), dt.UTC)
    for train in (train_baseline, train_ml):
        found = train(rows, SPEC, end)
        assert all(np.isfinite(value) for name, value in found.metrics.items() if name.startswith("qlike"))
        assert "ewma_variance_3600" not in found.model.columns


@pytest.mark.acceptance
def test_on_simulated_days_the_shape_beats_the_calibrated_ewma_and_not_the_oracle(tmp_path: Path, proof: Proof) -> None:
    """Six days of two products through the lake; the last of them is test. The oracle knows the state of the market."""
    lake = Lake.open(tmp_path)
    days, products = [SIMULATED + dt.timedelta(days=day) for day in range(6)], ("BTC-USD", "ETH-USD")
    for product in products:
        for day in days:
            simulate(lake, product, day)
            make_trades(lake, product, day)
        for day in days:
            make_feature_rows(lake, product, day, SPEC)
        for day in days:
            make_training_set(lake, product, day, SPEC)
    rows = training_sample(lake, SPEC, products, days[0], days[-1], with_short_windows=True)
    end = dt.datetime.combine(days[-1], dt.time(), dt.UTC)
    candidate = train_ml(rows, SPEC, end)
    ml, ewma = candidate.metrics, train_baseline(rows, SPEC, end).metrics
    oracle = []
    for product in products:
        test = training_sample(lake, SPEC, [product], days[-1], days[-1]).after(end + dt.timedelta(seconds=60))
        second = -(-test.event_time // NS) - int(end.timestamp())
        within = second < 86_400
        expected = simulate_truth(product, days[-1]).expected_variance[second[within]]
        oracle.append(qlike(test.targets[within] ** 2, expected, ml["variance_floor"]))
    best = float(np.mean(np.concatenate(oracle)))
    proof.saw(
        qlike_ml=ml["qlike"],
        qlike_ewma=ewma["qlike"],
        qlike_oracle=best,
        ratio=ml["qlike"] / ewma["qlike"],
        coverage=ml["coverage"],
        horizons=ml["test_horizons"],
    )
    assert best < ml["qlike"] < 0.97 * ewma["qlike"]
