"""Moments of trailing windows against exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.features.moments import trailing_moments
from data.trades import Floats


def moments(values: Floats, window: int) -> tuple[list[float], list[float]]:
    n = len(values)
    mean, squares = np.empty(n - window + 1), np.empty(n - window + 1)
    trailing_moments(values, window, mean, squares, np.empty((4, n)))
    return mean.tolist(), squares.tolist()


def test_windows_of_three() -> None:
    """(1, 2, 6): mean 3, squares 4 + 1 + 9; (2, 6, 7): mean 5, squares 9 + 1 + 4."""
    assert moments(np.array([1.0, 2.0, 6.0, 7.0]), 3) == ([3.0, 5.0], [14.0, 14.0])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 200))
@example([0.0, 8.802096734687805e-158], 2)
def test_all_windows_equal_exact_sums(values: list[float], window: int) -> None:
    window = min(window, len(values))
    for i, (mean, squares) in enumerate(zip(*moments(np.array(values), window), strict=True)):
        held = values[i : i + window]
        exact = math.fsum(held) / window
        largest = max(map(abs, held))
        assert mean == pytest.approx(exact, rel=0, abs=1e-15 * largest)
        deviations = math.fsum((x - exact) ** 2 for x in held)
        steps = 2 * window * math.ulp(0.0)  # squares of what is near 1e-160 have no more digits than that
        assert squares == pytest.approx(deviations, rel=1e-13, abs=(1e-15 * largest) ** 2 * window + steps)


def test_a_large_value_leaves_no_trace_once_it_is_gone() -> None:
    """Sliding sums keep a residue of 1e9 here, 1e-7 of it: more than the calm values themselves."""
    calm = np.array([1e-9, 2e-9, 3e-9, 4e-9] * 5)
    after = moments(np.concatenate([[1e9], calm]), 20)
    assert after[0][1:] == moments(calm, 20)[0]
    assert after[1][1:] == moments(calm, 20)[1]


def test_equal_values_have_no_deviation_at_all() -> None:
    mean, squares = moments(np.full(60, 0.1), 50)
    assert mean == [0.1] * 11
    assert squares == [0.0] * 11
