"""Parquet files of served records below the root of a lake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from offline.lake.objects import Objects
from offline.lake.parquet import READ_ROWS, RowGroups


@contextmanager
def rows_to(objects: Objects, path: str, schema: pa.Schema) -> Iterator[RowGroups]:
    """Write rows to a file that no manifest names yet; an older file of the path, which no reader knows, is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    with objects.scratch() as file:
        with RowGroups(str(file), schema) as groups:
            yield groups
        if not objects.add(path, file):
            objects.delete(path)
            objects.add(path, file)


def read_rows(objects: Objects, path: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """Return rows of a file.

    Args:
        filters: as of `pyarrow.parquet.read_table`; row groups without a matching row are not read.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    wanted = None if columns is None else list(columns)
    with objects.opened(path) as file:
        return pa.parquet.read_table(file, columns=wanted, filters=filters)


def row_batches(objects: Objects, path: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with objects.opened(path) as file:
        yield from pa.parquet.ParquetFile(file).iter_batches(READ_ROWS)
