"""Losses of forecasts: served models and the plain EWMA on the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from data.features.spec import FeatureSpec
from data.models.input_sets import with_less_input
from data.models.served import Scores, ServedModel
from data.times import to_datetime
from data.trades import Floats, Int64s
from data.truth.losses import coverage, qlike
from offline.samples import Sample, scores_of, thinned_rows

UNSCALED_EWMA = "unscaled EWMA"
"""Forecaster: the unscaled variance of the last minutes, with the half-life of `plain_ewma`; or the mean so far."""

ALL, CONTRACT_ALONE, NOTHING = ASKED_WITH = "all columns", "the contract alone", "nothing"
"""Input of a forecaster: values of `LossesRow.asked_with`."""


class LossesRow(NamedTuple):
    """Losses of one forecaster over all rows.

    Attributes:
        forecaster: name.
        asked_with: ALL, CONTRACT_ALONE or NOTHING.
        qlike: mean loss on variance.
        log_mse: mean squared error of log volatility.
        coverage: share of targets inside the interval; NaN if the forecaster has no interval.
    """

    forecaster: str
    asked_with: str
    qlike: float
    log_mse: float
    coverage: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A table of losses, and facts about the judged rows.

    Attributes:
        losses: one row per forecaster and input.
        rows: number of judged feature rows, the same for all forecasters.
        horizon_numbers: numbers of the horizons of time since 1970 with judged rows, rising.
        zero_target_share: share of targets equal to 0.
        variance_floor: smaller realized variances count as `variance_floor`, for all forecasters.
        first_time, last_time: event times of the first and the last judged row.
        judged: the judged rows, or a stratified sample of them, see `thinned`.
        answers: by forecaster asked with all columns, the forecasts for `judged`; ends of an interval are NaN for a
            forecaster without intervals.
    """

    losses: tuple[LossesRow, ...]
    rows: int
    horizon_numbers: Int64s
    zero_target_share: float
    variance_floor: float
    first_time: datetime
    last_time: datetime
    judged: Sample
    answers: Mapping[str, Scores]

    @property
    def horizons(self) -> int:
        """Return the number of horizons of time with judged rows: overlapping ones are no independent evidence."""
        return len(self.horizon_numbers)

    def thinned(self, share: float, seed: int) -> Evaluation:
        """Return the evaluation with a sample of the judged rows and answers; the losses stay."""
        chosen = thinned_rows(self.judged, share, seed)
        answers = {name: each.take(chosen) for name, each in self.answers.items()}
        return replace(self, judged=replace(self.judged.take(chosen), share=min(share, 1.0)), answers=answers)

    def losses_of(self, forecaster: str, asked_with: str = ALL) -> LossesRow:
        """Return the losses of one forecaster with one input."""
        return next(line for line in self.losses if (line.forecaster, line.asked_with) == (forecaster, asked_with))

    def metrics(self, forecaster: str) -> dict[str, float]:
        """Return the figures of one forecaster under flat names; `qlike_NAME` is of other forecasters."""
        found = {
            "test_rows": float(self.rows),
            "test_horizons": float(self.horizons),
            "zero_target_share": self.zero_target_share,
            "variance_floor": self.variance_floor,
        }
        endings = {ALL: "", CONTRACT_ALONE: "_contract", NOTHING: "_unconditional"}
        for line in self.losses:
            if line.forecaster == forecaster:
                ending = endings[line.asked_with]
                found |= {f"qlike{ending}": line.qlike, f"log_mse{ending}": line.log_mse}
                found[f"coverage{ending}"] = line.coverage
            elif line.asked_with == ALL:
                found[f"qlike_{line.forecaster.lower().replace(' ', '_')}"] = line.qlike
        return found


def plain_ewma(spec: FeatureSpec) -> str:
    """Return the column name of the unscaled EWMA.

    >>> plain_ewma(FeatureSpec())
    'ewma_variance_300'
    """
    return f"ewma_variance_{spec.half_lives[1]}"


def judged_rows(test: Sample, spec: FeatureSpec) -> Sample:
    """Return the rows to judge: rows with a variance to compare with, so from the first grid step of a segment on."""
    return test.take(~np.isnan(_plain_variance(test, spec)))


def _plain_variance(rows: Sample, spec: FeatureSpec) -> Floats:
    """Return the unscaled EWMA of each row; before the EWMA is known, the mean so far."""
    ewma, mean = (rows.values[:, spec.columns.index(name)] for name in (plain_ewma(spec), "mean_variance"))
    return np.where(np.isnan(ewma), mean, ewma)


def evaluate(models: Mapping[str, ServedModel], test: Sample, spec: FeatureSpec, floor: float) -> Evaluation:
    """Judge served models and the unscaled EWMA on the same rows.

    A model answers each row from the columns present; the answers of a segment's first minutes count.

    Args:
        models: by name in the table.
        test: rows later than every model's `train_end`.
        floor: smaller realized variances count as `floor`, see `data.truth.targets.variance_floor`.

    Raises:
        ValueError: there is no row to judge, or an answer is not above 0.
    """
    rows = judged_rows(test, spec)
    if not len(rows):
        raise ValueError(f"none of {len(test)} test rows has a grid step before the row: more history is needed")
    realized = rows.targets**2
    floored = np.maximum(rows.targets, np.sqrt(floor))

    def losses_row(name: str, asked_with: str, score: Floats, covered: float = math.nan) -> LossesRow:
        return LossesRow(
            name,
            asked_with,
            float(np.mean(qlike(realized, score**2, floor))),
            float(np.mean(np.log(floored / score) ** 2)),
            covered,
        )

    found: list[LossesRow] = []
    answers: dict[str, Scores] = {}
    asked = [replace(rows, values=values) for values in with_less_input(rows.values)]
    for name, model in models.items():
        for asked_with, these in zip(ASKED_WITH, asked, strict=True):
            answer = scores_of(model, these, spec)
            if asked_with == ALL:
                answers[name] = answer
            covered = coverage(floored, answer.lower, answer.upper)
            found.append(losses_row(name, asked_with, answer.score, covered))
    ewma = np.sqrt(np.maximum(_plain_variance(rows, spec), floor))
    found.append(losses_row(UNSCALED_EWMA, ALL, ewma))
    unknown = np.full(len(rows), math.nan)
    answers[UNSCALED_EWMA] = Scores(ewma, unknown, unknown, np.zeros((len(rows), 0), np.bool_))
    return Evaluation(
        losses=tuple(found),
        rows=len(rows),
        horizon_numbers=np.unique(rows.horizon(spec)),
        zero_target_share=float(np.mean(rows.targets == 0)),
        variance_floor=floor,
        first_time=to_datetime(int(rows.event_time.min())),
        last_time=to_datetime(int(rows.event_time.max())),
        judged=rows,
        answers=answers,
    )


def join(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Return the evaluation of the same forecasters on the rows of all parts.

    Args:
        evaluations: of parts, see `Evaluation.thinned`: then memory does not depend on the number of judged rows.

    Raises:
        ValueError: there is no part.
    """
    parts = list(evaluations)
    if not parts:
        raise ValueError("no product of the test has a row with a grid step before the row: more history is needed")
    rows = sum(part.rows for part in parts)
    weights = np.array([part.rows / rows for part in parts])

    def mean(figures: Sequence[float]) -> float:
        return float(weights @ np.array(figures))

    losses = []
    for forecaster, asked_with, *figures in (
        zip(*same, strict=True) for same in zip(*(p.losses for p in parts), strict=True)
    ):
        losses.append(LossesRow(forecaster[0], asked_with[0], *map(mean, figures)))
    return Evaluation(
        losses=tuple(losses),
        rows=rows,
        horizon_numbers=np.unique(np.concatenate([part.horizon_numbers for part in parts])),
        zero_target_share=mean([part.zero_target_share for part in parts]),
        variance_floor=parts[0].variance_floor,
        first_time=min(part.first_time for part in parts),
        last_time=max(part.last_time for part in parts),
        judged=Sample.join(part.judged for part in parts),
        answers={name: Scores.join(part.answers[name] for part in parts) for name in parts[0].answers},
    )
