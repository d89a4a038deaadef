"""Bars in columns, and the base class of dialects of bars."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrow import is_true, text_of, texts_of
from data.recordings.dialects.symbols import SYMBOL_RULE, products_of
from data.recordings.fields import FIELDS, Field, by_name, explain_size, products, sizes, value_text
from data.recordings.lines import Lines, csv_fields, cut_rows
from data.times import LAST_YEAR, NS
from data.trades import Floats, Int64s, Reject, StreamKey


@dataclass(frozen=True, slots=True)
class Bars:
    """n bars of any streams in columns, ordered by time within a stream.

    Attributes:
        keys: the streams of these bars.
        step_s: seconds that each bar covers.
        stream: shape (n,), index into `keys`.
        event_time: shape (n,), ns since 1970, UTC: the end of the bar, start plus `step_s`. The bar is known from then.
        open: shape (n,), price of the first trade; open, high, low and close are finite and above 0.
        high: shape (n,), the highest price.
        low: shape (n,), the lowest price.
        close: shape (n,), price of the last trade.
        volume: shape (n,), units of the base currency.
        count: shape (n,), number of trades, NaN if unknown.
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
        """Return the chosen rows; `keys` keeps all streams."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in ("keys", "step_s")}
        return type(self)(self.keys, self.step_s, **columns)


class BarBatch(NamedTuple):
    """Consecutive lines of one recording of bars, oldest first.

    Attributes:
        bars: the accepted bars; `keys` have an empty source_id, because the caller names the source.
        file: the recording.
        line: shape (n,), 1-based line of each bar in `file`; lines fall if the file has the newest row first.
        rejects: the lines that are no bar, in the order of reading.
    """

    bars: Bars
    file: str
    line: Int64s
    rejects: list[Reject]


CONTRADICTION = "high, low, open and close contradict: low must be the least of them and high the greatest"
NOT_RISING = "time does not rise: rows must be sorted by time"

PRICE_COLUMNS = ("open", "high", "low", "close")


def _finished(column: pa.Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Parse whether a candle is finished; only a finished candle is allowed."""
    code, are_finished = by_name(column, lambda names: [name.strip().lower() in ("true", "1", "1.0") for name in names])
    values = np.array(are_finished, np.bool_)[code]
    return values, values


def _trade_counts(column: pa.Array) -> tuple[Floats, NDArray[np.bool_]]:
    """Parse numbers of trades; NaN where none is given."""
    values, good = FIELDS["trade_id"].parse(column)
    if good.all():
        return values.astype(np.float64), good
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), text_of(""))))
    is_absent = is_true(pc.is_in(texts, texts_of(["", "nan", "null", "none"])))
    return np.where(is_absent, np.nan, values), good | is_absent


_FIELDS: Final[Mapping[str, Field]] = {
    **dict.fromkeys(PRICE_COLUMNS, FIELDS["price"]),
    "volume": Field(sizes, lambda text: explain_size(text).removesuffix(", or empty")),
    "count": Field(_trade_counts, FIELDS["trade_id"].explain),
    "finished": Field(_finished, lambda _: "must be true or 1: another candle is not finished"),
}
_LAST_SECOND = int(datetime(LAST_YEAR, 12, 31, tzinfo=UTC).timestamp())


class BarDialect(ABC):
    """Reader of one recording of bars.

    Attributes:
        name: name of the dialect, for people.
        path: path of the recording.
        step_s: seconds that a bar covers.
        phase_s: seconds between a multiple of the step since 1970 and the start of a bar, as of weeks from Monday on.
        columns: by field of a bar, index and name of the recording's column.
        width: number of fields of a line.
        product: product of all rows; None if each row names its product.
        told: product whose symbol without a separator is known thereby.
        start: parser of the column `start`.
        unread: names of columns that no dialect knows.
    """

    name: str
    path: Path
    step_s: int
    phase_s: int = 0
    columns: Mapping[str, tuple[int, str]]
    width: int
    product: str | None = None
    told: str = ""
    start: Field = FIELDS["trade_id"]
    unread: tuple[str, ...] = ()

    @abstractmethod
    def lines(self) -> Iterator[Lines]:
        """Read the lines in blocks, oldest first.

        Raises:
            Damaged: after all whole lines before the damage.
        """

    @abstractmethod
    def start_s(self, start: Int64s) -> Int64s:
        """Convert the column `start` to seconds since 1970, shape (n,); -1 if a value is no time."""

    def batches(self, lines: Lines, last: dict[str, int], batch_rows: int) -> Iterator[BarBatch]:
        """Turn lines into bars and rejects, and yield batches of `batch_rows` lines.

        Args:
            last: time of the last bar of each product, ns since 1970. Changed in place.
        """
        file = str(self.path)
        bars, at, reasons = self._judged(lines, last)
        rejected = sorted((i, 0, reason) for i, reason in reasons.items())
        for _, part, rejects in cut_rows(file, lines.number, lines.text, at, rejected, batch_rows):
            yield BarBatch(bars.take(part), file, lines.number[at[part]], rejects)

    def _judged(self, lines: Lines, last: dict[str, int]) -> tuple[Bars, NDArray[np.intp], dict[int, str]]:
        """Return the accepted bars, the line index of each bar, and the reject reason of each other line by index."""
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

        values: dict[str, NDArray[Any]] = {"count": np.full(len(at), np.nan)}
        for name, field in {"start": self.start, **_FIELDS}.items():
            if name not in texts:
                continue
            column, called = texts[name], self.columns[name][1]
            values[name], good = field.parse(column)
            if name == "volume":
                good = good & ~np.isnan(values[name])
            reject(~good, partial(_broken_rule, field, called, column))
        if self.product is None:
            named = products_of(texts["product_id"], self.told)
        else:
            named = texts_of([self.product] * len(at))
        names, code, good = products(named)
        reject(~good, lambda i: f"{self.columns['product_id'][1]} {SYMBOL_RULE}, was {value_text(named, i)!r}")
        start = self.start_s(values["start"])
        reject(
            (start < 0) | (start > _LAST_SECOND) | (start % self.step_s != self.phase_s),
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
            **{name: np.asarray(values[name], np.float64) for name in (*PRICE_COLUMNS, "volume", "count")},
        ).take(ok)
        return bars, at[ok], reasons


def _broken_rule(field: Field, name: str, column: pa.Array, row: int) -> str:
    """Return the rule of a field that a row breaks."""
    text = value_text(column, row)
    return f"{name} {field.explain(text)}, was {text!r}"
