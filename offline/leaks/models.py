"""Sentinels on a trained model: its recipe runs again on rows that were changed where a model must not look."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from data.times import NS, second_text, to_ns
from data.truth.losses import qlike
from data.truth.targets import variance_floor
from offline.ewma import calibrate, ewmas_of
from offline.leaks.verdicts import ANSWERS, COLUMNS, FUTURE_CHANGED, SHUFFLED_LABELS, SPLIT, TOO_GOOD, Verdict, listed
from offline.samples import Sample, scores_of

KNOWN_COLUMNS = re.compile(
    r"n|ret_mean|ret_std|mean_variance|known_steps|hour_sin|hour_cos"
    r"|(ewma_variance|parkinson_variance|relative_volume|trade_rate|trend)_\d+"
)
"""Names of the columns that a model may read: none holds a price level, a date or a target."""
UNSCALED_COLUMNS = ("n", "known_steps", "hour_sin", "hour_cos")
"""Columns with limits of their own."""
MAX_SCORE = 100.0
"""Maximum score, as a multiple of the largest target of all rows."""
BLOCK_ROWS = 120
"""Rows in a block of shuffled labels: 10 horizons of 12 counted rows."""
SHUFFLED_SHARE, SHUFFLED_HORIZONS = 1 / 3, 480
"""Share of the training horizons for the fit to shuffled labels, the newest, and the minimum number."""
MIN_SHUFFLED_RATIO = 0.97
MIN_RATIO = 0.60
"""Minimum QLIKE ratio to the calibrated EWMA without a reason: honest models of real markets have .75 or more."""


class Future(NamedTuple):
    """Changes of the rows that a model must not know.

    Attributes:
        features, targets: factors of the features and of the targets.
        kept: share of the rows that stay, the oldest.
    """

    features: float
    targets: float
    kept: float


FUTURES = (Future(4.0, 1e3, 1.0), Future(0.25, 1e-3, 0.7))
"""A choice by losses of the test is reversed by one of the two."""


class Trained(Protocol):
    """A trained model, as a recipe returns it."""

    @property
    def model(self) -> ServedModel: ...


Recipe = Callable[[Sample, FeatureSpec, datetime], Trained]


class Training(NamedTuple):
    """A recipe's arguments, and the recipe.

    Attributes:
        rows: up to `train_end` for training, later for the test.
    """

    recipe: Recipe
    rows: Sample
    spec: FeatureSpec
    train_end: datetime

    def digest(self, rows: Sample) -> str:
        """Return the digest of a model of other rows, or the error that the recipe raises."""
        try:
            return self.recipe(rows, self.spec, self.train_end).model.digest
        except ValueError as error:
            return f"error: {error}"


class Rival(NamedTuple):
    """The calibrated EWMA on the test rows that know a half-life.

    Attributes:
        rows: the test rows.
        qlike: mean loss.
        best_qlike: mean loss with the half-life and the scale that are best on the test rows: no luck beats this.
        floor: smaller realized variances count as `floor`.
    """

    rows: Sample
    qlike: float
    best_qlike: float
    floor: float


def hide_future(rows: Sample, spec: FeatureSpec, train_end: datetime) -> Sample:
    """Return the sample with everything changed that a model must not know, by the first of `FUTURES`."""
    beyond = rows.seen_until(spec) > to_ns(train_end)
    return _changed(rows, spec, beyond, beyond, FUTURES[0])


def check_model(
    trained: Trained,
    recipe: Recipe,
    rows: Sample,
    spec: FeatureSpec,
    train_end: datetime,
    reason: str = "",
    hidden: Sample | None = None,
) -> list[Verdict]:
    """Return a verdict for each of `MODEL_SENTINELS`.

    Args:
        trained: result of the recipe for the other arguments, or for `hidden` in place of `rows`.
        rows: up to `train_end` for training, later for the test.
        reason: why a model is much better than the calibrated EWMA; lets such a model pass, and is in the verdict.
        hidden: result of `hide_future` for the same training: one of `FUTURES` then needs no other fit.

    Raises:
        ValueError: there are too few rows to compare with an EWMA.
    """
    training = Training(recipe, rows, spec, train_end)
    model = trained.model
    unknown = [name for name in model.columns if not KNOWN_COLUMNS.fullmatch(name) or name not in spec.columns]
    verdicts = [
        *_check_future(model, training, hidden),
        Verdict(COLUMNS, not unknown, listed(unknown), "no column that the sentinels do not know"),
    ]
    if any(name not in spec.columns for name in model.columns):
        return verdicts  # nobody can ask the model
    rival = _rival_of(training)
    answers = scores_of(model, rows, spec)
    wrong = ~answers.are_usable() | (answers.lower >= answers.upper) | (answers.score > MAX_SCORE * rows.targets.max())
    ratio = _qlike(model, rival, spec) / rival.qlike
    return [
        *verdicts,
        Verdict(
            ANSWERS,
            not wrong.any(),
            f"{int(wrong.sum()):,} of {len(rows):,} answers",
            f"no interval of width 0, no score above {MAX_SCORE:.0f} times the largest target",
        ),
        _check_shuffled(training, rival),
        Verdict(
            TOO_GOOD,
            ratio >= MIN_RATIO or bool(reason),
            f"QLIKE {ratio:.3f} of the calibrated EWMA" + (f"; reason: {reason}" if reason else ""),
            f"{MIN_RATIO:.2f} or more, or a reason",
        ),
    ]


def _check_future(model: ServedModel, training: Training, hidden: Sample | None) -> list[Verdict]:
    """Change the rows that a model must not know: the model's bytes must stay.

    A model of `hidden` rows is compared with the model of the other future. Only a failed comparison is repeated, for
    the rows of the test alone and for the rows at the split alone.
    """
    rows, spec, train_end = training.rows, training.spec, training.train_end
    end = to_ns(train_end)
    later, at_split = rows.event_time > end, (rows.event_time <= end) & (rows.seen_until(spec) > end)
    futures = FUTURES if hidden is None else FUTURES[1:]

    def changes(where: NDArray[np.bool_], digest: str) -> int:
        changed = (_changed(rows, spec, later | at_split, where, future) for future in futures)
        return sum(training.digest(each) != digest for each in changed)

    by_later = by_split = 0
    if changes(later | at_split, model.digest):
        unchanged = model.digest if hidden is None else training.digest(rows)
        by_later, by_split = changes(later, unchanged), changes(at_split, unchanged)
        if not by_later and not by_split:
            by_later = 1
    again = training.digest(rows if hidden is None else hidden) if by_later or by_split else model.digest
    unstable = "" if again == model.digest else "; the same rows give other bytes too"
    is_true = second_text(model.train_end) == second_text(train_end)
    return [
        Verdict(
            FUTURE_CHANGED,
            not by_later,
            f"other bytes of the model in {by_later} of {len(futures)} changed futures{unstable}",
            "the same bytes",
        ),
        Verdict(
            SPLIT,
            is_true and not by_split,
            f"train_end {second_text(model.train_end)} in the model; rows whose target ends later "
            f"{'are' if by_split else 'are not'} fitted",
            f"train_end {second_text(train_end)}, and no such row",
        ),
    ]


def _changed(
    rows: Sample, spec: FeatureSpec, beyond: NDArray[np.bool_], where: NDArray[np.bool_], future: Future
) -> Sample:
    """Return the sample with other features and targets in some rows, and without the newest of these rows.

    Args:
        beyond: mask of all rows that a model must not know; a row gets features and target of another such row.
        where: mask of the rows to change.
    """
    at = np.flatnonzero(beyond)
    source = np.arange(len(rows))
    source[at] = np.random.default_rng(0).permutation(at)
    scale = np.where(np.isin(spec.columns, UNSCALED_COLUMNS), 1.0, future.features)
    values = np.where(where[:, None], rows.values[source] * scale, rows.values)
    targets = np.where(where, rows.targets[source] * future.targets, rows.targets)
    is_new = rows.event_time > np.quantile(rows.event_time[at], future.kept)
    return replace(rows, values=values, targets=targets).take(~(where & is_new))


def _check_shuffled(training: Training, rival: Rival) -> Verdict:
    """Fit to the newest part of training with shuffled targets: nothing is left to learn."""
    rows, spec, end = training.rows, training.spec, to_ns(training.train_end)
    horizons = np.unique(rows.horizon(spec)[rows.event_time <= end])
    few = max(int(len(horizons) * SHUFFLED_SHARE), min(SHUFFLED_HORIZONS, len(horizons)))
    part = rows.take(rows.horizon(spec) >= int(horizons[-few]))
    at = np.flatnonzero(part.event_time <= end)
    blocks = np.array_split(at, max(len(at) // BLOCK_ROWS, 2))
    order = np.random.default_rng(0).permutation(len(blocks))
    targets = part.targets.copy()
    targets[at] = part.targets[np.concatenate([blocks[i] for i in order])]
    allowed = f"{MIN_SHUFFLED_RATIO:.2f} or more"
    try:
        model = training.recipe(replace(part, targets=targets), spec, training.train_end).model
    except ValueError as error:
        return Verdict(SHUFFLED_LABELS, False, str(error), allowed)
    ratio = _qlike(model, rival, spec) / rival.best_qlike
    found = f"QLIKE {ratio:.3f} of the EWMA with the best scale for the test"
    return Verdict(SHUFFLED_LABELS, ratio >= MIN_SHUFFLED_RATIO, found, allowed)


def _qlike(model: ServedModel, rival: Rival, spec: FeatureSpec) -> float:
    score = scores_of(model, rival.rows, spec).score
    return float(np.mean(qlike(rival.rows.targets**2, score**2, rival.floor)))


def _rival_of(training: Training) -> Rival:
    """Calibrate an EWMA on the training rows, and judge the EWMA on the test rows that it can answer."""
    rows, spec = training.rows, training.spec
    end = to_ns(training.train_end)
    fitted, test = rows.take(rows.event_time <= end - spec.horizon_s * NS), rows.after(training.train_end)
    floor = variance_floor(fitted.targets**2)
    ewma = calibrate(ewmas_of(fitted.values, spec), fitted.targets**2, floor)
    forecast = ewma.forecast(ewmas_of(test.values, spec), np.nan)
    known = ~np.isnan(forecast)
    judged = test.take(known)
    if not len(judged):
        raise ValueError("no test row has an EWMA to compare with: more history is needed")
    realized = judged.targets**2
    best = calibrate(ewmas_of(judged.values, spec), realized, floor)
    return Rival(judged, float(np.mean(qlike(realized, forecast[known], floor))), best.qlike, floor)
