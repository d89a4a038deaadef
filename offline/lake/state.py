"""The state of a product in the lake: all partitions of all tables, in one manifest.

A state never changes. A writer makes a new state from the state that the writer has read, and from changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import cached_property
from typing import NamedTuple, TypeVar

import msgspec
import pyarrow as pa
from msgspec import Raw, Struct

from data.names import check_product_id

FORMAT = 2
"""Raise this number when a manifest gets another meaning. The lakes of format 1 had no manifests."""
MANIFESTS = "manifests"
"""Folder of the manifests below the root of a lake."""

OBJECTS = "objects"
"""Folder of the objects below the root of a lake."""
RECEIPTS = "rejects"
"""Folder of the receipts of recordings below the root of a lake."""

REMOVED = "removed"
"""Folder of the objects that the clean-up has taken away, and that can come back."""

COMPRESSED_FROM = 1 << 16
"""Length of the manifests that are compressed, bytes. A product of 3 years has 1.8 MB of JSON, which become 0.35 MB."""
_ZSTD = b"\x28\xb5\x2f\xfd"
"""Beginning of what is compressed by zstd; JSON begins with a brace."""

_TABLE = re.compile(r"[a-z_]+(/[A-Za-z0-9_.~%-]+)*")

Notes = TypeVar("Notes")


class PartitionKey(NamedTuple):
    """Table, product and UTC day: the key of a partition that may exist or not."""

    table: str
    product_id: str
    day: date

    def __str__(self) -> str:
        return f"{self.table}/{self.product_id}/{self.day.isoformat()}"

    def checked(self) -> PartitionKey:
        """Return the key; raise ValueError if the table or product name is invalid."""
        if not _TABLE.fullmatch(self.table) or {".", ".."} & set(self.table.split("/")):
            raise ValueError(f"a table must be named like trades or recordings/monday.csv, was {self.table!r}")
        check_product_id(self.product_id)
        return self


class Entry(Struct, frozen=True, omit_defaults=True):
    """Rows of the lake in a manifest.

    Attributes:
        rows: number of rows.
        content_hash: hash of all values; batches and encodings do not change the hash.
        schema_hash: hash of the metadata of the schema; empty without metadata.
        notes: JSON of the writer's notes, above all the inputs, see `notes_as`.
    """

    rows: int
    content_hash: str
    schema_hash: str = ""
    notes: Raw = Raw(b"null")

    @property
    def path(self) -> str:
        """Return the path of the object with the rows, below the root of the lake."""
        return object_path(self.content_hash, self.schema_hash)


class Receipt(Struct, frozen=True, kw_only=True):
    """The object that counts a recording as taken; the object is put last, after the manifests of all products.

    Attributes:
        products: with partitions of the recording, also of a former version that was not removed.
        rejects: the rejected rows, with the notes of the recording; None while the recording is being staged.
        refused: the rejected rows of newer content that was not taken, with notes.
    """

    products: list[str]
    rejects: Entry | None = None
    refused: Entry | None = None

    @property
    def objects(self) -> list[Entry]:
        """Return the kept rejects."""
        return [each for each in (self.rejects, self.refused) if each is not None]


class Partition(Struct, frozen=True):
    """One product and UTC day of a table.

    Attributes:
        path: of the object with the rows, with the root of the lake.
        rows, content_hash, notes: see `Entry`.
    """

    table: str
    product_id: str
    day: date
    path: str
    rows: int
    content_hash: str
    notes: Raw

    def notes_as(self, kind: type[Notes]) -> Notes:
        """Return the notes of the writer; raise ValueError if another release wrote the partition."""
        return decoded_notes(self.notes, kind, f"{self.table} of {self.product_id} on {self.day}")


def decoded_notes(notes: Raw, kind: type[Notes], name: str) -> Notes:
    """Return notes as a struct; raise ValueError if another release wrote the notes."""
    try:
        return msgspec.json.decode(notes, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{name} was left by another release (its notes: {error}): remove this lake, for one below var/ "
            "with `make reset`, then ingest the recordings again"
        ) from None


class ProductState(Struct, frozen=True, dict=True, kw_only=True):
    """All partitions of a product at one time.

    Attributes:
        tables: the partitions by table and day.
        dropped: objects that partitions named before, and when they were replaced, ns since 1970.
    """

    format: int = FORMAT
    product_id: str
    tables: dict[str, dict[date, Entry]] = {}
    dropped: dict[str, int] = {}

    def entry(self, table: str, day: date) -> Entry | None:
        """Return the partition of a table and day; None if the partition does not exist."""
        days = self.tables.get(table)
        return None if days is None else days.get(day)

    def sub_tables(self, table: str) -> list[str]:
        """Return the names of a table and of its sub-tables that have partitions, sorted."""
        return sorted(name for name in self.tables if name == table or name.startswith(f"{table}/"))

    def on(self, table: str, day: date) -> Mapping[str, Entry]:
        """Return the partitions of a day in the sub-tables of a table, by sub-table, sorted."""
        return self._by_day.get((table, day), {})

    @cached_property
    def _by_day(self) -> dict[tuple[str, date], dict[str, Entry]]:
        """Partitions of sub-tables by table and day, so that a day's look does not ask every recording."""
        found: dict[tuple[str, date], dict[str, Entry]] = {}
        for name in sorted(self.tables):
            table, slash, _ = name.rpartition("/")
            if slash:
                for day, entry in self.tables[name].items():
                    found.setdefault((table, day), {})[name] = entry
        return found


class Change(NamedTuple):
    """A new partition, or the end of a partition.

    Attributes:
        entry: None removes the partition.
        before: the partition that the writer saw.
        is_current: returns whether the new partition fits to another state of the product. None: to any state.
    """

    table: str
    day: date
    entry: Entry | None
    before: Entry | None
    is_current: Callable[[ProductState], bool] | None = None


def changed(state: ProductState, changes: Iterable[Change], now_ns: int) -> tuple[ProductState, list[Change]]:
    """Return a state with some changes, and the changes that the state refuses.

    A partition that another writer has changed meanwhile is replaced only if the own inputs are those of the state.
    """
    refused: list[Change] = []
    tables, own, dropped = dict(state.tables), set[str](), dict(state.dropped)
    for change in changes:
        table, day, entry, before, is_current = change
        present = tables.get(table, {}).get(day)
        if present == entry:
            continue
        if present != before and is_current is not None:
            now = ProductState(product_id=state.product_id, tables=tables)
            if not is_current(now):
                refused.append(change)
                continue
        if table not in own:
            tables[table] = dict(tables.get(table, {}))
            own.add(table)
        if present is not None:
            dropped[present.path] = now_ns
        if entry is None:
            del tables[table][day]
        else:
            tables[table][day] = entry
    if not own:
        return state, refused
    tables = {name: days for name, days in tables.items() if days}
    return ProductState(product_id=state.product_id, tables=tables, dropped=dropped), refused


def manifest_of(state: ProductState) -> bytes:
    """Return the manifest of a state: JSON, compressed by zstd if it is long, as that of a product over years."""
    text = msgspec.json.encode(state)
    if len(text) < COMPRESSED_FROM:
        return text
    return bytes(pa.Codec("zstd", compression_level=1).compress(text, asbytes=True))


def state_of(manifest: bytes) -> ProductState:
    """Return the state of a manifest.

    Raises:
        ValueError: the manifest is damaged, or of another format.
    """
    if manifest.startswith(_ZSTD):
        try:
            with pa.input_stream(pa.py_buffer(manifest), compression="zstd") as file:
                manifest = file.read()
        except OSError as error:
            raise ValueError(str(error)) from None
    state = msgspec.json.decode(manifest, type=ProductState)  # msgspec's errors are ValueErrors
    if state.format != FORMAT:
        raise ValueError(f"its format is {state.format}, this release reads {FORMAT}")
    return state


def object_path(content_hash: str, schema_hash: str) -> str:
    """Return the path of an object below the root of a lake.

    >>> object_path("ab12", ""), object_path("ab12", "0f")
    ('objects/ab/ab12.parquet', 'objects/ab/ab12-0f.parquet')
    """
    ending = f"-{schema_hash}" if schema_hash else ""
    return f"{OBJECTS}/{content_hash[:2]}/{content_hash}{ending}.parquet"


def removed_folder(path: str) -> str:
    """Return the folder of an object that the clean-up has taken away, once or several times.

    >>> removed_folder("objects/ab/ab12.parquet")
    'removed/objects/ab/ab12.parquet'
    """
    return f"{REMOVED}/{path}"
