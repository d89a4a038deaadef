"""Read LEAN trade zips: bars without a header; product and day are in the path alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow import Mask, is_present, values_of
from data.names import PRODUCT_ID
from data.recordings.dialects.bars.base import PRICE_COLUMNS, BarDialect
from data.recordings.dialects.documents import member_chunks
from data.recordings.dialects.symbols import QUOTES, product_of
from data.recordings.fields import Field
from data.recordings.lines import Lines, data_lines
from data.trades import Int64s

_LEAN_PATH = re.compile(r"/(second|minute)/([a-z0-9]+)/(\d{8})_trade\.zip$")
_LEAN_MEMBER = re.compile(r"(\d{8})_([a-z0-9]+)_(second|minute)_trade\.csv$")
_LEAN_LINE = re.compile(rb"\d{1,8}(,[0-9.eE+-]+){5}\s*")
_LEAN_DATED_PATH = re.compile(r"/(hour|daily)/([a-z0-9]+)_trade\.zip$")
_LEAN_DATED_LINE = re.compile(rb"\d{8} \d\d:\d\d(,[0-9.eE+-]+){5}\s*")
_LEAN_COLUMNS = ("start", *PRICE_COLUMNS, "volume")
_LEAN_STEPS = {"second": 1, "minute": 60, "hour": 3_600, "daily": 86_400}

LEAN: Final = (
    ("LEAN", "zip: trade bars of seconds or minutes, a day a file", "path `.../second/btcusd/20161007_trade.zip`",
     "number of trades; product and day but for the path"),
    ("LEAN", "zip: trade bars of hours or days", "path `.../hour/btcusd_trade.zip` or `.../daily/...`",
     "number of trades; the product but for the path"),
)  # fmt: skip
"""Bars of LEAN for people: venue, file, how it is told apart, what it does not tell."""


def _product_of(symbol: str, told: str) -> str:
    product = product_of(symbol, told)
    if not PRODUCT_ID.fullmatch(product):
        raise ValueError(
            f"the symbol {symbol!r} of its path must end with one of {', '.join(QUOTES)}, or PRODUCT_ID must tell base "
            "and quote"
        )
    return product


class _LeanBars(BarDialect):
    """Reader of LEAN trade bars: a zip of one CSV without a header; symbol and step are in the path."""

    width = len(_LEAN_COLUMNS)

    def __init__(self, path: Path, member: str, step: str, symbol: str, told: str) -> None:
        self.path, self._member = path, member
        self.name = f"LEAN trade bars: {step}/{symbol}"
        self.step_s = _LEAN_STEPS[step]
        self.product = _product_of(symbol, told)

    def lines(self) -> Iterator[Lines]:
        return data_lines(member_chunks(self.path, self._member))


class _Intraday(_LeanBars):
    """Reader of one day of bars; the day is in the path, too.

    Raises:
        ValueError: the path does not give day, symbol and step.
    """

    columns: Mapping[str, tuple[int, str]] = {
        name: (i, "milliseconds since midnight" if name == "start" else name) for i, name in enumerate(_LEAN_COLUMNS)
    }

    def __init__(self, path: Path, member: str, told: str) -> None:
        path_match = _LEAN_PATH.search(path.absolute().as_posix().lower())
        if path_match is None:
            raise ValueError(
                "holds LEAN trade bars, whose day, symbol and step stand in the path alone; the path must end like "
                f"second/btcusd/20161007_trade.zip or minute/btcusd/20161007_trade.zip (within, it is {member!r})"
            )
        step, symbol, day = path_match.groups()
        within = _LEAN_MEMBER.search(member.lower())
        if within is not None and within.groups() != (day, symbol, step):
            raise ValueError(f"says {step}/{symbol}/{day} by its path, but the file within is {member!r}")
        super().__init__(path, member, step, symbol, told)
        try:
            self._midnight_s = int(datetime.strptime(f"{day}+0000", "%Y%m%d%z").timestamp())
        except ValueError:
            raise ValueError(f"the day {day} of its path is none") from None

    def start_s(self, start: Int64s) -> Int64s:
        within = (start < 86_400_000) & (start % 1_000 == 0)
        return np.where(within, self._midnight_s + start // 1_000, -1)


def _dated(column: pa.Array) -> tuple[Int64s, Mask]:
    """Parse times like 20150114 07:00, UTC, to seconds since 1970."""
    parsed = pc.strptime(column, format="%Y%m%d %H:%M", unit="s", error_is_null=True)
    good = is_present(parsed)
    return np.where(good, values_of(parsed, np.int64), -1), good


class _Daily(_LeanBars):
    """Reader of bars of hours or days, with all days of a symbol.

    Raises:
        ValueError: the path does not give symbol and step.
    """

    columns: Mapping[str, tuple[int, str]] = {
        name: (i, "time" if name == "start" else name) for i, name in enumerate(_LEAN_COLUMNS)
    }
    start = Field(_dated, lambda _: "must be a time like 20150114 07:00")

    def __init__(self, path: Path, member: str, told: str) -> None:
        path_match = _LEAN_DATED_PATH.search(path.absolute().as_posix().lower())
        if path_match is None:
            raise ValueError(
                "holds LEAN trade bars of hours or days, whose symbol and step stand in the path alone; the path must "
                f"end like hour/btcusd_trade.zip or daily/btcusd_trade.zip (within, it is {member!r})"
            )
        step, symbol = path_match.groups()
        super().__init__(path, member, step, symbol, told)

    def start_s(self, start: Int64s) -> Int64s:
        return start


def lean_dialect(path: Path, member: str, first_line: bytes, told: str = "") -> BarDialect | None:
    """Return the dialect of a zip with one member; None if the member holds no LEAN bars.

    Args:
        told: product whose symbol without a separator is known thereby.

    Raises:
        ValueError: the path does not give day, symbol and step.
    """
    if _LEAN_LINE.fullmatch(first_line):
        return _Intraday(path, member, told)
    return _Daily(path, member, told) if _LEAN_DATED_LINE.fullmatch(first_line) else None
