"""Read trades from Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data.arrow import is_text, rows_of
from data.names import Damaged
from data.recordings.dialects.base import ZONELESS, Dialect, RowColumns
from data.recordings.dialects.parsers import BUYER_MAKER
from data.recordings.dialects.tables.headers import TableMatch, table_of
from data.recordings.dialects.tables.known import TABLES, Table
from data.recordings.dialects.tables.text import TradeColumns
from data.recordings.fields import Field, value_text
from data.recordings.lines import REJECT_CHARACTERS, Meter

_ROWS = 1 << 16
"""Rows of a block."""


class _ParquetBlock:
    """Rows of a Parquet file, numbered like lines."""

    def __init__(self, columns: dict[str, pa.Array], names: Mapping[str, str], first: int, count: int) -> None:
        self.columns, self._names = columns, names
        self.number = first + np.arange(count, dtype=np.int64)

    def text(self, i: int) -> str:
        values = [f"{self._names[field]}={value_text(column, i)}" for field, column in self.columns.items()]
        return ",".join(values)[:REJECT_CHARACTERS]


class _ParquetDialect(Dialect[_ParquetBlock]):
    """Reader of trades in Parquet: columns are found by name, as in CSV, and may be typed or texts."""

    def __init__(self, match: TableMatch, told: str = "", product: str | None = None) -> None:
        self._trades = TradeColumns(match, told, product)
        self.name = f"Parquet with {match.table.name}{self._trades.note}"
        self.product_rule = self._trades.product_rule
        self.columns, self.fields, self.unread = self._trades.columns, match.table.fields, match.unread
        self._names = match.columns

    def blocks(self, path: Path, meter: Meter) -> Iterator[_ParquetBlock]:
        return self._blocks(path, meter, _ROWS)

    def head(self, path: Path) -> Iterator[_ParquetBlock]:
        return self._blocks(path, Meter(), 1_024)

    def _blocks(self, path: Path, meter: Meter, rows: int) -> Iterator[_ParquetBlock]:
        first, size = 1, path.stat().st_size
        with _opened(path) as parquet:
            for group in range(parquet.num_row_groups):  # one by one: damage in a group leaves the others whole
                for batch in self._batches(parquet, group, rows):
                    meter.read = size * (first - 1 + len(batch)) // parquet.metadata.num_rows
                    yield self._block(batch, first)
                    first += len(batch)

    def backwards(self, path: Path, meter: Meter) -> Iterator[_ParquetBlock]:
        """Read the row groups from the last to the first; one group is in memory as a whole."""
        size = path.stat().st_size
        with _opened(path) as parquet:
            last = total = parquet.metadata.num_rows
            for group in reversed(range(parquet.num_row_groups)):
                for batch in reversed(list(self._batches(parquet, group, _ROWS))):
                    last -= len(batch)
                    meter.read = size * (total - last) // total
                    block = self._block(batch.take(rows_of(np.arange(len(batch))[::-1])), last + 1)
                    block.number = block.number[::-1]
                    yield block

    def _batches(self, parquet: pyarrow.parquet.ParquetFile, group: int, rows: int) -> Iterator[pa.RecordBatch]:
        names = list(self._names.values())
        return parquet.iter_batches(rows, [group], columns=names, use_threads=False)  # type: ignore[no-any-return]

    def _block(self, batch: pa.RecordBatch, first: int) -> _ParquetBlock:
        columns = {field: batch.column(name) for field, name in self._names.items()}
        return _ParquetBlock(columns, self._names, first, len(batch))

    def rows(self, block: _ParquetBlock) -> RowColumns:
        return self._trades.rows(np.arange(len(block.number)), block.columns, {}, len(block.number))


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a Parquet file; an error within the block is told as damage of the file."""
    try:
        with path.open("rb") as file:
            # Buffered streams, because the default reads each column of a row group whole.
            yield pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"the Parquet file is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _column_fault(field: str, type_: pa.DataType, fields: Mapping[str, Field]) -> str | None:
    """Return the allowed types if the type of a column is wrong, else None."""
    types = pa.types
    if is_text(type_) or types.is_null(type_):
        return None
    is_number = types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_)
    if field == "event_time":
        if types.is_timestamp(type_) and not type_.tz and fields is not ZONELESS:
            return "a timestamp with a zone (this one has none), or text"
        return None if types.is_timestamp(type_) or is_number else "a timestamp with a zone, an epoch, or text"
    if field in ("price", "size"):
        return None if is_number else "numbers or text"
    if field == "trade_id":
        return None if types.is_integer(type_) or types.is_floating(type_) else "whole numbers or text"
    return None if field == "side" and fields["side"] is BUYER_MAKER and types.is_boolean(type_) else "text"


def schema_of(path: Path) -> pa.Schema:
    """Return the schema of a Parquet file.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return pyarrow.parquet.read_schema(file)
    except (pa.ArrowException, OSError):  # their messages can show bytes of the file
        raise ValueError("starts as a Parquet file, but cannot be read; copy or download it again") from None


def parquet_dialect(
    schema: pa.Schema, told: str = "", product: str | None = None, tables: Sequence[Table] = TABLES
) -> _ParquetDialect | None:
    """Return the dialect of a Parquet file of trades; None if the file holds other columns.

    Args:
        told, product: see `TradeColumns`.

    Raises:
        ValueError: a column has a type that trades cannot have, or see `table_of`.
    """
    match = table_of(schema.names, tables)
    if match is None:
        return None
    for field, name in match.columns.items():
        if fault := _column_fault(field, schema.field(name).type, match.table.fields):
            raise ValueError(f"column {name!r} must be {fault}; it is {schema.field(name).type}")
    return _ParquetDialect(match, told, product if match.table.in_file_name else None)
