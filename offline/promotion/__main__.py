"""Command line of promotion, rollback and the ledger: `python -m offline.promotion --help`.

`promote` is the only way to a new champion, and judges anew each time: the file is downloaded and scored, and no stored
tag, metric or verdict is trusted. Every move is in the ledger, see `offline.promotion.ledger`.
"""

from __future__ import annotations

import argparse
import getpass
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import rich.box
from rich.console import Console
from rich.table import Table

from data.files import may_lose_its_reader
from data.models.registry import Registry
from data.names import NotRead, RegistryError
from data.settings import KafkaSettings
from data.times import second_text
from offline.lake.objects import Objects
from offline.promotion.gate import Refused
from offline.promotion.ledger import Entry, finish_pending, history, served_at, steps_back
from offline.promotion.moves import promote, publish_moves, roll_back
from offline.settings import OfflineSettings


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


def _print_moves_by_hand(registry: Registry, newest: dict[str, Entry]) -> None:
    """Print each model whose champion differs from the version of the newest entry."""
    for model, entry in newest.items():
        champion = registry.champion(model)
        serving = f"version {champion.version}" if champion else "none"
        if serving != f"version {entry.to_version}":
            print(f"the champion of {model} is {serving} now, the ledger says {entry.to_version}: moved by hand?")


def _print_steps_back(entries: list[Entry]) -> None:
    """Print where the times of a model's moves fall: a clock was wrong, and a time there may have two champions."""
    for model in dict.fromkeys(entry.model for entry in entries):
        for one, other in steps_back(entry for entry in entries if entry.model == model):
            print(
                f"the clock went back between two moves of {model}: to version {one.to_version} at "
                f"{one.time:%Y-%m-%d %H:%M:%S}, and later to {other.to_version} at {other.time:%Y-%m-%d %H:%M:%S} UTC. "
                "The order is right; which version served between these times is not sure"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Promote a model, roll a model back, finish pending entries, and show the champion of a past time."""
    parser = argparse.ArgumentParser(prog="python -m offline.promotion", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("history", help="all promotions, refusals and rollbacks, oldest first")
    asked.add_argument("model", nargs="?", help="of this model alone")
    asked = commands.add_parser("served-at", help="which version of each model was champion at a time")
    asked.add_argument("when", type=_time, metavar="T", help="as 2026-11-20T10:00Z")
    asked = commands.add_parser("promote", help="make a version champion, if the gate is open")
    asked.add_argument("model")
    asked.add_argument("version", nargs="?", default="challenger", help="a number or an alias; challenger")
    asked.add_argument("--why", required=True)
    asked.add_argument(
        "--shadow-horizons",
        type=int,
        default=0,
        metavar="N",
        help="refuse a version with fewer horizons of forecasts as a shadow, on the topic `predictions`; 0",
    )
    asked.add_argument(
        "--force", action="store_true", help="promote even if the gate refuses; the entry is marked as forced"
    )
    asked = commands.add_parser("rollback", help="back to the champion before")
    asked.add_argument("model")
    asked.add_argument("--why", required=True)
    commands.add_parser("finish", help="finish pending entries")
    args = parser.parse_args(arguments)
    settings, kafka = OfflineSettings(), KafkaSettings()
    registry = Registry(settings.mlflow_tracking_uri)
    try:
        objects = Objects.open(settings.lake_uri)
        if args.command == "rollback":  # `roll_back` finishes pending entries itself, and then goes no further
            who, spec = getpass.getuser(), settings.spec()
            entry = roll_back(registry, args.model, objects=objects, spec=spec, who=who, why=args.why, warn=print)
            print(show([entry]))
            publish_moves(registry, args.model, kafka, _warn)
            return
        for entry in finish_pending(registry, objects):
            print(f"finished: {entry.action} {entry.model} to version {entry.to_version}, now {entry.state}")
            publish_moves(registry, entry.model, kafka, _warn)
        if args.command == "promote":
            from offline.checks.shadows import asked_shadows  # noqa: PLC0415 - see below
            from offline.promotion.inputs import lake_inputs  # noqa: PLC0415 - half a second, which a rollback saves

            spec = settings.spec()
            entry = promote(
                registry,
                args.model,
                args.version,
                objects=objects,
                inputs=lake_inputs(settings.lake_uri, spec, settings.train_max_mb),
                spec=spec,
                who=getpass.getuser(),
                why=args.why,
                force=args.force,
                shadows=asked_shadows(args.shadow_horizons, kafka, spec),
            )
            print(show([entry]))
            publish_moves(registry, args.model, kafka, _warn)
        elif args.command == "history":
            entries = history(registry, args.model)
            print(show(entries))
            _print_steps_back(entries)
            _print_moves_by_hand(registry, {entry.model: entry for entry in entries if entry.at is not None})
        elif args.command == "served-at":
            served = served_at(registry, args.when)
            print(show(served.values()) if served else f"no model had a champion at {second_text(args.when)}")
            entries = history(registry)
            _print_steps_back(entries)
            _print_moves_by_hand(registry, {entry.model: entry for entry in entries if entry.at is not None})
    except (RegistryError, Refused, NotRead, ValueError) as error:
        sys.exit(str(error))


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


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
