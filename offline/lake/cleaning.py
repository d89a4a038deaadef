"""Remove the objects of the lake that no manifest names any more.

An object is removed in two steps, at least a grace period apart. The first clean-up moves the object aside, to a path
that is used once; a later clean-up deletes the object there, or puts the object back if a manifest names it by then.
Readers find the object in both places. So no named object is lost, though a writer may take up an object, whose rows
are equal to its own, between a look of the clean-up and the move. The grace period must be longer than the runs of a
writer, or of a reader, and of a clean-up together. Then:

1. A writer finds an object in place at time t, or puts the object. The manifest names the object before t + its run.
2. A clean-up moves the object aside after t: a delete takes an object away only after its copy is there. The copy is
   deleted only if it is older than the grace period, and if manifests that are read afterwards do not name the object.
   By then the manifest of 1 is there: the object is named, and comes back.
3. Each copy has a path of its own, which is used once. So a copy that one clean-up has listed as old is no young copy
   of another clean-up, however many go on at a time.
4. An object that a manifest named before counts as named for the grace period after: readers may hold the manifest.

The ages of objects are those of the store's clock, see `store_time_ns`. Writers note by their own clocks when manifests
have dropped objects: these clocks may be wrong by less than the rest of the grace period.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from data.times import NS
from offline.lake.objects import ANY, ObjectInfo, Objects
from offline.lake.state import (
    OBJECTS,
    RECEIPTS,
    REMOVED,
    Change,
    Entry,
    PartitionKey,
    ProductState,
    Receipt,
    removed_folder,
)
from offline.lake.store import Lake

HASH_CHARACTERS = 64
_CLOCK = "clock"
"""Object that is put to learn the time."""


class Cleaned(NamedTuple):
    """Result of a clean-up.

    Attributes:
        removed, size: number and bytes of the objects that are gone for good.
        aside: number of objects that were moved aside; a clean-up after the grace period removes them.
        kept: number of objects that no manifest names, and that stay: young, replaced lately, or of a model version.
        restored: number of objects that were put back, because a manifest names the objects.
        lost: partitions whose object was missing. The partitions have left their manifests, and are stale now.
    """

    removed: int
    size: int
    aside: int
    kept: int
    restored: int
    lost: list[PartitionKey]

    def text(self) -> str:
        """Return the result in words."""
        found = (
            f"{self.removed:,} objects of {self.size / 1e6:,.1f} MB were removed, {self.aside:,} moved aside to be "
            f"removed after the grace period, {self.kept:,} unnamed objects stay"
        )
        if self.restored:
            found += f"; {self.restored:,} objects were put back, because a manifest names them"
        if self.lost:
            found += f"; {len(self.lost):,} partitions had lost their objects and are stale now, as {self.lost[0]}"
        return found


class _Use(NamedTuple):
    """Objects in use.

    Attributes:
        named: by manifests and receipts.
        read: named before, within the grace period.
        versions: content hashes that model versions name.
    """

    named: set[str]
    read: set[str]
    versions: Collection[str]

    def has(self, path: str) -> bool:
        return path in self.named or path in self.read or _content_hash(path) in self.versions


def clean(lake: Lake, grace_s: float, now_ns: int, of_versions: Collection[str] = ()) -> Cleaned:
    """Move the objects aside that no manifest names, and remove those that were moved aside a grace period ago.

    An object stays for the grace period after its put, because the writer may not have put the manifest yet, and for
    the grace period after a manifest named the object, because readers may hold the manifest. A killed clean-up leaves
    a lake as whole as before; the next clean-up goes on.

    Args:
        grace_s: seconds; longer than any run of a reader or of a writer, and of a clean-up, together.
        now_ns: time of the store's clock, see `store_time_ns`.
        of_versions: content hashes that model versions name: objects of such rows stay.

    Raises:
        ValueError: a manifest or a receipt is damaged: no object is removed.
        OSError: the lake does not answer, or cannot be written.
    """
    limit_ns = now_ns - int(grace_s * NS)
    copies = lake.objects.infos(REMOVED)
    listed = {info.path: info for info in lake.objects.infos(OBJECTS)}
    states, use = _in_use(lake, limit_ns, of_versions)  # after the listings
    unnamed = [info for path, info in listed.items() if path not in use.named]
    gone = [info.path for info in unnamed if _is_old(info, limit_ns) and not use.has(info.path)]
    moved = [path for path in gone if lake.objects.move(path, f"{removed_folder(path)}/{uuid.uuid4().hex}")]
    if moved:  # a writer may have put a manifest since, and readers should not need the copies for long
        states, use = _in_use(lake, limit_ns, of_versions)
    places = {place for place in (*moved, *(_place(copy) for copy in copies)) if use.has(place)}
    restored = [place for place in sorted(places) if _restore(lake.objects, place)]
    old = [copy for copy in copies if _is_old(copy, limit_ns) and _place(copy) not in restored]
    for copy in old:
        lake.objects.delete(copy.path)
    lake.objects.remove_scratch(grace_s)
    lost = []
    for state in states:
        lost += _repair(lake, state, listed)
        lake.replace(state.product_id, partial(_forget, limit_ns))
    size = sum(copy.size for copy in old)
    return Cleaned(len(old), size, len(moved), len(unnamed) - len(moved), len(restored), lost)


def store_time_ns(objects: Objects) -> int:
    """Return the time of the store's clock, ns since 1970; an object is put for the purpose."""
    objects.put(_CLOCK, b"", ANY)
    info = objects.info(_CLOCK)
    assert info is not None
    return int(info.changed * NS)


def _in_use(lake: Lake, limit_ns: int, of_versions: Collection[str]) -> tuple[list[ProductState], _Use]:
    """Return the states of all products, and the objects in use."""
    states = [lake.product(product_id) for product_id in lake.product_ids()]
    named = {entry.path for state in states for _, entry in _entries(state)} | set(_receipts(lake))
    read = {path for state in states for path, at_ns in state.dropped.items() if at_ns > limit_ns}
    return states, _Use(named, read, set(of_versions))


def _entries(state: ProductState) -> Iterator[tuple[PartitionKey, Entry]]:
    for table, days in state.tables.items():
        for day, entry in days.items():
            yield PartitionKey(table, state.product_id, day), entry


def _receipts(lake: Lake) -> Iterator[str]:
    """Yield the objects that receipts name."""
    for path in lake.objects.paths(RECEIPTS):
        if (held := lake.objects.get(path)) is not None:
            receipt = msgspec.json.decode(held.content, type=Receipt)
            yield from (each.path for each in receipt.objects)


def _content_hash(path: str) -> str:
    return path.rpartition("/")[2][:HASH_CHARACTERS]


def _is_old(info: ObjectInfo, limit_ns: int) -> bool:
    return info.changed * NS <= limit_ns


def _place(copy: ObjectInfo) -> str:
    """Return the path that an object had before it was moved aside."""
    return copy.path.removeprefix(f"{REMOVED}/").rpartition("/")[0]


def _restore(objects: Objects, path: str) -> bool:
    """Put an object back from one of its copies, which stay; return False if the object is in place."""
    if objects.info(path) is not None:
        return False
    for copy in objects.paths(removed_folder(path)):
        try:
            objects.copy(copy, path)
        except FileNotFoundError:  # another clean-up has removed the copy
            continue
        return True
    return False


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
