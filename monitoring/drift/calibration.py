"""Learn from the champion's training rows how much an hour differs from the hours before when nothing is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from data.times import DAY_S, NS
from data.trades import Floats, Int64s
from monitoring.drift.hours import HOUR_NS, Hours, Signal, View

HOURS_BEFORE, LEAST_BEFORE = 4, 3
"""The view *change* compares an hour with the mean of the hours before: so many, of which so many must be known."""
QUANTILE = 0.95
THRESHOLD_QUANTILE: Final[Mapping[str, float]] = {"drift": 0.95, "level": 0.95, "loss": 0.99}
"""Drift alone is a note, and may be wrong in one hour of twenty. Drift with loss asks for a retrain. Measured on ten
calm simulated days of four products, two hours running: at .95, the loss of one product is high in .07 of its hours, at
.99 in .004; real harm is found in 1.00 and .57 of the hours of two products."""
LEAST_HOURS = 48
"""Hours of the shortest reference: a quantile of 95 % of fewer hours is the largest or second largest of them."""

GROUPS: Final[Mapping[View, str]] = {"change": "drift", "spread": "drift", "level": "level", "loss": "loss"}
"""Views whose largest ratio has one threshold together: *change* and *spread* raise the alarm."""


class Rule(msgspec.Struct, frozen=True):
    """How one signal is judged.

    Attributes:
        harmonic: mean, cosine and sine of one day, fitted to the reference.
        scale: 95 % quantile of the signal's distance over the reference's hours.
    """

    view: View
    column: str
    harmonic: tuple[float, float, float]
    scale: float

    @property
    def signal(self) -> Signal:
        return Signal(self.view, self.column)


class Calibration(msgspec.Struct, frozen=True):
    """What is usual: `msgspec.json` saves and loads it.

    Attributes:
        thresholds: by group of views: quantile of the largest distance, in scales, over the reference's hours.
        hours: number of the reference's hours.
        days: number of the reference's days.
        variance_floor: of QLIKE.
    """

    rules: tuple[Rule, ...]
    thresholds: dict[str, float]
    hours: int
    days: int
    variance_floor: float


def calibrate(hours: Hours, variance_floor: float) -> Calibration:
    """Return what is usual for a product; each day is judged by a harmonic fitted to the other days.

    Args:
        hours: of the reference. The hours of another product teach nothing: measured on four simulated products, a
            sparse one alarms in .40 of its calm hours by the reference of two busy ones.
        variance_floor: of QLIKE.

    Raises:
        ValueError: the reference is too short.
    """
    days = len(np.unique(_days(hours)))
    if len(hours.start) < LEAST_HOURS or days < 2:
        raise ValueError(
            f"the reference has {len(hours.start)} hours of {days} days; drift needs {LEAST_HOURS} hours of 2 days"
        )
    rules: list[Rule] = []
    groups: dict[str, list[Floats]] = {}
    for signal, values in hours.values.items():
        found = _held_out(signal, hours)
        known = found[~np.isnan(found)]
        scale = float(np.quantile(known, QUANTILE)) if len(known) >= LEAST_HOURS // 2 else 0.0
        if scale > 0:
            rules.append(Rule(*signal, fit_harmonic(hours.start, values), scale))
            groups.setdefault(GROUPS[signal.view], []).append(found / scale)
    thresholds = {
        group: float(np.quantile(_largest(found), THRESHOLD_QUANTILE[group])) for group, found in groups.items()
    }
    return Calibration(tuple(rules), thresholds, len(hours.start), days, variance_floor)


def _held_out(signal: Signal, hours: Hours) -> Floats:
    """Return the distance of each hour by a harmonic fitted to the other days, shape (n,)."""
    values, day = hours.values[signal], _days(hours)
    found = np.full(len(values), np.nan)
    for each in np.unique(day):
        mine = day == each
        fitted = fit_harmonic(hours.start[~mine], values[~mine])
        found[mine] = distance(signal, hours.start, values, fitted)[mine]
    return found


def _days(hours: Hours) -> Int64s:
    return hours.start // (DAY_S * NS)


def fit_harmonic(start: Int64s, values: Floats) -> tuple[float, float, float]:
    """Return mean, cosine and sine of one day, fitted by least squares; missing values are left out."""
    known = ~np.isnan(values)
    if known.sum() < LEAST_HOURS // 2:
        return (0.0, 0.0, 0.0)
    fitted = np.linalg.lstsq(_waves(start[known]), values[known], rcond=None)[0]
    return (float(fitted[0]), float(fitted[1]), float(fitted[2]))


def usual(start: Int64s, harmonic: tuple[float, float, float]) -> Floats:
    """Return the harmonic at hours, shape (n,)."""
    return np.asarray(_waves(start) @ np.array(harmonic))


def distance(signal: Signal, start: Int64s, values: Floats, harmonic: tuple[float, float, float]) -> Floats:
    """Return how far each hour lies from what is usual, shape (n,), NaN where unknown; a lower loss is no distance."""
    off = values - usual(start, harmonic)
    if signal.view == "change":
        off = off - mean_before(start, off)
    return np.maximum(off, 0.0) if signal.view == "loss" else np.abs(off)


def mean_before(start: Int64s, values: Floats) -> Floats:
    """Return the mean of the `HOURS_BEFORE` hours before each hour, shape (n,); NaN if too few are known.

    >>> mean_before(np.arange(4) * HOUR_NS, np.array([1.0, 2.0, 3.0, 9.0]))
    array([nan, nan, nan,  2.])
    """
    at = start // HOUR_NS
    total, count = np.zeros(len(start)), np.zeros(len(start))
    for back in range(1, HOURS_BEFORE + 1):
        place = np.searchsorted(at, at - back)
        found = np.where(at[place] == at - back, values[place], np.nan)
        known = ~np.isnan(found)
        total[known] += found[known]
        count += known
    return np.where(count >= LEAST_BEFORE, total / np.maximum(count, 1), np.nan)


def _largest(ratios: Sequence[Floats]) -> Floats:
    """Return the largest ratio of each hour in which a ratio is known, shape (m,), m <= n."""
    stacked = np.stack(ratios)
    return np.asarray(np.nanmax(stacked[:, ~np.isnan(stacked).all(axis=0)], axis=0))


def _waves(start: Int64s) -> Floats:
    angle = 2 * np.pi * ((start // HOUR_NS) % 24) / 24
    return np.stack([np.ones(len(start)), np.cos(angle), np.sin(angle)], axis=1)
