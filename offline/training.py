"""Training of models: on the rows of a caller, or, as a command, of the baseline on simulated days.

The command makes a champion that serves before the first recording.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import BASELINE
from data.names import RegistryError
from data.settings import KafkaSettings
from data.times import to_datetime
from data.trades import Floats
from offline.cards.version_texts import version_texts
from offline.days.feature_rows import checked_spans
from offline.days.row_budget import SAMPLE_SEED, days_of_test, days_of_training
from offline.days.training_set import training_sample
from offline.evaluation.promises import hourly_figures, promises_of
from offline.lake.objects import Objects
from offline.lake.state import Partition
from offline.lake.store import Lake
from offline.leaks.models import check_model
from offline.leaks.rows import check_rows
from offline.leaks.verdicts import LeakFound
from offline.losses_table import Evaluation, evaluate, join, judged_rows
from offline.models.candidate import Candidate, Recipe
from offline.models.recipes import (
    PRODUCTS,
    RECIPES,
    SEED,
    TRAINING_DAYS,
    simulated_rows,
    simulated_spans,
    split,
    train_baseline,
    train_end_of_simulated_days,
)
from offline.promotion.gate import Refused, fetch_model
from offline.promotion.inputs import GateInputs, lake_sample, sample_of_test
from offline.promotion.ledger import finish_pending
from offline.promotion.moves import promote, publish_moves
from offline.promotion.provenance import LakeRows, Provenance, RowSample, SimulatedRows, TrainingRows
from offline.promotion.register import log_texts, register
from offline.samples import Sample, TradeSpan
from offline.settings import OfflineSettings


class Registered(NamedTuple):
    """A candidate in the registry, with the alias `challenger`; a promotion may follow."""

    candidate: Candidate
    version: str


class Challenger(NamedTuple):
    """A candidate in the registry with report and card.

    Attributes:
        texts: report and card among the artifacts of the version's run, by path.
    """

    candidate: Candidate
    version: str
    texts: Mapping[str, str]


def train(
    registry: Registry,
    rows: Sample,
    spec: FeatureSpec,
    train_end: dt.datetime,
    made_from: TrainingRows,
    recipes: Mapping[str, Recipe] = RECIPES,
    *,
    spans: Iterable[TradeSpan],
    test: StreamedTest | None = None,
    reason: str = "",
) -> Iterator[Candidate | Evaluation | Registered | Challenger]:
    """Train models on the same rows, compare them with the champions, and register them; yield each result at once.

    First comes a candidate for each recipe, then the evaluation of all on the rows after training, then each candidate
    twice: when the version is registered, and when the version has report and card. Nothing is registered before all
    models are trained, checked by the leak sentinels, and evaluated.

    Args:
        registry: keeps the challengers and the champions.
        rows: up to `train_end` for training, later for the test.
        made_from: where the gate finds the rows of the training again.
        recipes: by name.
        spans: trades behind some of the rows, for the sentinels.
        test: the whole test, where `rows` have a sample of the test alone; None: `rows` have the whole test.
        reason: why a model is much better than the calibrated EWMA, see `check_model`; kept with each version.

    Raises:
        LeakFound: a sentinel has found a leak.
        ValueError: there are too few rows, or a model cannot be fitted.
        RegistryError: MLflow does not answer or fails.
    """
    candidates, of_rows = {}, check_rows(rows, spec, train_end, spans)
    for name, recipe in recipes.items():
        candidate = recipe(rows, spec, train_end)
        verdicts = of_rows + check_model(candidate, recipe, rows, spec, train_end, reason)
        if not all(each.passed for each in verdicts):
            raise LeakFound(candidate.name, verdicts)
        found = {f"sentinel {each.name}": each.found for each in verdicts}
        params = candidate.params | found | _sample_params(made_from)
        candidates[name] = replace(candidate, params=params, reason=reason)
        yield candidates[name]
    first = to_datetime(int(split(rows, train_end, spec).test.event_time.min()))
    test = StreamedTest((rows,), 1.0) if test is None else test
    compared, promises = compare(registry, list(candidates.values()), test, first, train_end, spec)
    yield compared
    for name, trained in candidates.items():
        of_all = compared.metrics(trained.name)
        metrics = {metric: of_all.get(metric, value) for metric, value in trained.metrics.items()}
        if trained.name != BASELINE and BASELINE in compared.answers:
            metrics = metrics | {"qlike_calibrated_ewma": compared.losses_of(BASELINE).qlike}
        candidate = replace(trained, metrics=metrics, promises=promises[trained.name])
        made = Provenance.here(name, made_from)
        version = register(registry, candidate, made)
        yield Registered(candidate, version)
        texts = version_texts(candidate, made, compared, spec)
        log_texts(registry, trained.name, version, texts)
        yield Challenger(candidate, version, texts)


def _sample_params(made_from: TrainingRows) -> dict[str, str]:
    """Return the parameters of a sample of the training rows; nothing if all rows train."""
    if isinstance(made_from, SimulatedRows) or made_from.sample is None:
        return {}
    of = made_from.sample
    return {"sample share": f"{of.share:.6g}", "sample seed": str(of.seed), "sample of rows": str(of.of_rows)}


class StreamedTest(NamedTuple):
    """A test whose rows are read once.

    Attributes:
        parts: all rows of a product at a time.
        share: of the rows that stay in memory for the report.
    """

    parts: Iterable[Sample]
    share: float


class Compared(NamedTuple):
    """Candidates and champions on the same test rows.

    Attributes:
        promises: by candidate, see `promises_of`.
    """

    evaluation: Evaluation
    promises: Mapping[str, Mapping[str, float]]


def compare(
    registry: Registry,
    candidates: Sequence[Candidate],
    test: StreamedTest,
    first: dt.datetime,
    train_end: dt.datetime,
    spec: FeatureSpec,
) -> Compared:
    """Evaluate candidates and champions on the same rows; mark a champion whose training saw some of the rows.

    Args:
        test: rows up to a horizon after `train_end` do not count.
        first: time of the first row of the test.
    """
    judged = {candidate.name: candidate.model for candidate in candidates}
    for candidate in candidates:
        champion = registry.champion(candidate.name)
        if champion is not None and (model := fetch_model(registry, champion, spec).model) is not None:
            seen = ", which has seen some of these rows" if model.train_end >= first else ""
            judged[f"{candidate.name} version {champion.version}{seen}"] = model
    floor = float(candidates[0].metrics["variance_floor"])
    hours: dict[str, list[Floats]] = {candidate.name: [] for candidate in candidates}

    def evaluated() -> Iterator[Evaluation]:
        for part in test.parts:
            rows = judged_rows(part.after(train_end + dt.timedelta(seconds=spec.horizon_s)), spec)
            if len(rows):
                found = evaluate(judged, rows, spec, floor)
                for name in hours:
                    hours[name] += hourly_figures(found.answers[name], found.judged, floor, train_end, spec)
                yield found.thinned(test.share, SAMPLE_SEED)

    return Compared(join(evaluated()), {name: promises_of(of_hours) for name, of_hours in hours.items()})


class LakeTraining(NamedTuple):
    """Rows of a lake for a training, see `train` for the fields."""

    rows: Sample
    made_from: LakeRows
    spans: list[TradeSpan]
    test: StreamedTest


def lake_training(
    lake: Lake, spec: FeatureSpec, partitions: Sequence[Partition], test_day: dt.date, max_mb: int
) -> LakeTraining:
    """Read the rows of a training: all rows, or of more rows than fit into memory a stratified sample.

    Args:
        partitions: training sets with rows, sorted by product and day.
        test_day: training ends before, and the days from here on are the test.
        max_mb: bound of memory, `TRAIN_MAX_MB`.

    Raises:
        ValueError: a training set is of another spec, or there are none.
    """
    trained = [each for each in partitions if each.day < test_day]
    tested = [each for each in partitions if each.day >= test_day]
    chosen, in_memory = days_of_training(trained, max_mb), days_of_test(tested, max_mb)
    hashes: dict[str, dict[dt.date, str]] = {}
    for each in chosen.partitions:
        hashes.setdefault(each.product_id, {})[each.day] = each.content_hash
    sampled = None
    if not chosen.is_whole:
        sampled = RowSample(
            share=chosen.share,
            seed=SAMPLE_SEED,
            max_mb=max_mb,
            of_rows=chosen.of_rows,
            of_days=chosen.of_days,
            first_day=min(each.day for each in trained),
        )
    made_from = LakeRows(content_hashes=hashes, sample=sampled)
    spans = checked_spans(lake, spec, made_from.product_days(), in_memory.product_days())
    products = sorted({each.product_id for each in tested})
    last_day = max(each.day for each in tested)
    parts = (training_sample(lake, spec, [product_id], test_day, last_day) for product_id in products)
    rows = Sample.join([lake_sample(lake, made_from, spec), sample_of_test(lake, spec, in_memory)])
    return LakeTraining(rows, made_from, spans, StreamedTest(parts, in_memory.part))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the baseline on simulated days, register it in MLflow, and promote it through the gate."""
    parser = argparse.ArgumentParser(prog="python -m offline.training", description=main.__doc__)
    parser.add_argument("--if-missing", action="store_true", help="do nothing if a champion for these features serves")
    only_if_missing = parser.parse_args(arguments).if_missing
    settings = OfflineSettings()
    registry, spec = Registry(settings.mlflow_tracking_uri), settings.spec()
    try:
        objects = Objects.open(settings.lake_uri)
        finish_pending(registry, objects)
        champion = registry.champion(BASELINE)
        if only_if_missing and champion is not None and champion.tags.get("spec_id") == spec.spec_id:
            print(f"{BASELINE} version {champion.version} is champion already: nothing to do")
            return
        rows, made_from = simulated_rows(spec), SimulatedRows(seed=SEED, products=PRODUCTS, days=TRAINING_DAYS)
        train_end, spans = train_end_of_simulated_days(), simulated_spans()
        recipes = {name: recipe for name, recipe in RECIPES.items() if recipe is train_baseline}
        results = train(registry, rows, spec, train_end, made_from, recipes, spans=spans)
        candidate, version = next(each for each in results if isinstance(each, Registered))
        who, why = "offline.training", "trained on simulated days"
        # The simulator gives the same rows again.
        inputs = GateInputs(rows.after, lambda _: rows, spans=lambda *_: spans)
        promote(registry, BASELINE, version, objects=objects, inputs=inputs, spec=spec, who=who, why=why)
        list(results)  # report and card, while the champion serves already
    except (RegistryError, Refused, LeakFound) as error:
        sys.exit(str(error))
    metrics = candidate.metrics
    publish_moves(registry, BASELINE, KafkaSettings(), lambda text: print(f"warning: {text}", file=sys.stderr))
    print(
        f"{BASELINE} version {version} is champion: QLIKE {metrics['qlike']:.3f} on {metrics['test_horizons']:.0f} "
        f"horizons after training (unscaled EWMA {metrics['qlike_unscaled_ewma']:.3f}, contract alone "
        f"{metrics['qlike_contract']:.3f}), intervals cover {metrics['coverage']:.1%}"
    )


if __name__ == "__main__":
    main()
