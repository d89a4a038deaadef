"""CSV lines taken apart and their fields parsed in one compiled pass, where nothing about them is unusual."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.digits import Bytes, read_integer, read_number, read_time, stands
from data.trades import Floats, Int64s

MAX_NAMES = 256
"""Different texts in a column of names; with more of them it is no such column."""

_COMMA, _LINE_END = ord(","), ord("\n")


class Kind(IntEnum):
    """What stands in a column."""

    IGNORED = 0
    NAME = 1
    INTEGER = 2
    TIME = 3
    NUMBER = 4
    """A double; NaN where nothing stands."""


class Scanned(NamedTuple):
    """The wanted columns of n lines, by their places in the line.

    Attributes:
        integers: integers, and times in ns since 1970; shape (n,) each.
        numbers: shape (n,) each, NaN where a field is empty.
        codes: of names; shape (n,) each, place in `names`.
        names: the different texts of each column of names, by first appearance.
    """

    integers: dict[int, Int64s]
    numbers: dict[int, Floats]
    codes: dict[int, NDArray[np.int32]]
    names: dict[int, list[bytes]]


def scan(data: bytes, lines: int, width: int, kinds: Mapping[int, Kind]) -> Scanned | None:
    """Parse lines of `width` plain fields each; None if any of them is something else than its kind says.

    Numbers are JSON, times RFC 3339 in UTC with a `Z`: what else may stand for them is for a slower reader.

    Args:
        data: whole lines, `lines` of them, each with its end.
    """
    by_column = np.array([kinds.get(i, Kind.IGNORED) for i in range(width)], np.int64)
    place = np.zeros(width, np.int64)  # of a column among those of its kind
    counts = dict.fromkeys(Kind, 0)
    for column, kind in enumerate(by_column.tolist()):
        sort = Kind.INTEGER if kind == Kind.TIME else Kind(kind)
        place[column], counts[sort] = counts[sort], counts[sort] + 1
    integers = np.empty((counts[Kind.INTEGER], lines), np.int64)
    numbers = np.empty((counts[Kind.NUMBER], lines))
    codes = np.empty((counts[Kind.NAME], lines), np.int32)
    names = np.empty((counts[Kind.NAME], MAX_NAMES, 2), np.int64)
    found = np.zeros(counts[Kind.NAME], np.int64)
    text = np.frombuffer(data, np.uint8)
    if not _scan(text, lines, by_column, place, integers, numbers, codes, names, found):
        return None
    scanned = Scanned({}, {}, {}, {})
    for column, kind in kinds.items():
        at = int(place[column])
        if kind == Kind.NUMBER:
            scanned.numbers[column] = numbers[at]
        elif kind == Kind.NAME:
            scanned.codes[column] = codes[at]
            scanned.names[column] = [data[start:end] for start, end in names[at, : found[at]].tolist()]
        elif kind != Kind.IGNORED:
            scanned.integers[column] = integers[at]
    return scanned


@compiled
def _name(text: Bytes, at: int, end: int, names: Int64s, count: int, likely: int) -> int:
    """Return which name stands in `text[at:end]`, `count` if it is a new one."""
    for turn in range(count):
        name = likely if turn == 0 else turn - (turn <= likely)
        start, stop = names[name]
        if stop - start == end - at and stands(text, at, end, text, start, stop):
            return name
    return count


@compiled
def _scan(
    text: Bytes,
    lines: int,
    kinds: Int64s,
    place: Int64s,
    integers: NDArray[np.int64],
    numbers: Floats,
    codes: NDArray[np.int32],
    names: Int64s,
    found: Int64s,
) -> bool:
    """Parse all lines, and say whether all of them could be."""
    at, end, last = 0, len(text), len(kinds) - 1
    for line in range(lines):
        for column in range(last + 1):
            kind, row = kinds[column], place[column]
            if kind <= 1:
                start = at
                while at < end and text[at] != _COMMA and text[at] != _LINE_END:
                    at += 1
                if kind == 1:
                    likely = codes[row, line - 1] if line > 0 else 0
                    name = _name(text, start, at, names[row], found[row], likely)
                    if name == found[row]:
                        if name == MAX_NAMES:
                            return False
                        names[row, name, 0], names[row, name, 1] = start, at
                        found[row] += 1
                    codes[row, line] = name
            elif kind == 2:
                integers[row, line], at = read_integer(text, at, end)
            elif kind == 3:
                integers[row, line], at = read_time(text, at, end)
            elif at < end and (text[at] == _COMMA or text[at] == _LINE_END):
                numbers[row, line] = np.nan
            else:
                numbers[row, line], at = read_number(text, at, end)
            if at < 0 or at >= end or text[at] != (_LINE_END if column == last else _COMMA):
                return False
            at += 1
    return at == end
