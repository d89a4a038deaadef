"""What a bar is, in columns, and how recordings of bars are written."""

from __future__ import annotations

import csv
import re
import struct
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data.columns import (
    PRODUCT_ID,
    Field,
    explain_product,
    prices,
    products,
    sizes,
    texts_of,
    value_text,
    whole_numbers,
)
from data.lines import BLOCK_BYTES, Damaged, Lines, chunks_of, csv_fields, data_lines, head_of, whole_lines
from data.trades import LAST_YEAR, NS, Floats, Int64s, Reject, StreamKey


@dataclass(frozen=True, slots=True)
class Bars:
    """n bars of any streams in columns; within a stream in the order of time.

    Attributes:
        keys: the streams that occur.
        step_s: seconds that each bar covers.
        stream: shape (n,), index into `keys`.
        event_time: shape (n,), ns since 1970, UTC: when the bar had ended, its start plus `step_s`. It is known then.
        open: shape (n,), price of the first trade, finite and above 0, as are the next three.
        high: shape (n,), the highest price.
        low: shape (n,), the lowest price.
        close: shape (n,), price of the last trade.
        volume: shape (n,), units of the base currency.
        count: shape (n,), of trades, NaN where it is unknown.
    """

    keys: tuple[StreamKey, ...]
    step_s: int
    stream: NDArray[np.int32]
    event_time: Int64s
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.event_time)

    def take(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Return the chosen rows; `keys` stays whole."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in ("keys", "step_s")}
        return type(self)(self.keys, self.step_s, **columns)


class BarBatch(NamedTuple):
    """Some consecutive lines of one recording of bars, oldest first.

    Attributes:
        bars: those that are taken; `keys` have an empty source_id, as the caller names the source.
        file: the recording.
        line: shape (n,), 1-based line of each bar in `file`; it falls where the file has its newest row first.
        rejects: the lines that are no bar, in the order of reading.
    """

    bars: Bars
    file: str
    line: Int64s
    rejects: list[Reject]


CONTRADICTION = "high, low, open and close contradict: low must be the least of them and high the greatest"
NOT_RISING = "time does not rise"

_UNKNOWN = np.nan
_PRICES = ("open", "high", "low", "close")

_WHOLE = Field(whole_numbers, lambda _: "must be a whole number from 0 to 2^63 - 1")
_PRICE = Field(prices, lambda _: "must be a finite number above 0")
_VOLUME = Field(sizes, lambda _: "must be a finite number of at least 0")
_FIELDS: Final[Mapping[str, Field]] = {
    "start": _WHOLE,
    **dict.fromkeys(_PRICES, _PRICE),
    "volume": _VOLUME,
    "count": _WHOLE,
}
_LAST_SECOND = int(datetime(LAST_YEAR, 12, 31, tzinfo=UTC).timestamp())


class BarDialect(ABC):
    """How one recording of bars is written.

    Attributes:
        name: for people.
        path: of the recording.
        step_s: seconds that a bar covers.
        columns: by field of a bar, its place among those of a line and what the recording calls it.
        width: fields of a line.
        product: of all its rows; None if each row names its own.
    """

    name: str
    path: Path
    step_s: int
    columns: Mapping[str, tuple[int, str]]
    width: int
    product: str | None = None

    @abstractmethod
    def lines(self) -> Iterator[Lines]:
        """Read the lines in blocks, oldest first.

        Raises:
            Damaged: after all whole lines before the damage.
        """

    @abstractmethod
    def start_s(self, start: Int64s) -> Int64s:
        """Return seconds since 1970 of what stands in the column `start`; -1 where it is no time."""

    def batches(self, lines: Lines, last: dict[str, int], batch_rows: int) -> Iterator[BarBatch]:
        """Turn lines into bars and rejects, and yield them `batch_rows` lines at a time.

        Args:
            last: time of the last bar of each product, ns since 1970. Changed in place.
        """
        file = str(self.path)
        bars, at, reasons = self._judged(lines, last)
        rejected = sorted(reasons)
        for first in range(0, len(lines), batch_rows):
            last_line = first + batch_rows
            part = slice(*np.searchsorted(at, (first, last_line)))
            bad = rejected[bisect_left(rejected, first) : bisect_left(rejected, last_line)]
            rejects = [Reject(file, int(lines.number[i]), reasons[i], lines.text(i)) for i in bad]
            yield BarBatch(bars.take(part), file, lines.number[at[part]], rejects)

    def _judged(self, lines: Lines, last: dict[str, int]) -> tuple[Bars, NDArray[np.intp], dict[int, str]]:
        """Return the bars that are taken, the index of the line of each, and why each other line is none."""
        readable, reasons = lines.readable()
        found = csv_fields(lines.take(readable), self.width, [place for place, _ in self.columns.values()])
        reasons |= {int(readable[i]): reason for i, reason in found.broken.items()}
        at = readable[found.at]
        texts = {field: found.texts[place] for field, (place, _) in self.columns.items()}
        ok = np.ones(len(at), np.bool_)

        def reject(bad: NDArray[np.bool_], reason: Any) -> None:
            for i in np.flatnonzero(ok & bad):
                reasons[int(at[i])] = reason(int(i)) if callable(reason) else reason
            np.logical_and(ok, ~bad, out=ok)

        values: dict[str, NDArray[Any]] = {"count": np.full(len(at), _UNKNOWN)}
        for name, field in _FIELDS.items():
            if name not in texts:
                continue
            column, called = texts[name], self.columns[name][1]
            values[name], good = field.parse(column)
            if name == "volume":
                good = good & ~np.isnan(values[name])
            reject(~good, lambda i, c=column, f=field, n=called: f"{n} {f.explain('')}, was {value_text(c, i)!r}")
        if self.product is None:
            named = texts_of([product_of(symbol) for symbol in texts["product_id"].to_pylist()])
        else:
            named = texts_of([self.product] * len(at))
        names, code, good = products(named)
        reject(~good, lambda i: f"{self.columns['product_id'][1]} {explain_product('')}, was {value_text(named, i)!r}")
        start = self.start_s(values["start"])
        reject(
            (start < 0) | (start > _LAST_SECOND) | (start % self.step_s != 0),
            lambda i: f"{self.columns['start'][1]} must be a time at which a bar of {self.step_s} s starts, from 1970 "
            f"to {LAST_YEAR}, was {value_text(texts['start'], i)!r}",
        )
        low, high = values["low"], values["high"]
        inside = [(values[name] >= low) & (values[name] <= high) for name in ("open", "close")]
        reject(~(inside[0] & inside[1]), CONTRADICTION)

        event_time = (start + self.step_s) * NS
        for product in range(len(names)):
            rows = np.flatnonzero(ok & (code == product))
            rising = np.maximum.accumulate(np.concatenate([[last.get(names[product], -1)], event_time[rows]]))
            falls = np.zeros(len(at), np.bool_)
            falls[rows] = event_time[rows] <= rising[:-1]
            reject(falls, NOT_RISING)
            if len(rows):
                last[names[product]] = int(rising[-1])
        bars = Bars(
            tuple(StreamKey("", name) for name in names),
            self.step_s,
            code.astype(np.int32),
            event_time,
            **{name: np.asarray(values[name], np.float64) for name in (*_PRICES, "volume", "count")},
        ).take(ok)
        return bars, at[ok], reasons


QUOTES = ("USDT", "USDC", "USD", "EUR", "GBP", "DAI", "BTC", "ETH")
"""Currencies that a name without a separator may end with."""


def product_of(symbol: str) -> str:
    """Return the product that a symbol means; the symbol in capitals if that cannot be told.

    >>> product_of("btcusd"), product_of("ETH/BTC"), product_of("what")
    ('BTC-USD', 'ETH-BTC', 'WHAT')
    """
    name = symbol.strip().upper().replace("/", "-")
    if "-" not in name:
        for quote in QUOTES:
            if name.endswith(quote) and name != quote:
                return f"{name.removesuffix(quote)}-{quote}"
    return name


_LEAN_PATH = re.compile(r"/(second|minute)/([a-z0-9]+)/(\d{8})_trade\.zip$")
_LEAN_MEMBER = re.compile(r"(\d{8})_([a-z0-9]+)_(second|minute)_trade\.csv$")
_LEAN_LINE = re.compile(rb"\d+(,[0-9.eE+-]+){5}\s*")
_LEAN_COLUMNS = ("start", *_PRICES, "volume")
_LEAN_STEPS = {"second": 1, "minute": 60}


class _Lean(BarDialect):
    """One day of LEAN trade bars: a zip of one CSV without a header; day, symbol and step stand in its path alone."""

    width = len(_LEAN_COLUMNS)
    columns: Mapping[str, tuple[int, str]] = {
        name: (i, "milliseconds since midnight" if name == "start" else name) for i, name in enumerate(_LEAN_COLUMNS)
    }

    def __init__(self, path: Path, member: str) -> None:
        self.path, self._member = path, member
        told = _LEAN_PATH.search(path.absolute().as_posix().lower())
        if told is None:
            raise ValueError(
                "holds LEAN trade bars, whose day, symbol and step stand in the path alone; the path must end like "
                f"second/btcusd/20161007_trade.zip or minute/btcusd/20161007_trade.zip (within, it is {member!r})"
            )
        step, symbol, day = told.groups()
        within = _LEAN_MEMBER.search(member.lower())
        if within is not None and within.groups() != (day, symbol, step):
            raise ValueError(f"says {step}/{symbol}/{day} by its path, but the file within is {member!r}")
        self.name = f"LEAN trade bars: {step}/{symbol}"
        self.step_s = _LEAN_STEPS[step]
        self.product = product_of(symbol)
        if not PRODUCT_ID.fullmatch(self.product):
            raise ValueError(f"the symbol {symbol!r} of its path must end with one of {', '.join(QUOTES)}")
        try:
            midnight = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
        except ValueError:
            raise ValueError(f"the day {day} of its path is none") from None
        self._midnight_s = int(midnight.timestamp())

    def lines(self) -> Iterator[Lines]:
        return data_lines(_member_chunks(self.path, self._member))

    def start_s(self, start: Int64s) -> Int64s:
        within = (start < 86_400_000) & (start % 1_000 == 0)
        return np.where(within, self._midnight_s + start // 1_000, -1)


# Whatever a damaged directory says of its members: a password, a method or version, a name, a place beyond the end.
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError)


def _member_chunks(path: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            while chunk := file.read(1 << 16):  # what is read with the end is lost if the checksum there is wrong
                yield chunk
    except _ZIP_FAULTS as error:
        raise Damaged(f"the zip is damaged ({error})") from error


def lean_dialect(path: Path) -> BarDialect | None:
    """Return how a zip is read; None if it holds no LEAN bars.

    Raises:
        ValueError: it cannot be read, or its path does not tell what it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if len(members) != 1:
            return None
        first = head_of(_member_chunks(path, members[0])).split(b"\n")[0]
    except (*_ZIP_FAULTS, Damaged) as error:
        raise ValueError(f"starts as a zip archive, but cannot be read ({error}); copy or download it again") from None
    return _Lean(path, members[0]) if _LEAN_LINE.fullmatch(first) else None


_START_NAMES = ("unix", "unix timestamp")
_COUNT_NAMES = ("tradecount", "trade count")
_MILLISECONDS = 10**11
"""Times from here on are milliseconds: as seconds they would be in the year 5138."""


class _Candles(BarDialect):
    """CSV of CryptoDataDownload: an address, a header, and mostly the newest row first."""

    name = "CryptoDataDownload candles"

    def __init__(self, path: Path, columns: Mapping[str, tuple[int, str]], width: int, header_line: int) -> None:
        self.path, self.columns, self.width = path, columns, width
        self._header_line = header_line
        self.step_s = 0
        self.newest_first = False

    def lines(self) -> Iterator[Lines]:
        if not self.newest_first:
            for lines in data_lines(chunks_of(self.path)):
                yield self._data(lines)
            return
        damage = None
        with tempfile.TemporaryFile() as spill:
            count = 1
            blocks = whole_lines(chunks_of(self.path))
            try:
                for block in blocks:
                    spill.write(block)
                    count += block.count(b"\n")
            except Damaged as error:
                damage = error
            for block in _backwards(spill):
                count -= block.count(b"\n")
                yield self._data(Lines.of(block, count)[0]).reversed()
        if damage is not None:
            raise damage

    def _data(self, lines: Lines) -> Lines:
        return lines.take(np.flatnonzero(lines.number > self._header_line))

    def start_s(self, start: Int64s) -> Int64s:
        return np.where(start < _MILLISECONDS, start, np.where(start % 1_000 == 0, start // 1_000, -1))


def _backwards(file: IO[bytes]) -> Iterator[bytes]:
    """Yield whole lines in blocks, the last block first; the file ends with a line end."""
    place, rest = file.seek(0, 2), b""
    while place:
        step = min(BLOCK_BYTES, place)
        place -= step
        file.seek(place)
        block = file.read(step) + rest
        cut = block.find(b"\n") + 1 if place else 0
        # What stands before the first line end belongs to the block before; so does a block that is all one line.
        if place and cut == len(block):
            cut = 0
            rest = block
            continue
        rest = block[:cut]
        yield block[cut:]


def candle_dialect(path: Path, head: Sequence[bytes]) -> BarDialect | None:
    """Return how a text of candles is read, told by its first lines, blank ones too; None if it holds none.

    Raises:
        ValueError: the rows do not tell how long a candle is, or which volume is the base currency's.
    """
    header, start, header_lines = [""], None, 0
    for line in head[:5]:
        header_lines += 1
        try:
            header = [name.strip().lower() for name in next(csv.reader([line.decode()]), [])]
        except (UnicodeDecodeError, csv.Error):
            continue
        start = next((name for name in _START_NAMES if name in header), None)
        if start is not None and {"symbol", *_PRICES} <= set(header):
            break
    else:
        return None
    volumes = [i for i, name in enumerate(header) if "vol" in name]
    if len(volumes) != 2:
        raise ValueError(f"has candles with {len(volumes)} columns of volumes; two are read: of base and of quote")
    columns = {name: (header.index(name), name) for name in _PRICES}
    columns |= {"start": (header.index(start), start), "product_id": (header.index("symbol"), "symbol")}
    if (count := next((name for name in _COUNT_NAMES if name in header), None)) is not None:
        columns["count"] = (header.index(count), count)
    candles = _Candles(path, columns, len(header), header_lines)
    starts, base = _told_by_rows(head[header_lines:], columns, volumes, len(header))
    steps = Counter(abs(int(step)) for step in np.diff(candles.start_s(np.array(starts, np.int64))) if step)
    if not steps:
        raise ValueError("has candles, but fewer than two times: how long a candle is cannot be told")
    candles.step_s = max(steps, key=lambda step: (steps[step], -step))
    candles.newest_first = starts[0] > starts[-1]
    candles.columns = {**columns, "volume": (base, header[base])}
    order = "newest" if candles.newest_first else "oldest"
    candles.name += f" of {candles.step_s} s, {order} first, base volume in {header[base]!r}"
    return candles


def _told_by_rows(
    head: Sequence[bytes], columns: Mapping[str, tuple[int, str]], volumes: Sequence[int], width: int
) -> tuple[list[int], int]:
    """Return the starts of the first rows, and which column is the volume in units of the base currency.

    Names do not tell: among these files the same two names stand for base and quote, and for quote and base. But the
    quote currency's volume over the base currency's is the mean price of the bar.
    """
    starts: list[int] = []
    off: list[tuple[float, float]] = []
    for line in head:
        try:
            row = next(csv.reader([line.decode()]))
            values = [float(row[i]) for i in volumes]
            close, start = float(row[columns["close"][0]]), int(row[columns["start"][0]])
        except (UnicodeDecodeError, csv.Error, ValueError, IndexError, StopIteration):
            continue
        if len(row) != width or not 0 <= start < 2**63:
            continue
        starts.append(start)
        if min(*values, close) > 0 and np.isfinite([*values, close]).all():
            ratio, price = np.log(values[1] / values[0]), np.log(close)
            off.append((abs(ratio - price), abs(ratio + price)))
    first_is_base, second_is_base = np.median(off, axis=0) if off else (np.inf, np.inf)
    found = min(first_is_base, second_is_base)
    if not found < _RATIO_OFF or abs(first_is_base - second_is_base) < _RATIO_OFF:
        raise ValueError(
            "has candles whose volumes do not tell which of them is the base currency's: one over the other must be "
            f"the price, within {_RATIO_OFF:.0%} in the first rows, and the price not near 1"
        )
    return starts, volumes[0] if first_is_base < second_is_base else volumes[1]


_RATIO_OFF = 0.1
"""How far the volumes' ratio may be from the close: a bar's mean price is not its last one."""

BAR_DIALECTS: Final[Sequence[str]] = (
    "LEAN trade bars: .../second/btcusd/20161007_trade.zip or .../minute/...",
    "CSV of CryptoDataDownload candles: [address,] unix,date,symbol,open,high,low,close,and two volumes",
)
"""What is read as bars, for people."""
