"""Recordings of trades, read and written as columns. A file's dialect is told by its content, never by its name."""

from __future__ import annotations

import codecs
import csv
import gzip
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import BufferedReader
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from data.admission import REASONS, TAKEN, Admission
from data.trades import FIRST_YEAR, LAST_YEAR, Floats, Int64s, Reject, Side, StreamKey, Trades

PRODUCT_ID = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}")
"""Base and quote currency, as `BTC-USD`."""

OWN_COLUMNS = ("source_id", "product_id", "trade_id", "event_time", "ingest_time", "price", "size", "side")
"""Header of the project's own CSV: the columns of `Trades`."""

BLOCK_BYTES: Final = 1 << 20
"""How much text is parsed at once: enough to hide the cost of a call, little beside the memory limit."""
HEAD_BYTES: Final = 1 << 16
"""How much of a file is looked at to tell its dialect."""
LINE_BYTES: Final = 16 << 20
"""A longer line is no row of any dialect."""
REJECT_CHARACTERS: Final = 200
"""How much of a rejected line is kept."""

Mask = NDArray[np.bool_]


class Batch(NamedTuple):
    """Some consecutive lines of one recording.

    Attributes:
        trades: those that the source takes; `keys` have an empty source_id, as the caller names the source.
        file: the recording.
        line: shape (n,), 1-based line of each trade in `file`.
        rejects: the lines that are no trade, or that the source does not take; by line.
        skipped: how many lines are messages of another kind, such as `subscriptions`.
    """

    trades: Trades
    file: str
    line: Int64s
    rejects: list[Reject]
    skipped: int


def check_product_id(product_id: str) -> None:
    """Raise ValueError if a text cannot name a product."""
    if not PRODUCT_ID.fullmatch(product_id):
        raise ValueError(f"a product must be named like BTC-USD (capitals and digits), was {product_id!r}")


def read_trades(
    paths: Path | Sequence[Path], *, product_id: str = "BTC-USD", batch_rows: int = 65_536
) -> Iterator[Batch]:
    """Read one source: one pass over an ordered list of recordings, each of any dialect, plain or with gzip.

    Rows that are no trades are rejected and never stop the reading. Ids that do not rise and times that fall are
    judged over the whole source. Memory does not depend on the length of the recordings.

    Args:
        paths: one recording or several, in the order in which they were made.
        product_id: of trades in recordings that name none.
        batch_rows: the most lines that one batch covers.

    Raises:
        ValueError: at once, if a file is no recording, or if only some recordings have trade ids; while reading, if a
            file turns out to hold no row, or its gzip to be damaged: all whole rows before that are delivered.
    """
    paths = [paths] if isinstance(paths, Path) else paths
    if not paths:
        raise ValueError("a source needs at least 1 recording, got 0")
    check_product_id(product_id)
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, was {batch_rows}")
    recordings = [(path, _recognize(path)) for path in paths]
    for (path, dialect), (other_path, other) in pairwise(recordings):
        if dialect.has_ids != other.has_ids:
            with_ids, without = (path, other_path) if dialect.has_ids else (other_path, path)
            raise ValueError(
                f"{with_ids} has trade ids and {without} has none: trades of one source are ordered by one or the "
                "other; read them as two sources"
            )
    return _read(recordings, product_id, batch_rows)


def _read(recordings: Sequence[tuple[Path, Dialect]], product_id: str, batch_rows: int) -> Iterator[Batch]:
    admission = Admission()
    position = 1  # of the next data row in the source: its trade id where recordings have none
    for path, dialect in recordings:
        rows = skipped = 0
        try:
            for lines in _data_lines(path, dialect.header_lines, batch_rows):
                batch = _batch(str(path), lines, dialect, product_id, position + rows, admission)
                rows += len(lines)
                skipped += batch.skipped
                yield batch
        except _DamagedGzip as damage:
            raise ValueError(
                f"{path}: the gzip {damage} after {rows:,} whole rows, which were read; copy or download the file "
                f"again, or keep its readable part: gzip -dc {path.name} > part.csv"
            ) from damage
        if rows == skipped:
            found = f"only {skipped:,} messages of other kinds" if skipped else "only a header"
            raise ValueError(f"{path}: holds no trades, {found} ({dialect.name})")
        position += rows


def _batch(file: str, lines: _Lines, dialect: Dialect, product_id: str, position: int, admission: Admission) -> Batch:
    """Turn lines into trades and rejects; `position` is that of the first line in its source."""
    readable, reasons = _readable(lines)
    rows = dialect.rows(lines.take(readable))
    reasons |= {int(readable[i]): reason for i, reason in rows.broken.items()}
    at = readable[rows.at]
    texts = dict(rows.texts)
    if "product_id" not in texts:
        texts["product_id"] = pa.repeat(product_id, len(at))
    if "trade_id" not in texts:
        texts["trade_id"] = pa.array(at + position).cast(pa.string())
    if "side" not in texts:
        texts["side"] = pa.repeat("", len(at))

    ok = np.ones(len(at), np.bool_)
    columns: dict[str, NDArray[Any]] = {}
    for name, field in _FIELDS.items():
        columns[name], good = field.parse(texts[name])
        for i in np.flatnonzero(ok & ~good):
            text = texts[name][int(i)].as_py()
            reasons[int(at[i])] = f"{dialect.columns[name]} {field.explain(text)}, was {text[:60]!r}"
        ok &= good

    at = at[ok]
    _, first, stream = np.unique(columns["product_id"][ok], return_index=True, return_inverse=True)
    products = texts["product_id"].take(pa.array(np.flatnonzero(ok)[first])).to_pylist()
    trades = Trades(
        keys=tuple(StreamKey("", product) for product in products),
        stream=stream.astype(np.int32),
        ingest_time=np.zeros(len(stream), np.int64),
        **{name: columns[name][ok] for name in _FIELDS if name != "product_id"},
    )
    status = admission.judge(trades)
    reasons |= {int(at[i]): REASONS[int(status[i])] for i in np.flatnonzero(status != TAKEN)}
    rejects = [Reject(file, int(lines.number[i]), reasons[i], lines.text(i)) for i in sorted(reasons)]
    taken = status == TAKEN
    if not taken.all():
        trades, at = trades.take(taken), at[taken]
    return Batch(trades, file, lines.number[at], rejects, rows.skipped)


class _Lines:
    """Some lines of a file, none of them blank, and their 1-based numbers."""

    def __init__(self, data: bytes, number: Int64s) -> None:
        self.data = data
        self.number = number
        self.ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    @classmethod
    def of(cls, data: bytes, first_number: int) -> _Lines:
        """Number the lines of a text that ends with a line end, and leave blank ones out."""
        if b"\r" in data:
            data = re.sub(rb"\r+\n", b"\n", data)
        lines = cls(data, np.empty(0, np.int64))
        lines.number = first_number + np.arange(len(lines), dtype=np.int64)
        blank = np.diff(lines.ends, prepend=-1) == 1
        if not blank.any():
            return lines
        kept = np.ones(len(data), np.bool_)
        kept[lines.ends[blank]] = False
        return cls(np.frombuffer(data, np.uint8)[kept].tobytes(), lines.number[~blank])

    def __len__(self) -> int:
        return len(self.ends)

    def cut(self, first: int, last: int) -> _Lines:
        """Return the lines from `first` up to, but not with, `last`."""
        start = int(self.ends[first - 1]) + 1 if first else 0
        stop = int(self.ends[last - 1]) + 1 if last else 0
        return _Lines(self.data[start:stop], self.number[first:last])

    def take(self, rows: NDArray[np.intp]) -> _Lines:
        """Return some of the lines."""
        if len(rows) == len(self):
            return self
        return _Lines(b"".join(self[i] + b"\n" for i in rows), self.number[rows])

    def __getitem__(self, i: int) -> bytes:
        return self.data[int(self.ends[i - 1]) + 1 if i else 0 : int(self.ends[i])]

    def text(self, i: int) -> str:
        """Return what is kept of a rejected line."""
        return self[i][: 4 * REJECT_CHARACTERS].decode(errors="replace")[:REJECT_CHARACTERS]


def _readable(lines: _Lines) -> tuple[NDArray[np.intp], dict[int, str]]:
    """Return which lines are texts, and for each of the others why it is none."""
    reasons: dict[int, str] = {}
    try:
        clean = b"\r" not in lines.data
        lines.data.decode()
    except UnicodeDecodeError:
        clean = False
    if not clean:
        for i in range(len(lines)):
            try:
                lines[i].decode()
                if b"\r" in lines[i]:
                    reasons[i] = "the line must be one line, but has a carriage return within"
            except UnicodeDecodeError as error:
                reasons[i] = f"the line must be UTF-8, but its byte {error.start + 1} is {lines[i][error.start]:#04x}"
    rows = np.arange(len(lines))
    return np.delete(rows, list(reasons)), reasons


class _DamagedGzip(Exception):
    """A gzip that cannot be read to its end, and in what way."""


def _data_lines(path: Path, header_lines: int, batch_rows: int) -> Iterator[_Lines]:
    """Yield the lines after the header, at most `batch_rows` at once; all whole lines even of a damaged gzip."""
    number = 1
    to_skip = header_lines
    for block in _whole_lines(path):
        lines = _Lines.of(block, number)
        number += block.count(b"\n")
        skipped = min(to_skip, len(lines))
        to_skip -= skipped
        for first in range(skipped, len(lines), batch_rows):
            yield lines.cut(first, min(first + batch_rows, len(lines)))


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the text of a file, without a byte order mark, in blocks that end with a line end."""
    pending = bytearray()
    damage = None
    with path.open("rb") as file:
        chunks = _chunks(file)
        start = True
        while True:
            try:
                chunk = next(chunks, b"")
            except _DamagedGzip as error:
                chunk, damage = b"", error
            pending += chunk
            if chunk and len(pending) < BLOCK_BYTES:
                continue
            if start and pending.startswith(codecs.BOM_UTF8):
                del pending[: len(codecs.BOM_UTF8)]
            start = False
            if not chunk and not damage and pending and not pending.endswith(b"\n"):
                pending += b"\n"
            end = pending.rfind(b"\n") + 1
            if end:
                yield bytes(pending[:end])
                del pending[:end]
            if damage:
                raise damage
            if not chunk:
                return
            if len(pending) > LINE_BYTES:
                raise ValueError(f"{path}: has a line of more than {LINE_BYTES:,} bytes, so it is no recording")


def _chunks(file: BufferedReader) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked if it is a gzip."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as stream:
            while chunk := stream.read1(1 << 20):
                yield chunk
    except EOFError as error:
        raise _DamagedGzip("ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _DamagedGzip(f"is damaged ({error})") from error


class _Field(NamedTuple):
    """How a column of texts becomes a column of values."""

    parse: Callable[[pa.Array], tuple[NDArray[Any], Mask]]
    """Return a value for each text, and which of them are allowed."""
    explain: Callable[[str], str]
    """Say what is allowed instead of a text."""


def _cast(texts: pa.Array, to: pa.DataType) -> pa.Array:
    """Parse texts; null where one cannot be parsed. Numbers become the nearest double, times are exact."""
    try:
        return texts.cast(to)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, to)
        half = len(texts) // 2
        return pa.concat_arrays([_cast(texts[:half], to), _cast(texts[half:], to)])


def _numpy(values: pa.Array) -> NDArray[Any]:
    numpy: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numpy


def _products(texts: pa.Array) -> tuple[NDArray[np.int32], Mask]:
    encoded = texts.dictionary_encode()
    good = np.array([bool(PRODUCT_ID.fullmatch(name)) for name in encoded.dictionary.to_pylist()], np.bool_)
    codes = _numpy(encoded.indices)
    return codes, good[codes]


def _whole_numbers(texts: pa.Array) -> tuple[Int64s, Mask]:
    # A cast alone would take -5 and 0x1F.
    values = _cast(pc.if_else(pc.utf8_is_digit(texts), texts, pa.scalar(None, pa.string())), pa.int64())
    return _numpy(values.fill_null(0)), _numpy(values.is_valid())


_TOO_LATE = int(np.datetime64(f"{LAST_YEAR + 1}-01-01", "ns").view(np.int64))


def _times(texts: pa.Array) -> tuple[Int64s, Mask]:
    values = _cast(texts, _UTC)
    ns = _numpy(values.cast(pa.int64()).fill_null(0))
    return ns, _numpy(values.is_valid()) & (ns >= 0) & (ns < _TOO_LATE)


def _explain_time(text: str) -> str:
    if _cast(pa.array([text]), pa.timestamp("ns")).is_valid()[0].as_py():
        return "has no zone: a time must end with Z or an offset like +00:00"
    return f"must be a time like 2025-01-06T00:00:00.123456789Z, from {FIRST_YEAR} to {LAST_YEAR}"


def _prices(texts: pa.Array) -> tuple[Floats, Mask]:
    values = _numpy(_cast(texts, pa.float64()))
    return values, np.isfinite(values) & (values > 0)


def _sizes(texts: pa.Array) -> tuple[Floats, Mask]:
    unknown = pc.equal(texts, "")
    values = _numpy(_cast(pc.if_else(unknown, pa.scalar(None, pa.string()), texts), pa.float64()))
    return values, _numpy(unknown) | (np.isfinite(values) & (values >= 0))


def _sides(texts: pa.Array) -> tuple[NDArray[np.int8], Mask]:
    index = pc.index_in(texts, _SIDE_TEXTS)
    return _numpy(index.fill_null(0)).astype(np.int8) + np.int8(Side.SELL), _numpy(index.is_valid())


_UTC = pa.timestamp("ns", "UTC")
_SIDE_TEXTS = pa.array(["sell", "", "buy"])  # at Side - Side.SELL

_FIELDS: Final[Mapping[str, _Field]] = {
    "product_id": _Field(_products, lambda _: "must be named like BTC-USD (capitals and digits)"),
    "trade_id": _Field(_whole_numbers, lambda _: "must be a whole number from 0 to 2^63 - 1"),
    "event_time": _Field(_times, _explain_time),
    "price": _Field(_prices, lambda _: "must be a finite number above 0"),
    "size": _Field(_sizes, lambda _: "must be a finite number of at least 0, or empty"),
    "side": _Field(_sides, lambda _: "must be buy, sell or empty"),
}


class _Rows(NamedTuple):
    """What a dialect finds in n lines.

    Attributes:
        at: shape (m,), index of the lines that are rows.
        texts: by field of a trade, m texts each.
        broken: for lines that could not be taken apart, by index: why.
        skipped: how many lines are messages of another kind.
    """

    at: NDArray[np.intp]
    texts: Mapping[str, pa.Array]
    broken: Mapping[int, str]
    skipped: int


class Dialect(ABC):
    """How one recording is written.

    Attributes:
        name: for people.
        columns: by field of a trade, what the recording calls it.
        header_lines: how many lines come before the data.
    """

    name: str
    columns: Mapping[str, str]
    header_lines: int

    @property
    def has_ids(self) -> bool:
        """Whether the recording gives trades their ids."""
        return "trade_id" in self.columns

    @abstractmethod
    def rows(self, lines: _Lines) -> _Rows:
        """Take readable lines apart."""


class _CsvDialect(Dialect):
    """A CSV with a header: columns are found by name, and further ones are ignored."""

    header_lines = 1

    def __init__(self, name: str, columns: Mapping[str, str], header: Sequence[str]) -> None:
        self.name = name
        self.columns = {field: column for field, column in columns.items() if column in header}
        self._header = header
        self._index = {field: str(header.index(column)) for field, column in self.columns.items()}
        self._schema = pa.schema([(index, pa.string()) for index in self._index.values()])

    def rows(self, lines: _Lines) -> _Rows:
        broken: dict[int, str] = {}
        pieces = self._pieces(lines, np.arange(len(lines)), broken)
        if not pieces:
            pieces = [(np.empty(0, np.intp), self._schema.empty_table())]
        at = np.concatenate([at for at, _ in pieces])
        table = pa.concat_tables([table for _, table in pieces])
        skipped = 0
        if _MESSAGE_TYPE in self.columns:
            is_trade = _numpy(pc.equal(table[self._index[_MESSAGE_TYPE]], _TRADE_MESSAGE).combine_chunks())
            skipped = int(np.sum(~is_trade))
            at, table = at[is_trade], table.filter(is_trade)
        texts = {field: table[self._index[field]].combine_chunks() for field in self.columns}
        return _Rows(at, texts, broken, skipped)

    def _pieces(
        self, lines: _Lines, at: NDArray[np.intp], broken: dict[int, str]
    ) -> list[tuple[NDArray[np.intp], pa.Table]]:
        """Return tables of texts with the index of each of their rows, and note the other lines in `broken`."""
        if len(lines) == 0:
            return []
        wrong: dict[int, str] = {}

        def note(row: pyarrow.csv.InvalidRow) -> str:
            wrong[row.number - 1] = f"expected {row.expected_columns} fields, found {row.actual_columns}"
            return "skip"

        # A last row of empty fields, so that a quotation mark left open on the last line has something to swallow.
        text = lines.data + b"," * (len(self._header) - 1) + b"\n"
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            # One block and one thread, because only then rows have numbers.
            pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=len(text) + 1,
                column_names=[str(i) for i in range(len(self._header))],
            ),
            pyarrow.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=note),
            pyarrow.csv.ConvertOptions(
                include_columns=self._schema.names, column_types=self._schema, strings_can_be_null=False
            ),
        )
        if table.num_rows + len(wrong) == len(lines) + 1:
            broken |= {int(at[i]): reason for i, reason in wrong.items()}
            return [(np.delete(at, list(wrong)), table[:-1])]
        # A row that spans lines: a quotation mark is open. The lines are parsed apart until only its own is lost.
        if len(lines) == 1:
            broken[int(at[0])] = "a quotation mark is not closed on its line"
            return []
        half = len(lines) // 2
        return [
            *self._pieces(lines.cut(0, half), at[:half], broken),
            *self._pieces(lines.cut(half, len(lines)), at[half:], broken),
        ]


_MESSAGE_TYPE = "message_type"
"""A further column of the ticker channel: rows of another type than `ticker` are no trades."""
_TRADE_MESSAGE = "ticker"

_TICKER_COLUMNS = {
    "product_id": "product_id",
    "trade_id": "trade_id",
    "event_time": "time",
    "price": "price",
    "size": "last_size",
    "side": "side",
}

_OWN_CSV = "the project's own CSV: " + ",".join(OWN_COLUMNS)
_TICKER_CSV = (
    "CSV of the Coinbase Exchange ticker channel: type,sequence,product_id,price,...,side,time,trade_id,last_size"
)
_PLAIN_CSV = "CSV with timestamp,price,volume"
_TICKER_NDJSON = 'NDJSON of the Coinbase Exchange ticker channel: {"type":"ticker",...}'
_ENVELOPE_NDJSON = 'the same, as recorded: {"ts":...,"pair":...,"raw":"{\\"type\\":\\"ticker\\",...}"}'


class _Csv(NamedTuple):
    """Columns by field of a trade: those that tell the dialect, and those that it may have as well."""

    needed: Mapping[str, str]
    possible: Mapping[str, str]


_CSV_DIALECTS: Final[Mapping[str, _Csv]] = {
    _OWN_CSV: _Csv({field: field for field in _FIELDS}, {}),
    _TICKER_CSV: _Csv(_TICKER_COLUMNS, {_MESSAGE_TYPE: "type"}),
    _PLAIN_CSV: _Csv({"event_time": "timestamp", "price": "price", "size": "volume"}, {"product_id": "product_id"}),
}


def _recognize_csv(head: Sequence[bytes]) -> Dialect | None:
    try:
        header = next(csv.reader([head[0].decode()]))
    except (UnicodeDecodeError, csv.Error):
        return None
    for name, dialect in _CSV_DIALECTS.items():
        if set(dialect.needed.values()) <= set(header):
            return _CsvDialect(name, {**dialect.needed, **dialect.possible}, header)
    return None


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


_MESSAGES = msgspec.json.Decoder(_Message)
_ENVELOPES = msgspec.json.Decoder(_Envelope)


def _enclosed_message(line: bytes) -> _Message:
    return _MESSAGES.decode(_ENVELOPES.decode(line).raw)


class _JsonDialect(Dialect):
    """NDJSON of the ticker channel."""

    header_lines = 0
    columns = _TICKER_COLUMNS

    def __init__(self, name: str, decode: Callable[[bytes], _Message]) -> None:
        self.name = name
        self._decode = decode

    def rows(self, lines: _Lines) -> _Rows:
        at = np.arange(len(lines))
        broken: dict[int, str] = {}
        messages: list[_Message] = []
        for i, line in enumerate(lines.data.split(b"\n")[:-1]):
            try:
                messages.append(self._decode(line))
            except (msgspec.MsgspecError, UnicodeError) as error:
                broken[i] = f"the line must be a JSON message of the ticker channel: {error}"
        at = np.delete(at, list(broken))
        is_trade = np.array([message.type == _TRADE_MESSAGE for message in messages], np.bool_)
        skipped = int(np.sum(~is_trade))
        if skipped:
            messages = [message for message in messages if message.type == _TRADE_MESSAGE]
            at = at[is_trade]
        texts = {field: _texts(list(map(attrgetter(column), messages))) for field, column in self.columns.items()}
        return _Rows(at, texts, broken, skipped)


def _texts(values: list[_Scalar]) -> pa.Array:
    try:
        return pa.array(values, pa.string()).fill_null("")
    except pa.ArrowTypeError:
        return pa.array(["" if value is None else str(value) for value in values], pa.string())


def _recognize_json(name: str, decode: Callable[[bytes], _Message]) -> Callable[[Sequence[bytes]], Dialect | None]:
    def recognize(head: Sequence[bytes]) -> Dialect | None:
        for line in head:
            try:
                if decode(line).type in (_TRADE_MESSAGE, "subscriptions"):
                    return _JsonDialect(name, decode)
            except (msgspec.MsgspecError, UnicodeError):
                continue
        return None

    return recognize


DIALECTS: Final[Mapping[str, Callable[[Sequence[bytes]], Dialect | None]]] = {
    **dict.fromkeys(_CSV_DIALECTS, _recognize_csv),
    _TICKER_NDJSON: _recognize_json(_TICKER_NDJSON, _MESSAGES.decode),
    _ENVELOPE_NDJSON: _recognize_json(_ENVELOPE_NDJSON, _enclosed_message),
}
"""What is read, and for each what recognizes it by the first lines that are not blank."""

_MAGIC: Final[Mapping[bytes, str]] = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"SQLite": "an SQLite database",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\xff\xfe": "a UTF-16 text",
    b"\xfe\xff": "a UTF-16 text",
}


def _recognize(path: Path) -> Dialect:
    if path.is_dir():
        raise _unknown(path, "is a directory")
    if not path.exists():
        raise _unknown(path, "does not exist")
    data = _head(path)
    if not data:
        raise _unknown(path, "is empty")
    head = [line for line in data.removeprefix(codecs.BOM_UTF8).splitlines() if line]
    for recognize in dict.fromkeys(DIALECTS.values()):
        if head and (dialect := recognize(head)):
            return dialect
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            raise _unknown(path, f"starts with the bytes of {name}")
    raise _unknown(path, f"starts with {data[:60].decode(errors='replace')!r}")


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked, as far as they can be read."""
    head = b""
    with path.open("rb") as file:
        try:
            for chunk in _chunks(file):
                head += chunk
                if len(head) >= HEAD_BYTES:
                    break
        except _DamagedGzip as damage:
            if not head:
                raise _unknown(path, f"is a gzip that {damage} before its first byte") from damage
    return head[:HEAD_BYTES]


def _unknown(path: Path, found: str) -> ValueError:
    return ValueError(
        "\n  - ".join([f"{path}: holds no trades: it {found}. These are read, plain or with gzip:", *DIALECTS])
    )


def write_csv(path: Path, batches: Iterable[Trades]) -> None:
    """Write trades as the project's own CSV, from which `read_trades` reads the same values.

    The file appears whole or not at all. It is compressed if its name ends in `.gz`; equal trades give equal bytes.
    Unknown sizes and sides, and ingest times of 0, are written as empty texts.
    """
    with _replacing(path) as file:
        file.write(",".join(OWN_COLUMNS).encode() + b"\n")
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        for trades in batches:
            pyarrow.csv.write_csv(_own_table(trades), file, options)


def _own_table(trades: Trades) -> pa.Table:
    def of_stream(texts: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(trades.stream, pa.array(texts, pa.string())).cast(pa.string())

    def times(ns: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
        texts = pa.array(ns, mask=ns == 0).cast(pa.timestamp("ns", "UTC")).cast(pa.string())
        return pc.fill_null(pc.replace_substring(texts, " ", "T"), "")

    columns = (
        of_stream([key.source_id for key in trades.keys]),
        of_stream([key.product_id for key in trades.keys]),
        pa.array(trades.trade_id),
        times(trades.event_time),
        times(trades.ingest_time),
        pa.array(trades.price),
        pa.array(trades.size, from_pandas=True),
        _SIDE_TEXTS.take(pa.array(trades.side - np.int8(Side.SELL))),
    )
    return pa.table(dict(zip(OWN_COLUMNS, columns, strict=True)))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Open a file for writing that takes its name only when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as plain:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) as packed:
                    yield packed
            else:
                yield plain
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
