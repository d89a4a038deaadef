"""Moves of the alias `champion`: promotion through the gate, and rollback."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import BASELINE
from data.names import RegistryError, VersionNotFound
from data.settings import KafkaSettings
from data.stream.figures import publish_or_warn
from offline.lake.objects import Objects
from offline.promotion import ledger
from offline.promotion.conditions import Condition
from offline.promotion.gate import Refused, fetch_model, judge
from offline.promotion.ledger import Entry, finish_pending

if TYPE_CHECKING:
    from offline.checks.shadows import ShadowLimit
    from offline.promotion.inputs import GateInputs

FIGURES_S = 3.0
"""Time for the broker to take the figures of the moves: a person waits."""


def promote(
    registry: Registry,
    model: str,
    version: str = "challenger",
    *,
    objects: Objects,
    inputs: GateInputs,
    spec: FeatureSpec,
    who: str,
    why: str,
    force: bool = False,
    baseline: str = BASELINE,
    shadows: ShadowLimit | None = None,
    dagster_run_url: str = "",
) -> Entry:
    """Judge a version, make the version champion if the gate is open, and return the ledger's entry.

    A refusal is an entry of the ledger, too.

    Args:
        version: a number or an alias.
        objects: of the lake, which has the ledger's lock.
        inputs: rows, recipes and certificates for the gate.
        spec: of the rows of `inputs`.
        force: promote a version refused by the gate, if the file can serve; `why` must give the reason, and the entry
            is marked as forced.
        baseline: name of the model whose champion each version of `volatility-ml` must beat.
        shadows: how much the version must have forecast as a shadow; None: nothing.
        dagster_run_url: page of the Dagster run that asks, for the ledger.

    Raises:
        Refused: the gate refuses the version; or, if forced, the file cannot serve.
        ValueError: forced without a reason.
        VersionNotFound: the version does not exist.
        RegistryError: MLflow does not answer or refuses, or another process is promoting.
    """
    if force and not why.strip():
        raise ValueError("a forced promotion needs a reason: `why` was empty")
    finish_pending(registry, objects)
    wanted = registry.version(model, version)
    while True:
        verdict = judge(registry, wanted, inputs=inputs, spec=spec, baseline=baseline, shadows=shadows)
        is_refused = not (verdict.can_serve if force else verdict.is_open)
        entry = Entry(
            action="refuse" if is_refused else "promote",
            model=model,
            from_version=verdict.champion,
            to_version=wanted.version,
            digest=verdict.digest,
            who=who,
            why=why,
            is_forced=not is_refused and not verdict.is_open,
            evidence=verdict.evidence,
            dagster_run_url=dagster_run_url,
        )
        if is_refused:
            ledger.record_refusal(registry, entry)
            raise Refused(f"{model} version {wanted.version}", verdict.conditions)
        with ledger.settled(registry, objects, model) as settled:
            if settled.serving != verdict.champion:
                continue  # the champion has changed meanwhile: judge against the new champion
            return ledger.record(registry, entry, settled)


def roll_back(
    registry: Registry,
    model: str,
    *,
    objects: Objects,
    spec: FeatureSpec,
    who: str,
    why: str,
    dagster_run_url: str = "",
    warn: Callable[[str], object] = str,
) -> Entry:
    """Restore the previous champion, and return the ledger's entry.

    The target is the promotion before the newest promotion in effect. If `champion` was moved by hand, past the ledger,
    the target is the newest promotion in effect. A version that MLflow does not have any more, or whose file cannot
    serve rows of `spec`, is passed over; the evidence of the entry names it under `skipped`, with the reason.

    A pending rollback of the model is finished and returned, with no second rollback: a caller who asks again after a
    lost answer or a killed run wants to go back once.

    Args:
        objects: of the lake, which has the ledger's lock.
        spec: of the rows served now.
        dagster_run_url: page of the Dagster run that asks, for the ledger.
        warn: gets a message if the rollback was pending, and one for each version that was passed over.

    Raises:
        Refused: there is no earlier promotion in effect whose file can serve rows of `spec`.
        VersionNotFound: the model does not exist.
        RegistryError: MLflow does not answer or refuses, or another process is promoting.
    """
    with ledger.settled(registry, objects, model) as settled:
        begun, serving = [entry for entry in settled.finished if entry.action == "rollback"], settled.serving
        if begun:
            warn(_begun_before(begun[-1]))
            return begun[-1]
        stack = ledger.promotions_in_effect(settled.entries)
        was_moved = bool(stack) and serving is not None and serving != stack[-1].to_version
        places = [each for each in (stack if was_moved else stack[:-1]) if each.to_version != serving]
        if not places:
            registry.model(model)  # raises if the model does not exist
            standing = f"the ledger holds {len(stack) or 'no'} promotion of {model} that stands"
            condition = Condition("an entry before the current one", False, standing, "2 or more")
            raise Refused(f"rollback of {model}", [condition])
        target, skipped = _newest_that_stands(registry, model, places, spec)
        for version, reason in skipped.items():
            warn(f"version {version} of {model} is passed over: {reason}")
        evidence: dict[str, Any] = {"back_to_entry": target.entry_id, "spec_id": spec.spec_id}
        if skipped:
            evidence["skipped"] = skipped
        if was_moved:
            evidence["moved_by_hand"] = f"champion was version {serving}, the ledger had {stack[-1].to_version}"
        return ledger.record(
            registry,
            Entry(
                action="rollback",
                model=model,
                from_version=serving,
                to_version=target.to_version,
                digest=target.digest,
                who=who,
                why=why,
                evidence=evidence,
                dagster_run_url=dagster_run_url,
            ),
            settled,
        )


def _newest_that_stands(
    registry: Registry, model: str, places: list[Entry], spec: FeatureSpec
) -> tuple[Entry, dict[str, str]]:
    """Return the newest of the promotions whose version can serve, and by version why newer ones cannot.

    Args:
        places: promotions, oldest first, at least one.

    Raises:
        Refused: no version can serve; the message names the command that helps.
    """
    skipped: dict[str, str] = {}
    unmet: list[Condition] = []
    for place in reversed(places):
        version = place.to_version
        if version in skipped:
            continue
        try:
            conditions = fetch_model(registry, registry.version(model, version), spec, place.digest).conditions
        except VersionNotFound as error:
            registry.model(model)  # raises if the model itself does not exist
            conditions = [Condition("registered", False, str(error), "a version in MLflow")]
        if not (failed := [condition for condition in conditions if not condition.is_met]):
            return place, skipped
        unmet += [condition._replace(name=f"version {version} {condition.name}") for condition in failed]
        skipped[version] = "; ".join(f"{each.name}: {each.found}" for each in failed)
    advice = (
        f"No earlier champion can serve: `python -m offline.promotion promote {model} VERSION --force --why REASON` "
        "makes any version champion whose file loads"
    )
    raise Refused(f"rollback of {model}", unmet, advice)


def _begun_before(entry: Entry) -> str:
    """Return the message for a pending rollback that `roll_back` finished, in place of a new rollback."""
    return (
        f"the rollback of {entry.model} to version {entry.to_version} that {entry.who} began at "
        f"{entry.begun:%Y-%m-%d %H:%M:%S} UTC is finished now: ask again to go one further"
    )


def publish_moves(registry: Registry, model: str, kafka: KafkaSettings, warn: Callable[[str], None]) -> None:
    """Publish the promotions and rollbacks of a model as figures; a broker or registry that is away stops nothing.

    The whole ledger of the model is published, so the next move brings what an absent broker has missed.

    Args:
        warn: gets the reason if nothing is published.
    """
    try:
        figures = ledger.move_figures(ledger.history(registry, model))
    except RegistryError as error:
        warn(f"the moves of {model} were not published: {error}")
        return
    if figures:
        publish_or_warn(kafka, figures, warn, FIGURES_S)
