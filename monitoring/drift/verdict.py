"""Judge hours against a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from data.trades import Floats, Int64s
from monitoring.drift.calibration import GROUPS, Calibration, distance
from monitoring.drift.hours import HOUR_NS, Hours, Signal, View

LOSS_HOURS = 2
"""Hours running above the threshold that make the alarm of the loss: a single hour is often above."""
WITHIN_HOURS = 3
"""Drift and loss belong together if they lie within so many hours."""


class Verdict(NamedTuple):
    """What n hours show, in order of time.

    Attributes:
        start: shape (n,), ns since 1970.
        ratios: shape (n,) by signal: the distance in units of its threshold, 1 is the alarm; NaN where unknown.
        drift: shape (n,), whether *change* or *spread* of a column drifts.
        loss: shape (n,), whether the loss is above its threshold, `LOSS_HOURS` hours running.
        with_loss: shape (n,), whether drift and loss lie within `WITHIN_HOURS` hours up to this hour.
    """

    start: Int64s
    ratios: Mapping[Signal, Floats]
    drift: NDArray[np.bool_]
    loss: NDArray[np.bool_]
    with_loss: NDArray[np.bool_]

    def largest(self, hour: int) -> tuple[float, str]:
        """Return the largest ratio of *change* and *spread* in an hour, given by its index, and the name of the signal.

        Without any known ratio, (0.0, "").
        """
        found = (
            (float(ratio[hour]), str(signal))
            for signal, ratio in self.ratios.items()
            if GROUPS[signal.view] == "drift" and not np.isnan(ratio[hour])
        )
        return max(found, default=(0.0, ""))


class Ratio(msgspec.Struct, frozen=True):
    """The ratio of one signal to its threshold."""

    view: View
    column: str
    ratio: float


class Findings(msgspec.Struct, frozen=True):
    """What the hours since the last report show.

    Attributes:
        hours: number of new hours.
        newest, shown: begin of the newest hour, and of the hour in the report, ns since 1970.
        largest, named: largest ratio of *change* and *spread* in the shown hour, and its signal, see `Verdict.largest`.
        ratios: of the shown hour, as Evidently computed.
        drift, loss, with_loss: whether any new hour has the alarm, see `Verdict`.
    """

    hours: int
    newest: int
    shown: int
    largest: float
    named: str
    ratios: tuple[Ratio, ...]
    drift: bool
    loss: bool
    with_loss: bool


def findings_of(verdict: Verdict, new: Int64s, shown: int, ratios: Mapping[Signal, float]) -> Findings:
    """Return what new hours show.

    Args:
        new: indexes of the new hours, rising, at least one.
        shown: index of the hour in the report.
        ratios: of the shown hour, as Evidently computed.
    """
    largest, named = verdict.largest(shown)
    return Findings(
        hours=len(new),
        newest=int(verdict.start[new[-1]]),
        shown=int(verdict.start[shown]),
        largest=largest,
        named=named,
        ratios=tuple(Ratio(*signal, ratio) for signal, ratio in ratios.items()),
        drift=bool(verdict.drift[new].any()),
        loss=bool(verdict.loss[new].any()),
        with_loss=bool(verdict.with_loss[new].any()),
    )


def judge(hours: Hours, calibration: Calibration) -> Verdict:
    """Return what hours show; the first hours of a stream have no *change*, as no hours lie before them."""
    ratios = {
        rule.signal: distance(rule.signal, hours.start, hours.values[rule.signal], rule.harmonic)
        / rule.scale
        / calibration.thresholds[GROUPS[rule.view]]
        for rule in calibration.rules
        if rule.signal in hours.values
    }
    drift, high = np.zeros((2, len(hours.start)), np.bool_)
    for signal, ratio in ratios.items():
        if GROUPS[signal.view] == "drift":
            drift |= ratio >= 1
        elif GROUPS[signal.view] == "loss":
            high |= ratio >= 1
    loss = _within(hours.start, high, LOSS_HOURS) == LOSS_HOURS
    with_loss = (_within(hours.start, drift, WITHIN_HOURS) > 0) & (_within(hours.start, loss, WITHIN_HOURS) > 0)
    return Verdict(hours.start, ratios, drift, loss, with_loss)


def _within(start: Int64s, alarms: NDArray[np.bool_], hours: int) -> Int64s:
    """Return the number of alarms in each hour and the hours before, `hours` together, shape (n,)."""
    passed = np.concatenate([[0], np.cumsum(alarms)])
    first = np.searchsorted(start, start - (hours - 1) * HOUR_NS)
    return np.asarray(passed[1:] - passed[first])
