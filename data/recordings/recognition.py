"""Recognize the dialect of a recording by its content."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from data.names import Damaged
from data.recordings.dialects.bars import BarDialect
from data.recordings.dialects.base import Dialect, TextDialect
from data.recordings.dialects.candles import candle_dialect
from data.recordings.dialects.lean import lean_dialect
from data.recordings.dialects.messages import MESSAGE_DIALECTS
from data.recordings.dialects.tables import TABLES, CsvDialect, parquet_dialect, table_of
from data.recordings.lines import GZIP_MAGIC, chunks_of, head_of


def recognize(path: Path) -> Dialect[Any] | BarDialect:
    """Return the dialect of a recording.

    Raises:
        ValueError: the file is no recording, or cannot be read.
    """
    if path.is_dir():
        raise _unknown(path, "is a directory")
    if not path.exists():
        raise _unknown(path, "does not exist")
    try:
        head = head_of(chunks_of(path))
    except Damaged as damage:
        how = str(damage).partition(" (")[0]  # the rest can show bytes of the file
        raise _unknown(path, f"cannot be read ({how} before its first byte)") from None
    except OSError as error:
        raise _unknown(path, f"cannot be read ({error.strerror})") from None
    if not head:
        raise _unknown(path, "is empty")
    try:
        dialect = _dialect_of(path, head)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if dialect is not None:
        return dialect
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise _unknown(path, f"starts with the bytes of {name}")
    raise _unknown(path, _described(head))


def _dialect_of(path: Path, head: bytes) -> Dialect[Any] | BarDialect | None:
    for magic, dialect_of in _PACKED.items():
        if head.startswith(magic):
            with path.open("rb") as file:
                if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
                    raise ValueError("is a gzip of a file that is packed already: unpack it with gzip -d")
            return dialect_of(path)
    lines = head.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return text_dialect([line for line in lines if line.strip(b"\r")]) or candle_dialect(path, lines)


_PACKED: Final[dict[bytes, Callable[[Path], Dialect[Any] | BarDialect | None]]] = {
    b"PAR1": parquet_dialect,
    b"PK\x03\x04": lean_dialect,
}

_MAGIC: Final = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file of other columns",
    b"SQLite": "an SQLite database",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\xff\xfe": "a UTF-16 text",
    b"\xfe\xff": "a UTF-16 text",
}


def _described(head: bytes) -> str:
    """Return what kind of file has this start, without a byte of it: the file may be secret for who reads the error."""
    if not head.strip():
        return "has blank lines alone"
    return "holds no text" if b"\0" in head else "is a text without a known header or message"


def _unknown(path: Path, found: str) -> ValueError:
    said = f"{path}: holds no trades: it {found}. These are read, texts plain or with gzip:"
    bars = (f"{name} (bars, not trades)" for name in BAR_DIALECTS)
    return ValueError("\n  - ".join([said, *TRADE_DIALECTS, *bars]))


def text_dialect(head: Sequence[bytes]) -> TextDialect | None:
    """Return the dialect of a text by its first lines that are not blank; None if the text is no recording."""
    if not head:
        return None
    try:
        header = next(csv.reader([head[0].decode()]))
    except (UnicodeDecodeError, csv.Error):
        header = []
    if (header_match := table_of(header)) is not None:
        return CsvDialect(*header_match, header)
    return next((dialect for dialect in MESSAGE_DIALECTS if dialect.recognizes(head)), None)


TRADE_DIALECTS: Final[Sequence[str]] = (
    *(f"CSV or Parquet with {table.name}" for table in TABLES),
    *(dialect.name for dialect in MESSAGE_DIALECTS),
)
"""Dialects of trades, for people."""

BAR_DIALECTS: Final[Sequence[str]] = (
    "LEAN trade bars: .../second/btcusd/20161007_trade.zip or .../minute/...",
    "CSV of CryptoDataDownload candles: [address,] unix,date,symbol,open,high,low,close,and two volumes",
)
"""Dialects of bars, for people."""
