"""What every dialect of trades has: blocks of lines that become columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from data.arrow import texts_of
from data.recordings.fields import FIELDS, ZONELESS_TIME, Field
from data.recordings.lines import Lines, chunks_of, data_lines
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


MESSAGE_TYPE = "message_type"
"""A further column of the ticker channel: rows of another type than `ticker` are no trades."""
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
"""The recorder of these writes the time of its own clock, UTC, without a zone. So no row of it would be a trade, and
elsewhere no such time is: what it means there nobody has said."""
VOLUME_24H = "volume_24h"
"""By this the flattened channel is told. It is a running total of 24 hours, no size of a trade."""


class TextBlock(Block):
    """Lines, and how their dialect takes readable ones apart."""

    def __init__(self, lines: Lines, dialect: TextDialect) -> None:
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


class TextDialect(Dialect):
    header_lines = 0

    def blocks(self, path: Path) -> Iterator[Block]:
        return (TextBlock(lines, self) for lines in data_lines(chunks_of(path), self.header_lines))

    @abstractmethod
    def rows(self, lines: Lines) -> Rows:
        """Take readable lines apart."""

    def typed_rows(self, _lines: Lines) -> Rows | None:
        return None


NO_ROWS = np.empty(0, np.intp)


TICKER_TEXT = texts_of([TICKER])[0]
