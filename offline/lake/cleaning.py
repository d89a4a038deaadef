"""Remove the objects of the lake that no manifest names any more."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from data.times import NS
from offline.lake.objects import ObjectInfo
from offline.lake.state import OBJECTS, RECEIPTS, Change, Entry, PartitionKey, ProductState, Receipt
from offline.lake.store import Lake

HASH_CHARACTERS = 64


class Cleaned(NamedTuple):
    """Result of a clean-up.

    Attributes:
        removed, size: number and bytes of the removed objects.
        kept: number of objects that no manifest names, and that stay: young, replaced lately, or of a model version.
        lost: partitions whose object was missing. The partitions have left their manifests, and are stale now.
    """

    removed: int
    size: int
    kept: int
    lost: list[PartitionKey]

    def text(self) -> str:
        """Return the result in words."""
        found = (
            f"{self.removed:,} objects of {self.size / 1e6:,.1f} MB were removed, {self.kept:,} unnamed objects stay"
        )
        if self.lost:
            found += f"; {len(self.lost):,} partitions had lost their objects and are stale now, as {self.lost[0]}"
        return found


def clean(lake: Lake, grace_s: float, now_ns: int, of_versions: Collection[str] = ()) -> Cleaned:
    """Remove the objects that no manifest names, and that nobody reads any more.

    An object stays for the grace period after the last put, because the writer may not have put the manifest yet, and
    for the grace period after a manifest named the object, because readers may hold the manifest. A killed clean-up
    leaves a lake as whole as before; the next clean-up goes on.

    Args:
        grace_s: seconds; longer than any run of a reader or of a writer.
        now_ns: wall time, ns since 1970.
        of_versions: content hashes that model versions name: objects of such rows stay.

    Raises:
        ValueError: a manifest or a receipt is damaged: no object is removed.
        OSError: the lake does not answer, or cannot be written.
    """
    limit_ns = now_ns - int(grace_s * NS)
    listed = {info.path: info for info in lake.objects.infos(OBJECTS)}
    # Read after the listing: a manifest that is put later names objects that are young, see `add_object`.
    states = [lake.product(product_id) for product_id in lake.product_ids()]
    named = {entry.path for state in states for _, entry in _entries(state)} | set(_receipts(lake))
    read = {path for state in states for path, at_ns in state.dropped.items() if at_ns > limit_ns}
    versions = set(of_versions)
    unnamed = [info for path, info in listed.items() if path not in named]
    gone = [
        info
        for info in unnamed
        if info.changed * NS <= limit_ns and info.path not in read and _content_hash(info.path) not in versions
    ]
    removed = [info for info in gone if _remove(lake, info)]
    lake.objects.remove_scratch(grace_s)
    lost = []
    for state in states:
        lost += _repair(lake, state, listed)
        lake.replace(state.product_id, partial(_forget, limit_ns))
    return Cleaned(len(removed), sum(info.size for info in removed), len(unnamed) - len(removed), lost)


def _entries(state: ProductState) -> Iterator[tuple[PartitionKey, Entry]]:
    for table, days in state.tables.items():
        for day, entry in days.items():
            yield PartitionKey(table, state.product_id, day), entry


def _receipts(lake: Lake) -> Iterator[str]:
    """Yield the objects that receipts name."""
    for path in lake.objects.paths(RECEIPTS):
        if (held := lake.objects.get(path)) is not None:
            receipt = msgspec.json.decode(held.content, type=Receipt)
            if receipt.rejects is not None:
                yield receipt.rejects.path


def _content_hash(path: str) -> str:
    return path.rpartition("/")[2][:HASH_CHARACTERS]


def _remove(lake: Lake, info: ObjectInfo) -> bool:
    """Remove an object, unless a writer has put the object again since the listing."""
    present = lake.objects.info(info.path)
    if present is None or present.changed > info.changed:
        return False
    lake.objects.delete(info.path)
    return True


def _repair(lake: Lake, state: ProductState, listed: Collection[str]) -> list[PartitionKey]:
    """Remove the partitions whose object is missing from the manifest of a product."""
    lost = [
        (key, entry)
        for key, entry in _entries(state)
        if entry.path not in listed and lake.objects.info(entry.path) is None
    ]
    if lost:
        # Another writer may have put the partition again: the writer's partition stays.
        changes = [Change(key.table, key.day, None, entry, lambda _: False) for key, entry in lost]
        lake.put(state.product_id, changes)
    return [key for key, _ in lost]


def _forget(limit_ns: int, state: ProductState) -> ProductState:
    """Return a state without the replaced objects that no reader can hold any more."""
    dropped = {path: at_ns for path, at_ns in state.dropped.items() if at_ns > limit_ns}
    return state if dropped == state.dropped else msgspec.structs.replace(state, dropped=dropped)
