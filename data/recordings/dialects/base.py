"""Base classes of dialects of trades: blocks of lines that become columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from data.arrow import texts_of
from data.names import PRODUCT_RULE
from data.recordings.fields import FIELDS, ZONELESS_TIME, Field
from data.recordings.lines import Lines, Meter, chunks_of, data_lines, lines_backwards
from data.trades import Int64s

OWN_COLUMNS = ("source_id", "product_id", "trade_id", "event_time", "ingest_time", "price", "size", "side")
"""Header of the project's own CSV: the columns of `Trades`."""

TYPE_CHARACTERS = 40
"""Characters of the type of a skipped message in a summary."""
MOST_TYPES = 50
"""Types of skipped messages that are counted apart in a block; a file of nonsense has any number of types."""


class SkippedTypes(Counter[str]):
    """Numbers of the skipped messages of a block by type; the empty type stands for all types beyond `MOST_TYPES`."""

    def add(self, kind: str, count: int = 1) -> None:
        """Count messages."""
        self[kind[:TYPE_CHARACTERS] if len(self) < MOST_TYPES or kind in self else ""] += count


class RowColumns(NamedTuple):
    """The m rows of n lines, in columns.

    Attributes:
        at: shape (m,), line index of each row, not falling: a line can hold several rows.
        position: shape (m,), number of rows before each row; each line counts as at least 1 row.
        columns: by field of a trade, m texts or values.
        broken: by line index, the reason why a line cannot be split into fields.
        skipped: line indexes of messages of another kind.
        positions: number of positions of the n lines.
        skipped_types: number of skipped lines by type of message.
        read_types: number of lines with rows by type of message, where messages have types.
    """

    at: NDArray[np.intp]
    position: NDArray[np.intp]
    columns: Mapping[str, pa.Array]
    broken: Mapping[int, str]
    skipped: NDArray[np.intp]
    positions: int
    skipped_types: Mapping[str, int] = {}
    read_types: Mapping[str, int] = {}


class Block(Protocol):
    """Consecutive lines of a recording, or rows of a recording without lines.

    Attributes:
        number: shape (n,), 1-based line or row number in the file.
    """

    number: Int64s

    def text(self, i: int) -> str:
        """Return the text of a rejected line, cut to `REJECT_CHARACTERS`."""


B = TypeVar("B", bound=Block)


class Dialect(ABC, Generic[B]):
    """Reader of one recording of trades.

    Attributes:
        name: name of the dialect, for people.
        columns: by field of a trade, name of the recording's column.
        fields: by field of a trade without the product, the parser.
        product: product of all rows, if the file's name tells the product.
        unread: names of columns that no dialect knows.
        product_rule: the rule for names of products, for the reason of a reject.
    """

    name: str
    columns: Mapping[str, str]
    product_rule: str = PRODUCT_RULE
    fields: Mapping[str, Field] = FIELDS
    product: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def has_ids(self) -> bool:
        """Return whether the recording has trade ids."""
        return "trade_id" in self.columns

    @abstractmethod
    def blocks(self, path: Path, meter: Meter) -> Iterator[B]:
        """Read a recording, and count its bytes in `meter`.

        Raises:
            Damaged: after all whole rows before the damage.
        """

    def head(self, path: Path) -> Iterator[B]:
        """Read the first rows, at least 1,000 where there are so many, and maybe others."""
        return self.blocks(path, Meter())

    def backwards(self, path: Path, _meter: Meter) -> Iterator[B]:
        """Read a recording as `blocks` does, but from its last row to its first, in bounded memory.

        Raises:
            ValueError: the dialect cannot be read so.
        """
        raise ValueError(f"{path}: the newest row comes first, and {self.name} is read from its first row on: sort it")

    @abstractmethod
    def rows(self, block: B) -> RowColumns:
        """Split each line into fields, line by line."""

    def typed_rows(self, _block: B) -> RowColumns | None:
        """Parse all lines at once, one row a line; None if a line fails, or if `rows` might give another result."""
        return None


MESSAGE_TYPE = "message_type"
"""An optional column of the ticker channel: rows of another type than `ticker` are no trades."""
TICKER = "ticker"

TICKER_COLUMNS = {
    "product_id": "product_id",
    "trade_id": "trade_id",
    "event_time": "time",
    "price": "price",
    "size": "last_size",
    "side": "side",
}
FLAT_COLUMNS = {"event_time": "timestamp", "product_id": "product_id", "price": "price"}
ZONELESS = {**FIELDS, "event_time": ZONELESS_TIME}
"""Parsers of the flattened channel. Its recorder writes the time of its own clock, UTC, without a zone. The other
dialects reject times without a zone, because the zone is unknown."""
VOLUME_24H = "volume_24h"
"""The column that identifies the flattened channel: a running total of 24 hours, no size of a trade."""


Chunks = Callable[[Path, Meter | None], Iterator[bytes]]
"""Reads a file as a text of lines, in chunks, and counts its bytes in the meter."""


class TextDialect(Dialect[Lines]):
    """Reader of a text, line by line.

    Attributes:
        chunks: reads the text of the file; a file that is no text of lines becomes one.
    """

    header_lines = 0
    chunks: Chunks = staticmethod(chunks_of)

    def reading(self, chunks: Chunks) -> Self:
        """Return the same dialect of another text of the file."""
        other = copy(self)
        other.chunks = chunks
        return other

    def blocks(self, path: Path, meter: Meter) -> Iterator[Lines]:
        return data_lines(self.chunks(path, meter), self.header_lines)

    def backwards(self, path: Path, meter: Meter) -> Iterator[Lines]:
        text = None if self.chunks is chunks_of else self.chunks(path, None)
        return lines_backwards(path, meter, self.header_lines, text)

    def rows(self, block: Lines) -> RowColumns:
        readable, reasons = block.readable()
        rows = self.split(block.take(readable))
        if not reasons:
            return rows
        # Unreadable lines also count as positions, and move the lines behind.
        moved = readable - np.arange(len(readable))
        return RowColumns(
            readable[rows.at],
            rows.position + moved[rows.at],
            rows.columns,
            reasons | {int(readable[i]): reason for i, reason in rows.broken.items()},
            readable[rows.skipped],
            rows.positions + len(reasons),
            rows.skipped_types,
            rows.read_types,
        )

    @abstractmethod
    def split(self, lines: Lines) -> RowColumns:
        """Split readable lines into fields."""


NO_ROWS = np.empty(0, np.intp)


TICKER_TEXT = texts_of([TICKER])[0]
