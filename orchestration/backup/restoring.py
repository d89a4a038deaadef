"""Make state from a backup again: beside its place first, and in its place when every copy is proved."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from offline.lake.objects import ANY, Objects
from orchestration.backup.copies import BackupRefused, Copies
from orchestration.backup.lake import LAKE, write_order
from orchestration.backup.registry import REGISTRY
from orchestration.local.settings import UNFINISHED_RESTORE


def refuse_full(place: Path, *, replaces: bool) -> None:
    """Refuse a folder that is not empty, unless it may be replaced."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())) and not replaces:
        raise BackupRefused(
            f"{place} is not empty: restore to another VAR_DIR, or let REPLACE=1 move the folder aside, to "
            f"{aside_of(place).name}"
        )


def aside_of(place: Path) -> Path:
    """Return a free name beside a folder, for its content before a restore."""
    number = 1
    while (aside := place.with_name(f"{place.name}.before-restore-{number}")).exists():
        number += 1
    return aside


def restore_folder(backup: Path, digests: Mapping[str, str], part: str, place: Path) -> Callable[[], None]:
    """Copy a part of a backup beside its place, and return the function that puts the copies in place.

    Raises:
        BackupRefused: a copy differs from the list.
        OSError: a copy cannot be written.
    """
    beside = place.with_name(f".{place.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        copies = Copies(beside)
        for path, digest in digests.items():
            if path.startswith(f"{part}/"):
                at = path.removeprefix(f"{part}/")
                with (backup / path).open("rb") as source:
                    copies.add(at, source)
                if copies.digests[at] != digest:
                    raise BackupRefused(f"{backup / path} changed while it was restored: nothing was replaced")
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise

    def exchange() -> None:
        if place.exists():
            place.rename(aside_of(place)) if any(place.iterdir()) else place.rmdir()
        beside.rename(place)

    return exchange


def restore_store(backup: Path, digests: Mapping[str, str], uri: str) -> None:
    """Put the lake of a backup into an empty prefix of a store: rows first, then manifests, then receipts.

    Raises:
        BackupRefused: the prefix is not empty.
        OSError: the store does not answer.
    """
    objects = Objects.open(uri)
    if there := objects.paths():
        raise BackupRefused(f"{objects.where(there[0])} is there already: a store is restored to an empty prefix alone")
    paths = (path.removeprefix(f"{LAKE}/") for path in digests if path.startswith(f"{LAKE}/"))
    for path in sorted(paths, key=write_order):
        file = backup / LAKE / path
        if path.endswith(".parquet"):
            objects.add(path, file)
        else:
            objects.put(path, file.read_bytes(), ANY)


@contextmanager
def unfinished(var_dir: Path, backup: Path) -> Iterator[None]:
    """Leave a note in the state folder while places are exchanged, so that no stack starts on half of a restore."""
    note = var_dir / UNFINISHED_RESTORE
    note.write_text(f"{backup}\n", encoding="utf-8")
    yield
    note.unlink()


def parts_of(digests: Mapping[str, str]) -> set[str]:
    """Return which of registry and lake a backup has."""
    return {path.partition("/")[0] for path in digests} & {REGISTRY, LAKE}
