"""The ledger of promotions, refusals and rollbacks: champion versions over time, with person, reason and evidence.

Each promotion and each rollback is one run in the MLflow experiment `promotions`. The run is written before the alias
moves (RUNNING) and closed after the move (FINISHED), so the next process finds and finishes a killed promotion. A
refusal moves no alias, and is closed at once. No run is ever removed. Calls are plain REST, because people wait for
promotions and importing mlflow takes seconds.

Each entry names the entry before, and these links alone order the entries of a model. Times are for people: a clock may
be set back, or be an hour ahead.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from data.models.registry import Registry
from data.models.served import BASELINE, ML
from data.names import RegistryAway, RegistryError, VersionNotFound
from data.stream.records import Figure
from data.times import NS, to_ns
from offline.lake.objects import Objects
from offline.locks.lease import Lease, Occupied, leased
from offline.promotion.register import experiment_id, find_experiment, set_alias

EXPERIMENT = "promotions"
LOCK = "locks/promotions.json"
"""The ledger's lock, below the root of the lake."""
LOCK_S = 45.0
"""Seconds to wait for other promotions and rollbacks; each takes about a second, and the lock of a process that was
killed on another machine is taken over in this time."""
ABANDONED_S = 60.0
"""Age in seconds at which a pending entry of another machine counts as abandoned, and is finished here. An entry that
begins as long after now is abandoned, too: clocks of the two machines differ, and a rollback must not wait for them."""
PAGE = 1_000


class NotClosed(RegistryAway):
    """MLflow does not answer any more: the alias `champion` has moved, and the entry is not closed."""


Action = Literal["promote", "rollback", "refuse"]
EntryState = Literal["pending", "done", "failed"]
VERBS: dict[Action, str] = {"promote": "promote", "rollback": "roll back", "refuse": "refuse"}
STATES: dict[str, EntryState] = {"RUNNING": "pending", "FINISHED": "done"}
TEXTS = ("action", "model", "from_version", "to_version", "digest", "who", "why", "machine", "dagster_run_url", "after")
"""Fields of an entry that are tags of the same name; a tag without text is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One promotion, rollback or refusal.

    Attributes:
        entry_id: id of the MLflow run; empty before the intent is written.
        action: promote, rollback, or refuse: the gate refused the version, and no alias moved.
        model: name of the registered model.
        from_version: the champion before; None if there was no champion.
        to_version: the champion after; of a refusal, the refused version.
        digest: SHA-256 of the judged file of `to_version`.
        who, why: person and reason.
        is_forced: the gate had refused the version.
        begun: time of writing the entry, UTC.
        at: time of moving the alias, UTC; None while pending, if failed, and of a refusal.
        evidence: figures of the gate, by name.
        state: pending: written, and the move is not confirmed; failed: MLflow refused to move `champion`.
        machine: host and user that began the entry.
        dagster_run_url: page of the Dagster run that asked for the move; empty if no Dagster run did.
        experiment_id: id of the MLflow experiment.
        after: `entry_id` of the newest promotion or rollback of the model before this entry, also of a failed one;
            empty for the first entry of a model, and for entries that were written before entries had links.
    """

    entry_id: str = ""
    action: Action
    model: str
    from_version: str | None = None
    to_version: str
    digest: str
    who: str = ""
    why: str = ""
    is_forced: bool = False
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    at: datetime | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    state: EntryState = "pending"
    machine: str = ""
    dagster_run_url: str = ""
    experiment_id: str = ""
    after: str = ""

    @property
    def time(self) -> datetime:
        """The time of moving the alias, else of writing the entry; for people, and no order."""
        return self.at or self.begun


def history(registry: Registry, model: str | None = None) -> list[Entry]:
    """Return all entries, of one model or of all, oldest first.

    Entries of one model are ordered by their links. The models themselves are merged by time.

    Raises:
        RegistryError: MLflow does not answer.
    """
    try:
        experiment = find_experiment(registry, EXPERIMENT)
    except VersionNotFound:
        return []
    # Entries deleted in the UI are read as well: the version served, deleted entry or not.
    search: dict[str, Any] = {"experiment_ids": [experiment], "max_results": PAGE, "run_view_type": "ALL"}
    if model is not None:
        search["filter"] = f"tags.model = '{model}'"
    runs: list[dict[str, Any]] = []
    while True:
        found = registry.call("POST", "runs/search", search, dict)
        runs += found.get("runs", [])
        if not found.get("next_page_token"):
            break
        search["page_token"] = found["next_page_token"]
    by_model: dict[str, list[Entry]] = {}
    for run in runs:
        if (entry := _entry(run)) is not None:
            by_model.setdefault(entry.model, []).append(entry)
    return list(heapq.merge(*map(in_order, by_model.values()), key=lambda entry: entry.time))


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries of one model, oldest first: each one after the entry that it names.

    Entries without a link to one of the others come in the order of their times, each followed by the entries that
    name it. A refusal is named by no entry, and comes before the move that names the same entry.
    """
    waiting = sorted(entries, key=lambda entry: (entry.action != "refuse", entry.time))
    ids = {entry.entry_id for entry in waiting}
    following: dict[str, list[Entry]] = {}
    for entry in waiting:
        following.setdefault(entry.after if entry.after in ids else "", []).append(entry)
    found: list[Entry] = []
    open_ends = sorted(following.get("", ()), key=lambda entry: entry.time, reverse=True)
    while open_ends:
        entry = open_ends.pop()
        found.append(entry)
        open_ends += reversed(following.get(entry.entry_id, ()))
    placed = {entry.entry_id for entry in found}
    return found + [entry for entry in waiting if entry.entry_id not in placed]  # a link was edited into a circle


def until(entries: list[Entry], is_reached: Callable[[Entry], bool]) -> list[Entry]:
    """Return the entries of one model up to the last one that a time had reached.

    An entry whose time lies after the time of a later entry was written by a clock that was ahead, so a reached entry
    reaches all entries before, too.
    """
    last = max((number for number, entry in enumerate(entries, 1) if is_reached(entry)), default=0)
    return entries[:last]


def steps_back(entries: Iterable[Entry]) -> list[tuple[Entry, Entry]]:
    """Return neighbours among the moves of one model whose times fall although their order rises."""
    moves = [entry for entry in entries if entry.at is not None]
    return [(one, other) for one, other in pairwise(moves) if other.time < one.time]


def served_at(registry: Registry, when: datetime) -> dict[str, Entry]:
    """Return by model name the entry of the champion at a time; a model without a champion is left out.

    Where a clock was set back, the time may belong to several champions: the last one counts, see `steps_back`.

    Raises:
        ValueError: `when` has no time zone.
        RegistryError: MLflow does not answer.
    """
    if when.tzinfo is None:
        raise ValueError(f"the time must say its zone, as 2026-11-20T10:00Z, was {when.isoformat()}")
    moves: dict[str, list[Entry]] = {}
    for entry in history(registry):
        if entry.at is not None:
            moves.setdefault(entry.model, []).append(entry)
    reached = {name: until(each, lambda entry: entry.time <= when) for name, each in moves.items()}
    return {name: each[-1] for name, each in reached.items() if each}


def move_figures(entries: Iterable[Entry]) -> list[Figure]:
    """Return the newest promotion and the newest rollback of each version of our models, for the topic `figures`.

    Args:
        entries: oldest first; an entry that moved no alias has no figure.
    """
    newest: dict[str, Figure] = {}
    for entry in entries:
        if entry.at is not None and entry.model in (BASELINE, ML):
            variant = entry.model.removeprefix("volatility-")
            labels = {"model_variant": variant, "version": entry.to_version, "move": entry.action}
            at = to_ns(entry.at)
            figure = Figure("ledger_move_timestamp_seconds", labels, at / NS, at)
            newest[figure.key] = figure
    return list(newest.values())


def promotions_in_effect(entries: Iterable[Entry]) -> list[Entry]:
    """Return the promotions of one model that no rollback has undone, oldest first.

    The last promotion is the champion's, and a rollback goes to the promotion before. A promotion is pushed on the
    stack; a rollback pops all promotions above its target.

    Args:
        entries: of one model, oldest first.
    """
    stack: list[Entry] = []
    for entry in entries:
        if entry.state == "failed" or entry.action == "refuse":
            continue
        if entry.action == "promote":
            stack.append(entry)
        else:
            ids = [each.entry_id for each in stack]
            back_to = entry.evidence.get("back_to_entry")
            stack = stack[: ids.index(back_to) + 1] if back_to in ids else stack[:-1]
    return stack


def tries_on(entries: Iterable[Entry], first: datetime, last: datetime) -> int:
    """Count the entries whose test overlaps a span by half of the shorter of the two spans, or more.

    Args:
        entries: of one model; an entry without rows of test is not counted.
        first, last: event times of the first and the last judged row.
    """
    count = 0
    for entry in entries:
        if {"first_row", "last_row"} <= entry.evidence.keys():
            begin, end = (datetime.fromisoformat(entry.evidence[name]) for name in ("first_row", "last_row"))
            overlap = min(last, end) - max(first, begin)
            count += overlap >= min(last - first, end - begin) / 2
    return count


@contextlib.contextmanager
def _alone(objects: Objects) -> Iterator[Lease]:
    """Hold the lake's lock for promotions and rollbacks.

    Raises:
        RegistryError: another promotion or rollback has held the lock for `LOCK_S`, or has taken the lock over from
            this process; or the lake does not answer.
    """
    try:
        with contextlib.ExitStack() as stack:
            try:
                lease = stack.enter_context(leased(objects, LOCK, LOCK_S))
            except OSError as error:
                raise RegistryError(f"the lake's lock for promotions and rollbacks failed: {error}") from error
            yield lease
    except Occupied as error:
        raise RegistryError(f"another promotion or rollback is at work: {error}") from error


class Settled(NamedTuple):
    """A model without a pending entry.

    Attributes:
        entries: of the model, closed, oldest first.
        finished: entries of the model that were pending until this call.
        serving: version number of the champion; None if there is no champion.
        lease: the lock, held while the model is settled.
    """

    entries: list[Entry]
    finished: list[Entry]
    serving: str | None
    lease: Lease


@contextlib.contextmanager
def settled(registry: Registry, objects: Objects, model: str) -> Iterator[Settled]:
    """Finish all pending entries, and keep other promotions and rollbacks out until the block ends.

    Args:
        objects: of the lake, which has the lock: all machines that promote need the same lake.

    Raises:
        RegistryError: another process is promoting or rolling back; or MLflow or the lake does not answer.
    """
    with _alone(objects) as lease:
        entries = history(registry)
        if finished := _finish(registry, entries, lease):
            entries = history(registry)
        entries = [entry for entry in entries if entry.model == model]
        for entry in entries:
            if entry.state == "pending":
                raise RegistryError(
                    f"{entry.who} began to {VERBS[entry.action]} {model} to version {entry.to_version} on "
                    f"{entry.machine} at {entry.begun:%H:%M:%S} UTC: do this again when that is done, in "
                    f"{ABANDONED_S:.0f} s at the latest"
                )
        done = [entry for entry in finished if entry.model == model and entry.state == "done"]
        yield Settled(entries, done, _serving(registry, model), lease)


def record(registry: Registry, entry: Entry, model: Settled) -> Entry:
    """Write the intent, move the alias, close the entry, and return the closed entry.

    Args:
        model: the model of the entry, as of the block of `settled`.

    Raises:
        RegistryAway: MLflow does not answer; the next promotion or rollback finishes the pending entry.
        RegistryError: MLflow refuses to move `champion`; the entry is closed as failed.
    """
    try:
        begun = begin(registry, replace(entry, after=newest_move(model.entries)))
        return complete(registry, begun, model.entries, model.lease)
    except RegistryAway as error:  # the advice in `error`, to retry, is not enough here
        moved = f", and champion names version {entry.to_version} already" if isinstance(error, NotClosed) else ""
        raise RegistryAway(
            f"MLflow went away at {registry.uri} ({error.__cause__ or error}) while the ledger was to "
            f"{VERBS[entry.action]} {entry.model} to version {entry.to_version}: the entry may stand there, not "
            f"closed{moved}. Start MLflow; the next promotion or rollback, or `python -m offline.promotion finish`, "
            "finishes it, and `python -m offline.promotion history` shows it. A rollback that finishes one goes no "
            "further itself"
        ) from error


def record_refusal(registry: Registry, entry: Entry) -> Entry:
    """Write a refusal, which moves no alias, and return the entry.

    Raises:
        RegistryError: MLflow does not answer.
    """
    begun = begin(registry, replace(entry, after=newest_move(history(registry, entry.model))))
    with contextlib.suppress(RegistryAway):
        _write(registry, "update", begun, status="FINISHED", end_time=_ms(begun.begun))
    return replace(begun, state="done")


def newest_move(entries: Iterable[Entry]) -> str:
    """Return the id of the newest promotion or rollback, whatever came of it; empty if there is none.

    Args:
        entries: of one model, oldest first.
    """
    return next((entry.entry_id for entry in reversed([*entries]) if entry.action != "refuse"), "")


def begin(registry: Registry, entry: Entry) -> Entry:
    """Write the intent: a RUNNING run with all fields of the entry."""
    entry = replace(entry, machine=_machine())
    tags = {name: getattr(entry, name) for name in TEXTS} | {
        "mlflow.runName": f"{entry.action} {entry.model} {entry.from_version or '-'} to {entry.to_version}",
        "mlflow.user": entry.who,
        "is_forced": "yes" if entry.is_forced else "no",
        "begun": _text(entry.begun),
        "evidence": json.dumps(entry.evidence),
    }
    fields = {
        "experiment_id": experiment_id(registry, EXPERIMENT),
        "start_time": _ms(entry.begun),
        "tags": [{"key": key, "value": value} for key, value in tags.items() if value],
    }
    info = registry.call("POST", "runs/create", fields, dict)["run"]["info"]
    return replace(entry, entry_id=info["run_id"], experiment_id=info["experiment_id"])


def complete(registry: Registry, entry: Entry, before: Iterable[Entry], lease: Lease) -> Entry:
    """Move the aliases of a pending entry, and close the entry; safe to call again.

    Args:
        before: the closed entries of the model.

    Raises:
        RegistryError: MLflow refuses.
        Occupied: another process may hold the lock by now; the entry stays pending.
    """
    lease.check()
    if _serving(registry, entry.model) == entry.to_version:
        at = entry.at or entry.begun  # the process was killed after the move, which came right after the intent
    else:
        try:
            set_alias(registry, entry.model, "champion", entry.to_version)
        except RegistryAway:
            raise
        except RegistryError as error:
            if _serving(registry, entry.model) != entry.to_version:
                _tag(registry, entry, "error", str(error)[:1_000])
                _write(registry, "update", entry, status="FAILED")
                raise
        at = datetime.now(UTC)
    try:
        _name_previous(registry, entry, promotions_in_effect([*before, entry]))
        _tag(registry, entry, "moved_at", _text(at))
    except RegistryAway as error:
        raise NotClosed(str(error)) from error.__cause__
    # The move is done and tagged: a failure to close the entry must not read as a reason to ask for the move again.
    with contextlib.suppress(RegistryAway):
        _write(registry, "update", entry, status="FINISHED", end_time=_ms(at))
    return replace(entry, at=at, state="done")


def _serving(registry: Registry, model: str) -> str | None:
    champion = registry.champion(model)
    return None if champion is None else champion.version


def _name_previous(registry: Registry, entry: Entry, stack: list[Entry]) -> None:
    """Set the alias `previous` to the target of the next rollback; delete the alias if no target is left.

    A rollback passes a target over that MLflow does not have any more, and so does this alias. The alias only helps
    people: the champion has moved in any case.
    """
    below = [each.to_version for each in reversed(stack[:-1]) if each.to_version != entry.to_version]
    for version in (*dict.fromkeys(below), None):
        try:
            set_alias(registry, entry.model, "previous", version)
        except RegistryAway:
            raise
        except RegistryError:  # a deleted version, above all
            continue
        return


def finish_pending(registry: Registry, objects: Objects) -> list[Entry]:
    """Finish all pending entries, and return the finished ones: a start calls this function first.

    Entries begun by another machine less than `ABANDONED_S` ago are left to the other machine: it may use another lake.

    Raises:
        RegistryError: MLflow or the lake does not answer, or another process is promoting or rolling back.
    """
    if all(entry.state != "pending" for entry in history(registry)):
        return []
    with _alone(objects) as lease:
        return _finish(registry, history(registry), lease)


def _finish(registry: Registry, entries: list[Entry], lease: Lease) -> list[Entry]:
    """Finish the pending entries; no other process with the same lake works on an entry."""
    finished = []
    for entry in (entry for entry in entries if entry.state == "pending"):
        if entry.machine != _machine() and abs((datetime.now(UTC) - entry.begun).total_seconds()) < ABANDONED_S:
            continue
        before = [other for other in entries if other.model == entry.model and other.state == "done"]
        try:
            finished.append(complete(registry, entry, before, lease))
        except RegistryAway:
            raise
        except RegistryError:  # the entry is closed as failed, with MLflow's message
            finished.append(replace(entry, state="failed"))
    return finished


def _entry(run: dict[str, Any]) -> Entry | None:
    info = run["info"]
    tags: dict[str, Any] = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    try:
        return Entry(
            **{name: tags[name] for name in TEXTS if name in tags},
            entry_id=info["run_id"],
            is_forced=tags["is_forced"] == "yes",
            begun=datetime.fromisoformat(tags["begun"]),
            at=datetime.fromisoformat(tags["moved_at"]) if "moved_at" in tags else None,
            evidence=json.loads(tags["evidence"]),
            state="done" if tags["action"] == "refuse" else STATES.get(info["status"], "failed"),
            experiment_id=info["experiment_id"],
        )
    except (KeyError, TypeError):  # a run that the ledger did not write, without some tag
        return None


def _tag(registry: Registry, entry: Entry, key: str, value: str) -> None:
    _write(registry, "set-tag", entry, key=key, value=value)


def _write(registry: Registry, method: str, entry: Entry, **fields: Any) -> None:
    registry.call("POST", f"runs/{method}", {"run_id": entry.entry_id, **fields}, dict)


def _machine() -> str:
    """Return host and user."""
    return f"{socket.gethostname()} user {os.getuid()}"


def _ms(when: datetime) -> int:
    return to_ns(when) // 1_000_000


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
