"""Read trades from Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data.arrow import is_text, rows_of
from data.names import BeyondLimit, Damaged
from data.recordings.dialects.base import ZONELESS, Dialect, RowColumns
from data.recordings.dialects.parsers import BUYER_MAKER
from data.recordings.dialects.tables.headers import INDEX_TIME, TableMatch, table_of
from data.recordings.dialects.tables.known import TABLES, VENUE, Table
from data.recordings.dialects.tables.text import TradeColumns
from data.recordings.fields import Field, value_text
from data.recordings.limits import RecordingLimits
from data.recordings.lines import REJECT_CHARACTERS, Meter

DAMAGED_PARQUET: Final = "starts as a Parquet file, but cannot be read; copy or download it again"
_ROWS = 1 << 16
"""Rows of a block."""
_MOST_BYTES = 32 << 20
"""Bytes of rows that are in memory at once."""
_MOST_TEXT_BYTES = 1 << 27
"""Bytes of texts of a row group that are read whole."""
_HEAD_ROWS = 50
_INDEX: Final = "__index_level_0__"
_LONG_VALUE = 1 << 12
"""Bytes of a value, on average over a large column."""


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

    def __init__(self, match: TableMatch, texts: Sequence[str], told: str = "", product: str | None = None) -> None:
        """Take the names of the columns, and which of them hold texts."""
        self._trades = TradeColumns(match, told, product)
        self.name = f"Parquet with {match.table.name}{self._trades.note}"
        self.product_rule = self._trades.product_rule
        self.columns, self.fields, self.unread = self._trades.columns, match.table.fields, match.unread
        self._names, self._texts = match.columns, texts

    def blocks(self, path: Path, meter: Meter) -> Iterator[_ParquetBlock]:
        return self._blocks(path, meter, _ROWS)

    def head(self, path: Path) -> Iterator[_ParquetBlock]:
        return self._blocks(path, Meter(), 1_024)

    def _blocks(self, path: Path, meter: Meter, rows: int) -> Iterator[_ParquetBlock]:
        first, size = 1, path.stat().st_size
        with _opened(path, self._texts) as groups:
            weights = _Weights(size, self._names.values())
            for group in range(groups.metadata.num_row_groups):  # one by one: damage leaves other groups whole
                for batch in self._batches(groups, group, rows, weights):
                    meter.read = size * (first - 1 + len(batch)) // max(1, groups.metadata.num_rows)
                    yield self._block(batch, first)
                    first += len(batch)

    def backwards(self, path: Path, meter: Meter) -> Iterator[_ParquetBlock]:
        """Read the row groups from the last to the first; a large group is written to disk."""
        size = path.stat().st_size
        with _opened(path, self._texts) as groups:
            weights = _Weights(size, self._names.values())
            last = total = groups.metadata.num_rows
            for group in reversed(range(groups.metadata.num_row_groups)):
                for batch in _reversed(self._batches(groups, group, _ROWS, weights)):
                    last -= len(batch)
                    meter.read = size * (total - last) // max(1, total)
                    block = self._block(batch.take(rows_of(np.arange(len(batch))[::-1])), last + 1)
                    block.number = block.number[::-1]
                    yield block

    def _batches(self, groups: _Groups, group: int, rows: int, weights: _Weights) -> Iterator[pa.RecordBatch]:
        return _plain_batches(groups, group, rows, weights, list(self._names.values()))

    def _block(self, batch: pa.RecordBatch, first: int) -> _ParquetBlock:
        columns = {field: batch.column(name) for field, name in self._names.items()}
        return _ParquetBlock(columns, self._names, first, len(batch))

    def rows(self, block: _ParquetBlock) -> RowColumns:
        return self._trades.rows(np.arange(len(block.number)), block.columns, {}, len(block.number))


class _Groups:
    """Row groups of a Parquet file, whose texts are read whole where all of them are short.

    A long text that many rows share is in memory once, because texts are else read as numbers of a dictionary.

    Args:
        texts: columns of texts.
    """

    def __init__(self, file: IO[bytes], texts: Sequence[str]) -> None:
        # Buffered streams, because the default reads each column of a row group whole.
        open_ = partial(pyarrow.parquet.ParquetFile, file, buffer_size=1 << 20, pre_buffer=False)
        self._numbered = open_(read_dictionary=list(texts))
        self.metadata = self._numbered.metadata
        self._whole = open_(metadata=self.metadata)
        self._texts = texts

    def batches(self, group: int, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read columns of a row group in batches of `rows` rows."""
        parquet = self._whole if self._are_short(group, rows) else self._numbered
        yield from parquet.iter_batches(rows, [group], columns=columns, use_threads=False)

    def _are_short(self, group: int, rows: int) -> bool:
        """Return whether `rows` texts take little memory, wherever in the row group they stand.

        A text stands in a page, whose bytes the file names, or is a number of the dictionary, which comes with the
        first row. For the rows of less than a block, this look would take longer than numbers take.
        """
        found = self.metadata.row_group(group)
        if found.num_rows < _ROWS:
            return False
        columns = [found.column(i) for i, name in enumerate(self.metadata.schema.names) if name in self._texts]
        if sum(column.total_uncompressed_size for column in columns) > _MOST_TEXT_BYTES:
            return False
        first = next(self._numbered.iter_batches(1, [group], columns=list(self._texts), use_threads=False))
        return rows * sum(map(_longest, first.columns)) <= _MOST_BYTES


class _Weights:
    """Keep the rows of a Parquet file within the limits: a page of a few bytes may stand for gigabytes.

    Args:
        size: bytes of the file.
        names: of the columns that are read.
    """

    def __init__(self, size: int, names: Collection[str]) -> None:
        self._size, self._names, self._unpacked, self._rows = size, names, 0, 0
        self._columns: list[tuple[int, str]] = []
        self._limits = RecordingLimits.here()

    def check_group(self, metadata: pyarrow.parquet.FileMetaData, group: int) -> None:
        """Raise BeyondLimit if a row group says that it has too many rows, or very long values."""
        found = metadata.row_group(group)
        self._limits.check_rows(self._rows + found.num_rows)
        for i, name in self._columns_of(metadata.schema):
            column = found.column(i)
            if column.total_uncompressed_size > max(_MOST_BYTES, _LONG_VALUE * column.num_values):
                raise BeyondLimit(
                    f"column {name[:80]!r} has {column.total_uncompressed_size:,} bytes in {column.num_values:,} "
                    f"values, and the limit is {_LONG_VALUE:,} for each value"
                )

    def _columns_of(self, schema: pyarrow.parquet.ParquetSchema) -> list[tuple[int, str]]:
        """Return index and name of the columns that are read; a file may have very many others."""
        if not self._columns:
            self._columns = [(i, name) for i, name in enumerate(schema.names) if name in self._names]
        return self._columns

    def plain(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield rows with whole texts in place of numbers of a dictionary, not more than `_MOST_BYTES` at once."""
        size = sum(_plain_size(column) for column in batch.columns)
        if size > _MOST_BYTES:
            self._limits.check_unpacked(self._unpacked + size, self._size)
            self._limits.check_line(size // len(batch), "a row")
            if len(batch) > 1:
                half = len(batch) // 2
                yield from self.plain(batch.slice(0, half))
                yield from self.plain(batch.slice(half))
                return
        self._rows += len(batch)
        self._unpacked += size
        self._limits.check_rows(self._rows)
        self._limits.check_unpacked(self._unpacked, self._size)
        columns = [each.dictionary_decode() if _is_dictionary(each) else each for each in batch.columns]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _plain_batches(
    groups: _Groups, group: int, rows: int, weights: _Weights, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Read a row group within the limits."""
    weights.check_group(groups.metadata, group)
    for batch in groups.batches(group, rows, names):
        yield from weights.plain(batch)


def flat_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read all columns of a Parquet file that hold no lists and no structures, within the limits of recordings.

    Raises:
        Damaged: the rest of the file cannot be read, or is beyond a limit.
    """
    flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
    with _opened(path, [field.name for field in schema if is_text(field.type)]) as groups:
        weights = _Weights(path.stat().st_size, flat)
        for group in range(groups.metadata.num_row_groups):
            yield from _plain_batches(groups, group, _ROWS, weights, flat)


def _is_dictionary(column: pa.Array) -> bool:
    return bool(pa.types.is_dictionary(column.type))


def _plain_size(column: pa.Array) -> int:
    """Return the bytes of a column without its dictionary."""
    if not _is_dictionary(column) or not is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pa.compute.binary_length(column.dictionary).take(column.indices)
    return int(pa.compute.sum(lengths.cast(pa.int64())).as_py() or 0)


def _longest(column: pa.DictionaryArray) -> int:
    """Return the bytes of the longest text in the dictionary of a column."""
    return int(pa.compute.max(pa.compute.binary_length(column.dictionary)).as_py() or 0)


def _reversed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches of one schema from the last to the first."""
    first = next(batches, None)
    if first is None:
        return
    with SpooledTemporaryFile(_MOST_BYTES) as spill:
        with pa.ipc.new_file(spill, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_batch(batch)
        spill.seek(0)
        reader = pa.ipc.open_file(pa.PythonFile(spill, "r"))
        for i in reversed(range(reader.num_record_batches)):
            yield reader.get_batch(i)


@contextmanager
def _opened(path: Path, texts: Sequence[str]) -> Iterator[_Groups]:
    """Open a Parquet file; an error within the block is told as damage of the file."""
    try:
        with path.open("rb") as file:
            yield _Groups(file, texts)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"the Parquet file is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _column_fault(field: str, type_: pa.DataType, fields: Mapping[str, Field]) -> str | None:
    """Return the allowed types if the type of a column is wrong, else None."""
    types = pa.types
    if is_text(type_) or types.is_null(type_) or field == VENUE:
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
        raise ValueError(DAMAGED_PARQUET) from None


def column_names(schema: pa.Schema) -> list[str]:
    """Return the names of the columns; a nameless index of times that pandas wrote is `timestamp`."""
    is_time = _INDEX in schema.names and INDEX_TIME not in schema.names
    is_time = is_time and pa.types.is_timestamp(schema.field(_INDEX).type)
    return [INDEX_TIME if is_time and name == _INDEX else name for name in schema.names]


def _first_values(path: Path, name: str) -> list[object]:
    """Return the first values of a column."""
    with _opened(path, []) as groups:
        batch = next(groups.batches(0, _HEAD_ROWS, [name]), None) if groups.metadata.num_row_groups else None
        return [] if batch is None else list(batch.column(0).to_pylist())


def parquet_dialect(
    path: Path,
    schema: pa.Schema,
    told: str,
    product: Callable[[TableMatch], str | None],
    tables: Sequence[Table] = TABLES,
) -> _ParquetDialect | None:
    """Return the dialect of a Parquet file of trades; None if the file holds other columns.

    Args:
        told: see `TradeColumns`.
        product: returns the product of all rows, by the name of the file.

    Raises:
        ValueError: a column has a type that trades cannot have, or see `table_of`.
    """
    names = column_names(schema)
    match = table_of(names, tables)
    if match is None:
        return None
    match = match._replace(columns={f: schema.names[names.index(name)] for f, name in match.columns.items()})
    match = match.settled(partial(_first_values, path))
    for field, name in match.columns.items():
        if fault := _column_fault(field, schema.field(name).type, match.table.fields):
            raise ValueError(f"column {name!r} must be {fault}; it is {schema.field(name).type}")
    texts = [name for name in match.columns.values() if is_text(schema.field(name).type)]
    return _ParquetDialect(match, texts, told, product(match))
