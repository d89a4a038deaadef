"""Intervals of a cascade, by cross-fitting: each row is forecast by a model that has not seen the row's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.models.input_sets import Steps
from data.trades import Floats
from offline.models.baseline import FirstMinutes
from offline.models.cascade import Cascade, Interval, Rows

COVERAGE = 0.9
"""Nominal share of targets inside an interval."""

FOLDS = 4
PURGED = 2
"""Horizons on each side of a fold that no model of the fold sees."""

MIN_ROWS = 100
"""Fewest rows that set the interval of a step; with fewer, the step has the interval of the step behind."""


def with_intervals(fitted: Cascade, rows: Rows, fit: Callable[[Rows], Cascade], young_steps: int) -> Cascade:
    """Return the model with the interval of each step: `COVERAGE` of the targets of all rows that the step can answer.

    An interval always includes the score.

    Args:
        rows: the rows of the fit.
        fit: fits a model of the same kind.
        young_steps: known grid steps up to which `FirstMinutes` answers.
    """
    residuals: dict[tuple[str, tuple[str, ...]], list[Floats]] = {}
    for fold in np.array_split(np.unique(rows.horizon), FOLDS):
        if not len(fold):
            continue
        ahead = (rows.horizon >= fold[0]) & (rows.horizon <= fold[-1])
        others = (rows.horizon < fold[0] - PURGED) | (rows.horizon > fold[-1] + PURGED)
        if not others.any():
            continue
        model, mine = fit(rows.take(others)), rows.take(ahead)
        columns = mine.with_prior(model.priors)
        values = np.column_stack([columns[name] for name in model.columns])
        for step in model.steps:
            can = Steps(model.columns, [step.needs, ()] if step.needs else [()]).answered(values).step == 0
            if isinstance(step, FirstMinutes):
                can &= columns["known_steps"] <= young_steps
            if can.any():
                variance = step.variance({name: column[can] for name, column in columns.items()})
                found = np.sqrt(np.maximum(mine.realized[can], fitted.floor) / variance)
                residuals.setdefault((type(step).__name__, step.needs), []).append(found)
    intervals: list[Interval] = []
    behind: Interval = (1.0, 1.0)
    for step in reversed(fitted.steps):
        ratios = np.concatenate(residuals.get((type(step).__name__, step.needs), [np.empty(0)]))
        if len(ratios) >= MIN_ROWS or behind == (1.0, 1.0):
            behind = _ends(ratios)
        intervals.insert(0, behind)
    return replace(fitted, intervals=tuple(intervals))


def _ends(ratios: Floats) -> Interval:
    """Return the ends with `COVERAGE` of the ratios of target to score.

    Raises:
        ValueError: there are no ratios.
    """
    if not len(ratios):
        raise ValueError("no row of training sets the intervals: more history is needed")
    low, high = np.quantile(ratios, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return min(float(low), 1.0), max(float(high), 1.0)
