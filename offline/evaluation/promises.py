"""Promises of a version: quantiles of the hourly QLIKE and coverage of its adapted forecasts on the test rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np

from data.features.spec import FeatureSpec
from data.models.promises import MEASURES, QUANTILES, promise_tag
from data.models.served import Scores
from data.times import NS, to_ns
from data.trades import Floats
from data.truth.adaptation import adapted_by_targets, teaching
from data.truth.counting import TWELFTH
from data.truth.losses import qlike
from offline.samples import Sample

MIN_HORIZONS = 30
"""Fewest judged horizons of a product in an hour that counts."""

HOUR = 3_600 * NS


def promises_of(hours: Iterable[Floats]) -> dict[str, float]:
    """Return quantiles of hourly figures as `promised_qlike_05`, `promised_coverage_95`, ...; empty without an hour.

    Args:
        hours: see `hourly_figures`; of any number of products.
    """
    figures = np.concatenate([np.empty((0, 2)), *hours])
    if not len(figures):
        return {}
    return {
        promise_tag(name, ending): float(np.quantile(of_measure, quantile))
        for name, of_measure in zip(MEASURES, figures.T, strict=True)
        for ending, quantile in QUANTILES.items()
    }


def hourly_figures(
    answers: Scores, judged: Sample, floor: float, train_end: datetime, spec: FeatureSpec
) -> list[Floats]:
    """Return QLIKE and coverage of each hour, shape (hours, 2), of each product.

    An hour is a UTC hour of one product. The forecasts are adapted as online: one stream a product, afresh from the
    first row on, each taught once its horizon has passed. So the promises are about forecasts as they are published.

    Args:
        answers: of the model, for the rows of `judged`.
        judged: all counted rows of each product, later than the training.
        floor: smaller realized variances count as `floor`.
        train_end: of the model.
    """
    found = []
    for product in np.unique(judged.product_id):
        mine = np.flatnonzero(judged.product_id == product)
        mine = mine[np.argsort(judged.event_time[mine], kind="stable")]
        time, targets = judged.event_time[mine], judged.targets[mine]
        teaches = teaching(judged.values[mine], time, to_ns(train_end), spec)
        adapted = adapted_by_targets(time, targets, answers.take(mine), teaches, spec)
        floored = np.maximum(targets, np.sqrt(floor))
        is_inside = (adapted.lower <= floored) & (floored <= adapted.upper)
        losses = qlike(targets**2, adapted.score**2, floor)
        _, hour, count = np.unique(time // HOUR, return_inverse=True, return_counts=True)
        means = [np.bincount(hour, each) / count for each in (losses, is_inside)]
        found.append(np.column_stack(means)[count >= MIN_HORIZONS * TWELFTH])
    return found
