"""The served forecasts of a day, judged hour by hour: the figures of the table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.models.served import ServedModel
from data.trades import Floats
from data.truth.losses import coverage, qlike
from monitoring.drift.__main__ import calibration_of
from monitoring.drift.files import REFERENCE
from monitoring.drift.hours import HOUR_NS, columns_of, hours_of
from monitoring.drift.verdict import judge
from monitoring.live_truth import COVERAGE_MARGIN


class HourFigures(NamedTuple):
    """What the forecasts of an hour were worth.

    Attributes:
        start: ns since 1970.
        qlike: mean loss of the published forecasts.
        published, own: coverage of the published intervals, and of the model's own intervals without adaptation.
        drift: largest ratio of *change* and *spread* to the alarm threshold, and its column.
        loss: largest ratio of the loss.
        with_loss: whether drift and loss lie within three hours up to this hour.
    """

    start: int
    qlike: float
    published: float
    own: float
    drift: tuple[float, str]
    loss: float
    with_loss: bool


def figures_by_hour(frame: pd.DataFrame, model: ServedModel, product_id: str, folder: Path) -> list[HourFigures]:
    """Return the figures of each hour, oldest first; of hours with targets alone.

    Args:
        frame: counted forecasts of one source, see `offline.frames.serving.forecast_frame`.
        model: which made the forecasts.
        folder: of the product's drift reports, which holds the reference.
    """
    assert model.variance_floor is not None
    floor = model.variance_floor
    event_time, columns = columns_of(frame)
    calibration = calibration_of(pd.read_parquet(folder / REFERENCE))
    hours = hours_of(event_time, columns, calibration.variance_floor)
    verdict = judge(hours, calibration)
    own = model.score(np.column_stack([columns[name] for name in model.columns]), [product_id] * len(event_time))
    target = np.maximum(columns["target"], np.sqrt(floor))
    hour = event_time // HOUR_NS * HOUR_NS
    found = []
    for number, start in enumerate(verdict.start.tolist()):
        mine = (hour == start) & ~np.isnan(columns["target"])
        if not mine.any():
            continue
        ends = ((columns["lower"], columns["upper"]), (own.lower, own.upper))
        published, without = (coverage(target[mine], low[mine], high[mine]) for low, high in ends)
        loss = max(
            (float(ratio[number]) for signal, ratio in verdict.ratios.items() if signal.view == "loss"), default=0.0
        )
        found.append(
            HourFigures(
                start,
                float(np.mean(qlike(target[mine] ** 2, columns["score"][mine] ** 2, floor))),
                published,
                without,
                verdict.largest(number),
                loss,
                bool(verdict.with_loss[number]),
            )
        )
    return found


def low_hours(coverages: Floats, promised: float) -> list[int]:
    """Return the indexes of the hours whose end begins the alert: the second hour in a row with a coverage so low.

    Args:
        coverages: shape (n,), of the hours in order.
        promised: 5 % quantile of the model's test hours.

    >>> low_hours(np.array([0.9, 0.6, 0.9, 0.6, 0.7, 0.7, 0.9]), 0.8)
    [4]
    """
    is_low = coverages < promised - COVERAGE_MARGIN
    both = np.concatenate([[False], is_low[1:] & is_low[:-1]])
    begins = both & ~np.concatenate([[False], both[:-1]])
    return [int(hour) for hour in np.flatnonzero(begins)]
