"""Figures of the gate, from models and rows: answers, a calibrated EWMA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.models.served import Scores, ServedModel
from data.trades import Floats
from data.truth.losses import best_scale
from offline.leaks.models import LEAST_SHARE
from offline.samples import Sample, scores_of

ASKED_ALONE = 32
"""Number of rows that the gate scores in a batch of one, 50 us per row."""
CALIBRATED_EWMA = "the calibrated EWMA"


def unusable_answers(model: ServedModel, rows: Sample, spec: FeatureSpec) -> tuple[int, int]:
    """Count the rows with an unusable answer, and the rows with a different answer in a different batch.

    All rows are scored again in another order, and some rows alone: a graph may read neighbour rows, or random numbers.
    """
    found = scores_of(model, rows, spec)
    answers = _bits(found)
    order = np.random.default_rng(0).permutation(len(rows))
    swayed = np.zeros(len(rows), np.bool_)
    swayed[order] = (_bits(scores_of(model, rows.take(order), spec)) != answers[order]).any(axis=1)
    for row in order[:ASKED_ALONE]:
        swayed[row] |= (_bits(scores_of(model, rows.take(np.array([row])), spec))[0] != answers[row]).any()
    return int(np.sum(~found.are_usable())), int(np.sum(swayed))


def largest_difference(one: ServedModel, other: ServedModel, rows: Sample, spec: FeatureSpec) -> float:
    """Return the largest relative difference of scores and ends of intervals; infinite if an answer is not finite."""
    found, expected = (
        np.column_stack([scores.score, scores.lower, scores.upper])
        for scores in (scores_of(model, rows, spec) for model in (one, other))
    )
    off = float(np.max(np.abs(found - expected) / np.abs(expected), initial=0.0))
    return off if np.isfinite(off) else float("inf")


def calibrated_ewma(training: Sample, rows: Sample, spec: FeatureSpec, floor: float) -> Floats:
    """Return the forecast variance of a calibrated EWMA for each row: half-life and scale have the least QLIKE on
    training.

    A row that lacks the chosen half-life is answered by the longest shorter half-life that the row has; a row with none
    by the mean realized variance of training.

    Args:
        training: rows with known targets; rows without any EWMA are left out.
        rows: shape (n,) of the result.
        floor: smaller realized variances count as `floor`.

    Raises:
        ValueError: no training row has an EWMA.
    """
    columns = [spec.columns.index(f"ewma_variance_{half_life}") for half_life in spec.half_lives]
    at = [column for column in columns if not np.isnan(training.values[:, column]).all()]
    known = ~np.isnan(training.values[:, at]).any(axis=1)
    if not at or not known.any():
        raise ValueError("no training row has an EWMA: more history is needed")
    realized = np.maximum(training.targets[known] ** 2, floor)
    least = LEAST_SHARE * float(np.mean(realized))
    scales, losses = [], []
    for column in at:
        scale, loss = best_scale(realized, np.maximum(training.values[known, column], least), floor)
        scales.append(scale)
        losses.append(loss)
    best = int(np.argmin(losses))
    forecast = np.full(len(rows), float(np.mean(realized)))
    for column, scale in zip(at[: best + 1], scales, strict=False):
        ewma = rows.values[:, column]
        forecast = np.where(np.isnan(ewma), forecast, scale * np.maximum(ewma, least))
    return forecast


def _bits(found: Scores) -> NDArray[np.int64]:
    """Return the answers as bits, int64 of shape (n, 3), so that NaN equals NaN."""
    return np.column_stack([found.score, found.lower, found.upper]).view(np.int64)
