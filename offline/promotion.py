"""The gate: the one way in which a version becomes champion, and the way back. `python -m offline.promotion --help`.

`promote` judges anew each time: it downloads the file and scores the rows itself, and believes no tag, no metric and no
verdict that somebody stored. What it did stands in the ledger, see `offline.ledger`.
"""

# ruff: noqa: PLC0415 - a rollback needs nothing of the lake, whose readers take half a second to import

from __future__ import annotations

import argparse
import getpass
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import rich.box
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from data.losses import variance_floor
from data.pipes import may_lose_its_reader
from data.serving import VARIANTS, ModelRefused, Scores, ServedModel
from data.spec import FeatureSpec
from offline import ledger
from offline.evaluation import UNSCALED_EWMA, Evaluation, evaluate, judged_rows
from offline.ledger import Entry, finish_pending, history, served_at
from offline.registry import NotFound, RegistryError, Version, champion_of, check_model, download, version_of
from offline.samples import Sample
from offline.settings import OfflineSettings

__all__ = [
    "Condition",
    "Entry",
    "Refused",
    "begun_before",
    "finish_pending",
    "history",
    "judge",
    "lake_rows",
    "promote",
    "roll_back",
    "served_at",
]

BASELINE = "volatility-baseline"
MODELS = tuple(f"volatility-{variant}" for variant in VARIANTS)
MIN_HORIZONS = 240
CANDIDATE, CHAMPION = "candidate", "champion"
"""Names in the gate's evaluation."""
NOT_JUDGED = "not judged"
ALONE = "the same in any batch"
ASKED_ALONE = 32
"""So many rows are asked alone by the gate, 50 us each."""


class Condition(NamedTuple):
    """One thing that the gate asks for, with its figures."""

    name: str
    is_met: bool
    found: str
    allowed: str


class Refused(Exception):
    """The gate is shut, and the champion stays.

    Attributes:
        conditions: all of them, met or not.
    """

    def __init__(self, what: str, conditions: list[Condition]) -> None:
        failed = [each for each in conditions if not each.is_met]
        reasons = "; ".join(f"{each.name}: found {each.found}, allowed is {each.allowed}" for each in failed)
        super().__init__(f"{what} is refused. {reasons}")
        self.conditions = conditions


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found.

    Attributes:
        wanted: the version that was judged.
        digest: SHA-256 of its file.
        champion: number of the champion at that time; None: there was none.
        can_serve: the file is the registered one, and loads.
        evidence: the figures, for the ledger.
    """

    wanted: Version
    digest: str
    champion: str | None
    can_serve: bool
    conditions: list[Condition]
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return all(condition.is_met for condition in self.conditions)


def promote(
    uri: str,
    model: str,
    version: str = "challenger",
    *,
    test: Callable[[datetime], Sample],
    spec: FeatureSpec,
    who: str,
    why: str,
    force: bool = False,
    baseline: str = BASELINE,
    dagster_run_url: str = "",
) -> Entry:
    """Judge a version, make it champion if the gate lets it through, and return the ledger's entry.

    Args:
        version: a number or an alias.
        test: gives the counted rows of the lake later than a time.
        spec: of those rows.
        force: promote what the gate refuses, if it can serve; `why` must say the reason, and it is recorded as forced.
        baseline: the model whose champion a first version of another model is compared with.
        dagster_run_url: the page of the run that asks, for the ledger.

    Raises:
        Refused: the gate is shut; or, forced, the file cannot serve.
        ValueError: forced without a reason.
        RegistryError: MLflow does not answer or refuses, or another machine is promoting.
    """
    if force and not why.strip():
        raise ValueError("a forced promotion needs a reason: `why` was empty")
    finish_pending(uri)
    wanted = version_of(uri, model, version).version
    while True:
        verdict = judge(uri, model, wanted, test=test, spec=spec, baseline=baseline)
        if not (verdict.can_serve if force else verdict.is_open):
            raise Refused(f"{model} version {wanted}", verdict.conditions)
        with ledger.alone():
            before, _ = ledger.settled(uri, model)
            champion = champion_of(uri, model)
            if (champion and champion.version) != verdict.champion:
                continue  # somebody else promoted meanwhile: judge against their champion
            return ledger.record(
                uri,
                Entry(
                    "",
                    "promote",
                    model,
                    verdict.champion,
                    wanted,
                    verdict.digest,
                    who,
                    why,
                    force and not verdict.is_open,
                    datetime.now(UTC),
                    evidence=verdict.evidence,
                    dagster_run_url=dagster_run_url,
                ),
                before,
            )


def roll_back(uri: str, model: str, *, spec: FeatureSpec, who: str, why: str, dagster_run_url: str = "") -> Entry:
    """Make champion what was it before the newest promotion that still stands, and return the ledger's entry.

    Where somebody moved `champion` past the ledger, it goes back to that newest promotion itself.

    Where a rollback of the model had been begun and not closed, it is finished and returned, and nothing else is done:
    whoever asks again because the answer was lost, or the run killed, wants to go back once.

    Args:
        spec: of the rows that are served now.
        dagster_run_url: the page of the run that asks, for the ledger.

    Raises:
        Refused: no promotion stands before it, or its file cannot serve rows of `spec`.
        NotFound: there is no such model.
        RegistryError: MLflow does not answer or refuses, or another machine is promoting.
    """
    with ledger.alone():
        before, finished = ledger.settled(uri, model)
        begun = [entry for entry in finished if entry.action == "rollback"]
        if begun:
            return begun[-1]
        stack = ledger.standing(before)
        champion = champion_of(uri, model)
        serving = champion.version if champion else None
        was_moved = bool(stack) and champion is not None and serving != stack[-1].to_version
        places = [each for each in (stack if was_moved else stack[:-1]) if each.to_version != serving]
        if not places:
            check_model(uri, model)
            standing = f"the ledger holds {len(stack) or 'no'} promotion of {model} that stands"
            condition = Condition("an entry before the current one", False, standing, "2 or more")
            raise Refused(f"rollback of {model}", [condition])
        target = places[-1]
        _, content, conditions = _fetch(uri, model, target.to_version, target.digest)
        if content is not None:
            _load(content, spec, conditions)
        if not all(condition.is_met for condition in conditions):
            raise Refused(f"rollback of {model} to version {target.to_version}", conditions)
        evidence = {"back_to_entry": target.entry_id, "spec_id": spec.spec_id}
        if was_moved:
            evidence["moved_by_hand"] = f"champion was version {serving}, the ledger had {stack[-1].to_version}"
        return ledger.record(
            uri,
            Entry(
                "",
                "rollback",
                model,
                serving,
                target.to_version,
                target.digest,
                who,
                why,
                False,
                datetime.now(UTC),
                evidence=evidence,
                dagster_run_url=dagster_run_url,
            ),
            before,
        )


def judge(
    uri: str,
    model: str,
    version: str,
    *,
    test: Callable[[datetime], Sample],
    spec: FeatureSpec,
    baseline: str = BASELINE,
) -> Verdict:
    """Find out whether a version may be champion; see `promote` for the arguments. Nothing is changed.

    Raises:
        NotFound: there is no such version.
        RegistryError: MLflow does not answer.
    """
    champion = champion_of(uri, model)
    wanted, content, conditions = _fetch(uri, model, version)
    is_new = champion is None or champion.version != wanted.version
    conditions.append(
        Condition("is not champion", is_new, f"version {wanted.version}", "a version that does not serve")
    )
    candidate = None if content is None else _load(content, spec, conditions)
    if candidate is not None and model in MODELS:
        is_named = model == f"volatility-{candidate.variant}"
        conditions.append(Condition("variant", is_named, candidate.variant, model.removeprefix("volatility-")))
    digest = hashlib.sha256(content or b"").hexdigest()
    can_serve = all(condition.is_met for condition in conditions)
    evidence: dict[str, Any] = {"spec_id": spec.spec_id}
    if candidate is None:
        allowed = {
            "horizons": str(MIN_HORIZONS),
            "answers": "every row",
            "answers alone": "every row",
            "QLIKE": "the champion's",
        }
        conditions += [Condition(name, False, NOT_JUDGED, text) for name, text in allowed.items()]
    else:
        rival_name, rival = _rival(uri, model, baseline, spec)
        evidence["compared_with"] = rival_name
        conditions += _judge_forecasts(candidate, rival, rival_name, test, spec, evidence)
    evidence |= {f"condition {each.name}": f"{each.found}; allowed is {each.allowed}" for each in conditions}
    return Verdict(wanted, digest, champion.version if champion else None, can_serve, conditions, evidence)


def _judge_forecasts(
    candidate: ServedModel,
    rival: ServedModel | None,
    rival_name: str,
    test: Callable[[datetime], Sample],
    spec: FeatureSpec,
    evidence: dict[str, Any],
) -> list[Condition]:
    """Score the rows after both trainings, and add to the evidence what was found."""
    trained = max(model.train_end for model in (candidate, rival) if model is not None)
    after = trained + timedelta(seconds=spec.horizon_s)  # no target of training reaches into a row's horizon
    since = f"after {after:%Y-%m-%dT%H:%M:%SZ}"
    enough, no_worse = f"{MIN_HORIZONS} or more", f"that of {rival_name} or less"
    try:
        rows = test(after)
    except ValueError as error:  # there are none
        return [
            Condition("horizons", False, f"0 {since}: {error}", enough),
            Condition("answers", False, NOT_JUDGED, "0 unusable"),
            Condition("answers alone", False, NOT_JUDGED, ALONE),
            Condition("QLIKE", False, NOT_JUDGED, no_worse),
        ]
    rows = rows.take(rows.event_time > int(after.timestamp() * 1_000_000) * 1_000)
    unusable, swayed = _unusable_answers(candidate, rows, spec)
    horizons = judged_rows(rows, spec).horizons(spec)
    evidence |= {"tested_after": f"{after:%Y-%m-%dT%H:%M:%SZ}", "rows": len(rows), "horizons": horizons}
    conditions = [
        Condition("horizons", horizons >= MIN_HORIZONS, f"{horizons} {since}", enough),
        Condition("answers", not unusable, f"{unusable:,} of {len(rows):,} unusable", "0 unusable"),
        Condition("answers alone", not swayed, f"{swayed:,} of {len(rows):,} otherwise", ALONE),
    ]
    if unusable or not horizons:
        return [*conditions, Condition("QLIKE", False, NOT_JUDGED, no_worse)]
    try:
        # The floor is that of these rows: it must be the same for both, and nobody's to choose.
        floor = variance_floor(judged_rows(rows, spec).targets ** 2)
        models = {CANDIDATE: candidate} | ({} if rival is None else {CHAMPION: rival})
        table = evaluate(models, rows, spec, floor)
    except ValueError as error:
        return [*conditions, Condition("QLIKE", False, f"{NOT_JUDGED}: {error}", no_worse)]
    ours, theirs = (table.line(name).qlike for name in (CANDIDATE, UNSCALED_EWMA if rival is None else CHAMPION))
    evidence |= _figures(table, ours, theirs)
    is_no_worse = ours <= theirs
    found, allowed = _told_apart(ours, theirs)
    return [*conditions, Condition("QLIKE", is_no_worse, found, f"{allowed}, {no_worse}")]


def _told_apart(one: float, other: float) -> tuple[str, str]:
    """Return both with 4 decimals, or with as many more as it takes to see that they differ.

    >>> _told_apart(0.25, 0.125), _told_apart(0.15943, 0.15941)
    (('0.2500', '0.1250'), ('0.15943', '0.15941'))
    """
    texts = ((f"{one:.{decimals}f}", f"{other:.{decimals}f}") for decimals in range(4, 17))
    return next((pair for pair in texts if one == other or pair[0] != pair[1]), (repr(one), repr(other)))


def _figures(found: Evaluation, ours: float, theirs: float) -> dict[str, Any]:
    return {
        "qlike": ours,
        "qlike_compared": theirs,
        "qlike_ratio": ours / theirs if theirs else float("inf"),
        "qlike_unscaled_ewma": found.line(UNSCALED_EWMA).qlike,
        "coverage": found.line(CANDIDATE).coverage,
        "judged_rows": found.rows,
        "zero_target_share": found.zero_target_share,
        "variance_floor": found.variance_floor,
        "first_row": f"{found.first_time:%Y-%m-%dT%H:%M:%SZ}",
        "last_row": f"{found.last_time:%Y-%m-%dT%H:%M:%SZ}",
    }


def _fetch(
    uri: str, model: str, version: str, promised: str | None = None
) -> tuple[Version, bytes | None, list[Condition]]:
    """Download a version's file, and compare its SHA-256 with what was promised: in the version's tag, or as given."""
    held = version_of(uri, model, version)
    expected = promised or held.tags.get("digest", "")
    try:
        content = download(uri, model, held.version)
    except NotFound as error:
        return held, None, [Condition("file", False, str(error), "a file in the registry")]
    digest = hashlib.sha256(content).hexdigest()
    return (
        held,
        content,
        [Condition("digest", digest == expected, digest, expected or "a digest in the version's tags")],
    )


def _load(content: bytes, spec: FeatureSpec, conditions: list[Condition]) -> ServedModel | None:
    """Load a file as a forecaster would, and note whether it could."""
    allowed = "what data/serving.py takes"
    try:
        model = ServedModel.load(content, spec_id=spec.spec_id, known_columns=spec.columns)
    except ModelRefused as error:
        conditions.append(Condition("loads", False, str(error), allowed))
        return None
    conditions.append(Condition("loads", True, f"{len(content):,} bytes", allowed))
    return model


def _rival(uri: str, model: str, baseline: str, spec: FeatureSpec) -> tuple[str, ServedModel | None]:
    """Return what a candidate must not be worse than, and its name: the champion; else that of the baseline; else None.

    None is the EWMA as it is, without a scale: all that a first baseline can be compared with. A champion of another
    spec cannot score these rows, and one that does not load serves nobody: neither can be compared with.
    """
    for name in dict.fromkeys((model, baseline)):
        champion = champion_of(uri, name)
        if champion is None:
            continue
        try:
            content = download(uri, name, champion.version)
            loaded = ServedModel.load(content, spec_id=spec.spec_id, known_columns=spec.columns)
        except (NotFound, ModelRefused):
            continue
        return f"{name} version {champion.version}", loaded
    return f"the {UNSCALED_EWMA}", None


def _unusable_answers(model: ServedModel, rows: Sample, spec: FeatureSpec) -> tuple[int, int]:
    """Return how many rows get an answer that is not usable, and how many get another one in another batch.

    All rows are asked once more in another order, and some of them alone: a graph can read its neighbours, or dice.
    """
    if not len(rows):
        return 0, 0
    values = rows.values[:, [spec.columns.index(name) for name in model.columns]]
    found = model.score(values)
    answers = _answer_bits(found)
    order = np.random.default_rng(0).permutation(len(rows))
    swayed = np.zeros(len(rows), np.bool_)
    swayed[order] = (_answer_bits(model.score(values[order])) != answers[order]).any(axis=1)
    for row in order[:ASKED_ALONE]:
        swayed[row] |= (_answer_bits(model.score(values[[row]]))[0] != answers[row]).any()
    return int(np.sum(~found.are_usable())), int(np.sum(swayed))


def _answer_bits(found: Scores) -> NDArray[np.int64]:
    """Return the answers of shape (n, 3) as whole numbers, for which NaN is NaN."""
    return np.column_stack([found.score, found.lower, found.upper]).view(np.int64)


def lake_rows(lake_uri: str, spec: FeatureSpec) -> Callable[[datetime], Sample]:
    """Return what gives the counted rows of all products in a lake later than a time: what `promote` tests on.

    Raises:
        ValueError: pyarrow knows no such filesystem.
    """
    from data.lake import Lake
    from offline.days import TRAINING_SET, training_sample

    lake = Lake.open(lake_uri)

    def test(after: datetime) -> Sample:
        return training_sample(lake, spec, lake.products(TRAINING_SET), after.date(), date.max).after(after)

    return test


def begun_before(entry: Entry) -> str:
    """Say of an entry that `roll_back` gave back that it is not a new one."""
    return (
        f"the rollback of {entry.model} to version {entry.to_version} that {entry.who} began at "
        f"{entry.begun:%Y-%m-%d %H:%M:%S} UTC is finished now: ask again to go one further"
    )


def show(entries: Iterable[Entry]) -> str:
    """Return entries as a table."""
    table = Table(box=rich.box.SIMPLE_HEAD)
    for heading in ("moved at (UTC)", "action", "model", "from", "to", "digest", "who", "why", "state"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("who", "why"))
    for entry in entries:
        when = f"{entry.at:%Y-%m-%d %H:%M:%S}" if entry.at else "-"
        action = "promote, forced" if entry.is_forced else entry.action
        versions = (entry.from_version or "-", entry.to_version)
        table.add_row(when, action, entry.model, *versions, entry.digest[:12], entry.who, entry.why, entry.state)
    console = Console(width=max(shutil.get_terminal_size((160, 24)).columns, 120))
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _tell_moves_by_hand(uri: str, newest: dict[str, Entry]) -> None:
    """Print of each model whose champion is not that of its newest entry that it is another."""
    for model, entry in newest.items():
        champion = champion_of(uri, model)
        serving = f"version {champion.version}" if champion else "none"
        if serving != f"version {entry.to_version}":
            print(f"the champion of {model} is {serving} now, the ledger says {entry.to_version}: moved by hand?")


def main(arguments: Sequence[str] | None = None) -> None:
    """Promote a model, roll it back, finish what was begun, and ask which version was champion when."""
    parser = argparse.ArgumentParser(prog="python -m offline.promotion", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("history", help="all promotions and rollbacks, oldest first")
    asked.add_argument("model", nargs="?", help="of this model alone")
    asked = commands.add_parser("served-at", help="which version of each model was champion at a time")
    asked.add_argument("when", type=_time, metavar="T", help="as 2026-11-20T10:00Z")
    asked = commands.add_parser("promote", help="make a version champion, if the gate lets it through")
    asked.add_argument("model")
    asked.add_argument("version", nargs="?", default="challenger", help="a number or an alias; challenger")
    asked.add_argument("--why", required=True)
    asked.add_argument("--force", action="store_true", help="also if the gate refuses it; it is recorded as forced")
    asked = commands.add_parser("rollback", help="back to the champion before")
    asked.add_argument("model")
    asked.add_argument("--why", required=True)
    commands.add_parser("finish", help="finish what was begun and not closed")
    args = parser.parse_args(arguments)
    settings = OfflineSettings()
    uri = settings.mlflow_tracking_uri.rstrip("/")
    try:
        if args.command == "rollback":  # it finishes what is pending itself, and goes no further then
            asked_at = datetime.now(UTC)
            entry = roll_back(uri, args.model, spec=settings.spec(), who=getpass.getuser(), why=args.why)
            if entry.begun < asked_at:
                print(begun_before(entry))
            print(show([entry]))
            return
        for entry in finish_pending(uri):
            print(f"finished: {entry.action} {entry.model} to version {entry.to_version}, now {entry.state}")
        if args.command == "promote":
            spec = settings.spec()
            test = lake_rows(settings.lake_uri, spec)
            who = getpass.getuser()
            entry = promote(
                uri, args.model, args.version, test=test, spec=spec, who=who, why=args.why, force=args.force
            )
            print(show([entry]))
        elif args.command == "history":
            entries = history(uri, args.model)
            print(show(entries))
            _tell_moves_by_hand(uri, {entry.model: entry for entry in entries if entry.at is not None})
        elif args.command == "served-at":
            served = served_at(uri, args.when)
            print(show(served.values()) if served else f"no model had a champion at {args.when:%Y-%m-%dT%H:%M:%SZ}")
            _tell_moves_by_hand(uri, served_at(uri, datetime.now(UTC)))
    except (RegistryError, Refused, ValueError) as error:
        sys.exit(str(error))


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a time is written as 2026-11-20T10:00Z, was {text!r}") from None
    if when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"a time must say its zone, as 2026-11-20T10:00Z, was {text!r}")
    return when.astimezone(UTC)


if __name__ == "__main__":
    with may_lose_its_reader():
        main()
