"""Targets and losses against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import MAX_PRICE, MIN_PRICE
from data.truth.losses import coverage, qlike, volatility_terciles
from data.truth.targets import target_volatility, variance_floor

SPEC = FeatureSpec()
SMALL = FeatureSpec(horizon_s=3)


def times(*seconds: float) -> np.ndarray:
    return np.array([round(s * NS) for s in seconds], np.int64)


def test_the_horizon_begins_at_the_first_grid_point_at_or_after_the_trade() -> None:
    """Prices by second 0..5: 100, 110, 110, 121, 121, 100. Horizon of 3 steps.

    A trade at 0 s looks at the steps to 1, 2, 3: two returns of ln 1.1. One at 0.5 s starts at 1 s: the steps to 2, 3,
    4 hold one. One at 2 s: the steps to 3, 4, 5 hold ln 1.1 and ln(100/121). One at 2.5 s would need second 6.
    """
    t = times(0, 0.5, 0.7, 2, 2.5, 3, 5)
    price = np.array([100.0, 104, 110, 110, 115, 121, 100])
    one, back = math.log(1.1) ** 2, math.log(100 / 121) ** 2
    expected = [math.sqrt(2 * one), math.sqrt(one), math.sqrt(one), math.sqrt(one + back)]
    assert target_volatility(t, price, SMALL)[:4] == pytest.approx(expected)
    assert np.isnan(target_volatility(t, price, SMALL)[4:]).all()


def test_no_target_spans_a_hole() -> None:
    """301 s after 3 s a new segment starts: the first segment has one target, the second segment has none."""
    t = times(0, 1, 3, 304, 305)
    found = target_volatility(t, np.array([100.0, 100, 100, 200, 200]), SMALL)
    assert found[0] == 0.0
    assert np.isnan(found[1:]).all()


def test_a_target_does_not_see_what_comes_after_its_horizon() -> None:
    rng = np.random.default_rng(1)
    t = np.sort(rng.integers(0, 600 * NS, 4_000))
    price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, 4_000)))
    whole = target_volatility(t, price, SPEC)
    cut = 2_500
    head = target_volatility(t[:cut], price[:cut], SPEC)
    known = np.isfinite(head)
    assert known.sum() > 1_000
    assert head[known].tobytes() == whole[:cut][known].tobytes()


def test_the_furthest_fall_and_rise_of_a_price_have_finite_targets() -> None:
    """Prices by second: 1e100, 1e-100, 1e100: each return is 200 ln 10, up or down."""
    found = target_volatility(
        times(0, 1, 2, 3), np.array([MAX_PRICE, MIN_PRICE, MAX_PRICE, 1.0]), FeatureSpec(horizon_s=2)
    )
    assert found[0] == pytest.approx(math.sqrt(2) * 200 * math.log(10))


def test_falling_times_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fall"):
        target_volatility(times(1, 0.5), np.array([1.0, 1.0]), SPEC)


def test_qlike_by_hand() -> None:
    """r = 2 gives 2 - ln 2 - 1; a realized 0 counts as the floor; a perfect forecast costs nothing."""
    losses = qlike(np.array([2.0, 0.0, 5.0]), np.array([1.0, 1.0, 5.0]), floor=0.5)
    assert losses == pytest.approx([1 - math.log(2), 0.5 - math.log(0.5) - 1, 0.0], abs=1e-10)
    with pytest.raises(ValueError, match="above 0"):
        qlike(np.array([1.0]), np.array([0.0]), floor=0.5)
    with pytest.raises(ValueError, match=r"was 0\.0"):
        variance_floor(np.array([0.0, 0.0, 1.0]))


def test_an_interval_covers_both_of_its_ends() -> None:
    target = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert coverage(target, np.array([1.0, 0, 0, 5, 0]), np.array([2.0, 2, 2, 6, 9])) == 3 / 5
    assert math.isnan(coverage(np.empty(0), np.empty(0), np.empty(0)))


def test_each_third_of_the_rows_is_one_tercile_and_equal_rows_share_one() -> None:
    """Of nine rows the third and sixth smallest end a tercile; four zeros of six rows cannot be told apart."""
    assert volatility_terciles(np.array([3.0, 1, 2, 9, 8, 7, 4, 5, 6])).tolist() == [0, 0, 0, 2, 2, 2, 1, 1, 1]
    assert volatility_terciles(np.array([0.0, 0, 0, 0, 1, 2])).tolist() == [0, 0, 0, 0, 2, 2]
