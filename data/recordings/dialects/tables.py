"""Read trades from tables with named columns: CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from data.arrow import NAMES, UTC, is_text, is_true, rows_of
from data.names import Damaged
from data.recordings.dialects.base import (
    FLAT_COLUMNS,
    MESSAGE_TYPE,
    NO_ROWS,
    OWN_COLUMNS,
    TICKER,
    TICKER_COLUMNS,
    TICKER_TEXT,
    VOLUME_24H,
    ZONELESS,
    Dialect,
    RowColumns,
    TextDialect,
)
from data.recordings.fields import FIELDS, Field, value_text
from data.recordings.lines import REJECT_CHARACTERS, Lines, Meter, csv_fields, csv_table


class _Table(NamedTuple):
    """Names of columns by field of a trade: columns that identify the dialect, and optional columns."""

    name: str
    needed: Mapping[str, str]
    possible: Mapping[str, str]
    fields: Mapping[str, Field] = FIELDS


TABLES = (
    _Table("the project's own columns: " + ",".join(OWN_COLUMNS), {f: f for f in ("product_id", *FIELDS)}, {}),
    _Table(
        "columns of the Coinbase Exchange ticker channel: type,sequence,product_id,price,...,time,trade_id,last_size",
        TICKER_COLUMNS,
        {MESSAGE_TYPE: "type"},
    ),
    _Table(
        "columns of the Coinbase Advanced Trade ticker channel, flattened: timestamp,product_id,price,volume_24h,... "
        "(a time without a zone is UTC)",
        {**FLAT_COLUMNS, VOLUME_24H: VOLUME_24H},
        {},
        ZONELESS,
    ),
    _Table(
        "timestamp,price,volume",
        {"event_time": "timestamp", "price": "price", "size": "volume"},
        {"product_id": "product_id"},
    ),
)


def table_of(header: Sequence[str]) -> tuple[_Table, dict[str, str]] | None:
    """Return the table that a header identifies, with the columns by field; None for an unknown header."""
    for table in TABLES:
        if set(table.needed.values()) <= set(header):
            columns = {f: name for f, name in {**table.needed, **table.possible}.items() if name in header}
            columns.pop(VOLUME_24H, None)
            return table, columns
    return None


def _ticks_of(
    at: NDArray[np.intp], columns: Mapping[str, pa.Array], broken: Mapping[int, str], positions: int
) -> RowColumns:
    """Return rows without those of another message type, which are skipped; `at` has the line index of each row."""
    if MESSAGE_TYPE not in columns:
        return RowColumns(at, at, columns, broken, NO_ROWS, positions)
    is_tick = is_true(pa.compute.equal(columns[MESSAGE_TYPE].cast(pa.string()), TICKER_TEXT))
    kept = rows_of(np.flatnonzero(is_tick))
    ticks = {field: column.take(kept) for field, column in columns.items() if field != MESSAGE_TYPE}
    return RowColumns(at[is_tick], at[is_tick], ticks, broken, at[~is_tick], positions)


class CsvDialect(TextDialect):
    """Reader of a CSV with a header: columns are found by name, and further columns are ignored."""

    header_lines = 1

    def __init__(self, table: _Table, columns: Mapping[str, str], header: Sequence[str]) -> None:
        self.name = f"CSV with {table.name}"
        self.fields = table.fields
        self.columns = columns
        self._width = len(header)
        self._index = {field: header.index(column) for field, column in columns.items()}
        self._types = pa.schema([(str(i), _TYPES[field]) for field, i in self._index.items()])

    def split(self, lines: Lines) -> RowColumns:
        at, texts, broken = csv_fields(lines, self._width, list(self._index.values()))
        return _ticks_of(at, {field: texts[i] for field, i in self._index.items()}, broken, len(lines))

    def typed_rows(self, lines: Lines) -> RowColumns | None:
        if self.fields is not FIELDS or not lines.are_texts or b'"' in lines.data:
            return None
        try:
            table = csv_table(lines.data, self._width, self._types)
        except pa.ArrowInvalid:
            return None
        columns = {field: table[str(i)].combine_chunks() for field, i in self._index.items()}
        if MESSAGE_TYPE in columns and columns.pop(MESSAGE_TYPE).dictionary.to_pylist() != [TICKER]:
            return None
        if "size" in columns and is_true(pa.compute.is_nan(columns["size"])).any():  # the text was `nan`
            return None
        at = np.arange(len(lines))
        return RowColumns(at, at, columns, {}, NO_ROWS, len(lines))


_TYPES = {
    "product_id": NAMES,
    "trade_id": pa.string(),  # pyarrow's own integers take -0 and 0x1F
    "event_time": UTC,
    "price": pa.float64(),
    "size": pa.float64(),
    "side": NAMES,
    MESSAGE_TYPE: NAMES,
}
"""Type of a column by field. pyarrow parses a text of this type to the value of `FIELDS`; a size can also be NaN."""


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

    def __init__(self, table: _Table, columns: Mapping[str, str]) -> None:
        self.name = f"Parquet with {table.name}"
        self.columns, self.fields = columns, table.fields

    def blocks(self, path: Path, meter: Meter) -> Iterator[_ParquetBlock]:
        first = 1
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                # Buffered streams, because the default reads each column of a row group whole.
                parquet = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
                for group in range(parquet.num_row_groups):  # one by one: damage in a group leaves the others whole
                    for batch in parquet.iter_batches(
                        1 << 16, [group], columns=list(self.columns.values()), use_threads=False
                    ):
                        columns = {field: batch.column(name) for field, name in self.columns.items()}
                        meter.read = size * (first - 1 + len(batch)) // parquet.metadata.num_rows
                        yield _ParquetBlock(columns, self.columns, first, len(batch))
                        first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"the Parquet file is damaged ({_first_line(error)})") from error

    def backwards(self, path: Path, meter: Meter) -> Iterator[_ParquetBlock]:
        """Read the row groups from the last to the first; one group is in memory as a whole."""
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                parquet = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
                last = total = parquet.metadata.num_rows
                for group in reversed(range(parquet.num_row_groups)):
                    batches = parquet.iter_batches(
                        1 << 16, [group], columns=list(self.columns.values()), use_threads=False
                    )
                    for batch in reversed(list(batches)):
                        turned = batch.take(rows_of(np.arange(len(batch))[::-1]))
                        columns = {field: turned.column(name) for field, name in self.columns.items()}
                        block = _ParquetBlock(columns, self.columns, last - len(batch) + 1, len(batch))
                        block.number = block.number[::-1]
                        last -= len(batch)
                        meter.read = size * (total - last) // total
                        yield block
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"the Parquet file is damaged ({_first_line(error)})") from error

    def rows(self, block: _ParquetBlock) -> RowColumns:
        return _ticks_of(np.arange(len(block.number)), block.columns, {}, len(block.number))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _column_fault(field: str, type_: pa.DataType, fields: Mapping[str, Field]) -> str | None:
    """Return the allowed types if the type of a column is wrong, else None."""
    types = pa.types
    if is_text(type_) or types.is_null(type_):
        return None
    if field == "event_time":
        if types.is_timestamp(type_):
            has_zone = type_.tz or fields is ZONELESS
            return None if has_zone else "a timestamp with a zone (this one has none), or text"
        is_epoch = types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_)
        return None if is_epoch else "a timestamp with a zone, an epoch, or text"
    if field == "trade_id":
        return None if types.is_integer(type_) or types.is_floating(type_) else "whole numbers or text"
    if field in ("price", "size"):
        is_number = types.is_floating(type_) or types.is_integer(type_) or types.is_decimal(type_)
        return None if is_number else "numbers or text"
    return "text"


def parquet_dialect(path: Path) -> _ParquetDialect | None:
    """Return the dialect of a Parquet file of trades; None if the file holds other columns.

    Raises:
        ValueError: the file cannot be read, or a column has a type that trades cannot have.
    """
    try:
        with path.open("rb") as file:
            schema = pyarrow.parquet.read_schema(file)
    except (pa.ArrowException, OSError):  # their messages can show bytes of the file
        raise ValueError("starts as a Parquet file, but cannot be read; copy or download it again") from None
    schema_match = table_of(schema.names)
    if schema_match is None:
        return None
    table, columns = schema_match
    for field, name in columns.items():
        if schema.names.count(name) > 1:
            raise ValueError(f"has more than one column {name!r}")
        if fault := _column_fault(field, schema.field(name).type, table.fields):
            raise ValueError(f"column {name!r} must be {fault}; it is {schema.field(name).type}")
    return _ParquetDialect(table, columns)
