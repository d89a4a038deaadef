"""The oracle is unbiased at every level of volatility, and better than any forecast from past returns."""

import datetime as dt
from typing import NamedTuple

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.files import CHECKOUT
from data.simulator.day import simulate_day
from data.simulator.state import (
    ECHO,
    ECHO_S,
    JUMP_STEP,
    JUMP_TAIL,
    JUMPS_A_DAY,
    SCALE_SD,
    SCALES_S,
    Streams,
    market_of,
    season_of,
    state_of,
)
from data.simulator.truth import POWERS, second_weights, simulate_truth
from data.times import DAY_S, NS
from data.trades import Floats
from data.truth.losses import qlike
from data.truth.targets import target_volatility, variance_floor

MONDAY = dt.date(2025, 1, 6)
DAYS = [dt.date(2024, month, 15) for month in range(1, 11)]
WARM_UP_S, HORIZON_S = 7_200, 60
HALF_LIVES = np.array([10, 20, 40, 60, 90, 120, 180, 240, 300, 600, 1_200, 3_600])


class Sample(NamedTuple):
    """Whole horizons without overlap, one after each second of the sample."""

    realized: Floats
    oracle: Floats
    given_path: Floats
    ewmas: Floats  # shape (n, len(HALF_LIVES)), weighted means of the squared returns of the two hours before


@pytest.fixture(scope="module")
def sample() -> Sample:
    """220 hours of ten days; each day has its own seed."""
    days = []
    at = np.arange(WARM_UP_S, DAY_S - HORIZON_S, HORIZON_S)
    weights = 0.5 ** (np.arange(WARM_UP_S, 0, -1)[:, None] / HALF_LIVES)
    for seed, day in enumerate(DAYS):
        trades, truth = simulate_day("BTC-USD", day, seed), simulate_truth("BTC-USD", day, seed)
        grid = truth.event_time[0] + np.arange(DAY_S + 1) * NS
        last = np.searchsorted(trades.event_time, grid, side="right") - 1
        squares = np.diff(np.log(trades.price[np.maximum(last, 0)])) ** 2
        passed = np.concatenate(([0.0], np.cumsum(squares)))
        days.append(
            Sample(
                passed[at + HORIZON_S] - passed[at],
                truth.expected_variance[at],
                truth.path_variance[at],
                np.lib.stride_tricks.sliding_window_view(squares, WARM_UP_S)[at - WARM_UP_S] @ weights,
            )
        )
    return Sample(*(np.concatenate(column) for column in zip(*days, strict=True)))


def off_in_standard_errors(ratio: Floats) -> float:
    """Return the distance of the mean from 1 in standard errors; the weights of the truth may be off by 0.5 %."""
    return float(abs(ratio.mean() - 1) / np.hypot(ratio.std() / np.sqrt(len(ratio)), 0.005))


def mean_qlike(sample: Sample, forecast: Floats) -> float:
    return float(qlike(sample.realized, forecast, variance_floor(sample.realized)).mean())


@pytest.mark.parametrize("forecast", ["oracle", "given_path"])
def test_the_truth_is_unbiased_in_calm_and_wild_times(sample: Sample, forecast: str) -> None:
    """Mean of realized over expected variance is 1: over all horizons, and in each third of horizons by expectation."""
    expected: Floats = getattr(sample, forecast)
    ratio = sample.realized / expected
    assert off_in_standard_errors(ratio) < 2.5
    for third in np.array_split(np.argsort(expected), 3):
        assert off_in_standard_errors(ratio[third]) < 2.5


def test_the_mean_for_all_would_be_found_biased(sample: Sample) -> None:
    """The test above can fail: a forecast without the state is found biased."""
    ratio = sample.realized / sample.realized.mean()
    by_oracle = np.array_split(np.argsort(sample.oracle), 3)
    assert min(off_in_standard_errors(ratio[third]) for third in (by_oracle[0], by_oracle[2])) > 10


def test_the_oracle_beats_every_ewma_and_loses_to_who_knows_the_future(sample: Sample) -> None:
    """Each EWMA has an advantage: the EWMA is scaled to be unbiased on the judged horizons."""
    oracle = mean_qlike(sample, sample.oracle)
    for ewma in sample.ewmas.T:
        scaled = ewma * np.mean(sample.realized / ewma)
        assert oracle < 0.85 * mean_qlike(sample, scaled)
    assert mean_qlike(sample, sample.given_path) < 0.95 * oracle


def test_the_page_holds_these_losses(sample: Sample) -> None:
    page = (CHECKOUT / "docs" / "simulator.md").read_text()

    def number(value: float) -> str:
        return f"{value:.3f}".removeprefix("0")

    for name, forecast in (("oracle", sample.oracle), ("given the path", sample.given_path)):
        ratio = sample.realized / forecast
        error = f"{ratio.std() / np.sqrt(len(ratio)):.3f}".removeprefix("0")
        assert f"| {name} | {ratio.mean():.3f} ± {error} | {number(mean_qlike(sample, forecast))} |" in page
    losses = {
        int(half_life): mean_qlike(sample, ewma * np.mean(sample.realized / ewma))
        for half_life, ewma in zip(HALF_LIVES, sample.ewmas.T, strict=True)
    }
    best = min(losses, key=lambda half_life: losses[half_life])
    assert f"| EWMA, half-life {best} s, the best | 1.000 | {number(losses[best])} |" in page
    for half_life in (60, 300, 3_600):
        assert f"| EWMA, half-life {half_life} s | 1.000 | {number(losses[half_life])} |" in page
    everywhere = np.full(len(sample.realized), sample.realized.mean())
    assert f"| its mean over all horizons | 1.000 | {number(mean_qlike(sample, everywhere))} |" in page
    assert f"{len(sample.realized):,} horizons" in page


def test_the_oracle_is_the_mean_over_many_futures() -> None:
    """Futures of a second, drawn step by step from the state: processes, jumps and their echoes."""
    second, futures = 50_000, 40_000
    state = state_of(Streams("BTC-USD", 0), MONDAY)
    rng = np.random.default_rng(1)
    x = np.repeat(state.scales[:, second, None], futures, axis=1)
    kept = np.exp(-1 / np.array(SCALES_S))[:, None]
    echo = np.full(futures, state.echo[second])
    total = np.zeros(futures)
    for ahead in range(HORIZON_S):
        volatility = np.exp(np.array(SCALE_SD) @ x + season_of(np.array(second + ahead)) + echo)
        total += sum(w * volatility**p for w, p in zip(second_weights("BTC-USD"), POWERS, strict=True))
        jumps = rng.random(futures) < JUMPS_A_DAY / DAY_S
        size = JUMP_STEP + JUMP_TAIL * rng.standard_exponential(futures)
        total += np.where(jumps, size * volatility * market_of("BTC-USD").step, 0.0) ** 2
        x = kept * x + np.sqrt(1 - kept**2) * rng.standard_normal(x.shape)
        echo = echo * np.exp(-1 / ECHO_S) + ECHO * jumps
    expected = simulate_truth("BTC-USD", MONDAY).expected_variance[second]
    assert total.std() > 0.1 * total.mean()  # futures differ
    assert total.mean() == pytest.approx(expected, abs=3 * total.std() / np.sqrt(futures))


def test_the_truth_is_that_of_the_targets() -> None:
    """Trades, flags and times belong together: squared targets follow the expectation, jumps are at `is_jump`."""
    trades, truth = simulate_day("BTC-USD", MONDAY), simulate_truth("BTC-USD", MONDAY)
    targets = target_volatility(trades.event_time, trades.price, FeatureSpec())
    g = -(-trades.event_time // NS) - truth.event_time[0] // NS
    known = np.flatnonzero(~np.isnan(targets))[::500]
    correlation = np.corrcoef(np.log(targets[known] ** 2), np.log(truth.path_variance[g[known]]))[0, 1]
    assert correlation > 0.75
    second = (trades.event_time - truth.event_time[0]) // NS
    counts = np.bincount(second, minlength=DAY_S).reshape(-1, 3_600).sum(axis=1)
    assert counts == pytest.approx(truth.trades_per_s.reshape(-1, 3_600).sum(axis=1), rel=0.2)
    last = np.searchsorted(second, np.arange(DAY_S), side="right") - 1
    moves = np.abs(np.diff(np.log(trades.price[last]), prepend=np.log(trades.price[0]))) / truth.volatility
    assert truth.is_jump.any()
    assert moves[truth.is_jump].min() > np.quantile(moves, 0.98)
    assert truth.event_time[0] == 20_094 * DAY_S * NS
    assert (np.diff(truth.event_time) == NS).all()


def test_a_day_of_truth_meets_the_next_one() -> None:
    """Expectations in the last second of a day and in the first second of the next day differ by one second alone."""
    today = simulate_truth("BTC-USD", MONDAY, 4)
    tomorrow = simulate_truth("BTC-USD", MONDAY + dt.timedelta(days=1), 4)
    assert tomorrow.expected_variance[0] == pytest.approx(today.expected_variance[-1], rel=0.15)
    longer = simulate_truth("BTC-USD", MONDAY, 4, horizon_s=61).path_variance
    shorter = simulate_truth("BTC-USD", MONDAY, 4, horizon_s=1).path_variance
    assert longer[-1] == pytest.approx(shorter[-1] + tomorrow.path_variance[0])


@pytest.mark.parametrize("horizon_s", [0, 86_401])
def test_a_bad_horizon_is_named(horizon_s: int) -> None:
    with pytest.raises(ValueError, match=f"horizon_s must be from 1 to 86400, was {horizon_s}"):
        simulate_truth("BTC-USD", MONDAY, horizon_s=horizon_s)


def test_days_and_seeds_are_those_of_the_simulator() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0, was -1"):
        simulate_truth("BTC-USD", MONDAY, -1)
    with pytest.raises(ValueError, match="day must be from 1970-01-01"):
        simulate_truth("BTC-USD", dt.date(1969, 12, 31))
