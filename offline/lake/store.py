"""The lake: tables of partitions, one a product and UTC day, in a folder or in an object store.

The rows of a partition are an object that never changes. The manifest of a product names the objects of all partitions
of the product, with notes, and is replaced by a put with a condition. So a reader sees the partitions of one time, and
of two writers none loses the partitions of the other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.parquet
import structlog

from data.names import check_product_id
from offline.lake.objects import Changed, Held, Objects
from offline.lake.parquet import READ_ROWS
from offline.lake.state import (
    MANIFESTS,
    OBJECTS,
    Change,
    Entry,
    Partition,
    PartitionKey,
    ProductState,
    changed,
    manifest_of,
    object_path,
    removed_folder,
    state_of,
)
from offline.lake.writing import Writing, schema_hash

log = structlog.get_logger(__name__)

TRIES = 100
"""Puts of a manifest, before a writer gives way to other writers."""
OLD_FILES = {
    table: re.compile(rf"{table}/{below}.parquet")
    for table, below in {
        **dict.fromkeys(("trades", "feature_rows", "training_set", "certificates"), r"[^/]+/\d{4}-\d\d-\d\d"),
        "recordings": r"[^/]+/[^/]+/\d{4}-\d\d-\d\d",
        "rejects": r"[^/]+",
    }.items()
}
"""Folders and paths of the files of lakes without manifests."""


class Lake:
    """Partitions under one root; `Lake.open` takes a folder or a URI. Each call sees the newest state of a product."""

    def __init__(self, objects: Objects, *, is_checked: bool = False) -> None:
        self.objects = objects
        self._is_checked = is_checked  # whether files of a lake without manifests were looked for
        self._decoded: dict[str, tuple[str, ProductState]] = {}

    @classmethod
    def open(cls, uri: str | Path) -> Self:
        """Open a lake; the lake may be empty or not exist yet.

        Args:
            uri: a folder, or a URI as of `Objects.open`, as `file:///srv/lake` or `s3://bucket/lake`.

        Raises:
            ValueError: the URI is of no known store, or holds a key.
        """
        return cls(Objects.open(uri))

    def product(self, product_id: str) -> ProductState:
        """Return the state of a product; the state is empty if the lake does not have the product.

        Raises:
            ValueError: the product's name is invalid, the manifest is damaged, or the lake is of another release.
        """
        check_product_id(product_id)
        return self._present(product_id)[1]

    def product_ids(self) -> list[str]:
        """Return all products with a manifest, sorted."""
        self._check_format()
        names = (path.removeprefix(f"{MANIFESTS}/") for path in self.objects.paths(MANIFESTS))
        return sorted(name.removesuffix(".json") for name in names)

    def held(self) -> HeldLake:
        """Return the lake as of now: the state of a product is read once, and kept."""
        return HeldLake(self)

    @contextmanager
    def batch(self, *, in_part: bool = False) -> Iterator[HeldLake]:
        """Gather changes in one state, and put each changed manifest once as the block ends.

        Args:
            in_part: after an error, too, put the changes before the error; by default none is put.
        """
        held = self.held()
        try:
            yield held
        except BaseException:
            if in_part:
                held.publish()
            raise
        held.publish()

    def partition(self, table: str, product_id: str, day: date) -> Partition | None:
        """Return a partition without its rows; None if the partition does not exist.

        Raises:
            ValueError: the table or product name is invalid, or the manifest is damaged.
        """
        key = PartitionKey(table, product_id, day).checked()
        entry = self.product(product_id).entry(table, day)
        return None if entry is None else self._partition(key, entry)

    def partitions(self, table: str, product_id: str | None = None) -> list[Partition]:
        """Return all partitions of a table and of its sub-tables, sorted by table, product and day."""
        found = [
            self._partition(PartitionKey(name, state.product_id, day), entry)
            for state in self._states(product_id)
            for name in state.sub_tables(table)
            for day, entry in state.tables[name].items()
        ]
        return sorted(found, key=lambda each: (each.table, each.product_id, each.day))

    def partition_keys(self, table: str, product_id: str | None = None) -> list[PartitionKey]:
        """Return the sorted keys of all partitions of a table and of its sub-tables."""
        return [PartitionKey(each.table, each.product_id, each.day) for each in self.partitions(table, product_id)]

    def partitions_on(self, table: str, product_id: str, day: date) -> list[Partition]:
        """Return the partitions of a product and day in the direct sub-tables of a table, sorted by sub-table."""
        found = self.product(product_id).on(table, day)
        return [self._partition(PartitionKey(name, product_id, day), entry) for name, entry in found.items()]

    def tables(self, table: str) -> list[str]:
        """Return the sub-tables of a table."""
        names = {name for state in self._states() for name in state.sub_tables(table)}
        return sorted(names - {table})

    def products(self, table: str) -> list[str]:
        """Return the products with partitions in a table or in its sub-tables."""
        return sorted(state.product_id for state in self._states() if state.sub_tables(table))

    def write(
        self,
        table: str,
        product_id: str,
        day: date,
        batches: Iterable[pa.RecordBatch],
        schema: pa.Schema,
        notes: object,
    ) -> Partition:
        """Write a whole partition, or nothing; an old partition of the same key is replaced.

        Args:
            notes: a struct, one type for a table.

        Raises:
            OSError: the partition cannot be written, as on a full disk; the old partition stays whole.
        """
        key = PartitionKey(table, product_id, day)
        with self.writing(key, schema) as writing:
            for batch in batches:
                writing.write(batch)
            entry = writing.finish()
        return self.record(key, entry, notes)

    @contextmanager
    def writing(self, name: PartitionKey | str, schema: pa.Schema) -> Iterator[Writing]:
        """Write the rows of an object, see `Writing`; `record` then makes the object a partition.

        Args:
            name: of the rows, for errors.

        Raises:
            ValueError: the table or product name is invalid.
        """
        text = str(name.checked() if isinstance(name, PartitionKey) else name)
        with self.objects.scratch() as file:
            writing = Writing(self.objects, file, schema, text)
            try:
                yield writing
            finally:
                writing.close()

    def record(
        self,
        key: PartitionKey,
        entry: Entry,
        notes: object,
        is_current: Callable[[ProductState], bool] | None = None,
    ) -> Partition:
        """Name an object in the manifest of a product, as a partition with notes.

        Args:
            entry: as of `Writing.finish`.
            is_current: see `Change`.

        Raises:
            OSError: the manifest cannot be written; the old manifest stays whole.
        """
        entry = msgspec.structs.replace(entry, notes=msgspec.Raw(msgspec.json.encode(notes)))
        self._change(key, entry, is_current)
        return self._partition(key, entry)

    def delete(
        self, table: str, product_id: str, day: date, is_current: Callable[[ProductState], bool] | None = None
    ) -> None:
        """Remove a partition; a missing partition is no error. The object stays until the clean-up."""
        self._change(PartitionKey(table, product_id, day).checked(), None, is_current)

    def read(self, table: str, product_id: str, day: date, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a partition.

        Raises:
            FileNotFoundError: the partition does not exist.
            ValueError: the object is damaged.
        """
        with self._rows(PartitionKey(table, product_id, day)) as file:
            return file.read(columns)

    def batches(
        self, table: str, product_id: str, day: date, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a partition in batches; memory use does not depend on the number of rows.

        Raises:
            FileNotFoundError: the partition does not exist.
            ValueError: the object is damaged.
        """
        with self._rows(PartitionKey(table, product_id, day)) as file:
            yield from file.iter_batches(READ_ROWS, columns=columns)

    def read_object(
        self, content_hash: str, metadata: Mapping[bytes, bytes] | None, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """Return rows by their hash, also if no partition has these rows any more; None if the rows are gone.

        Args:
            metadata: of the schema of the rows.
        """
        path = object_path(content_hash, schema_hash(metadata))
        try:
            with self._opened(path) as file:
                return file.read(columns)
        except FileNotFoundError:
            return None

    def _states(self, product_id: str | None = None) -> Iterator[ProductState]:
        for each in self.product_ids() if product_id is None else [product_id]:
            yield self.product(each)

    def _partition(self, key: PartitionKey, entry: Entry) -> Partition:
        return Partition(*key, self.objects.where(entry.path), entry.rows, entry.content_hash, entry.notes)

    def _change(
        self, key: PartitionKey, entry: Entry | None, is_current: Callable[[ProductState], bool] | None
    ) -> None:
        before = self.product(key.product_id).entry(key.table, key.day)
        self.put(key.product_id, [Change(key.table, key.day, entry, before, is_current)])

    def put(self, product_id: str, changes: Sequence[Change]) -> ProductState:
        """Put the manifest of a product with some changes, and return the new state.

        A change that the new state refuses (see `changed`) is logged; the partition then stays stale.

        Raises:
            OSError, Changed: see `replace`.
        """
        refused: list[Change] = []

        def remade(state: ProductState) -> ProductState:
            new, refused[:] = changed(state, changes, time.time_ns())
            return new

        new = self.replace(product_id, remade)
        for each in refused:
            log.warning("another process has changed the partition and its inputs meanwhile: its partition stays",
                        table=each.table, product_id=product_id, day=str(each.day))  # fmt: skip
        return new

    def replace(self, product_id: str, remade: Callable[[ProductState], ProductState]) -> ProductState:
        """Put the manifest of a product, and return the new state; nothing is put if the state is the same.

        Args:
            remade: returns the new state for the present state. If another writer puts the manifest meanwhile, the
                function is asked again, with the state of the other writer.

        Raises:
            OSError: the manifest cannot be written; the old manifest stays whole.
            Changed: other writers were faster each time.
        """
        for _ in range(TRIES):
            held, state = self._present(product_id)
            new = remade(state)
            if new is state:
                return state
            try:
                version = self.objects.put(manifest_path(product_id), manifest_of(new), held and held.version)
            except Changed as error:
                faster = error
                continue
            self._decoded[product_id] = version, new
            return new
        raise faster

    def _present(self, product_id: str) -> tuple[Held | None, ProductState]:
        self._check_format()
        held = self.objects.get(manifest_path(product_id))
        if held is None:
            return None, ProductState(product_id=product_id)
        version, state = self._decoded.get(product_id, ("", None))
        if state is None or version != held.version:
            try:
                state = state_of(held.content)
            except ValueError as error:
                where = self.objects.where(manifest_path(product_id))
                raise ValueError(
                    f"{where} is no manifest of the lake ({error}): remove it, then ingest the recordings of the "
                    "product again"
                ) from None
            self._decoded[product_id] = held.version, state
        return held, state

    def _check_format(self) -> None:
        """Refuse a lake that has tables without manifests."""
        if self._is_checked:
            return
        if old_files(self.objects):
            raise ValueError(
                f"the lake of {self.objects.where(OBJECTS)} is of an earlier release: take it over by "
                "`python -m offline.lake`, which can be stopped and run again"
            )
        self._is_checked = True

    @contextmanager
    def _rows(self, key: PartitionKey) -> Iterator[pa.parquet.ParquetFile]:
        entry = self.product(key.checked().product_id).entry(key.table, key.day)
        if entry is None:
            raise FileNotFoundError(f"the lake has no {key.table} of {key.product_id} on {key.day} (UTC)")
        with self._opened(entry.path) as file:
            yield file

    @contextmanager
    def _opened(self, path: str) -> Iterator[pa.parquet.ParquetFile]:
        with self._file(path) as file:
            try:
                opened = pa.parquet.ParquetFile(file)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"{self.objects.where(path)} is no whole object of the lake ({error}): delete it, run "
                    "`python -m offline.cleaning`, then make the day again, or ingest the recording again"
                ) from None
            yield opened

    def _file(self, path: str) -> pa.NativeFile:
        """Open an object, also if a clean-up has just taken the object away, see `offline.lake.cleaning`."""
        try:
            return self.objects.opened(path)
        except FileNotFoundError:
            for removed in self.objects.paths(removed_folder(path)):
                with suppress(FileNotFoundError):
                    return self.objects.opened(removed)
            raise


class HeldLake(Lake):
    """A lake at one time: each product's state is read once. Changes are seen here, and elsewhere after `publish`."""

    def __init__(self, lake: Lake) -> None:
        super().__init__(lake.objects, is_checked=True)
        self._lake = lake
        self._product_ids: list[str] | None = None
        self._states_held: dict[str, ProductState] = {}
        self._changes: dict[str, list[Change]] = {}

    def product(self, product_id: str) -> ProductState:
        if product_id not in self._states_held:
            self._states_held[product_id] = self._lake.product(product_id)
        return self._states_held[product_id]

    def product_ids(self) -> list[str]:
        if self._product_ids is None:
            self._product_ids = self._lake.product_ids()
        return sorted({*self._product_ids, *self._changes})

    def held(self) -> HeldLake:
        return self

    @contextmanager
    def batch(self, *, in_part: bool = False) -> Iterator[HeldLake]:  # noqa: ARG002 - the outer batch decides
        """Add the changes of the block to those of the outer batch, whose end publishes them."""
        yield self

    def put(self, product_id: str, changes: Sequence[Change]) -> ProductState:
        """Change the held state; the manifest is put by `publish`."""
        self._states_held[product_id], _ = changed(self.product(product_id), changes, time.time_ns())
        self._changes.setdefault(product_id, []).extend(changes)
        return self._states_held[product_id]

    def publish(self) -> None:
        """Put the manifest of each changed product, and hold the new states; errors as in `Lake.put`."""
        for product_id in sorted(self._changes):
            self._states_held[product_id] = self._lake.put(product_id, self._changes[product_id])
            del self._changes[product_id]


def old_files(objects: Objects) -> list[str]:
    """Return the paths of all files of a lake without manifests."""
    return [path for folder, known in OLD_FILES.items() for path in objects.paths(folder) if known.fullmatch(path)]


def manifest_path(product_id: str) -> str:
    """Return the path of a product's manifest below the root of a lake."""
    return f"{MANIFESTS}/{product_id}.json"
