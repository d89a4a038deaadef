"""Compute mean and squared deviations of every trailing window of a series, by a tree of merges.

Two neighbouring runs of values are merged by their counts, means and squared deviations. All terms are positive and
none is subtracted later, so a calm window shows no residue of a wild window before; sliding sums do. Windows share
their runs of 1, 2, 4, ... values, so a window of 50 = 32 + 16 + 2 costs seven merges, not 100 additions, and the
compiler does the merges for many windows at once. Each window has the same tree at every position: the result is a
function of the window's own values.

Source: Chan, Golub, LeVeque (1983), The American Statistician 37(3), 242-247.
"""

from __future__ import annotations

from data.compiled import compiled, copy
from data.trades import Floats


@compiled
def _pairs(values: Floats, mean_out: Floats, squares_out: Floats) -> None:
    """Merge values with their right neighbours."""
    for i in range(len(mean_out)):
        left, right = values[i], values[i + 1]
        apart = right - left
        mean_out[i] = 0.5 * (left + right)
        squares_out[i] = apart * apart * 0.5


@compiled
def _double(size: int, mean: Floats, squares: Floats, mean_out: Floats, squares_out: Floats) -> None:
    """Merge runs of `size` values with their right neighbours."""
    half = 0.5 * size
    for i in range(len(mean_out)):
        left, right = mean[i], mean[i + size]
        apart = right - left
        mean_out[i] = 0.5 * (left + right)
        squares_out[i] = (squares[i] + squares[i + size]) + apart * apart * half


@compiled
def _prepend(size: int, mean: Floats, squares: Floats, merged: int, mean_out: Floats, squares_out: Floats) -> None:
    """Merge a run of `size` values with the next `merged` values, whose moments are in the outputs."""
    share, weight = merged / (size + merged), size * merged / (size + merged)
    for i in range(len(mean_out)):
        apart = mean_out[i] - mean[i]
        mean_out[i] = mean[i] + apart * share
        squares_out[i] = (squares[i] + squares_out[i]) + apart * apart * weight


@compiled
def trailing_moments(values: Floats, window: int, mean: Floats, squares: Floats, scratch: Floats) -> None:
    """Write the mean, and the sum of squared deviations from the mean, of each run of `window` values.

    Args:
        values: shape (n,), n >= window >= 1.
        mean, squares: shape (at least n - window + 1,); index i gets the results of `values[i : i + window]`.
        scratch: shape (4, at least n).
    """
    windows = len(values) - window + 1
    merged = window & 1
    if merged:
        copy(values[window - 1 :], mean)
        squares[:windows] = 0.0
    if window == 1:
        return
    level_mean, level_squares = scratch[0], scratch[1]
    other_mean, other_squares = scratch[2], scratch[3]
    runs = len(values) - 1
    _pairs(values, level_mean[:runs], level_squares[:runs])
    size = 2
    while True:
        if window & size:
            first = window - merged - size
            run_mean, run_squares = level_mean[first : first + windows], level_squares[first : first + windows]
            if merged == 0:
                copy(run_mean, mean)
                copy(run_squares, squares)
            else:
                _prepend(size, run_mean, run_squares, merged, mean[:windows], squares[:windows])
            merged += size
        if merged == window:
            return
        runs = len(values) - 2 * size + 1
        _double(size, level_mean, level_squares, other_mean[:runs], other_squares[:runs])
        level_mean, level_squares, other_mean, other_squares = other_mean, other_squares, level_mean, level_squares
        size *= 2
