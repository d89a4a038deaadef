"""Backups of registry, ledger and lake: `python -m orchestration.backup {save,check,restore} FOLDER`."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from pydantic import ValidationError

from data.process.metrics import project_version
from data.process.running import REFUSED
from offline.lake.remote import is_uri
from offline.lake.store import Lake
from orchestration.backup.copies import BackupRefused, check, made_whole
from orchestration.backup.lake import LAKE, copy_lake
from orchestration.backup.registry import REGISTRY, copy_registry, registry_in
from orchestration.backup.restoring import (
    parts_of,
    refuse_full,
    restore_folder,
    restore_store,
    unfinished,
)
from orchestration.local.settings import UNFINISHED_RESTORE, StackSettings
from orchestration.local.stack import StartRefused, only_stack, wrong_settings

ABOUT = "about.json"
"""File of a backup for people: release, time and counts."""


def save(folder: Path, settings: StackSettings) -> str:
    """Make a backup in a new folder, and return what it holds, in words.

    Raises:
        BackupRefused, ValueError, OSError: no backup was made.
    """
    said, began = [], datetime.now(UTC)
    with made_whole(folder) as copies:
        if settings.starts_mlflow:
            registry = copy_registry(settings.mlflow_folder, copies)
            said.append(f"registry: {registry.versions} versions of models with their files, {registry.moves} entries "
                        "of the ledger")  # fmt: skip
            if registry.without_file:
                said.append(f"these versions have no whole file in MLflow, so neither here: "
                            f"{', '.join(registry.without_file)}")  # fmt: skip
        else:
            said.append(f"registry: left out, {settings.mlflow_tracking_uri} is not of this stack: back up its "
                        "database and files by their own means (docs/operate.md)")  # fmt: skip
        lake = copy_lake(Lake.open(settings.lake_uri), copies)
        said.append(f"lake: {lake.products} products with {lake.partitions:,} partitions, {lake.served:,} files of "
                    "served records")  # fmt: skip
        about = {"release": project_version(), "made_at": began, "holds": said}
        copies.add_bytes(ABOUT, msgspec.json.format(msgspec.json.encode(about)))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return "\n".join([f"{folder}: {size / 1e6:,.1f} MB", *said])


def restore(folder: Path, settings: StackSettings, *, replaces: bool) -> str:
    """Make registry and lake from a backup again, and return what was restored, in words.

    Args:
        replaces: whether places that are not empty are moved aside.

    Raises:
        BackupRefused, StartRefused: nothing was replaced; a stack runs, a place is not empty, or the backup is broken.
        ValueError, OSError: see the message.
    """
    with only_stack(settings.var_dir):
        was_unfinished = (settings.var_dir / UNFINISHED_RESTORE).exists()
        digests = check(folder)
        parts = parts_of(digests)
        replaces = replaces or was_unfinished
        places = {}
        if REGISTRY in parts and settings.starts_mlflow:
            places[REGISTRY] = settings.mlflow_folder
        if LAKE in parts and not is_uri(settings.lake_uri):
            places[LAKE] = Path(settings.lake_uri)
        for place in places.values():
            refuse_full(place, replaces=replaces)
        exchanges = [restore_folder(folder, digests, part, place) for part, place in places.items()]
        if LAKE in parts and LAKE not in places:
            restore_store(folder, digests, settings.lake_uri)
        with unfinished(settings.var_dir, folder):
            for exchange in exchanges:
                exchange()
        said = [f"{part}: {place}" for part, place in places.items()]
        said += [f"{LAKE}: {settings.lake_uri}"] if LAKE in parts and LAKE not in places else []
        if REGISTRY in parts and REGISTRY not in places:
            said.append(f"registry: left out, {settings.mlflow_tracking_uri} is not of this stack")
        return "\n".join(said)


def checked(folder: Path) -> str:
    """Read all files of a backup, and return what it holds, in words; raise `BackupRefused` for a broken backup."""
    digests = check(folder)
    said = [f"{folder}: {len(digests):,} files are whole"]
    if REGISTRY in parts_of(digests):
        found = registry_in(folder / REGISTRY)
        said.append(f"registry: {found.versions} versions of models, {found.moves} entries of the ledger")
    return "\n".join(said)


def main(arguments: list[str] | None = None) -> int:
    """Make, check or restore a backup; return the exit code, 2 for a refusal."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.backup", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("save", help="copy registry, ledger and lake to a new folder; the stack may run")
    commands.add_parser("check", help="read a backup, and compare each file with its SHA-256")
    restoring = commands.add_parser("restore", help="make registry, ledger and lake again; the stack must not run")
    restoring.add_argument("--replace", action="store_true", help="move aside what is there, and restore")
    for command in commands.choices.values():
        command.add_argument("folder", type=Path, help="of the backup; make names it by BACKUP=FOLDER")
    options = parser.parse_args(arguments)
    if str(options.folder) in ("", "."):
        print("name the folder of the backup: make backup BACKUP=/srv/backups/monday", file=sys.stderr)
        return REFUSED
    folder, began = options.folder.expanduser().absolute(), time.monotonic()
    try:
        if options.command == "save":
            said = save(folder, StackSettings())
        elif options.command == "check":
            said = checked(folder)
        else:
            said = restore(folder, StackSettings(), replaces=options.replace)
    except ValidationError as error:
        print("\n".join(wrong_settings(error)), file=sys.stderr)
        return REFUSED
    except (BackupRefused, StartRefused, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    print(f"{said}\nin {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
