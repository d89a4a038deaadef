"""Judged forecasts: the pairs of the whole stream, however the rows are batched, and never too early."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Floats, Int64s
from data.truth.counting import counted_rows
from data.truth.judging import Judge, Judged
from data.truth.targets import target_volatility
from tests.unit.test_streaming import SPECS, market


def judged(event_time: Int64s, price: Floats, spec: FeatureSpec, cuts: list[int]) -> Judged:
    """Judge forecasts that are the numbers of their rows, as texts."""
    judge = Judge(spec)
    names = np.array([f"forecast {row}" for row in range(len(price))], object)
    bounds = [0, *sorted(cuts), len(price)]
    parts = [judge.follow(event_time[a:b], price[a:b], names[a:b]) for a, b in pairwise(bounds)]
    parts.append(judge.end())
    return Judged(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@pytest.mark.parametrize("spec", SPECS)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 1_500), max_size=30))
def test_judged_forecasts_are_the_counted_rows_with_the_targets_of_the_batch(
    spec: FeatureSpec, seed: int, cuts: list[int]
) -> None:
    event_time, price = market(seed, spec)
    counted = counted_rows(event_time, spec)
    targets = target_volatility(event_time, price, spec)[counted]
    known = ~np.isnan(targets)
    found = judged(event_time, price, spec, cuts)
    assert np.count_nonzero(known) > 20
    assert found.row.tolist() == counted[known].tolist()
    assert found.event_time.tolist() == event_time[counted[known]].tolist()
    assert found.target.tobytes() == targets[known].tobytes()
    assert found.forecasts.tolist() == [f"forecast {row}" for row in found.row]


def test_a_forecast_is_judged_with_the_first_row_after_its_horizon() -> None:
    """The horizon of a row at 0.5 s is second 1 to second 4. A row at 4 s may have company; one at 4.1 s is later."""
    judge = Judge(FeatureSpec(horizon_s=3))
    times = (np.array([0.5, 1, 4, 4, 4.1]) * NS).astype(np.int64)
    price, score = np.array([100.0, 100, 110, 121, 121]), np.arange(5) / 10
    for row in range(4):
        assert len(judge.follow(times[row : row + 1], price[row : row + 1], score[row : row + 1]).row) == 0
    found = judge.follow(times[4:], price[4:], score[4:])
    assert found.forecasts.tolist() == [0.0, 0.1]
    assert found.target == pytest.approx(np.log(1.21))


def test_an_empty_batch_and_a_stream_without_rows_judge_nothing() -> None:
    judge = Judge(FeatureSpec(horizon_s=3))
    assert len(judge.end().row) == 0
    assert len(judge.follow(np.zeros(0, np.int64), np.zeros(0), np.zeros(0)).row) == 0


def test_a_judge_keeps_the_counted_forecasts_of_one_horizon() -> None:
    judge = Judge(FeatureSpec(horizon_s=60))
    for second in range(0, 3_600, 30):
        times = NS * np.repeat(np.arange(second, second + 30), 40)
        judge.follow(times, np.full(len(times), 100.0), np.zeros((len(times), 3)))
    assert judge._waiting is not None
    assert len(judge._waiting.forecasts) <= 60 // 5 + 3


def test_times_that_go_back_and_forth_judge_within_their_segments() -> None:
    judge = Judge(FeatureSpec(horizon_s=3))
    times = np.tile(np.array([100, 101, 50, 51]) * NS, 1_000)
    found = judge.follow(times, np.full(4_000, 100.0), np.arange(4_000))
    assert found.row.tolist() == found.forecasts.tolist()
    assert set(found.target) <= {0.0}
