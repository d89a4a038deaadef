"""Targets while rows arrive: the same bytes as the targets of the whole stream, however the rows are batched."""

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
from data.truth.streaming import StreamingTarget, Targets
from data.truth.targets import target_volatility

SPECS = (
    FeatureSpec(),
    FeatureSpec(horizon_s=3, gap_s=9),
    FeatureSpec(grid_step_s=60, horizon_s=3_600, gap_s=600, half_lives=(5, 20, 60)),
)


def market(seed: int, spec: FeatureSpec, n: int = 1_500) -> tuple[Int64s, Floats]:
    """Return rows with ties, rows on grid points, silent steps and holes."""
    rng = np.random.default_rng(seed)
    step = spec.grid_step_s * NS
    silent = min(20 * step, spec.gap_s * NS // 2)
    waits = rng.choice([0, step // 4, step // 2, step, 3 * step, silent], n, p=[0.3, 0.25, 0.2, 0.15, 0.08, 0.02])
    waits[rng.integers(0, n, 4)] = spec.gap_s * NS + 1
    waits[rng.integers(0, n, 2)] = spec.gap_s * NS
    moved = rng.normal(0, 1e-4, n) * (rng.random(n) < 0.7)
    return 1_700_000_000 * NS + np.cumsum(waits), 100 * np.exp(np.cumsum(moved))


def streamed(event_time: Int64s, price: Floats, spec: FeatureSpec, cuts: list[int]) -> Targets:
    stream = StreamingTarget(spec)
    bounds = [0, *sorted(cuts), len(price)]
    parts = [stream.follow(event_time[a:b], price[a:b]) for a, b in pairwise(bounds)]
    parts.append(stream.end())
    return Targets(*(np.concatenate([part[i] for part in parts]) for i in range(2)))


def batch(event_time: Int64s, price: Floats, spec: FeatureSpec) -> Targets:
    counted = counted_rows(event_time, spec)
    targets = target_volatility(event_time, price, spec)[counted]
    known = ~np.isnan(targets)
    return Targets(counted[known], targets[known])


@pytest.mark.parametrize("spec", SPECS)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 1_500), max_size=30))
def test_streamed_targets_have_the_bytes_of_the_batch(spec: FeatureSpec, seed: int, cuts: list[int]) -> None:
    rows = market(seed, spec)
    found, expected = streamed(*rows, spec, cuts), batch(*rows, spec)
    assert len(expected.row) > 20
    assert found.row.tolist() == expected.row.tolist()
    assert found.target.tobytes() == expected.target.tobytes()


def test_a_target_is_known_with_the_first_row_after_its_horizon() -> None:
    """The horizon of a row at 0.5 s is second 1 to second 4. A row at 4 s may have company; one at 4.1 s is later."""
    spec = FeatureSpec(horizon_s=3)
    times = np.array([0.5, 1, 4, 4, 4.1]) * NS
    stream = StreamingTarget(spec)
    price = np.array([100.0, 100, 110, 121, 121])
    for row in range(4):
        assert len(stream.follow(times[row : row + 1].astype(np.int64), price[row : row + 1]).row) == 0
    found = stream.follow(times[4:].astype(np.int64), price[4:])
    assert found.row.tolist() == [0, 1]
    assert found.target == pytest.approx(np.log(1.21))


def test_a_horizon_that_its_segment_cuts_off_never_has_a_target() -> None:
    spec = FeatureSpec(horizon_s=3)
    stream = StreamingTarget(spec)
    assert len(stream.follow(np.array([0, 2 * NS, 400 * NS]), np.full(3, 100.0)).row) == 0
    assert len(stream.end().row) == 0


def test_a_time_that_falls_begins_a_segment() -> None:
    """Rows that go back and forth for long fill no ring beyond its end."""
    stream = StreamingTarget(FeatureSpec(horizon_s=3))
    times = np.tile(np.array([100, 101, 50, 51]) * NS, 1_000)
    assert set(stream.follow(times, np.full(4_000, 100.0)).target) == {0.0}


def test_a_horizon_that_ends_with_the_last_row_has_a_target_at_the_end() -> None:
    stream = StreamingTarget(FeatureSpec(horizon_s=3))
    assert len(stream.follow(np.array([0, 3 * NS]), np.array([100.0, 110.0])).row) == 0
    found = stream.end()
    assert found.row.tolist() == [0]
    assert found.target == pytest.approx(np.log(1.1))
