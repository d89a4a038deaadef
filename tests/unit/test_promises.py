"""Promises of a version: hourly figures of adapted forecasts, worked by hand, and adapted as online."""

from __future__ import annotations

import datetime as dt
from math import log

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import Scores, ServedModel
from data.simulator.day import simulate_day
from data.times import NS
from data.trades import Floats
from data.truth.adaptation import adapted, adapted_by_targets, teaching
from data.truth.counting import TWELFTH, counted_rows
from data.truth.targets import target_volatility
from offline.evaluation.promises import HOUR, MIN_HORIZONS, hourly_figures, promises_of
from offline.samples import Sample
from tests.models import SPEC, model_bytes

START = dt.datetime(2026, 1, 3, tzinfo=dt.UTC)
FIRST = int(START.timestamp()) * NS
FLOOR = 1e-10
TO_HOUR = MIN_HORIZONS * TWELFTH


def rows(product: str, hour: int, targets: Floats) -> Sample:
    """Return rows each five seconds from the beginning of an hour on, without a half-life: none teaches."""
    values = np.full((len(targets), len(SPEC.columns)), np.nan)
    time = FIRST + hour * HOUR + np.arange(len(targets)) * 5 * NS
    return Sample(values, targets, time, int(time[-1]), np.full(len(targets), product))


def answers(n: int) -> Scores:
    return Scores(np.ones(n), np.full(n, 0.5), np.full(n, 1.5), np.zeros((n, 0), np.bool_))


def promised(judged: Sample, floor: float, train_end: dt.datetime, spec: FeatureSpec) -> dict[str, float]:
    return promises_of(hourly_figures(answers(len(judged)), judged, floor, train_end, spec))


def test_quantiles_are_of_hours_and_an_hour_with_too_few_horizons_promises_nothing() -> None:
    """Score 1 in [.5, 1.5]. Hour 0: all targets 1. Hour 1: half are 2. ETH, hour 1: all are 2, so r = 4.

    QLIKE of a target of 2 is 3 - ln 4. Hour 2 is one row short, and its targets would be the worst.
    """
    half = np.tile([1.0, 2.0], TO_HOUR // 2)
    parts = [
        rows("BTC-USD", 1, half),
        rows("BTC-USD", 0, np.ones(TO_HOUR)),
        rows("ETH-USD", 1, np.full(TO_HOUR, 2.0)),
        rows("ETH-USD", 2, np.full(TO_HOUR - 1, 9.0)),
    ]
    judged = Sample.join(parts)
    found = promised(judged, FLOOR, START, SPEC)
    bad = 3 - log(4)
    assert found == {
        "promised_qlike_05": pytest.approx(0.05 * bad),  # a tenth of the way from 0 to bad / 2
        "promised_qlike_50": pytest.approx(0.5 * bad),
        "promised_qlike_95": pytest.approx(0.95 * bad),
        "promised_coverage_05": pytest.approx(0.05),
        "promised_coverage_50": pytest.approx(0.5),
        "promised_coverage_95": pytest.approx(0.95),
    }


def test_a_target_below_the_floor_counts_as_the_floor_in_loss_and_coverage() -> None:
    """The floor 1 is the forecast: r = 1."""
    judged = rows("BTC-USD", 0, np.zeros(TO_HOUR))
    found = promised(judged, 1.0, START, SPEC)
    assert (found["promised_qlike_50"], found["promised_coverage_50"]) == (0.0, 1.0)


def test_nothing_is_promised_without_an_hour() -> None:
    judged = rows("BTC-USD", 0, np.ones(TO_HOUR - 1))
    assert promised(judged, FLOOR, START, SPEC) == {}


def test_forecasts_that_are_too_low_are_promised_as_adapted() -> None:
    """All rows teach, and all targets are twice the score: the scale rises towards 4, and the loss falls."""
    n = 3_600 // 5
    judged = Sample.join([rows("BTC-USD", hour, np.full(n, 2.0)) for hour in range(12)])
    judged.values[:, SPEC.columns.index("ewma_variance_60")] = 1.0
    found = promised(judged, FLOOR, START - dt.timedelta(days=1), SPEC)
    assert found["promised_qlike_05"] < 0.1 < found["promised_qlike_95"] < 3 - log(4)
    later = promised(judged, FLOOR, START + dt.timedelta(days=1), SPEC)
    assert later["promised_qlike_05"] == pytest.approx(3 - log(4)), "rows of the training teach nothing"


def test_adaptation_by_targets_equals_adaptation_by_prices() -> None:
    trades = simulate_day("BTC-USD", dt.date(2010, 1, 9), 0, (0, 2))
    made = feature_rows(trades, Windows(SPEC))
    time, price, values = made.trades.event_time, made.trades.price, made.values
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    scores = model.score(values[:, SPEC.places(model.columns)])
    teaches = teaching(values, time, 0, SPEC)
    expected = adapted(time, price, scores, teaches, SPEC)
    targets = target_volatility(time, price, SPEC)
    counted = counted_rows(time, SPEC)
    counted = counted[~np.isnan(targets[counted])]
    found = adapted_by_targets(time[counted], targets[counted], scores.take(counted), teaches[counted], SPEC)
    assert found.judged_horizons[-1] > 100
    for name in ("score", "lower", "upper", "judged_horizons"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[counted], rtol=1e-9, err_msg=name)
