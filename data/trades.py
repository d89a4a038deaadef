"""Trades in columns, and times as texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

NS = 1_000_000_000
"""Nanoseconds in a second: all times in columns are int64 nanoseconds since 1970, UTC."""


FIRST_YEAR, LAST_YEAR = 1970, 2199
"""Allowed years of a time. Int64 nanoseconds since 1970 reach to 2262; windows and horizons must fit after a time."""


_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z")


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


def iso_times(ns: Int64s) -> list[str]:
    """Write times, ns since 1970, as RFC 3339 in UTC with nine digits.

    >>> iso_times(np.array([1_500_000_000]))
    ['1970-01-01T00:00:01.500000000Z']
    """
    texts: list[str] = np.datetime_as_string(ns.view("M8[ns]"), unit="ns").tolist()
    return [text + "Z" for text in texts]


def parse_times(texts: list[str]) -> Int64s:
    """Parse RFC 3339 times in UTC, as `iso_times` writes, with 0 to 9 digits of a second, to ns since 1970.

    Raises:
        ValueError: a text is no time, has no `Z`, or has a year outside of `FIRST_YEAR` to `LAST_YEAR`.

    >>> parse_times(["1970-01-01T00:00:01.5Z"])
    array([1500000000])
    """
    for text in texts:  # numpy alone would take 24:00, a zone, or a year that 64 bits of nanoseconds cannot hold
        if not _TIME.fullmatch(text):
            raise ValueError(f"a time must be UTC and look like 2025-01-06T00:00:00.123456789Z, was {text[:60]!r}")
        if not FIRST_YEAR <= int(text[:4]) <= LAST_YEAR:
            raise ValueError(f"a time must be from {FIRST_YEAR} to {LAST_YEAR}, was {text!r}")
    return np.array([text[:-1] for text in texts], "M8[ns]").view(np.int64)
