"""The lake: one Parquet file per table, product and UTC day, in a folder or on any filesystem that pyarrow knows.

A file is written under a temporary name and renamed when complete, so a reader sees a whole partition or none. Content
hash and notes of a partition are metadata of the same file, so data and metadata can never disagree.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from data.names import check_product_id
from offline.lake.objects import Objects
from offline.lake.parquet import GROUP_ROWS, ContentHash, RowGroups

READ_ROWS = 65_536
"""Rows per batch when a partition is read in batches."""

_TABLE = re.compile(r"[a-z_]+(/[A-Za-z0-9_.~%-]+)*")
_SCHEME = re.compile(r"[a-z][a-z0-9+]+:/")
_DAY_FILE = re.compile(r"\d{4}-\d\d-\d\d\.parquet")
_ENDING = ".parquet"
_HASH, _NOTES = b"content_hash", b"notes"
"""Keys in a file's metadata."""

Notes = TypeVar("Notes")


@dataclass(frozen=True)
class StoredFile:
    """Metadata of one file of the lake.

    Attributes:
        content_hash: hash of all values; batches and encodings do not change the hash.
        notes: JSON of the writer's notes, above all the inputs, see `notes_as`.
    """

    path: str
    rows: int
    content_hash: str
    notes: msgspec.Raw

    def notes_as(self, kind: type[Notes]) -> Notes:
        """Return the notes of the writer; raise ValueError if another release wrote the file."""
        try:
            return msgspec.json.decode(self.notes, type=kind)
        except msgspec.DecodeError as error:
            raise ValueError(
                f"{self.path} was left by another release (its notes: {error}): remove this lake, for one below var/ "
                "with `make reset`, then ingest the recordings again"
            ) from None


@dataclass(frozen=True)
class Partition(StoredFile):
    """One product and UTC day of a table."""

    table: str
    product_id: str
    day: date


class PartitionKey(NamedTuple):
    """Table, product and UTC day: the key, and so the path, of a partition that may exist or not."""

    table: str
    product_id: str
    day: date

    @property
    def path(self) -> str:
        """Return the path below the root; raise ValueError if the table or product name is invalid."""
        if not _TABLE.fullmatch(self.table) or {".", ".."} & set(self.table.split("/")):
            raise ValueError(f"a table must be named like trades or recordings/monday.csv, was {self.table!r}")
        check_product_id(self.product_id)
        return f"{self.table}/{self.product_id}/{self.day.isoformat()}{_ENDING}"


class Lake:
    """Partitions under one root folder; `Lake.open` takes a folder or a URI.

    Attributes:
        objects: the same root, object by object.
    """

    def __init__(self, filesystem: pa.fs.FileSystem, root: str, objects: Objects) -> None:
        self._files, self._root = filesystem, f"{root.rstrip('/')}/" if root else ""
        self.objects = objects

    @classmethod
    def open(cls, uri: str | Path) -> Self:
        """Open a lake; the lake may be empty or not exist yet.

        Args:
            uri: see `Objects.open`.

        Raises:
            ValueError: the URI is of no known store, or holds a key.
        """
        if not _SCHEME.match(str(uri)):
            return cls(pa.fs.LocalFileSystem(), str(Path(uri).absolute()), Objects.open(uri))
        objects = Objects.open(uri)
        filesystem, root = pa.fs.FileSystem.from_uri(str(uri))
        return cls(filesystem, root, objects)

    def partition(self, table: str, product_id: str, day: date) -> Partition | None:
        """Return a partition, read from the file's metadata alone; None if the partition does not exist.

        Raises:
            ValueError: the table or product name is invalid, or the file is damaged.
        """
        key = PartitionKey(table, product_id, day)
        stored = self.stored(key.path)
        return None if stored is None else Partition(**vars(stored), **key._asdict())

    def partitions(self, table: str, product_id: str | None = None) -> list[Partition]:
        """Return all partitions of a table and of its sub-tables, sorted by table, product and day."""
        found = (self.partition(*key) for key in self.partition_keys(table, product_id))
        return [partition for partition in found if partition is not None]

    def partition_keys(self, table: str, product_id: str | None = None) -> list[PartitionKey]:
        """Return the sorted keys of all partitions of a table and of its sub-tables; no file is opened."""
        keys = []
        selector = pa.fs.FileSelector(self._at(table), recursive=True, allow_not_found=True)
        for info in self._files.get_file_info(selector):
            *folders, product, name = info.path[len(self._root) :].split("/")
            if info.is_file and folders and _DAY_FILE.fullmatch(name) and product_id in (None, product):
                keys.append(PartitionKey("/".join(folders), product, date.fromisoformat(name.removesuffix(_ENDING))))
        return sorted(keys)

    def tables(self, table: str) -> list[str]:
        """Return the direct sub-tables of a table."""
        selector = pa.fs.FileSelector(self._at(table), allow_not_found=True)
        found = self._files.get_file_info(selector)
        return sorted(f"{table}/{info.base_name}" for info in found if info.type == pa.fs.FileType.Directory)

    def products(self, table: str) -> list[str]:
        """Return the products with partitions in a table."""
        return sorted({key.product_id for key in self.partition_keys(table)})

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
            notes: a struct, one type for a table; or the `notes` of a stored file.

        Raises:
            OSError: the partition cannot be written, as on a full disk; the old partition stays whole.
        """
        key = PartitionKey(table, product_id, day)
        with self.writing(key.path, schema) as writing:
            for batch in batches:
                writing.write(batch)
            stored = writing.finish(notes)
            writing.publish()
        return Partition(**vars(stored), **key._asdict())

    def read(self, table: str, product_id: str, day: date, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a partition.

        Raises:
            FileNotFoundError: the partition does not exist.
        """
        with self._opened(PartitionKey(table, product_id, day).path) as file:
            return pa.parquet.ParquetFile(file).read(columns)

    def batches(
        self, table: str, product_id: str, day: date, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a partition in batches; memory use does not depend on the number of rows.

        Raises:
            FileNotFoundError: the partition does not exist.
        """
        with self._opened(PartitionKey(table, product_id, day).path) as file:
            yield from pa.parquet.ParquetFile(file).iter_batches(READ_ROWS, columns=columns)

    def delete(self, table: str, product_id: str, day: date) -> None:
        """Remove a partition, and the partial files of killed writers."""
        path = PartitionKey(table, product_id, day).path
        self._delete_parts(path)
        self._files.delete_file(self._at(path))

    def stored(self, path: str) -> StoredFile | None:
        """Return the metadata of a file, without reading rows; None if the file does not exist.

        Args:
            path: relative to the root.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            with self._opened(path) as file:
                metadata = pa.parquet.read_metadata(file)
            content_hash, notes = metadata.metadata[_HASH].decode(), metadata.metadata[_NOTES]
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._at(path)} is no whole file of the lake ({error!r}): delete it, then make the day again, or "
                "ingest the recording again if the file is of a recording"
            ) from None
        return StoredFile(self._at(path), metadata.num_rows, content_hash, msgspec.Raw(notes))

    @contextmanager
    def writing(self, path: str, schema: pa.Schema) -> Iterator[Writing]:
        """Write a file below the root, see `Writing`; a file not published when the block ends is removed."""
        writing = Writing(self, path, schema)
        try:
            yield writing
        finally:
            writing.close()

    def _at(self, path: str) -> str:
        return f"{self._root}{path}"

    def _opened(self, path: str) -> pa.NativeFile:
        return self._files.open_input_file(self._at(path))

    def _delete_parts(self, path: str) -> None:
        """Remove the partial files that killed writers of a file left."""
        folder, _, name = path.rpartition("/")
        selector = pa.fs.FileSelector(self._at(folder), allow_not_found=True)
        for info in self._files.get_file_info(selector):
            if info.base_name.startswith(f".{name}.") and info.base_name.endswith(".part"):
                with suppress(FileNotFoundError):
                    self._files.delete_file(info.path)


class Writing:
    """A file of the lake while being written: `write` as often as needed, then `finish`, then `publish`.

    No reader sees the file before `publish`.
    """

    def __init__(self, lake: Lake, path: str, schema: pa.Schema) -> None:
        self._lake, self._path = lake, path
        folder, _, name = path.rpartition("/")
        self._part = lake._at(f"{folder}/.{name}.{uuid.uuid4().hex}.part")
        self._hash = ContentHash(schema)
        self._stored: StoredFile | None = None
        self._groups: RowGroups | None = None
        self._is_published = False
        with self._explained():
            lake._delete_parts(path)
            lake._files.create_dir(lake._at(folder), recursive=True)
            self._groups = RowGroups(self._part, schema, lake._files)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows.

        Raises:
            OSError: the rows cannot be written.
        """
        assert self._groups is not None
        for first in range(0, len(batch), GROUP_ROWS):
            piece = batch.slice(first, GROUP_ROWS)
            self._hash.update(piece)
            with self._explained():
                self._groups.write(piece)

    def finish(self, notes: object) -> StoredFile:
        """Complete the file with its metadata and notes, see `Lake.write`, and close the file, ready for `publish`.

        Raises:
            OSError: the file cannot be written.
        """
        assert self._groups is not None
        encoded, digest = msgspec.json.encode(notes), self._hash.hexdigest()
        self._stored = StoredFile(self._lake._at(self._path), self._hash.rows, digest, msgspec.Raw(encoded))
        with self._explained():
            self._groups.close({_HASH: digest.encode(), _NOTES: encoded})
        self._groups = None
        return self._stored

    def publish(self) -> bool:
        """Rename the finished file to its final name.

        Returns:
            False, and the old file is kept, if content and notes are equal.

        Raises:
            OSError: the file cannot be renamed.
            FileNotFoundError: another process wrote the same file meanwhile.
        """
        assert self._groups is None
        lake = self._lake
        with suppress(ValueError):  # a damaged old file is replaced
            if lake.stored(self._path) == self._stored:
                return False
        try:
            with self._explained():
                lake._files.move(self._part, lake._at(self._path))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{lake._at(self._path)}: another process wrote it meanwhile: run one process at a time, and this again"
            ) from None
        self._is_published = True
        return True

    def close(self) -> None:
        """Remove the file if not published."""
        if self._groups is not None:
            self._groups.abandon()
            self._groups = None
        if not self._is_published:
            with suppress(FileNotFoundError):
                self._lake._files.delete_file(self._part)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            self.close()
            raise OSError(
                error.errno or 0,
                f"{self._lake._at(self._path)} cannot be written ({error}): make room, or choose another LAKE_URI, "
                "then run it again; what was there before is whole",
            ) from error
