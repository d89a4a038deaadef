"""A walk-forward never sees the future, and its rivals are what their names promise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from arch.univariate import GARCH, StudentsT, ZeroMean

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Floats, StreamKey
from offline.candles import trades_of_candles
from offline.evaluation.rivals import (
    Ewma,
    Har,
    Window,
    calibrated_ewma,
    garch,
    har,
    horizon_variance,
    next_variance,
    recipes,
)
from offline.evaluation.walk_forward import Past, TooShort, refit_times, walk_forward
from offline.ewma import ewmas_of, with_longest_known
from offline.history import History, history_of
from offline.models.cascade import Forecasts
from tests.unit.test_history import START, bars

SPEC = FeatureSpec.for_candles(60)
HOUR = 3_600 * NS


def closes(minutes: int, seed: int = 0) -> Floats:
    """Return closes of a market whose volatility swings from hour to hour."""
    rng = np.random.default_rng(seed)
    level = np.repeat(np.exp(np.cumsum(rng.normal(0, 0.2, minutes // 60 + 1))), 60)[:minutes]
    moves = rng.normal(0, 1e-3, minutes) * np.clip(level, 0.2, 5)
    return np.asarray(100.0 * np.exp(np.cumsum(moves)), np.float64)


def history(close: Floats) -> History:
    return history_of([trades_of_candles(bars(close, high=1.0005, low=0.9995))], SPEC)


def past(rows: History, until: int) -> Past:
    counted = rows.counted()
    counted = counted.take(counted.event_time <= until - 2 * HOUR)
    return Past(counted, until, 0.01 * float(np.median(counted.realized)), float(np.mean(counted.realized)))


@dataclass(frozen=True)
class Level:
    """A forecaster that remembers when it was fitted, and its newest target's time."""

    variance: float
    newest: int

    def forecast(self, rows: History) -> Forecasts:
        return Forecasts.of(np.full(len(rows), self.variance))

    def weights(self) -> Mapping[str, float]:
        return {"newest": float(self.newest)}


def level(past: Past) -> Level:
    return Level(past.prior, int(past.rows.event_time.max()))


def test_the_first_forecast_of_candles_is_on_the_sixth_whole_day_and_refits_are_daily() -> None:
    rows = history(closes(8 * 1_440)).counted()
    refits = refit_times(rows)
    day = 86_400 * NS
    assert refits[0] % day == 0
    assert 5 * day <= refits[0] - rows.event_time[0] < 6 * day
    assert np.diff(refits).tolist() == [day] * (len(refits) - 1)


def test_a_file_shorter_than_six_days_begins_after_half_of_its_span() -> None:
    """Counted rows from 0:05 to 47:00, their middle is at 23:32:30, the next whole hour at 24:00."""
    rows = history(closes(2 * 1_440)).counted()
    begin = START + 5 * 60 * NS
    assert rows.event_time[0] == begin
    assert refit_times(rows)[0] == START + 24 * HOUR


def test_training_rows_end_two_horizons_before_the_refit() -> None:
    """One horizon holds the target, one is the embargo."""
    run = walk_forward(history(closes(2 * 1_440)), {"level": level})
    newest = [int(each["newest"]) for each in run.weights["level"]]
    assert newest == [int(refit) - 2 * HOUR for refit in run.refits]
    assert run.rows.event_time[0] == run.refits[0]


def test_no_forecast_changes_with_the_future() -> None:
    """The last 10 of 48 hours are replaced. Forecasts and floors up to then keep their bytes, those after change."""
    close = closes(2 * 1_440)
    changed = close.copy()
    cut = 38 * 60
    changed[cut:] = close[cut - 1] * np.exp(np.cumsum(np.random.default_rng(9).normal(0, 5e-3, len(close) - cut)))
    one, other = (walk_forward(history(each), recipes(SPEC), ("ml", "baseline")) for each in (close, changed))
    assert {"ml", "baseline", "calibrated_ewma", "garch"} <= set(one.forecasts)
    before = one.rows.event_time <= START + cut * 60 * NS
    assert 100 < before.sum() < len(before)
    same = slice(0, int(before.sum()))
    assert np.array_equal(one.floor[same], other.floor[same])
    for name, found in one.forecasts.items():
        for end, other_end in zip(found, other.forecasts[name], strict=True):
            assert np.array_equal(end[same], other_end[same], equal_nan=True), name
        assert not np.array_equal(found.score, other.forecasts[name].score), name


def test_a_file_of_minutes_is_too_short() -> None:
    with pytest.raises(ValueError, match=r"a walk-forward needs 8 horizons of 3,600 s"):
        walk_forward(history(closes(180)), {"level": level})


def test_a_model_without_enough_history_is_left_out_with_its_reason() -> None:
    def never(past: Past) -> Level:
        raise TooShort("needs a year")

    run = walk_forward(history(closes(1_440)), {"level": level, "never": never})
    assert set(run.forecasts) == {"level"}
    assert run.left_out == {"never": "needs a year"}


def test_a_window_is_the_mean_over_its_horizons() -> None:
    """Minutes move by ln 1.001 or not at all, hour by hour: a window of two hours has half of an hour's variance."""
    moves = np.repeat([1.0, 1.001, 1.0, 1.001], 60)
    rows = history(100.0 * np.cumprod(moves))
    at = rows.take(rows.event_time == START + 2 * HOUR)
    variance = 60 * math.log(1.001) ** 2
    assert Window(1, 9.0).forecast(at).score[0] ** 2 == pytest.approx(variance, rel=1e-9)
    assert Window(2, 9.0).forecast(at).score[0] ** 2 == pytest.approx(variance / 119 * 60, rel=1e-9)  # 119 are known


def test_an_ewma_answers_from_the_longest_known_half_life() -> None:
    rows = history(closes(300))
    found = with_longest_known(ewmas_of(rows.values, rows.spec))
    at = 100  # minutes: half-lives of 5, 20 and 60 are known, 240 and 1,440 are not
    assert found[at, 3] == found[at, 4] == rows.column("ewma_variance_60")[at]
    assert Ewma(4, 2.0, 1.0).forecast(rows).score[at] ** 2 == pytest.approx(2 * found[at, 2])
    assert Ewma(4, 2.0, 1.0).forecast(rows).score[0] ** 2 == 1.0  # the prior


def test_the_calibrated_ewma_has_the_scale_that_is_right_in_the_mean() -> None:
    rows = history(closes(1_440))
    learnt = past(rows, START + 20 * HOUR)
    fitted = calibrated_ewma(learnt)
    ewma = with_longest_known(ewmas_of(learnt.rows.values, rows.spec))[:, fitted.ewma.best]
    known = ~np.isnan(ewma)
    scale = fitted.weights()["scale"]
    assert np.mean(learnt.rows.realized[known] / (scale * ewma[known])) == pytest.approx(1)


def test_har_is_a_weighted_line_of_three_windows() -> None:
    """The normal equations of least squares hold: weighted residuals are orthogonal to the weighted windows."""
    rows = history(closes(3 * 1_440))
    learnt = past(rows, START + 60 * HOUR)
    fitted = har(learnt)
    steps = [learnt.rows.mean_variance(60 * hours) for hours in (1, 24, 120)]
    windows = np.column_stack([np.ones(len(learnt.rows)), *steps])
    weight = 1 / windows[:, 1] ** 2
    residual = learnt.rows.realized - windows @ fitted.coefficients
    assert np.abs(windows.T @ (weight * residual)).max() < 1e-6 * np.abs(windows.T @ (weight * windows[:, 1])).max()


def test_har_has_a_positive_floor() -> None:
    rows = history(closes(300))
    negative = Har(np.array([-1.0, 0.0, 0.0, 0.0]), least=4e-8, prior=1.0)
    assert negative.forecast(rows).score == pytest.approx(np.full(300, 2e-4))


def test_garch_equals_arch() -> None:
    """Our filter and sum over the horizon against arch's own variances and forecast, with arch's own parameters."""
    rows = history(closes(1_000))
    learnt = past(rows, START + 1_000 * 60 * NS)
    returns = rows.grid.log_return[1:]
    scale = float(np.std(returns))
    model = ZeroMean(returns / scale, volatility=GARCH(1, 0, 1), distribution=StudentsT(), rescale=False)
    found = model.fit(disp="off", show_warning=False)
    fitted = garch(learnt)
    omega, alpha, beta = (float(found.params[name]) for name in ("omega", "alpha[1]", "beta[1]"))
    assert fitted.alpha[0] == pytest.approx(alpha, rel=1e-10)
    assert fitted.omega[0] == pytest.approx(omega * scale**2, rel=1e-10)
    start = float(found.conditional_volatility[0] * scale) ** 2  # arch's variance of the first return
    ours = next_variance(rows, 0, fitted.omega[0], fitted.alpha[0], fitted.beta[0], start)
    assert ours[:-1] == pytest.approx((found.conditional_volatility * scale) ** 2, rel=1e-10)
    ahead = found.forecast(horizon=60, reindex=False).variance.to_numpy()[-1].sum() * scale**2
    total = horizon_variance(ours[-1:], fitted.omega[0], alpha + beta, 60)[0]
    assert total == pytest.approx(ahead, rel=1e-10)


def test_garch_needs_returns_that_move() -> None:
    rows = history(np.full(1_000, 100.0))
    learnt = Past(rows.take(np.arange(1)), START + 1_000 * 60 * NS, 1.0, 1.0)
    with pytest.raises(TooShort, match="GARCH needs"):
        garch(learnt)


def test_the_second_product_does_not_move_the_windows_of_the_first() -> None:
    alone = history(closes(600))
    other = replace(bars(closes(600, seed=5)), keys=(StreamKey("", "ETH-USD"),))
    both = history_of([trades_of_candles(bars(closes(600), high=1.0005, low=0.9995)), trades_of_candles(other)], SPEC)
    mine = both.take(both.product == 0)
    assert np.array_equal(mine.values, alone.values, equal_nan=True)
    assert mine.mean_variance(60) == pytest.approx(alone.mean_variance(60), nan_ok=True)
