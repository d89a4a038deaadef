"""Inputs of the gate: rows for the test, rows of a version's training, recipes to fit again, certificates of parity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from data.features.spec import FeatureSpec
from data.simulator.day import simulate_day
from data.times import NS, to_ns
from offline.checks.certificates import certified
from offline.days.feature_rows import checked_spans
from offline.days.row_budget import SAMPLE_SEED, SampledDays, days_of_test
from offline.days.steps import TRAINING_SET
from offline.days.training_set import day_sample, kept_sample
from offline.lake.state import Partition
from offline.lake.store import Lake
from offline.leaks.models import check_model, hide_future
from offline.leaks.rows import check_rows
from offline.leaks.verdicts import Verdict
from offline.models.candidate import Candidate, Recipe
from offline.models.recipes import RECIPES
from offline.promotion.provenance import LakeRows, Provenance, SimulatedRows, TrainingRows
from offline.samples import CHECKED_HOURS, SHORT_WINDOWS, Sample, TradeSpan, sample, thinned
from offline.settings import DEFAULT_TRAIN_MB

BLIND_ROWS = 2_000
"""Number of rows that stand in for the test when a recipe is fitted again."""


class Refit(NamedTuple):
    """A recipe fitted again on the rows of a version's training.

    Attributes:
        candidate: made without a look at the rows of the test.
        recipe: the fitted recipe.
        training: the rows up to the end of training, with short windows.
        hidden: the rows of the fit: `training`, with everything changed that a model must not know.
    """

    candidate: Candidate
    recipe: Recipe
    training: Sample
    hidden: Sample


@dataclass(frozen=True, slots=True)
class GateInputs:
    """All that the gate needs besides the registry.

    Attributes:
        test: returns the counted rows after a time. Raises ValueError if there are none.
        training: returns the rows of a version's training. Raises ValueError if the rows are gone or have changed.
        certificate: returns the newest certificate of parity for the spec, in words; empty if there is none.
        spans: returns trades behind some rows of a training, and behind some rows of the test after a time; without
            trades, no version passes the leak sentinels.
        recipes: by name.
    """

    test: Callable[[datetime], Sample]
    training: Callable[[TrainingRows], Sample]
    certificate: Callable[[], str] = str
    spans: Callable[[TrainingRows, datetime], Sequence[TradeSpan]] = lambda *_: ()
    recipes: Mapping[str, Recipe] = field(default_factory=lambda: RECIPES)

    def refit(self, made: Provenance, train_end: datetime, spec: FeatureSpec) -> Refit:
        """Fit the recipe of a version again on the rows of its training.

        Raises:
            ValueError: the recipe is unknown, rows are gone or have changed, or the recipe cannot be fitted.
        """
        recipe = self.recipes.get(made.recipe)
        if recipe is None:
            raise ValueError(f"there is no recipe {made.recipe!r}; there are {', '.join(self.recipes)}")
        rows = self.training(made.rows)
        training = rows.take(rows.event_time <= to_ns(train_end))
        if not len(training):
            raise ValueError(f"none of {len(rows):,} training rows is as early as the end of training")
        blind = Sample.join([training, blind_test(training, train_end, spec)])
        hidden = hide_future(blind, spec, train_end)
        return Refit(recipe(hidden, spec, train_end), recipe, training, hidden)

    def verdicts(
        self, made: Provenance, refit: Refit, test: Sample, after: datetime, spec: FeatureSpec, reason: str
    ) -> list[Verdict]:
        """Run all leak sentinels on the rows and the recipe of a version, and return a verdict of each.

        Args:
            test: all rows later than `after`.
            reason: why the version is much better than the calibrated EWMA, see `check_model`.

        Raises:
            ValueError: there are too few rows to compare with an EWMA.
        """
        train_end = refit.candidate.model.train_end
        rows = Sample.join([refit.training, test])
        spans = [_beside_the_split(span, to_ns(train_end), to_ns(after)) for span in self.spans(made.rows, after)]
        return check_rows(rows, spec, train_end, spans) + check_model(
            refit.candidate, refit.recipe, rows, spec, train_end, reason, refit.hidden
        )


def _beside_the_split(span: TradeSpan, end: int, after: int) -> TradeSpan:
    """Return the part of a span up to the end of training, or later than `after`: no row lies in between."""
    if span.since > end:
        return span._replace(since=max(span.since, after + 1))
    return span._replace(trades=span.trades.take(span.trades.event_time <= end))


def blind_test(training: Sample, train_end: datetime, spec: FeatureSpec) -> Sample:
    """Return training rows, moved in time to more than a horizon after `train_end`, in place of a test.

    A recipe has to test its model, and must not learn from the test: fitted with this test, such a recipe gives another
    model than with the real test.
    """
    whole = np.flatnonzero(~np.isnan(training.values).any(axis=1))
    chosen = np.zeros(len(training), np.bool_)
    chosen[(whole if len(whole) else np.arange(len(training)))[-BLIND_ROWS:]] = True
    rows = training.take(chosen)
    first = to_ns(train_end) + 2 * spec.horizon_s * NS
    return replace(rows, event_time=rows.event_time - rows.event_time.min() + first)


def lake_inputs(lake_uri: str, spec: FeatureSpec, max_mb: int = DEFAULT_TRAIN_MB) -> GateInputs:
    """Return the inputs of a gate that tests on the rows of a lake.

    Args:
        max_mb: bound of memory, `TRAIN_MAX_MB`: a test of more rows is on a stratified sample of the rows.

    Raises:
        ValueError: pyarrow does not know the filesystem of the URI.
    """
    lake = Lake.open(lake_uri)

    def partitions_after(after: datetime) -> list[Partition]:
        return [each for each in lake.partitions(TRAINING_SET) if each.rows and each.day >= after.date()]

    def test(after: datetime) -> Sample:
        return sample_of_test(lake, spec, days_of_test(partitions_after(after), max_mb)).after(after)

    def training(rows: TrainingRows) -> Sample:
        return simulated_sample(rows, spec) if isinstance(rows, SimulatedRows) else lake_sample(lake, rows, spec)

    def spans(rows: TrainingRows, after: datetime) -> list[TradeSpan]:
        tested = days_of_test(partitions_after(after), max_mb).product_days()
        if isinstance(rows, SimulatedRows):
            first, last = rows.hours
            hours = (first, min(first + CHECKED_HOURS, last))
            trades = simulate_day(rows.products[0], rows.days[-1], rows.seed, hours)
            return [TradeSpan(trades, int(trades.event_time[0])), *checked_spans(lake, spec, [], tested)]
        return checked_spans(lake, spec, rows.product_days(), tested)

    return GateInputs(test, training, lambda: certified(lake, spec), spans)


def lake_sample(lake: Lake, rows: LakeRows, spec: FeatureSpec, *, with_short_windows: bool = True) -> Sample:
    """Return training rows from the lake, sorted by product and day; of a sample, the same rows each time.

    The rows of a product-day that has been made again since are there as long as the clean-up keeps them.

    Raises:
        ValueError: a product-day is gone or has other rows.
    """
    lake, parts, share, seed = lake.held(), [], 1.0, 0
    if rows.sample is not None:
        share, seed = rows.sample.share, rows.sample.seed
    for product_id, days in sorted(rows.content_hashes.items()):
        for day, content_hash in sorted(days.items()):
            stored = lake.partition(TRAINING_SET, product_id, day)
            if stored is not None and stored.content_hash == content_hash:
                of_day = day_sample(lake, spec, product_id, day, with_short_windows=with_short_windows)
            else:
                kept = kept_sample(lake, spec, product_id, content_hash, with_short_windows=with_short_windows)
                if kept is None:
                    fate = "are gone" if stored is None else "have changed"
                    raise ValueError(f"the training rows of {product_id} on {day} {fate}")
                of_day = kept
            parts.append(thinned(of_day, share, seed))
    if not parts:
        raise ValueError("the version names no training rows")
    return Sample.join(parts)


def sample_of_test(lake: Lake, spec: FeatureSpec, tested: SampledDays) -> Sample:
    """Return the rows of a test from the lake, without rows of short windows, sorted by product and day.

    Raises:
        ValueError: there are no product-days.
    """
    if not tested.partitions:
        raise ValueError("the lake has no training rows: ingest or simulate these days and backfill them first")
    days = (day_sample(lake, spec, product_id, day) for product_id, day in tested.product_days())
    return Sample.join(thinned(rows, tested.share, SAMPLE_SEED) for rows in days)


def simulated_sample(rows: SimulatedRows, spec: FeatureSpec, short_windows: Sequence[int] = SHORT_WINDOWS) -> Sample:
    """Return training rows from the simulator in the order of `rows`: by day, then by product."""
    return Sample.join(
        sample(simulate_day(product_id, day, rows.seed, rows.hours), spec, short_windows)
        for day in rows.days
        for product_id in rows.products
    )
