"""Take over a lake of an earlier release, whose partitions were files without manifests.

Each file becomes an object and an entry of a manifest, with the notes that the file held. The files are removed after
all manifests and receipts are there. A killed take-over leaves files and objects; the next take-over goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet
from msgspec import Raw

from offline.lake.objects import ANY, Objects
from offline.lake.state import RECEIPTS, Change, Entry, PartitionKey, Receipt
from offline.lake.store import Lake, old_files
from offline.lake.writing import schema_hash

_HASH, _NOTES = b"content_hash", b"notes"
"""Keys in the metadata of a file."""
_ENDING = ".parquet"


class TakenOver(NamedTuple):
    """Result of a take-over.

    Attributes:
        partitions, recordings: numbers of taken files: of partitions, and of rejects.
    """

    partitions: int
    recordings: int


class _RecordingNotes(msgspec.Struct):
    """The part of the notes of a recording that names the products."""

    days: list[tuple[str, date, int, str]] = []


def take_over(objects: Objects, report: Callable[[str], None] = lambda _: None) -> TakenOver:
    """Turn the files of an earlier release into objects and manifests; return what was taken, nothing if there is none.

    No other process may write to the lake meanwhile.

    Args:
        report: gets a line for each product.

    Raises:
        ValueError: a file is damaged. Products before it are taken over, and no file is removed.
        OSError: the lake cannot be read or written.
    """
    lake = Lake(objects, is_checked=True)
    paths = old_files(objects)
    rejects = [path for path in paths if path.startswith(f"{RECEIPTS}/")]
    by_product: dict[str, list[str]] = {}
    for path in sorted(set(paths) - set(rejects)):
        by_product.setdefault(_key(path).product_id, []).append(path)
    for product_id, mine in sorted(by_product.items()):
        changes = [Change(*_key(path)[::2], _taken(objects, path), None) for path in mine]
        lake.put(product_id, changes)
        report(f"{product_id}: {len(mine):,} partitions")
    for path in rejects:
        entry = _taken(objects, path)
        days = msgspec.json.decode(entry.notes, type=_RecordingNotes).days
        receipt = Receipt(products=sorted({product_id for product_id, *_ in days}), rejects=entry)
        objects.put(f"{path.removesuffix(_ENDING)}.json", msgspec.json.encode(receipt), ANY)
    for path in paths:
        objects.delete(path)
    _remove_empty_folders(objects, {path.partition("/")[0] for path in paths})
    return TakenOver(len(paths) - len(rejects), len(rejects))


def _key(path: str) -> PartitionKey:
    """Return the key of a file.

    >>> _key("recordings/a.csv/BTC-USD/2025-01-06.parquet")
    PartitionKey(table='recordings/a.csv', product_id='BTC-USD', day=datetime.date(2025, 1, 6))
    """
    table, product_id, name = path.rsplit("/", 2)
    return PartitionKey(table, product_id, date.fromisoformat(name.removesuffix(_ENDING)))


def _taken(objects: Objects, path: str) -> Entry:
    """Copy a file to an object, unless the object is there already, and return the object's entry."""
    try:
        with objects.opened(path) as file:
            read = pa.parquet.read_metadata(file)
        metadata = dict(read.metadata)
        content_hash, notes = metadata[_HASH].decode(), metadata[_NOTES]
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(
            f"{objects.where(path)} is no whole file of the lake ({error!r}): delete it, take the lake over again, and "
            "then make the day again, or ingest the recording again"
        ) from None
    entry = Entry(read.num_rows, content_hash, schema_hash(metadata), Raw(notes))
    objects.copy(path, entry.path)
    return entry


def _remove_empty_folders(objects: Objects, tables: Iterable[str]) -> None:
    """Remove the folders of the files; an object store has no folders."""
    for table in tables:
        for folder, _, _ in os.walk(objects.where(table), topdown=False):
            with suppress(OSError):  # not empty
                Path(folder).rmdir()
