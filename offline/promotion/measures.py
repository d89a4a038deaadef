"""Figures of the gate on the answers of models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.models.served import Scores, ServedModel
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


def _bits(found: Scores) -> NDArray[np.int64]:
    """Return the answers as bits, int64 of shape (n, 3), so that NaN equals NaN."""
    return np.column_stack([found.score, found.lower, found.upper]).view(np.int64)
