"""Drift: what is usual is learnt from the reference, and an hour that is not usual is named."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from monitoring.drift.calibration import (
    LEAST_HOURS,
    Calibration,
    calibrate,
    distance,
    fit_harmonic,
    mean_before,
    usual,
)
from monitoring.drift.hours import HOUR_NS, LEAST_ROWS, Hours, Signal, hours_of, row_signals, statistic
from monitoring.drift.verdict import findings_of, judge
from tests.drifting import FLOOR, market


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(hours_of(*market(10, seed=1), FLOOR), FLOOR)


def test_a_statistic_needs_rows() -> None:
    values = np.full(LEAST_ROWS, 2.0)
    assert statistic(Signal("change", "ret_std"), values) == 2.0
    values[0] = np.nan
    assert np.isnan(statistic(Signal("change", "ret_std"), values))


def test_spread_is_the_logarithm_of_the_standard_deviation() -> None:
    """Values 1 and 3 in equal parts deviate by 1 from their mean."""
    assert statistic(Signal("spread", "ret_mean"), np.array([1.0, 3.0] * LEAST_ROWS)) == pytest.approx(0.0)


def test_a_target_outside_its_interval_and_its_loss() -> None:
    """Realized variance 4 times the forecast's: QLIKE 4 - ln 4 - 1 = 1.614; a jump's QLIKE counts as 3."""
    columns = {"score": np.ones(3), "lower": np.full(3, 0.5), "upper": np.full(3, 1.5)}
    columns["target"] = np.array([2.0, 10.0, np.nan])
    found = row_signals(columns, FLOOR)
    assert found[Signal("loss", "outside")][:2].tolist() == [1.0, 1.0]
    assert found[Signal("loss", "qlike")][:2] == pytest.approx([4 - np.log(4) - 1, 3.0])
    assert np.isnan(found[Signal("loss", "outside")][2])


def test_values_without_a_logarithm_are_missing() -> None:
    found = row_signals({"ret_std": np.array([0.0, 1.0, np.nan])}, FLOOR)[Signal("change", "ret_std")]
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == 0.0


def test_hours_without_rows_are_left_out() -> None:
    time, columns = market(1, seed=0)
    kept = (time // HOUR_NS != 5) & (time // HOUR_NS != 6)
    hours = hours_of(time[kept], {name: each[kept] for name, each in columns.items()}, FLOOR)
    assert (hours.start // HOUR_NS).tolist() == [0, 1, 2, 3, 4, *range(7, 24)]
    before = mean_before(hours.start, np.arange(len(hours.start), dtype=np.float64))
    assert np.isnan(before[5])  # of 3, 4, 5 and 6 o'clock, two are known
    assert np.isnan(before[7])  # of 5, 6, 7 and 8 o'clock, two
    assert before[8] == pytest.approx(np.mean([5, 6, 7]))  # 10 o'clock: 7, 8 and 9


def test_without_rows_there_is_no_hour() -> None:
    event_time, columns = market(1, seed=1)
    found = hours_of(event_time[:0], {name: values[:0] for name, values in columns.items()}, FLOOR)
    assert len(found.start) == 0
    assert {len(values) for values in found.values.values()} == {0}


def test_a_daily_wave_is_no_drift() -> None:
    start = np.arange(72) * HOUR_NS
    values = 2 + 0.5 * np.sin(2 * np.pi * (start / HOUR_NS) / 24)
    harmonic = fit_harmonic(start, values)
    assert harmonic == pytest.approx((2.0, 0.0, 0.5), abs=1e-12)
    assert usual(start, harmonic) == pytest.approx(values)
    assert distance(Signal("level", "score"), start, values, harmonic) == pytest.approx(np.zeros(72), abs=1e-12)


def test_a_lower_loss_is_no_distance() -> None:
    found = distance(Signal("loss", "qlike"), np.zeros(2, np.int64), np.array([-1.0, 1.0]), (0.0, 0.0, 0.0))
    assert found.tolist() == [0.0, 1.0]


def test_calm_hours_alarm_in_one_of_twenty(calibration: Calibration) -> None:
    rates = [float(judge(hours_of(*market(10, seed), FLOOR), calibration).drift.mean()) for seed in range(2, 8)]
    assert 0.02 <= np.mean(rates) <= 0.08


def test_doubled_moves_are_named_and_come_with_loss(calibration: Calibration) -> None:
    """Forecasts that do not see the doubling have a loss of 4 - ln 4 - 1 and more."""
    verdict = judge(hours_of(*market(2, seed=9, double_from=30), FLOOR), calibration)
    assert verdict.drift[30]
    assert verdict.largest(30)[1] in ("change ret_std", "change ewma_variance_3600", "change ewma_variance_60")
    assert not verdict.loss[:31].any()
    assert verdict.loss[31]  # two hours running
    assert verdict.with_loss[31:33].all()
    assert not verdict.with_loss[:31].any()


def test_level_raises_no_alarm(calibration: Calibration) -> None:
    """A market that is ten times as wild from its first hour on has a level, and no change."""
    time, columns = market(1, seed=3)
    for name in ("ret_mean", "ret_std", "score", "lower", "upper", "target"):
        columns[name] = columns[name] * 10
    for name in ("ewma_variance_60", "ewma_variance_3600"):
        columns[name] = columns[name] * 100
    verdict = judge(hours_of(time, columns, FLOOR), calibration)
    assert (verdict.ratios[Signal("level", "ret_std")] > 1).all()
    assert verdict.drift.mean() < 0.2
    assert not verdict.with_loss.any()


def test_drift_and_loss_belong_together_within_three_hours(calibration: Calibration) -> None:
    hours = hours_of(*market(2, seed=9, double_from=30), FLOOR)
    verdict = judge(hours, calibration)
    shown = findings_of(verdict, np.array([30, 31]), 30, {Signal("change", "ret_std"): 2.5})
    assert (shown.hours, shown.newest, shown.shown) == (2, 31 * HOUR_NS, 30 * HOUR_NS)
    assert shown.drift
    assert shown.with_loss
    assert shown.ratios[0].ratio == 2.5
    calm = findings_of(verdict, np.array([20]), 20, {})
    assert not (calm.drift or calm.loss or calm.with_loss)


def test_a_calibration_is_saved_and_loaded(calibration: Calibration) -> None:
    assert msgspec.json.decode(msgspec.json.encode(calibration), type=Calibration) == calibration


def test_a_short_reference_is_refused() -> None:
    hours = hours_of(*market(1, seed=0), FLOOR)
    with pytest.raises(ValueError, match=f"24 hours of 1 days; drift needs {LEAST_HOURS} hours of 2 days"):
        calibrate(hours, FLOOR)


def test_hours_before_the_first_have_no_change(calibration: Calibration) -> None:
    hours = hours_of(*market(1, seed=2), FLOOR)
    first = judge(Hours(hours.start[:1], {name: each[:1] for name, each in hours.values.items()}), calibration)
    assert np.isnan(first.ratios[Signal("change", "ret_std")][0])
    assert not np.isnan(first.ratios[Signal("spread", "ret_mean")][0])
