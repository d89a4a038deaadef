"""Trades in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]


MIN_PRICE, MAX_PRICE, MAX_SIZE = 1e-100, 1e100, 1e100
"""Limits of a price and of a size: the ratio of two prices, and each sum of sizes, is a finite number."""


class Side(IntEnum):
    """The taker's side, as stored in a column of int8."""

    SELL = -1
    UNKNOWN = 0
    BUY = 1


class StreamKey(NamedTuple):
    """One product of one source. Order, windows, lateness and duplicates of trades are judged within one stream."""

    source_id: str
    product_id: str


class Reject(NamedTuple):
    """A rejected row, with file, line and reason: no trade, or a trade that its stream does not take.

    After many rejects of a recording, a reject stands for several rows of a reason, and has no text.

    Attributes:
        line: 1-based; of several rows, the line that was read first.
        rows: number of rejected rows.
        last_line: of several rows, the line that was read last; 0 for one row.
    """

    file: str
    line: int
    reason: str
    text: str
    rows: int = 1
    last_line: int = 0

    @property
    def kind(self) -> str:
        """Return the reason without the rejected value."""
        return kind_of(self.reason)

    @property
    def where(self) -> str:
        """Return file and line, or the lines from the first to the last."""
        return f"{self.file}:{self.line}" + (f"-{self.last_line}" if self.last_line else "")


def kind_of(reason: str) -> str:
    """Return a reject's reason without the rejected value.

    >>> kind_of("price must be a finite number above 0, was '-1'")
    'price must be a finite number above 0'
    """
    return reason.partition(", was ")[0]


@dataclass(frozen=True, slots=True)
class Trades:
    """n trades of any streams in columns, ordered by time within a stream.

    Attributes:
        keys: the streams of these trades.
        stream: shape (n,), index into `keys`.
        trade_id: shape (n,), rises within a stream; the row's position in its source if a recording has no ids.
        event_time: shape (n,), ns since 1970, UTC: when the trade happened.
        ingest_time: shape (n,), ns since 1970, UTC: when the trade was published; 0 before the publication.
        price: shape (n,), from `MIN_PRICE` to `MAX_PRICE`, quote currency for one unit of the base currency.
        size: shape (n,), units of the base currency, at most `MAX_SIZE`, NaN if unknown.
        side: shape (n,), int8, see `Side`.
    """

    keys: tuple[StreamKey, ...]
    stream: NDArray[np.int32]
    trade_id: Int64s
    event_time: Int64s
    ingest_time: Int64s
    price: Floats
    size: Floats
    side: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.trade_id)

    def take(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Return the chosen rows; `keys` keeps all streams."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "keys"}
        return type(self)(self.keys, **columns)

    @classmethod
    def join(cls, parts: Sequence[Trades]) -> Self:
        """Return the trades of all parts, in order of the parts; at least 1 part."""
        keys = {key: i for i, key in enumerate(dict.fromkeys(key for part in parts for key in part.keys))}
        stream = [np.array([keys[key] for key in part.keys], np.int32)[part.stream] for part in parts]
        columns = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(cls)
            if f.name not in ("keys", "stream")
        }
        return cls(tuple(keys), np.concatenate(stream), **columns)
