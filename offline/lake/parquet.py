"""Parquet row groups, and hashes of column values that do not depend on the encoding."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from data.arrow import is_present, is_text

GROUP_ROWS = 131_072
"""Rows per row group: a few MB, so that readers can skip groups and memory use stays small."""
GROUP_BYTES = 33_554_432
"""Bytes in memory beyond which a row group has fewer rows: a row may be as long as a rejected record."""
READ_ROWS = 65_536
"""Rows per batch when a file is read in batches."""


class RowGroups:
    """Writer of rows to a Parquet file, one row group at a time.

    Args:
        file: an open file; or a path, which the writer opens and closes.
    """

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._writer = pa.parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
            # Integers and times change little from row to row: a quarter less to write.
            column_encoding={
                field.name: "DELTA_BINARY_PACKED"
                for field in schema
                if pa.types.is_int64(field.type) or pa.types.is_timestamp(field.type)
            },
        )
        self._waiting: list[pa.RecordBatch] = []
        self._count = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        self._count += len(batch)
        self._bytes += batch.nbytes
        if self._count >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the waiting rows as a row group."""
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting), GROUP_ROWS)
        self._waiting = []
        self._count = self._bytes = 0

    def close(self) -> None:
        """Write the waiting rows and the end of the file."""
        self.flush()
        self._writer.close()

    def abandon(self) -> None:
        """Stop writing, if the file is still open: the file is not wanted, or cannot be written."""
        self._waiting = []
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        if self._writer.is_open:
            self._writer.is_open = False  # or the writer would try again when garbage-collected
            self.abandon()  # closes the file alone


class ContentHash:
    """Hash of the values of a table; batches and encodings do not change the hash."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        # One tuple per column: hash of missing indexes, hash of text lengths, hash of values.
        self._parts = [(hashlib.sha256(), hashlib.sha256(), hashlib.sha256()) for _ in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Add rows to the hash."""
        for column, (missing, lengths, values) in zip(batch.columns, self._parts, strict=True):
            present = is_present(column)
            if column.null_count:
                missing.update((np.flatnonzero(~present) + self.rows).tobytes())
            if is_text(column.type):
                texts = column.cast(pa.string()).fill_null("")
                offsets = np.frombuffer(texts.buffers()[1] or bytes(4), np.int32)[texts.offset :][: len(texts) + 1]
                lengths.update(np.diff(offsets).tobytes())
                values.update(memoryview(texts.buffers()[2] or b"")[offsets[0] : offsets[-1]])
            elif len(column):
                values.update(_bytes(column, present))
        self.rows += len(batch)

    def hexdigest(self) -> str:
        """Return the hash of all rows so far."""
        whole = hashlib.sha256()
        for field, parts in zip(self._schema, self._parts, strict=True):
            type_ = "text" if is_text(field.type) else field.type
            whole.update(f"{field.name} {type_} ".encode() + b"".join(part.digest() for part in parts))
        whole.update(str(self.rows).encode())
        return whole.hexdigest()


def content_hash(batch: pa.RecordBatch) -> str:
    """Return the hash of the values of a batch, see `ContentHash`."""
    found = ContentHash(batch.schema)
    found.update(batch)
    return found.hexdigest()


def _bytes(column: pa.Array, present: NDArray[np.bool_]) -> bytes:
    """Return the bytes of a column's values, with zeros for missing values."""
    width = column.type.bit_width // 8
    if not width:
        raise TypeError(f"a column of the lake must be of texts or of values of whole bytes, was {column.type}")
    values = np.frombuffer(column.buffers()[1], f"V{width}")[column.offset : column.offset + len(column)]
    if column.null_count:
        values = values.copy()
        values[~present] = np.void(bytes(width))
    return values.tobytes()
