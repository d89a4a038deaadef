"""Rows of the lake while being written: into a local file first, then as an object named by the hash of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from offline.lake.objects import Objects, not_written
from offline.lake.parquet import GROUP_ROWS, ContentHash, RowGroups
from offline.lake.state import Entry

_NO_METADATA = (b"ARROW:schema", b"content_hash", b"notes")
"""Metadata of a file that are not of the schema: of the format, and of lakes without manifests."""


class Writing:
    """Rows while being written: `write` as often as needed, then `finish`. No manifest names the object yet."""

    def __init__(self, objects: Objects, file: Path, schema: pa.Schema, name: str) -> None:
        self._objects, self._file, self._schema, self._name = objects, file, schema, name
        self._hash = ContentHash(schema)
        self._groups: RowGroups | None = None
        with self._explained():
            self._groups = RowGroups(str(file), schema)

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

    def finish(self) -> Entry:
        """Put the object, and return an entry for a manifest, without notes.

        Raises:
            OSError: the object cannot be written.
        """
        assert self._groups is not None
        with self._explained():
            self._groups.close()
            self._groups = None
        entry = Entry(self._hash.rows, self._hash.hexdigest(), schema_hash(self._schema.metadata))
        self._objects.add(entry.path, self._file)  # an object that is there already has the same rows
        return entry

    def close(self) -> None:
        """Close the local file, if the rows are not finished."""
        if self._groups is not None:
            self._groups.abandon()
            self._groups = None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            raise OSError(error.errno or 0, not_written(self._name, error)) from error


def schema_hash(metadata: Mapping[bytes, bytes] | None) -> str:
    """Return the hash of the metadata of a schema; empty without metadata.

    >>> schema_hash({b"spec_id": b"3f"})
    '214a1eacc72bc8ab'
    """
    found = sorted((name, value) for name, value in (metadata or {}).items() if name not in _NO_METADATA)
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16] if found else ""
