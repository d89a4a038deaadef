"""Read LEAN trade zips: bars without a header; product and day are in the path alone."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from data.names import PRODUCT_ID, Damaged
from data.recordings.dialects.bars import PRICE_COLUMNS, QUOTES, BarDialect, product_of
from data.recordings.lines import Lines, data_lines, head_of
from data.trades import Int64s

_LEAN_PATH = re.compile(r"/(second|minute)/([a-z0-9]+)/(\d{8})_trade\.zip$")
_LEAN_MEMBER = re.compile(r"(\d{8})_([a-z0-9]+)_(second|minute)_trade\.csv$")
_LEAN_LINE = re.compile(rb"\d+(,[0-9.eE+-]+){5}\s*")
_LEAN_COLUMNS = ("start", *PRICE_COLUMNS, "volume")
_LEAN_STEPS = {"second": 1, "minute": 60}


class _Lean(BarDialect):
    """Reader of one day of LEAN trade bars: a zip of one CSV without a header; day, symbol and step are in the path.

    Raises:
        ValueError: the path does not give day, symbol and step.
    """

    width = len(_LEAN_COLUMNS)
    columns: Mapping[str, tuple[int, str]] = {
        name: (i, "milliseconds since midnight" if name == "start" else name) for i, name in enumerate(_LEAN_COLUMNS)
    }

    def __init__(self, path: Path, member: str) -> None:
        self.path, self._member = path, member
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
        self.name = f"LEAN trade bars: {step}/{symbol}"
        self.step_s = _LEAN_STEPS[step]
        self.product = product_of(symbol)
        if not PRODUCT_ID.fullmatch(self.product):
            raise ValueError(f"the symbol {symbol!r} of its path must end with one of {', '.join(QUOTES)}")
        try:
            self._midnight_s = int(datetime.strptime(f"{day}+0000", "%Y%m%d%z").timestamp())
        except ValueError:
            raise ValueError(f"the day {day} of its path is none") from None

    def lines(self) -> Iterator[Lines]:
        return data_lines(_member_chunks(self.path, self._member))

    def start_s(self, start: Int64s) -> Int64s:
        within = (start < 86_400_000) & (start % 1_000 == 0)
        return np.where(within, self._midnight_s + start // 1_000, -1)


# Errors of a zip with a damaged directory: a password, a method or version, a name, an offset beyond the end.
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError)


def _member_chunks(path: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            while chunk := file.read(1 << 16):  # a wrong checksum at the end loses the last chunk
                yield chunk
    except _ZIP_FAULTS as error:
        raise Damaged(f"the zip is damaged ({error})") from error


def lean_dialect(path: Path) -> BarDialect | None:
    """Return the dialect of a zip; None if the zip holds no LEAN bars.

    Raises:
        ValueError: the zip cannot be read, or the path does not give day, symbol and step.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if len(members) != 1:
            return None
        first = head_of(_member_chunks(path, members[0])).split(b"\n")[0]
    except (*_ZIP_FAULTS, Damaged):  # their messages can show bytes of the file
        raise ValueError("starts as a zip archive, but cannot be read; copy or download it again") from None
    return _Lean(path, members[0]) if _LEAN_LINE.fullmatch(first) else None
