"""Copy the lake while other processes read and write.

Objects never change, and stay for the grace period after the last manifest that named them. So manifests that are read
first, and objects that are copied afterwards, are a lake that existed. The order of the manifests keeps their promises:

1. Receipts of recordings, before the manifests of products: a receipt is put last.
2. Served predictions, then features, then trades: a forecast without its trade would be explained only in part. The
   files of a topic go at once when days are merged, so the manifest is read again where a file has gone.
3. Manifests of products, and then the objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from data.stream.records import FEATURES, PREDICTIONS, TRADES
from offline.lake.objects import Objects
from offline.lake.state import MANIFESTS, RECEIPTS, REMOVED, Receipt, removed_folder, state_of
from offline.lake.store import Lake
from offline.served.manifest import SERVED, Manifest, folder_of, read_manifest
from orchestration.backup.copies import TRIES, BackupRefused, Copies

LAKE = "lake"
"""Folder of the lake in a backup."""
_LEFT_OUT = (f"{REMOVED}/", "locks/", "clock")
"""Beginnings of paths that no backup has: what a clean-up has taken away, locks, and the clean-up's clock."""


class CopiedLake(NamedTuple):
    """Counts of a copied lake."""

    products: int
    partitions: int
    served: int


def copy_lake(lake: Lake, copies: Copies) -> CopiedLake:
    """Copy all that the lake's manifests name, and all else but locks.

    Raises:
        BackupRefused: an object that a manifest names is lost, or the lake changes too often.
        ValueError: a manifest is damaged, or the lake is of another release.
        OSError: the lake does not answer, or a copy cannot be written.
    """
    product_ids = lake.product_ids()  # refuses a lake of another release
    objects, named = lake.objects, set[str]()
    for path in objects.paths(RECEIPTS):
        if (held := objects.get(path)) is not None:
            receipt = msgspec.json.decode(held.content, type=Receipt)
            named.update([receipt.rejects.path] if receipt.rejects is not None else [])
            copies.add_bytes(f"{LAKE}/{path}", held.content)
    served = sum(_copy_served(lake, topic, copies) for topic in (PREDICTIONS, FEATURES, TRADES))
    partitions = 0
    for product_id in product_ids:
        path = f"{MANIFESTS}/{product_id}.json"
        if (held := objects.get(path)) is not None:
            days = [entry for table in state_of(held.content).tables.values() for entry in table.values()]
            named.update(entry.path for entry in days)
            partitions += len(days)
            copies.add_bytes(f"{LAKE}/{path}", held.content)
    for path in sorted(named):
        if not _copy(objects, path, copies):
            raise BackupRefused(
                f"{objects.where(path)} is lost, and a manifest of the lake names it: `python -m offline.cleaning` "
                "takes its partition out of the manifest; then make the day again, and the backup"
            )
    for path in _others(objects):
        if f"{LAKE}/{path}" not in copies.digests:
            _copy(objects, path, copies)  # objects of model versions, pictures; gone meanwhile: nothing names it
    return CopiedLake(len(product_ids), partitions, served)


def _copy_served(lake: Lake, topic: str, copies: Copies) -> int:
    """Copy the manifest of a topic and its files; return the number of files."""
    read_manifest(lake, topic)  # refuses a damaged manifest in words
    path, done = f"{folder_of(topic)}/manifest.json", set[str]()
    for _ in range(TRIES):
        held = lake.objects.get(path)
        if held is None:
            return 0
        files = {file.path for file in msgspec.json.decode(held.content, type=Manifest).files}
        for gone in done - files:
            copies.drop(f"{LAKE}/{gone}")
        done = done & files | {file for file in sorted(files - done) if _copy(lake.objects, file, copies)}
        if done == files:
            copies.add_bytes(f"{LAKE}/{path}", held.content)
            return len(files)
    raise BackupRefused(f"{lake.objects.where(path)} changes while it is copied: make the backup again a minute later")


def _copy(objects: Objects, path: str, copies: Copies) -> bool:
    """Copy an object, also if a clean-up has just moved it aside; return False if the object has gone."""
    places = [path]
    for place in places:
        try:
            with objects.opened(place) as source:
                copies.add(f"{LAKE}/{path}", source)
        except FileNotFoundError:
            if place == path:
                places += objects.paths(removed_folder(path))
        else:
            return True
    return False


def _others(objects: Objects) -> Iterator[str]:
    """Yield the paths that no manifest names."""
    known = tuple(f"{folder}/" for folder in (MANIFESTS, RECEIPTS, *map(folder_of, (TRADES, FEATURES, PREDICTIONS))))
    for path in objects.paths():
        if not path.startswith((*known, *_LEFT_OUT)) and not path.endswith("/lock.json"):
            yield path


def write_order(path: str) -> tuple[int, str]:
    """Return the place of a lake's file among the files of a restore: rows first, then manifests, then receipts."""
    is_manifest = path.startswith(f"{MANIFESTS}/") or (path.startswith(f"{SERVED}/") and path.endswith(".json"))
    return (2 if path.startswith(f"{RECEIPTS}/") else int(is_manifest)), path
