"""The gate: what a challenger must show before the alias `champion` moves.

The gate believes no stored figure: the file is downloaded and loaded, the recipe is fitted again on the rows that the
version names, and all models are scored on the same later rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data.features.spec import FeatureSpec
from data.models.registry import Registry, Version
from data.models.served import BASELINE, ML, ServedModel
from data.names import ModelRefused, VersionNotFound
from data.times import second_text, to_datetime
from data.truth.losses import coverage, qlike, volatility_terciles
from offline.ewma import calibrate, ewmas_of
from offline.leaks.rows import duplicates
from offline.losses_table import judged_rows
from offline.promotion.conditions import (
    LIMITS,
    MAX_OFF,
    MIN_HORIZONS,
    NOT_JUDGED,
    Comparison,
    Condition,
    Finding,
    Kind,
    check_duplicates,
    check_intervals,
    check_training,
    compare,
    conditions,
    limits_of,
)
from offline.promotion.ledger import Entry, history, tries_on
from offline.promotion.measures import CALIBRATED_EWMA, largest_difference, unusable_answers
from offline.promotion.provenance import LakeRows, Provenance
from offline.promotion.register import REASON
from offline.samples import Sample, scores_of

if TYPE_CHECKING:
    from offline.checks.shadows import ShadowLimit
    from offline.promotion.inputs import GateInputs, Refit

SHOWN = 200
"""Maximum number of characters of a figure in the evidence: a tag of MLflow holds 8,000."""
RETRAIN = "retrain"
"""Advice for a version that cannot be made again."""


class Refused(Exception):
    """The gate refuses a version, and the champion stays.

    Attributes:
        conditions: all conditions, met or not.
    """

    def __init__(self, what: str, conditions: list[Condition], advice: str = "") -> None:
        failed = [each for each in conditions if not each.is_met]
        reasons = "; ".join(f"{each.name}: found {each.found}, allowed is {each.allowed}" for each in failed)
        super().__init__(f"{what} is refused. {reasons}{advice and f'. {advice}'}")
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
    inputs: GateInputs,
    spec: FeatureSpec,
    baseline: str = BASELINE,
    shadows: ShadowLimit | None = None,
) -> Verdict:
    """Judge whether a version may be champion, without changing anything; see `promote` for the arguments.

    Raises:
        RegistryError: MLflow does not answer.
    """
    champion = registry.champion(wanted.name)
    digest, candidate, found = fetch_model(registry, wanted, spec)
    is_new = champion is None or champion.version != wanted.version
    found.insert(1, Condition("is not champion", is_new, f"version {wanted.version}", "a version that does not serve"))
    if candidate is not None and wanted.name in (BASELINE, ML):
        is_named = wanted.name == f"volatility-{candidate.variant}"
        found.append(Condition("variant", is_named, candidate.variant, wanted.name.removeprefix("volatility-")))
    can_serve = all(condition.is_met for condition in found)
    evidence: dict[str, Any] = {"spec_id": spec.spec_id}
    if candidate is None:
        found += conditions({}, LIMITS)
    else:
        made, reason = Provenance.of_version(registry, wanted), wanted.tags.get(REASON, "")
        rivals = find_rivals(registry, made, champion, candidate, baseline, inputs, spec)
        trial = Trial(made, candidate, rivals, inputs, spec, reason)
        trial.run(history(registry, wanted.name))
        found += trial.conditions()
        evidence |= trial.evidence
    if shadows is not None:
        horizons = shadows.count(digest)
        found.append(
            Condition("shadow horizons", horizons >= shadows.least, f"{horizons:,}", f"{shadows.least:,} or more")
        )
    evidence |= {f"condition {each.name}": f"{each.found[:SHOWN]}; allowed is {each.allowed[:SHOWN]}" for each in found}
    return Verdict(digest, champion.version if champion else None, can_serve, found, evidence)


class Rivals(NamedTuple):
    """Forecasters to compare a version with; a rival without a model is the calibrated EWMA.

    Attributes:
        kind: of the version.
        champion_name, baseline_name: for people; `baseline_name` is None if the version is no `volatility-ml`.
    """

    kind: Kind
    champion: ServedModel | None
    champion_name: str
    baseline: ServedModel | None
    baseline_name: str | None


def find_rivals(
    registry: Registry,
    made: Provenance | None,
    champion: Version | None,
    candidate: ServedModel,
    baseline: str,
    inputs: GateInputs,
    spec: FeatureSpec,
) -> Rivals:
    """Return the rivals. A champion of another spec, or one that does not load, can score no row, and is no rival.

    Args:
        made: what the version to judge was made from; None: unknown.
    """
    kind, name, model = Kind.FIRST, CALIBRATED_EWMA, None
    if champion is not None and (model := fetch_model(registry, champion, spec).model) is not None:
        is_later = candidate.train_end >= model.train_end
        is_refresh = is_later and is_same_recipe(registry, made, champion, model, inputs, spec)
        kind, name = Kind.REFRESH if is_refresh else Kind.NEW_RECIPE, f"{champion.name} version {champion.version}"
    if candidate.variant != "ml":
        return Rivals(kind, model, name, None, None)
    other, other_name = None, CALIBRATED_EWMA
    held = registry.champion(baseline)
    if held is not None and (other := fetch_model(registry, held, spec).model) is not None:
        other_name = f"{held.name} version {held.version}"
    return Rivals(kind, model, name, other, other_name)


def is_same_recipe(
    registry: Registry,
    made: Provenance | None,
    champion: Version,
    model: ServedModel,
    inputs: GateInputs,
    spec: FeatureSpec,
) -> bool:
    """Return whether today's code makes the champion from the champion's rows, under the version's name of recipe.

    The gate fits the version with today's code. Where code or packages have changed since the champion was made, the
    champion is fitted again too, and must answer its own rows within `MAX_OFF`: a new comment is no new recipe.

    Args:
        made: what the version was made from; None: unknown, and the answer is False.
        model: the champion's model.
    """
    of_champion = Provenance.of_version(registry, champion)
    if made is None or of_champion is None or made.recipe != of_champion.recipe:
        return False
    if not {"code", "lock"} & set(of_champion.differences()):
        return True
    try:
        again = inputs.refit(of_champion, model.train_end, spec)
    except ValueError:
        return False
    return largest_difference(model, again.candidate.model, again.training, spec) <= MAX_OFF


class Test(NamedTuple):
    """Rows later than all trainings.

    Attributes:
        after: end of the newest training, and a horizon.
        rows: all rows later than `after`.
        judged: the rows to judge, see `judged_rows`.
    """

    after: datetime
    rows: Sample
    judged: Sample


class Trial:
    """Judgement of the forecasts of one version: `run`, then `conditions` and `evidence`.

    Args:
        made: what the version was made from; None: unknown, and no version can be fitted again.
        reason: why the version is much better than the calibrated EWMA.

    Attributes:
        evidence: the figures, for the ledger.
    """

    def __init__(
        self,
        made: Provenance | None,
        candidate: ServedModel,
        rivals: Rivals,
        inputs: GateInputs,
        spec: FeatureSpec,
        reason: str = "",
    ) -> None:
        self._candidate, self._rivals, self._inputs, self._spec = candidate, rivals, inputs, spec
        self._made, self._reason = made, reason
        self._tries = 1
        self._found: dict[str, Finding] = {}
        self.evidence: dict[str, Any] = {"kind": str(rivals.kind), "compared_with": rivals.champion_name}

    def conditions(self) -> list[Condition]:
        """Return all conditions; what was not reached is not judged, and so is not met."""
        kind, names = self._rivals.kind, (self._rivals.champion_name, self._rivals.baseline_name)
        limits = dict(LIMITS)
        if self._needs_certificate:
            limits["parity"] = "a certificate for this spec: run the check `parity` of `feature_rows`"
        return conditions(self._found, limits | limits_of(kind, *names, self._tries))

    def run(self, earlier: list[Entry]) -> None:
        """Fit the recipe again, score the rows later than all trainings, compare, and run the leak sentinels.

        Args:
            earlier: entries of the model in the ledger.
        """
        if self._needs_certificate:
            certificate = self._inputs.certificate()
            self._found["parity"] = Finding(bool(certificate), certificate or "none")
        refit, test = self._fit_again(), self._read_test()
        if test is None or not len(test.rows):
            return
        if refit is not None and "refit" not in self._found:
            self._compare_answers(refit.candidate.model, test.rows)
        if self._check_answers(test.rows) and refit is not None and len(test.judged):
            self._compare(test.judged, refit, earlier)
            self._check_leaks(test, refit)

    @property
    def _needs_certificate(self) -> bool:
        """True for a new recipe on rows of the lake: only rows that equal the published rows show what it will see."""
        return self._rivals.kind == Kind.NEW_RECIPE and self._made is not None and isinstance(self._made.rows, LakeRows)

    def _fit_again(self) -> Refit | None:
        """Fit the recipe again and compare the digests; None if the recipe cannot be fitted."""
        try:
            if self._made is None:
                raise ValueError("the version has no tags of its recipe, code and rows")
            refit = self._inputs.refit(self._made, self._candidate.train_end, self._spec)
        except ValueError as error:
            self._found["refit"] = Finding(False, f"{error}: {RETRAIN}")
            return None
        self.evidence["recipe"] = self._made.recipe
        digest = refit.candidate.model.digest
        if digest == self._candidate.digest:
            self._found["refit"] = Finding(True, "the same digest")
        elif not self._made.differences():
            found = f"digest {digest[:12]} from the same code, lock and CPU type: {RETRAIN}"
            self._found["refit"] = Finding(False, found)
        return refit

    def _read_test(self) -> Test | None:
        """Return the rows of the test; None if the inputs have none."""
        models = (self._candidate, self._rivals.champion, self._rivals.baseline)
        trained = max(model.train_end for model in models if model is not None)
        # No target of training reaches into a row's horizon.
        after = trained + timedelta(seconds=self._spec.horizon_s)
        since = f"after {second_text(after)}"
        try:
            rows = self._inputs.test(after).after(after)
        except ValueError as error:
            self._found["horizons"] = Finding(False, f"0 {since}: {error}")
            return None
        judged = judged_rows(rows, self._spec)
        horizons = judged.horizons(self._spec)
        self._found["horizons"] = Finding(horizons >= MIN_HORIZONS, f"{horizons:,} {since}")
        self.evidence |= {"tested_after": second_text(after), "rows": len(rows), "horizons": horizons}
        if rows.share < 1:
            self.evidence["share_of_rows"] = rows.share
        if len(judged):
            first, last = (to_datetime(int(time)) for time in (judged.event_time.min(), judged.event_time.max()))
            self.evidence |= {"first_row": second_text(first), "last_row": second_text(last)}
        return Test(after, rows, judged)

    def _check_answers(self, rows: Sample) -> bool:
        """Return whether all answers are usable."""
        unusable, swayed = unusable_answers(self._candidate, rows, self._spec)
        self._found["answers"] = Finding(not unusable, f"{unusable:,} of {len(rows):,} unusable")
        self._found["answers alone"] = Finding(not swayed, f"{swayed:,} of {len(rows):,} otherwise")
        return not unusable

    def _compare_answers(self, again: ServedModel, rows: Sample) -> None:
        """Compare the answers of the version and of the refit, where code, lock or CPU type have changed."""
        assert self._made is not None
        off = largest_difference(self._candidate, again, rows, self._spec)
        found = f"answers that differ by {off:.1e}, by another {' and '.join(self._made.differences())}"
        self._found["refit"] = Finding(off <= MAX_OFF, found if off <= MAX_OFF else f"{found}: {RETRAIN}")

    def _check_leaks(self, test: Test, refit: Refit) -> None:
        """Run the leak sentinels: no verdict of a training is believed."""
        assert self._made is not None
        try:
            verdicts = self._inputs.verdicts(self._made, refit, test.rows, test.after, self._spec, self._reason)
        except ValueError as error:
            self._found["leak sentinels"] = Finding(False, f"{NOT_JUDGED}: {error}")
            return
        failed = [f"{each.name}: {each.found}, not {each.allowed}" for each in verdicts if not each.passed]
        given = f"; reason for a large gain: {self._reason}" if self._reason else ""
        found = "; ".join(failed) or f"all {len(verdicts)} passed{given}"
        self._found["leak sentinels"] = Finding(not failed, found)

    def _compare(self, rows: Sample, refit: Refit, earlier: list[Entry]) -> None:
        """Compare amounts of rows, intervals and losses on the judged rows."""
        spec, training = self._spec, refit.training
        first, last = (to_datetime(int(time)) for time in (rows.event_time.min(), rows.event_time.max()))
        self._tries += tries_on(earlier, first, last)
        floor = float(refit.candidate.metrics["variance_floor"])
        realized = np.maximum(rows.targets**2, floor)
        self._found |= check_training(training.horizon(spec), training.event_time, rows.event_time)
        self._found["duplicates"] = check_duplicates(duplicates(rows, training, spec))
        answer, targets = scores_of(self._candidate, rows, spec), np.sqrt(realized)
        self._found |= check_intervals(answer.lower, answer.upper, targets)
        self.evidence |= {
            "judged_rows": len(rows),
            "zero_target_share": float(np.mean(rows.targets == 0)),
            "variance_floor": floor,
            "coverage": coverage(targets, answer.lower, answer.upper),
            "tries": self._tries,
        }
        try:
            calibrated = calibrate(ewmas_of(training.values, spec), training.targets**2, floor)
            ewma = calibrated.forecast(ewmas_of(rows.values, spec), float(np.mean(training.targets**2)))
            ours, theirs, baseline = (
                qlike(realized, ewma if model is None else scores_of(model, rows, spec).score ** 2, floor)
                for model in (self._candidate, self._rivals.champion, self._rivals.baseline)
            )
        except ValueError as error:
            self._found["QLIKE"] = Finding(False, f"{NOT_JUDGED}: {error}")
            return
        self._found |= compare(
            Comparison(
                kind=self._rivals.kind,
                losses=ours,
                rival=theirs,
                baseline=None if self._rivals.baseline_name is None else baseline,
                horizon=rows.horizon(spec),
                tercile=volatility_terciles(ewma),
                product=rows.product_id,
                tries=self._tries,
            )
        )
        means = [float(np.mean(losses)) for losses in (ours, theirs, qlike(realized, ewma, floor))]
        self.evidence |= dict(zip(("qlike", "qlike_compared", "qlike_calibrated_ewma"), means, strict=True))
        self.evidence["qlike_ratio"] = means[0] / means[1] if means[1] else float("inf")


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
    of_file = [
        Condition("digest", digest == expected, digest, expected or "a digest in the version's tags"),
        Condition("loads", loaded is not None, found, "what data/models/served.py takes"),
    ]
    return FetchedModel(digest, loaded, of_file)
