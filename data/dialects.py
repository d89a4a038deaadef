"""How recordings of trades are written, and by what in its content each is told."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from data.columns import (
    FIELDS,
    UTC,
    ZONELESS_TIME,
    Field,
    column_of,
    is_text,
    is_true,
    names_of,
    rows_of,
    texts_of,
    value_text,
)
from data.lines import REJECT_CHARACTERS, Damaged, Lines, chunks_of, csv_fields, data_lines
from data.scan import Kind, scan
from data.trades import Int64s

OWN_COLUMNS = ("source_id", "product_id", "trade_id", "event_time", "ingest_time", "price", "size", "side")
"""Header of the project's own CSV: the columns of `Trades`."""


class Rows(NamedTuple):
    """What a dialect finds in n lines.

    Attributes:
        at: shape (m,), index of the line of each row, not falling: a line can hold several.
        position: shape (m,), how many rows come before in these lines, where each line counts as at least one.
        columns: by field of a trade, m texts or values each.
        broken: for lines that could not be taken apart, by index: why.
        skipped: index of the lines that are messages of another kind.
        positions: how many there are.
    """

    at: NDArray[np.intp]
    position: NDArray[np.intp]
    columns: Mapping[str, pa.Array]
    broken: Mapping[int, str]
    skipped: NDArray[np.intp]
    positions: int


class Block(ABC):
    """Some consecutive lines of a recording, or rows of one that has no lines.

    Attributes:
        number: shape (n,), the 1-based line in the file of each.
    """

    number: Int64s

    @abstractmethod
    def rows(self) -> Rows:
        """Take the lines apart one by one."""

    @abstractmethod
    def text(self, i: int) -> str:
        """Return what is kept of a rejected line."""

    def typed_rows(self) -> Rows | None:
        """Take all lines apart at once, a row each; None where that fails, or might read what `rows` does not."""
        return None


class Dialect(ABC):
    """How one recording is written.

    Attributes:
        name: for people.
        columns: by field of a trade, what the recording calls it.
        fields: by field of a trade but its product, how it is parsed.
    """

    name: str
    columns: Mapping[str, str]
    fields: Mapping[str, Field] = FIELDS

    @property
    def has_ids(self) -> bool:
        """Whether the recording gives trades their ids."""
        return "trade_id" in self.columns

    @abstractmethod
    def blocks(self, path: Path) -> Iterator[Block]:
        """Read a recording.

        Raises:
            Damaged: after all whole rows before the damage.
        """


class _Table(NamedTuple):
    """Names of columns by field of a trade: those that tell the dialect, and those that it may have as well."""

    name: str
    needed: Mapping[str, str]
    possible: Mapping[str, str]
    fields: Mapping[str, Field] = FIELDS


_MESSAGE_TYPE = "message_type"
"""A further column of the ticker channel: rows of another type than `ticker` are no trades."""
_TICKER = "ticker"

_TICKER_COLUMNS = {
    "product_id": "product_id",
    "trade_id": "trade_id",
    "event_time": "time",
    "price": "price",
    "size": "last_size",
    "side": "side",
}
_FLAT_COLUMNS = {"event_time": "timestamp", "product_id": "product_id", "price": "price"}
_ZONELESS = {**FIELDS, "event_time": ZONELESS_TIME}
"""The recorder of these writes the time of its own clock, UTC, without a zone. So no row of it would be a trade, and
elsewhere no such time is: what it means there nobody has said."""
_VOLUME_24H = "volume_24h"
"""By this the flattened channel is told. It is a running total of 24 hours, no size of a trade."""

_TABLES = (
    _Table("the project's own columns: " + ",".join(OWN_COLUMNS), {f: f for f in ("product_id", *FIELDS)}, {}),
    _Table(
        "columns of the Coinbase Exchange ticker channel: type,sequence,product_id,price,...,time,trade_id,last_size",
        _TICKER_COLUMNS,
        {_MESSAGE_TYPE: "type"},
    ),
    _Table(
        "columns of the Coinbase Advanced Trade ticker channel, flattened: timestamp,product_id,price,volume_24h,... "
        "(a time without a zone is UTC)",
        {**_FLAT_COLUMNS, _VOLUME_24H: _VOLUME_24H},
        {},
        _ZONELESS,
    ),
    _Table(
        "timestamp,price,volume",
        {"event_time": "timestamp", "price": "price", "size": "volume"},
        {"product_id": "product_id"},
    ),
)


def _table_of(header: Sequence[str]) -> tuple[_Table, dict[str, str]] | None:
    """Return which table a header tells, and its columns by field."""
    for table in _TABLES:
        if set(table.needed.values()) <= set(header):
            columns = {f: name for f, name in {**table.needed, **table.possible}.items() if name in header}
            columns.pop(_VOLUME_24H, None)
            return table, columns
    return None


class _TextBlock(Block):
    """Lines, and how their dialect takes readable ones apart."""

    def __init__(self, lines: Lines, dialect: _TextDialect) -> None:
        self._lines, self._dialect = lines, dialect
        self.number = lines.number

    def rows(self) -> Rows:
        readable, reasons = self._lines.readable()
        rows = self._dialect.rows(self._lines.take(readable))
        if not reasons:
            return rows
        # What stands between readable lines moves the others.
        moved = readable - np.arange(len(readable))
        return Rows(
            readable[rows.at],
            rows.position + moved[rows.at],
            rows.columns,
            reasons | {int(readable[i]): reason for i, reason in rows.broken.items()},
            readable[rows.skipped],
            rows.positions + len(reasons),
        )

    def text(self, i: int) -> str:
        return self._lines.text(i)

    def typed_rows(self) -> Rows | None:
        return self._dialect.typed_rows(self._lines)


class _TextDialect(Dialect):
    header_lines = 0

    def blocks(self, path: Path) -> Iterator[Block]:
        return (_TextBlock(lines, self) for lines in data_lines(chunks_of(path), self.header_lines))

    @abstractmethod
    def rows(self, lines: Lines) -> Rows:
        """Take readable lines apart."""

    def typed_rows(self, _lines: Lines) -> Rows | None:
        return None


_NONE = np.empty(0, np.intp)


class _CsvDialect(_TextDialect):
    """A CSV with a header: columns are found by name, and further ones are ignored."""

    header_lines = 1

    def __init__(self, table: _Table, columns: Mapping[str, str], header: Sequence[str]) -> None:
        self.name = f"CSV with {table.name}"
        self.fields = table.fields
        self.columns = columns
        self._width = len(header)
        self._index = {field: header.index(column) for field, column in columns.items()}
        self._kinds = {i: _KINDS.get(field, Kind.NUMBER) for field, i in self._index.items()}

    def rows(self, lines: Lines) -> Rows:
        at, texts, broken = csv_fields(lines, self._width, list(self._index.values()))
        columns = {field: texts[i] for field, i in self._index.items()}
        skipped = _NONE
        if _MESSAGE_TYPE in columns:
            is_trade = is_true(pa.compute.equal(columns.pop(_MESSAGE_TYPE), _TICKER_TEXT))
            skipped, at, kept = at[~is_trade], at[is_trade], rows_of(np.flatnonzero(is_trade))
            columns = {field: column.take(kept) for field, column in columns.items()}
        return Rows(at, at, columns, broken, skipped, len(lines))

    def typed_rows(self, lines: Lines) -> Rows | None:
        if self.fields is not FIELDS or not lines.are_texts or b'"' in lines.data:
            return None
        found = scan(lines.data, len(lines), self._width, self._kinds)
        if found is None:
            return None
        by_place: dict[int, pa.Array] = {i: names_of(code, _decoded(found.names[i])) for i, code in found.codes.items()}
        for i, values in found.integers.items():
            by_place[i] = column_of(values, UTC if self._kinds[i] == Kind.TIME else pa.int64())
        for i, numbers in found.numbers.items():
            empty = np.isnan(numbers)
            by_place[i] = column_of(numbers, pa.float64(), ~empty if empty.any() else None)
        columns = {field: by_place[i] for field, i in self._index.items()}
        if _MESSAGE_TYPE in columns and columns.pop(_MESSAGE_TYPE).dictionary.to_pylist() != [_TICKER]:
            return None
        at = np.arange(len(lines))
        return Rows(at, at, columns, {}, _NONE, len(lines))


_KINDS = {
    "product_id": Kind.NAME,
    "trade_id": Kind.INTEGER,
    "event_time": Kind.TIME,
    "side": Kind.NAME,
    _MESSAGE_TYPE: Kind.NAME,
}
"""By field; all others are numbers."""


def _decoded(texts: Sequence[bytes]) -> list[str]:
    return [text.decode() for text in texts]


_TICKER_TEXT = texts_of([_TICKER])[0]

_Scalar = str | int | float | None


class _Message(msgspec.Struct):
    """{"type":"ticker","product_id":"BTC-USD","price":"103472.28","side":"buy",
    "time":"2025-11-12T07:20:11.615272Z","trade_id":900701309,"last_size":"0.00068754",...}
    """

    type: str
    product_id: _Scalar = None
    trade_id: _Scalar = None
    time: _Scalar = None
    price: _Scalar = None
    last_size: _Scalar = None
    side: _Scalar = None


class _Envelope(msgspec.Struct):
    """{"ts":1762932011.629353,"pair":"BTC-USD","raw":"{\\"type\\":\\"ticker\\",...}"}"""

    raw: str


class _Flat(msgspec.Struct):
    """{"timestamp":"2025-11-08T15:12:31.463496","product_id":"BTC-USD","price":"102020.48","volume_24h":"5410.7",...,
    "raw":{"type":"ticker",...}}, where `raw` has no time at all
    """

    timestamp: _Scalar
    product_id: _Scalar
    price: _Scalar
    volume_24h: _Scalar


class _Tick(msgspec.Struct):
    product_id: _Scalar = None
    price: _Scalar = None
    timestamp: _Scalar = None


class _Event(msgspec.Struct):
    tickers: list[_Tick] = []


class _Frame(msgspec.Struct):
    """{"channel":"ticker","timestamp":"2026-04-05T22:35:13.92532762Z","sequence_num":0,"events":
    [{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"67468.26",...}]}]}
    """

    channel: str
    timestamp: _Scalar = None
    events: list[_Event] = []


class _RecordedFrame(msgspec.Struct):
    """{"ingest_time":"2026-04-05T22:35:13.865365+00:00","product_id":"BTC-USD","payload":{"channel":...}}"""

    payload: _Frame


_Ticks = Sequence[_Message | _Flat | _Tick]


def _of_message(message: _Message) -> _Ticks:
    return (message,) if message.type == _TICKER else ()


def _of_frame(frame: _Frame) -> _Ticks:
    if frame.channel not in ("ticker", "ticker_batch"):
        return ()
    ticks = [tick for event in frame.events for tick in event.tickers]
    for tick in ticks:
        tick.timestamp = frame.timestamp
    return ticks


_messages, _envelopes = msgspec.json.Decoder(_Message).decode, msgspec.json.Decoder(_Envelope).decode
_frames, _recorded = msgspec.json.Decoder(_Frame).decode, msgspec.json.Decoder(_RecordedFrame).decode
_flats = msgspec.json.Decoder(_Flat).decode


class _JsonDialect(_TextDialect):
    """NDJSON: a message, or a frame of several, on each line.

    Args:
        message: reads the message in a line.
        ticks: returns the ticks of a message; none if it is of another kind.
        is_own: says if a message is of this dialect.
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, str],
        message: Callable[[bytes], Any],
        ticks: Callable[[Any], _Ticks],
        is_own: Callable[[Any], bool],
        fields: Mapping[str, Field] = FIELDS,
    ) -> None:
        self.name = f"NDJSON of the {name}"
        self.columns, self.fields = columns, fields
        self._message, self._ticks, self._is_own = message, ticks, is_own

    def tells(self, head: Sequence[bytes]) -> bool:
        """Whether one of the first lines is of this dialect."""
        for line in head:
            try:
                if self._is_own(self._message(line)):
                    return True
            except (msgspec.MsgspecError, UnicodeError):
                continue
        return False

    def rows(self, lines: Lines) -> Rows:
        broken: dict[int, str] = {}
        skipped: list[int] = []
        ticks: list[Any] = []
        count = np.ones(len(lines), np.intp)
        for i, line in enumerate(lines.data.split(b"\n")[:-1]):
            try:
                found = self._ticks(self._message(line))
            except (msgspec.MsgspecError, UnicodeError) as error:
                broken[i] = f"the line must be a JSON message of the ticker channel: {error}"
                continue
            if not found:
                skipped.append(i)
            count[i] = max(1, len(found))
            ticks.extend(found)
        line_of = np.repeat(np.arange(len(lines)), count)
        is_tick = ~np.isin(line_of, [*skipped, *broken])
        columns = {f: _json_texts(list(map(attrgetter(column), ticks))) for f, column in self.columns.items()}
        return Rows(
            line_of[is_tick],
            np.flatnonzero(is_tick),
            columns,
            broken,
            np.array(skipped, np.intp),
            len(line_of),
        )


def _json_texts(values: list[_Scalar]) -> pa.Array:
    return texts_of([value if isinstance(value, str) else "" if value is None else str(value) for value in values])


def _is_message(message: _Message) -> bool:
    return message.type in (_TICKER, "subscriptions")


def _is_frame(frame: _Frame) -> bool:
    return frame.channel in ("ticker", "ticker_batch", "subscriptions")


_EXCHANGE, _ADVANCED = "Coinbase Exchange ticker channel", "Coinbase Advanced Trade ticker channel"

_JSON_DIALECTS = (
    _JsonDialect(
        f'{_EXCHANGE}: {{"type":"ticker",...}}',
        _TICKER_COLUMNS,
        _messages,
        _of_message,
        _is_message,
    ),
    _JsonDialect(
        f'{_EXCHANGE}, as recorded: {{"ts":...,"pair":...,"raw":"{{\\"type\\":\\"ticker\\",...}}"}}',
        _TICKER_COLUMNS,
        lambda line: _messages(_envelopes(line).raw),
        _of_message,
        _is_message,
    ),
    _JsonDialect(
        f'{_ADVANCED}: {{"channel":"ticker","timestamp":...,"events":[...]}}',
        _FLAT_COLUMNS,
        _frames,
        _of_frame,
        _is_frame,
    ),
    _JsonDialect(
        f'{_ADVANCED}, as recorded: {{"ingest_time":...,"product_id":...,"payload":{{"channel":...}}}}',
        _FLAT_COLUMNS,
        lambda line: _recorded(line).payload,
        _of_frame,
        _is_frame,
    ),
    _JsonDialect(
        f'{_ADVANCED}, flattened: {{"timestamp":...,"product_id":...,"price":...,"volume_24h":...}} (a time without '
        "a zone is UTC)",
        _FLAT_COLUMNS,
        _flats,
        lambda tick: (tick,),
        lambda _: True,
        _ZONELESS,
    ),
)


class _ParquetBlock(Block):
    """Rows of a Parquet file: they have numbers as lines have."""

    def __init__(self, columns: dict[str, pa.Array], names: Mapping[str, str], first: int, count: int) -> None:
        self._columns, self._names = columns, names
        self.number = first + np.arange(count, dtype=np.int64)

    def rows(self) -> Rows:
        at = np.arange(len(self.number))
        columns, skipped = self._columns, _NONE
        if _MESSAGE_TYPE in columns:
            columns = dict(columns)
            is_trade = is_true(pa.compute.equal(columns.pop(_MESSAGE_TYPE).cast(pa.string()), _TICKER_TEXT))
            skipped, at, kept = at[~is_trade], at[is_trade], rows_of(np.flatnonzero(is_trade))
            columns = {field: column.take(kept) for field, column in columns.items()}
        return Rows(at, at, columns, {}, skipped, len(self.number))

    def text(self, i: int) -> str:
        values = [f"{self._names[field]}={value_text(column, i)}" for field, column in self._columns.items()]
        return ",".join(values)[:REJECT_CHARACTERS]


class _ParquetDialect(Dialect):
    """Trades in Parquet: columns are found by name, as in CSV, and may be typed or texts."""

    def __init__(self, table: _Table, columns: Mapping[str, str]) -> None:
        self.name = f"Parquet with {table.name}"
        self.columns, self.fields = columns, table.fields

    def blocks(self, path: Path) -> Iterator[Block]:
        first = 1
        try:
            with path.open("rb") as file:
                # Buffered streams, because else each column of a row group is read whole.
                parquet = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
                for group in range(parquet.num_row_groups):  # one by one: damage in one takes nothing of another
                    for batch in parquet.iter_batches(
                        1 << 16, [group], columns=list(self.columns.values()), use_threads=False
                    ):
                        columns = {field: batch.column(name) for field, name in self.columns.items()}
                        yield _ParquetBlock(columns, self.columns, first, len(batch))
                        first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"the Parquet file is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _column_fault(field: str, type_: pa.DataType, fields: Mapping[str, Field]) -> str | None:
    """Return what is wrong with the type of a column, if anything."""
    types = pa.types
    if is_text(type_) or types.is_null(type_):
        return None
    if field == "event_time":
        if not types.is_timestamp(type_):
            return "a timestamp with a zone, or text"
        return None if type_.tz or fields is _ZONELESS else "a timestamp with a zone (this one has none), or text"
    if field == "trade_id":
        return None if types.is_integer(type_) else "whole numbers or text"
    if field in ("price", "size"):
        is_number = types.is_floating(type_) or types.is_integer(type_) or types.is_decimal(type_)
        return None if is_number else "numbers or text"
    return "text"


def parquet_dialect(path: Path) -> Dialect | None:
    """Return how a Parquet file of trades is written; None if it holds other columns.

    Raises:
        ValueError: it cannot be read, or a column has a type that cannot be one of trades.
    """
    try:
        with path.open("rb") as file:
            schema = pyarrow.parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"starts as a Parquet file, but cannot be read ({_first_line(error)}); copy or download it again"
        ) from None
    told = _table_of(schema.names)
    if told is None:
        return None
    table, columns = told
    for field, name in columns.items():
        if schema.names.count(name) > 1:
            raise ValueError(f"has more than one column {name!r}")
        if fault := _column_fault(field, schema.field(name).type, table.fields):
            raise ValueError(f"column {name!r} must be {fault}; it is {schema.field(name).type}")
    return _ParquetDialect(table, columns)


def text_dialect(head: Sequence[bytes]) -> Dialect | None:
    """Return how a text is written, told by its first lines, none of them blank; None if it is no recording."""
    if not head:
        return None
    try:
        header = next(csv.reader([head[0].decode()]))
    except (UnicodeDecodeError, csv.Error):
        header = []
    if (told := _table_of(header)) is not None:
        return _CsvDialect(*told, header)
    return next((dialect for dialect in _JSON_DIALECTS if dialect.tells(head)), None)


TRADE_DIALECTS: Final[Sequence[str]] = (
    *(f"CSV or Parquet with {table.name}" for table in _TABLES),
    *(dialect.name for dialect in _JSON_DIALECTS),
)
"""What is read as trades, for people."""
