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
from offline.cards.version_texts import version_texts
from offline.evaluation.promises import promises_of
from offline.lake.objects import Objects
from offline.leaks.models import check_model
from offline.leaks.rows import check_rows
from offline.leaks.verdicts import LeakFound
from offline.losses_table import Evaluation, evaluate
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
from offline.promotion.inputs import GateInputs
from offline.promotion.ledger import finish_pending
from offline.promotion.moves import promote, publish_moves
from offline.promotion.provenance import Provenance, SimulatedRows, TrainingRows
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
        params = candidate.params | {f"sentinel {each.name}": each.found for each in verdicts}
        candidates[name] = replace(candidate, params=params, reason=reason)
        yield candidates[name]
    compared = compare(registry, list(candidates.values()), split(rows, train_end, spec).test, spec)
    yield compared
    for name, trained in candidates.items():
        answers = compared.answers[trained.name]
        promises = promises_of(answers, compared.judged, compared.variance_floor, train_end, spec)
        metrics = trained.metrics
        if trained.name != BASELINE and BASELINE in compared.answers:
            metrics = metrics | {"qlike_calibrated_ewma": compared.losses_of(BASELINE).qlike}
        candidate = replace(trained, metrics=metrics, promises=promises)
        made = Provenance.here(name, made_from)
        version = register(registry, candidate, made)
        yield Registered(candidate, version)
        texts = version_texts(candidate, made, compared, spec)
        log_texts(registry, trained.name, version, texts)
        yield Challenger(candidate, version, texts)


def compare(registry: Registry, candidates: Sequence[Candidate], test: Sample, spec: FeatureSpec) -> Evaluation:
    """Evaluate candidates and champions on the same rows; mark a champion whose training saw some of the rows."""
    judged = {candidate.name: candidate.model for candidate in candidates}
    first = to_datetime(int(test.event_time.min()))
    for candidate in candidates:
        champion = registry.champion(candidate.name)
        if champion is not None and (model := fetch_model(registry, champion, spec).model) is not None:
            seen = ", which has seen some of these rows" if model.train_end >= first else ""
            judged[f"{candidate.name} version {champion.version}{seen}"] = model
    return evaluate(judged, test, spec, float(candidates[0].metrics["variance_floor"]))


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
