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
    """A rejected row, with file, line and reason: no trade, or a trade that its stream does not take."""

    file: str
    line: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Trades:
    """n trades of any streams in columns, ordered by time within a stream.

    Attributes:
        keys: the streams of these trades.
        stream: shape (n,), index into `keys`.
        trade_id: shape (n,), rises within a stream; the row's position in its source if a recording has no ids.
        event_time: shape (n,), ns since 1970, UTC: when the trade happened.
        ingest_time: shape (n,), ns since 1970, UTC: when the trade was published; 0 before the publication.
        price: shape (n,), finite and above 0, quote currency for one unit of the base currency.
        size: shape (n,), units of the base currency, NaN if unknown.
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
