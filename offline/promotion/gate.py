"""The gate: conditions that a challenger must meet before the alias `champion` moves."""

from __future__ import annotations

# ruff: noqa: PLC0415 - a rollback needs nothing of the lake, whose readers take half a second to import
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.models.registry import Registry, Version
from data.models.served import VARIANTS, Scores, ServedModel
from data.names import ModelRefused, VersionNotFound
from data.times import second_text
from data.truth.targets import variance_floor
from offline.losses_table import UNSCALED_EWMA, Evaluation, evaluate, judged_rows
from offline.samples import Sample

BASELINE = "volatility-baseline"
MODELS = tuple(f"volatility-{variant}" for variant in VARIANTS)
MIN_HORIZONS = 240
CANDIDATE, CHAMPION = "candidate", "champion"
"""Names in the gate's evaluation."""
NOT_JUDGED = "not judged"
JUDGED = ("horizons", "answers", "answers alone", "QLIKE")
"""Names of the conditions on forecasts."""
ALONE = "the same in any batch"
ASKED_ALONE = 32
"""Number of rows that the gate scores in a batch of one, 50 us per row."""


class Condition(NamedTuple):
    """One condition of the gate, with the found and the allowed figures."""

    name: str
    is_met: bool
    found: str
    allowed: str


class Refused(Exception):
    """The gate refuses a version, and the champion stays.

    Attributes:
        conditions: all conditions, met or not.
    """

    def __init__(self, what: str, conditions: list[Condition]) -> None:
        failed = [each for each in conditions if not each.is_met]
        reasons = "; ".join(f"{each.name}: found {each.found}, allowed is {each.allowed}" for each in failed)
        super().__init__(f"{what} is refused. {reasons}")
        self.conditions = conditions


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict of the gate on one version.

    Attributes:
        digest: SHA-256 of the version's file.
        champion: version number of the champion when judging; None if there was no champion.
        can_serve: the file is the registered file, and loads.
        evidence: the figures, for the ledger.
    """

    digest: str
    champion: str | None
    can_serve: bool
    conditions: list[Condition]
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return all(condition.is_met for condition in self.conditions)


def judge(
    registry: Registry,
    wanted: Version,
    *,
    test: Callable[[datetime], Sample],
    spec: FeatureSpec,
    baseline: str = BASELINE,
) -> Verdict:
    """Judge whether a version may be champion, without changing anything; see `promote` for the arguments.

    Raises:
        RegistryError: MLflow does not answer.
    """
    model, champion = wanted.name, registry.champion(wanted.name)
    digest, candidate, conditions = fetch_model(registry, wanted, spec)
    is_new = champion is None or champion.version != wanted.version
    is_other = Condition("is not champion", is_new, f"version {wanted.version}", "a version that does not serve")
    conditions.insert(1, is_other)
    if candidate is not None and model in MODELS:
        is_named = model == f"volatility-{candidate.variant}"
        conditions.append(Condition("variant", is_named, candidate.variant, model.removeprefix("volatility-")))
    can_serve = all(condition.is_met for condition in conditions)
    evidence: dict[str, Any] = {"spec_id": spec.spec_id}
    if candidate is None:
        allowed = (str(MIN_HORIZONS), "every row", "every row", "the champion's")
        conditions += _conditions({}, dict(zip(JUDGED, allowed, strict=True)))
    else:
        rival_name, rival = _rival(registry, (champion, registry.champion(baseline)), spec)
        evidence["compared_with"] = rival_name
        conditions += _judge_forecasts(candidate, rival, rival_name, test, spec, evidence)
    evidence |= {f"condition {each.name}": f"{each.found}; allowed is {each.allowed}" for each in conditions}
    return Verdict(digest, champion.version if champion else None, can_serve, conditions, evidence=evidence)


def _judge_forecasts(
    candidate: ServedModel,
    rival: ServedModel | None,
    rival_name: str,
    test: Callable[[datetime], Sample],
    spec: FeatureSpec,
    evidence: dict[str, Any],
) -> list[Condition]:
    """Score the rows later than both trainings, and add the figures to `evidence`."""
    trained = max(model.train_end for model in (candidate, rival) if model is not None)
    after = trained + timedelta(seconds=spec.horizon_s)  # no target of training reaches into a row's horizon
    since = f"after {second_text(after)}"
    no_worse = f"that of {rival_name} or less"
    allowed = dict(zip(JUDGED, (f"{MIN_HORIZONS} or more", "0 unusable", ALONE, no_worse), strict=True))
    try:
        rows = test(after)
    except ValueError as error:  # there are none
        return _conditions({"horizons": (False, f"0 {since}: {error}")}, allowed)
    rows = rows.after(after)
    unusable, swayed = _unusable_answers(candidate, rows, spec)
    horizons = judged_rows(rows, spec).horizons(spec)
    evidence |= {"tested_after": second_text(after), "rows": len(rows), "horizons": horizons}
    found = {
        "horizons": (horizons >= MIN_HORIZONS, f"{horizons} {since}"),
        "answers": (not unusable, f"{unusable:,} of {len(rows):,} unusable"),
        "answers alone": (not swayed, f"{swayed:,} of {len(rows):,} otherwise"),
    }
    if unusable or not horizons:
        return _conditions(found, allowed)
    try:
        # The floor is computed from these rows: both models need the same floor, and nobody may choose the floor.
        floor = variance_floor(judged_rows(rows, spec).targets ** 2)
        models = {CANDIDATE: candidate} | ({} if rival is None else {CHAMPION: rival})
        table = evaluate(models, rows, spec, floor)
    except ValueError as error:
        return _conditions(found | {"QLIKE": (False, f"{NOT_JUDGED}: {error}")}, allowed)
    ours, theirs = (table.losses_of(name).qlike for name in (CANDIDATE, UNSCALED_EWMA if rival is None else CHAMPION))
    evidence |= _figures(table, ours, theirs)
    ours_text, theirs_text = _distinct_texts(ours, theirs)
    found["QLIKE"], allowed["QLIKE"] = (ours <= theirs, ours_text), f"{theirs_text}, {no_worse}"
    return _conditions(found, allowed)


def _conditions(found: dict[str, tuple[bool, str]], allowed: dict[str, str]) -> list[Condition]:
    """Return the conditions on forecasts by what was found and what is allowed; the rest was not judged."""
    return [Condition(name, *found.get(name, (False, NOT_JUDGED)), text) for name, text in allowed.items()]


def _distinct_texts(one: float, other: float) -> tuple[str, str]:
    """Format two numbers with 4 decimals, or with more decimals until the texts differ.

    >>> _distinct_texts(0.25, 0.125), _distinct_texts(0.15943, 0.15941)
    (('0.2500', '0.1250'), ('0.15943', '0.15941'))
    """
    texts = ((f"{one:.{decimals}f}", f"{other:.{decimals}f}") for decimals in range(4, 17))
    return next((pair for pair in texts if one == other or pair[0] != pair[1]), (repr(one), repr(other)))


def _figures(found: Evaluation, ours: float, theirs: float) -> dict[str, Any]:
    return {
        "qlike": ours,
        "qlike_compared": theirs,
        "qlike_ratio": ours / theirs if theirs else float("inf"),
        "qlike_unscaled_ewma": found.losses_of(UNSCALED_EWMA).qlike,
        "coverage": found.losses_of(CANDIDATE).coverage,
        "judged_rows": found.rows,
        "zero_target_share": found.zero_target_share,
        "variance_floor": found.variance_floor,
        "first_row": second_text(found.first_time),
        "last_row": second_text(found.last_time),
    }


class FetchedModel(NamedTuple):
    """The file of a version, and the conditions on the file.

    Attributes:
        digest: SHA-256 of the file.
        model: None if the file is gone or does not load.
    """

    digest: str
    model: ServedModel | None
    conditions: list[Condition]


def fetch_model(registry: Registry, held: Version, spec: FeatureSpec, promised: str | None = None) -> FetchedModel:
    """Download a version's file, compare the SHA-256 with the expected digest, and load the file as a forecaster does.

    Args:
        spec: of the rows to score.
        promised: the expected digest; None: the digest in the version's tags.
    """
    expected = promised or held.digest
    try:
        content = registry.download(held.name, held.version)
    except VersionNotFound as error:
        gone = Condition("file", False, str(error), "a file in the registry")
        return FetchedModel(hashlib.sha256().hexdigest(), None, [gone])
    digest, loaded, found = hashlib.sha256(content).hexdigest(), None, f"{len(content):,} bytes"
    try:
        loaded = ServedModel.load(content, spec_id=spec.spec_id, known_columns=spec.columns)
    except ModelRefused as error:
        found = str(error)
    conditions = [
        Condition("digest", digest == expected, digest, expected or "a digest in the version's tags"),
        Condition("loads", loaded is not None, found, "what data/models/served.py takes"),
    ]
    return FetchedModel(digest, loaded, conditions)


def _rival(
    registry: Registry, champions: Iterable[Version | None], spec: FeatureSpec
) -> tuple[str, ServedModel | None]:
    """Return the name and the model of the rival: the first champion that loads, else None, for the unscaled EWMA.

    A first baseline has no other rival. A champion of another spec cannot score these rows, and a champion that does
    not load serves nobody: neither can be a rival.
    """
    for champion in champions:
        if champion is not None and (model := fetch_model(registry, champion, spec).model) is not None:
            return f"{champion.name} version {champion.version}", model
    return f"the {UNSCALED_EWMA}", None


def _unusable_answers(model: ServedModel, rows: Sample, spec: FeatureSpec) -> tuple[int, int]:
    """Count the rows with an unusable answer, and the rows with a different answer in a different batch.

    All rows are scored again in another order, and some rows alone: a graph may read neighbour rows, or random numbers.
    """
    if not len(rows):
        return 0, 0
    values = rows.values[:, [spec.columns.index(name) for name in model.columns]]
    product_ids = rows.product_id
    found = model.score(values, product_ids.tolist())
    answers = _answer_bits(found)
    order = np.random.default_rng(0).permutation(len(rows))
    swayed = np.zeros(len(rows), np.bool_)
    swayed[order] = (_answer_bits(model.score(values[order], product_ids[order].tolist())) != answers[order]).any(
        axis=1
    )
    for row in order[:ASKED_ALONE]:
        swayed[row] |= (_answer_bits(model.score(values[[row]], product_ids[[row]].tolist()))[0] != answers[row]).any()
    return int(np.sum(~found.are_usable())), int(np.sum(swayed))


def _answer_bits(found: Scores) -> NDArray[np.int64]:
    """Return the answers as bits, int64 of shape (n, 3), so that NaN equals NaN."""
    return np.column_stack([found.score, found.lower, found.upper]).view(np.int64)


def lake_rows(lake_uri: str, spec: FeatureSpec) -> Callable[[datetime], Sample]:
    """Return a function for the `test` argument of `promote`: counted rows of all products in a lake after a time.

    Raises:
        ValueError: pyarrow does not know the filesystem of the URI.
    """
    from offline.days.steps import TRAINING_SET
    from offline.days.training_set import training_sample
    from offline.lake.store import Lake

    lake = Lake.open(lake_uri)

    def test(after: datetime) -> Sample:
        return training_sample(lake, spec, lake.products(TRAINING_SET), after.date(), date.max).after(after)

    return test
