"""The calibrated EWMA, the rival of each model in the gate, in the leak sentinels and in evaluations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.features.spec import FeatureSpec
from data.trades import Floats
from data.truth.losses import best_scale


@dataclass(frozen=True, slots=True)
class CalibratedEwma:
    """A weighted variance times a scale, both chosen on the rows of the calibration.

    Attributes:
        scales: forecast variance / weighted variance of each half-life, shortest first; NaN if no row knew the
            half-life.
        best: index of the chosen half-life.
        qlike: mean loss on the rows of the calibration.
        floor: smaller weighted variances count as `floor`.
    """

    scales: tuple[float, ...]
    best: int
    qlike: float
    floor: float

    def forecast(self, ewmas: Floats, otherwise: Floats | float) -> Floats:
        """Return the forecast variance of each row, shape (n,).

        A row that lacks the chosen half-life is answered by the longest shorter half-life that the row knows, with the
        scale of that half-life.

        Args:
            ewmas: shape (n, half-lives), see `ewmas_of`.
            otherwise: the answer to rows that know none of these half-lives.
        """
        found = np.broadcast_to(np.asarray(otherwise, np.float64), len(ewmas))
        for scale, ewma in zip(self.scales[: self.best + 1], ewmas.T, strict=False):
            variance = scale * np.maximum(ewma, self.floor)
            found = np.where(np.isnan(variance), found, variance)
        return np.asarray(found)


def ewmas_of(values: Floats, spec: FeatureSpec) -> Floats:
    """Return the weighted variances of rows, shape (n, half-lives), shortest half-life first; NaN where unknown.

    Args:
        values: shape (n, columns of the spec).
    """
    return values[:, spec.places(f"ewma_variance_{half_life}" for half_life in spec.half_lives)]


def with_longest_known(ewmas: Floats) -> Floats:
    """Return weighted variances where the longest known half-life stands in for each longer one.

    >>> with_longest_known(np.array([[1.0, 2.0, np.nan], [np.nan, np.nan, np.nan]]))
    array([[ 1.,  2.,  2.],
           [nan, nan, nan]])
    """
    found = ewmas.copy()
    for i in range(1, found.shape[1]):
        found[:, i] = np.where(np.isnan(found[:, i]), found[:, i - 1], found[:, i])
    return found


def calibrate(ewmas: Floats, realized: Floats, floor: float) -> CalibratedEwma:
    """Choose half-life and scale by QLIKE on the rows that know a half-life, the same rows for all half-lives.

    Args:
        ewmas: shape (n, half-lives), see `ewmas_of`.
        realized: shape (n,), realized variance; smaller values than `floor` count as `floor`.
        floor: above 0, see `variance_floor`.

    Raises:
        ValueError: no row knows a half-life.
    """
    is_known = np.asarray(np.isfinite(ewmas).any(axis=0))
    if not is_known.any():
        raise ValueError("no row has an EWMA: more history is needed")
    filled = with_longest_known(ewmas[:, is_known])
    rows = ~np.isnan(filled[:, 0])
    fits = [best_scale(realized[rows], np.maximum(ewma, floor), floor) for ewma in filled[rows].T]
    scales = np.full(len(is_known), np.nan)
    scales[is_known] = [scale for scale, _ in fits]
    best = int(np.argmin([loss for _, loss in fits]))
    return CalibratedEwma(tuple(scales.tolist()), int(np.flatnonzero(is_known)[best]), fits[best][1], floor)
