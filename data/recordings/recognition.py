"""Recognize the dialect of a recording by its content."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from data.names import BeyondLimit, Damaged
from data.recordings.dialects.answers import (
    Answer,
    answer_of,
    described_form,
    described_json,
    finished_rows,
    have_flags,
    is_of_other_feed,
    objects_as_csv,
)
from data.recordings.dialects.bars.base import BarDialect
from data.recordings.dialects.bars.candles import Text, candle_dialect, parquet_text
from data.recordings.dialects.bars.lean import lean_dialect
from data.recordings.dialects.base import Chunks, Dialect, TextDialect
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.dialects.documents import array_rows, member_chunks, object_lines, zip_members
from data.recordings.dialects.file_names import DEFAULT_PRODUCT, product_in_name
from data.recordings.dialects.messages.base import HAS_TRADE, NO_JSON, JsonDialect
from data.recordings.dialects.messages.channels import ADVANCED_CHANNELS, EXCHANGE_TYPES, MESSAGE_DIALECTS
from data.recordings.dialects.messages.kraken import KRAKEN_NAME, kraken_dialect
from data.recordings.dialects.messages.objects import JSON_TABLES, ObjectDialect, keys_of, object_match, values_of_key
from data.recordings.dialects.tables.headerless import headerless_match
from data.recordings.dialects.tables.headers import (
    TableMatch,
    described_miss,
    names_columns,
    suggested_columns,
    table_of,
    with_index_time,
)
from data.recordings.dialects.tables.known import TABLES
from data.recordings.dialects.tables.parquet import DAMAGED_PARQUET, column_names, parquet_dialect, schema_of
from data.recordings.dialects.tables.text import CsvDialect
from data.recordings.lines import GZIP_MAGIC, HEAD_BYTES, chunks_of, data_lines, head_of

AnyDialect = Dialect[Any] | BarDialect

MOST_NAMES: Final = 10
"""Files of a zip and columns of a table that a refusal names."""


def recognize(path: Path, product_id: str = DEFAULT_PRODUCT, columns: ColumnMap | None = None) -> AnyDialect:
    """Return the dialect of a recording.

    Args:
        product_id: product of a recording without product names; of a symbol without a separator the product tells base
            and quote.
        columns: names of columns that no dialect knows.

    Raises:
        ValueError: the file is no recording, or cannot be read.
    """
    if not _is_utf8(str(path)):  # topics and the lake name the file of a reject
        raise _unknown(path, "has a name that is no UTF-8: rename it")
    if path.is_dir():
        raise _unknown(path, "is a directory")
    if not path.exists():
        raise _unknown(path, "does not exist")
    if not path.is_file():  # a device or a pipe may have no end, or give nothing for ever
        raise _unknown(path, "is no regular file, but a device, a pipe or a socket")
    try:
        head = head_of(chunks_of(path))
    except Damaged as damage:
        how = str(damage).partition(" (")[0]  # the rest can show bytes of the file
        raise _unknown(path, f"cannot be read ({how} before its first byte)") from None
    except OSError as error:
        raise _unknown(path, f"cannot be read ({error.strerror})") from None
    if not head:
        raise _unknown(path, "is empty")
    recognition = _Recognition(path, product_id, columns)
    try:
        dialect = recognition.dialect_of(head)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if dialect is not None:
        return dialect
    if recognition.found:
        raise _unknown(path, recognition.found)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise _unknown(path, f"starts with the bytes of {name}")
    raise _unknown(path, _described(head))


class _Recognition:
    """Search for the dialect of one file.

    Attributes:
        found: what the file is, for a refusal; empty if nothing is known.
    """

    def __init__(self, path: Path, told: str, columns: ColumnMap | None) -> None:
        self._path, self._told, self._columns = path, told, columns
        self._tables = TABLES if columns is None else (columns.table(), *TABLES)
        self._json_tables = JSON_TABLES if columns is None else (columns.table(), *JSON_TABLES)
        self.found = self._lacking = ""
        self._is_told_inside = False  # the text names the product beside its rows
        self._names = [path.name]  # and the name of the file in a zip
        self._member_product: str | None = None  # by the name of the file in a zip

    def dialect_of(self, head: bytes) -> AnyDialect | None:
        """Return the dialect of a file that starts with `head`, unpacked."""
        dialect = self._of_content(head)
        self.found = self._lacking or self.found
        return dialect

    def _of_content(self, head: bytes) -> AnyDialect | None:
        for magic, dialect_of in ((b"PAR1", self._parquet), (b"PK\x03\x04", self._zip)):
            if head.startswith(magic):
                with self._path.open("rb") as file:
                    if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
                        raise ValueError(_PACKED_TWICE)
                return dialect_of()
        if head.startswith(GZIP_MAGIC):
            raise ValueError(_PACKED_TWICE)
        return self._text(head, chunks_of)

    def _parquet(self) -> AnyDialect | None:
        schema = schema_of(self._path)
        names = column_names(schema)
        self._check_map(names)
        trades = parquet_dialect(self._path, schema, self._told, self._product, self._tables)
        if trades is not None:
            return trades
        text = parquet_text(self._path, schema)
        try:
            head = head_of(text())
        except BeyondLimit as error:
            raise ValueError(str(error)) from None
        except Damaged:
            raise ValueError(DAMAGED_PARQUET) from None
        bars = self._candles(text, head.split(b"\n"))
        if bars is None:
            miss = described_miss(names)
            miss = f"it {miss}" if miss else f"a column map reads other names, as {suggested_columns(names)}"
            self.found = f"starts with the bytes of a Parquet file of other columns: {_shown(names)}; {miss}"
        return bars

    def _zip(self) -> AnyDialect | None:
        members = zip_members(self._path)
        self.found = f"starts with the bytes of a zip archive, with {len(members)} files: {_shown(members)}"
        if "xl/workbook.xml" in members:
            self.found = "is an Excel workbook: save it as CSV"
            return None
        if len(members) != 1:
            self.found += "; a zip of one file is read, so unpack it" if members else ""
            return None
        member = members[0]
        self._names.append(member)
        try:
            head = head_of(member_chunks(self._path, member))
        except Damaged:
            raise ValueError("starts as a zip archive, but cannot be read; copy or download it again") from None
        if head.startswith((b"PK\x03\x04", GZIP_MAGIC)):
            raise ValueError(f"is a zip whose file {member[:80]!r} is packed, too: unpack it")
        if product_in_name(self._path, self._told) is None and (inside := product_in_name(Path(member), self._told)):
            self._member_product = self._told = inside
            self._is_told_inside = True
        lean = lean_dialect(self._path, member, head.split(b"\n")[0], self._told)
        if lean is not None:
            return lean
        said, self.found = f"starts with the bytes of a zip archive; its file {member!r} ", ""
        dialect = self._text(head, lambda path, meter: member_chunks(path, member, meter))
        self.found = said + (self.found or _described(head))
        return dialect

    def _text(self, head: bytes, chunks: Chunks) -> AnyDialect | None:
        """Return the dialect of a text.

        Args:
            chunks: reads the text.
        """
        text = head.removeprefix(codecs.BOM_UTF8)
        opened = text.lstrip(b" \t\r\n")
        if (kraken := kraken_dialect(text, self._told)) is not None:
            return kraken.reading(_composed(object_lines, chunks))
        if opened.startswith((b"[", b"{")):
            return self._json(text, opened, chunks)
        lines = _whole(text)
        filled = [line for line in lines if line.strip(b"\r \t")]
        if not filled:
            return None
        return self._csv(filled, chunks) or self._candles(self._reader(chunks), lines)

    def _json(self, text: bytes, opened: bytes, chunks: Chunks) -> AnyDialect | None:
        """Return the dialect of JSON: an array, objects one a line or over several lines, or answers of a server."""
        found: AnyDialect | None = None
        if opened.startswith(b"["):
            found = self._objects(opened, chunks) if _OBJECTS.match(opened) else self._rows(opened, chunks)
        elif not is_of_other_feed(opened):
            lines = [line for line in _whole(text) if line.strip(b"\r \t")]
            found = self._messages(lines, chunks)
            if found is None and not _is_object(lines[0]):
                found = self._objects(opened, chunks)
        if found is None and (answer := answer_of(opened, self._told)) is not None:
            found = self._answers(answer, chunks)
        if found is None:
            self.found = described_form(opened) or self.found or described_json(opened)
        return found

    def _answers(self, answer: Answer, chunks: Chunks) -> AnyDialect | None:
        """Return the dialect of the rows that stand within answers of a server."""
        lines = answer.first_rows(chunks(self._path, None))
        if lines is None:
            self.found = "is an answer of a server that ends early or is damaged: download it again"
            return None
        composed = _composed(answer.rows, chunks)
        self._told, self._is_told_inside = answer.product_id or self._told, bool(answer.product_id)
        return self._messages(lines, composed) if answer.has_objects else self._candles(self._reader(composed), lines)

    def _reader(self, chunks: Chunks) -> Text:
        return lambda: chunks(self._path, None)

    def _candles(self, text: Text, head: Sequence[bytes]) -> BarDialect | None:
        """Return the dialect of candles in a text that begins with `head`."""
        return candle_dialect(self._path, text, head, self._told, is_told_inside=self._is_told_inside)

    def _product(self, match: TableMatch) -> str | None:
        """Return the product that the name of the file tells of a table whose rows name none.

        Raises:
            ValueError: the name tells that the rows are no trades, or that their sizes are contracts.
        """
        for name in self._names:
            _check_name(name, match)
        if "product_id" in match.columns:
            return None
        if self._is_told_inside:
            return self._member_product
        return product_in_name(self._path, self._told)

    def _csv(self, lines: Sequence[bytes], chunks: Chunks) -> TextDialect | None:
        """Return the dialect of CSV of trades, with a header or without."""
        rows = [_fields(line) for line in lines[:50]]
        header = with_index_time(rows[0], next(iter(rows[1:]), []))
        self._check_map(header)
        if (match := table_of(header, self._tables)) is not None:
            match = match.settled(partial(_column_of, rows[1:], header))
            product = self._product(match)
            return CsvDialect(match, header, told=self._told, product=product).reading(chunks)
        self.found = described_miss(header)
        return self._headerless(lines, chunks)

    def _headerless(self, lines: Sequence[bytes], chunks: Chunks) -> TextDialect | None:
        found = headerless_match(lines)
        if found is None:
            return None
        match = found.match
        match = match.settled(partial(_column_of, [_fields(line) for line in lines[:50]], found.names))
        product = self._product(match)
        return CsvDialect(match, found.names, header_lines=0, told=self._told, product=product).reading(chunks)

    def _rows(self, text: bytes, chunks: Chunks) -> AnyDialect | None:
        """Return the dialect of a JSON array of arrays."""
        rows = _whole(b"".join(array_rows(iter([text]))))
        composed = _composed(array_rows, chunks)
        if have_flags(rows):
            composed = _composed(finished_rows, composed)
            rows = b"".join(finished_rows(iter([b"\n".join(rows)]))).splitlines()
        found = self._headerless(rows, composed)
        return found or self._candles(self._reader(composed), rows)

    def _objects(self, text: bytes, chunks: Chunks) -> AnyDialect | None:
        """Return the dialect of JSON objects in an array, or printed over several lines."""
        return self._messages(_whole(b"".join(object_lines(iter([text])))), _composed(object_lines, chunks))

    def _messages(self, lines: Sequence[bytes], chunks: Chunks) -> AnyDialect | None:
        """Return the dialect of JSON lines: messages of a feed, or objects with the keys of a table or of candles."""
        feed, has_trade = _feed_of(lines)
        if not has_trade and (feed is not None or _FEED_START.match(lines[0])):
            feed = _first_with_trades(chunks(self._path, None)) or feed
        if feed is not None:
            return feed.reading(chunks)
        keys = keys_of(lines)
        self._check_map(keys)
        match = object_match(lines, self._json_tables)
        if match is None:
            candles = _composed(objects_as_csv, chunks)
            text = b"".join(objects_as_csv(iter([b"\n".join(lines)])))
            bars = self._candles(self._reader(candles), text.split(b"\n")) if keys else None
            self.found = "" if bars is not None else described_miss(keys)
            return bars
        match = match.settled(partial(values_of_key, lines))
        product = self._product(match)
        return ObjectDialect(match, self._told, product).reading(chunks)

    def _check_map(self, names: list[str]) -> None:
        """Note the columns of the column map that are not there, if no dialect knows the columns."""
        if self._columns is None or not (missing := self._columns.missing(names)):
            return
        if table_of(names) is None:
            self._lacking = (
                f"lacks the columns {', '.join(map(repr, missing))} of the column map {self._columns.text!r}"
            )


_OBJECTS: Final = re.compile(rb"\[\s*\{")
_PACKED_TWICE: Final = "is a gzip of a file that is packed already: unpack it with gzip -d"
_FEED_START: Final = re.compile(
    rb'\s*\{\s*"(type|channel)"\s*:\s*"('
    + b"|".join(sorted(name.encode() for name in EXCHANGE_TYPES | ADVANCED_CHANNELS))
    + rb')"'
)
"""Start of a message of Coinbase's feeds: a snapshot of an order book can be longer than the head."""
_TRADE_MARKS: Final = (b"ticker", b"match", b"market_trades")


def _feed_of(lines: Sequence[bytes]) -> tuple[JsonDialect | None, bool]:
    """Return the dialect of messages among some lines, and whether one of them has a trade."""
    known = [dialect.recognizes(lines) for dialect in MESSAGE_DIALECTS]
    strength = max(known)
    return MESSAGE_DIALECTS[known.index(strength)] if strength else None, strength == HAS_TRADE


def _first_with_trades(chunks: Iterator[bytes]) -> JsonDialect | None:
    """Return the dialect of the first message with a trade, anywhere in a text."""
    try:
        for lines in data_lines(chunks):
            marked = [line for line in lines.data.split(b"\n") if any(mark in line for mark in _TRADE_MARKS)]
            feed, has_trade = _feed_of(marked)
            if has_trade:
                return feed
    except Damaged:
        pass  # the reader tells of the damage
    return None


def _composed(unfold: Callable[[Iterator[bytes]], Iterator[bytes]], chunks: Chunks) -> Chunks:
    return lambda path, meter: unfold(chunks(path, meter))


def _whole(text: bytes) -> list[bytes]:
    """Return the lines of a head; the last line may be cut, and counts if it is the only one."""
    lines = text.split(b"\n")
    return lines[:-1] if len(lines) > 1 and len(text) >= HEAD_BYTES - len(codecs.BOM_UTF8) else lines


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_object(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except NO_JSON:
        return False
    return True


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:MOST_NAMES])) + (", ..." if len(names) > MOST_NAMES else "")


def _check_name(name: str, match: TableMatch) -> None:
    """Raise ValueError if the name of a file tells that its rows are no trades, or that their sizes are contracts."""
    if "liquidation" in name.lower():
        raise ValueError("has liquidations, as its name tells, and no trades of their own")
    if match.columns.get("size") == "quantity" and re.search(r"USD_(PERP|\d{6})-aggTrades", name):
        raise ValueError(
            "has aggTrades of coin contracts, as its name tells, whose quantities count contracts: the files `trades` "
            "of the same contracts have the coins"
        )


def _column_of(rows: Sequence[Sequence[str]], names: Sequence[str], name: str) -> list[str]:
    """Return the values of a column in the rows of the right width."""
    return [row[names.index(name)] for row in rows if len(row) == len(names)]


def _fields(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode().rstrip("\r")]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


_MAGIC: Final = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"SQLite": "an SQLite database",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"ARROW1": "an Arrow file (feather): write it as Parquet",
    b"\xff\xfe": "a UTF-16 text",
    b"\xfe\xff": "a UTF-16 text",
}


_MARKUP: Final = {b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<?xml": "XML"}
_SEPARATORS: Final = {b";": "semicolons", b"\t": "tabs", b"|": "vertical bars"}


def _described(head: bytes) -> str:
    """Return what kind of file has this start, without a byte of it: the file may be secret for who reads the error."""
    opened = head.removeprefix(codecs.BOM_UTF8).strip().lower()
    if not opened:
        return "has blank lines alone"
    for start, found in _MARKUP.items():
        if opened.startswith(start):
            return (
                f"is {found} in place of a recording, perhaps the answer of a server with an error: download it again"
            )
    first = opened.split(b"\n")[0]
    for separator, name in _SEPARATORS.items():
        if first.count(separator) >= 2 and b"," not in first and not first.startswith((b"{", b"[")):
            return f"is a table whose fields are separated by {name}: save it with commas"
    if b"\0" in head:
        return "holds no text"
    return _described_table(_fields(opened.split(b"\n")[0])) or described_form(head) or _NO_FORM


_NO_FORM: Final = "is a text without a known header or message"


def _described_table(first: Sequence[str]) -> str:
    """Return what a table with this first line lacks; empty for another text."""
    if len(first) > 1 and names_columns(first):
        return (
            f"is a table of {len(first)} columns that no dialect knows, and no two are named like a time and a price; "
            "a column map names them, as --columns time=?,price=?"
        )
    if len(first) > 2 and all(re.match(r"[-\w.]", text) for text in first):
        return (
            f"is a table of {len(first)} columns without a header, and no dialect knows its rows: write a header above "
            "them, as time,price,size or time,open,high,low,close,volume"
        )
    return ""


def _unknown(path: Path, found: str) -> ValueError:
    said = f"{path}: holds no trades: it {found}. These are read, texts plain or with gzip:"
    bars = (f"{name} (bars, not trades)" for name in BAR_DIALECTS)
    return ValueError("\n  - ".join([said, *TRADE_DIALECTS, *bars]))


TRADE_DIALECTS: Final[Sequence[str]] = (
    *(f"CSV or Parquet with {table.name}" for table in TABLES),
    *(dialect.name for dialect in MESSAGE_DIALECTS),
    KRAKEN_NAME,
)
"""Dialects of trades, for people."""

BAR_DIALECTS: Final[Sequence[str]] = (
    "LEAN trade bars: .../second/btcusd/20161007_trade.zip, .../minute/..., .../hour/btcusd_trade.zip, .../daily/...",
    "candles of CryptoDataDownload, Coinbase, Binance, Kraken and others: time,open,high,low,close,volume",
)
"""Dialects of bars, for people."""
