"""Parquet files of served records below the root of a lake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet

from offline.lake.objects import Objects
from offline.lake.parquet import READ_ROWS, RowGroups

T = TypeVar("T")
TRIES = 5
"""Readings, before a missing file is an error: a merge of days may remove files meanwhile."""


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


def read_rows(objects: Objects, path: str, schema: pa.Schema, filters: Any = None) -> pa.Table:
    """Return rows of a file.

    Args:
        schema: the columns to return; a column that the file lacks, as files of earlier releases do, is null.
        filters: as of `pyarrow.parquet.read_table`; row groups without a matching row are not read.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with objects.opened(path) as file:
        present = set(pa.parquet.read_schema(file).names)
        file.seek(0)
        wanted = [name for name in schema.names if name in present]
        table = pa.parquet.read_table(file, columns=wanted, filters=filters)
    return _filled(table, schema)


def read_again(read: Callable[[], T]) -> T:
    """Return what `read` returns; read again where a merge of days has taken a file away.

    Raises:
        FileNotFoundError: a file was missing each of `TRIES` times.
    """
    for _ in range(TRIES - 1):
        with suppress(FileNotFoundError):
            return read()
    return read()


def row_batches(
    objects: Objects, path: str, schema: pa.Schema, batch_rows: int = READ_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches; a column that the file lacks is null.

    Args:
        batch_rows: most rows of a batch.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with objects.opened(path) as file:
        for batch in pa.parquet.ParquetFile(file).iter_batches(batch_rows):
            yield _filled(batch, schema)


def _filled(rows: Any, schema: pa.Schema) -> Any:
    """Return a table or batch with the columns of a schema, and nulls where the rows lack a column."""
    present = set(rows.schema.names)
    columns = [rows[f.name] if f.name in present else pa.nulls(len(rows), f.type) for f in schema]
    return type(rows).from_arrays(columns, schema=schema)
