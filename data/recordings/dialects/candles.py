"""Read CryptoDataDownload candles: CSV, mostly newest first, times in seconds, milliseconds or microseconds."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.names import Damaged
from data.recordings.dialects.bars import PRICE_COLUMNS, BarDialect
from data.recordings.lines import Lines, chunks_of, data_lines, whole_lines
from data.trades import Int64s

_START_NAMES = ("unix", "unix timestamp")
_COUNT_NAMES = ("tradecount", "trade count")
_MILLISECONDS = 10**11
"""Times of at least `_MILLISECONDS` are milliseconds: as seconds, the year would be 5138. Times of at least a thousand
times as many are microseconds."""


class _Candles(BarDialect):
    """Reader of a CryptoDataDownload CSV: an address, a header, and mostly the newest row first."""

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
        blocks: list[tuple[int, int, int]] = []  # of each block: its first line, place and bytes in the file
        with tempfile.TemporaryFile() as spill:
            number = 1
            try:
                for block in whole_lines(chunks_of(self.path)):
                    blocks.append((number, spill.tell(), spill.write(block)))
                    number += block.count(b"\n")
            except Damaged as error:
                damage = error
            for number, place, size in reversed(blocks):
                spill.seek(place)
                yield self._data(Lines.of(spill.read(size), number)[0]).reversed()
        if damage is not None:
            raise damage

    def _data(self, lines: Lines) -> Lines:
        return lines.take(np.flatnonzero(lines.number > self._header_line))

    def start_s(self, start: Int64s) -> Int64s:
        unit = np.select([start < _MILLISECONDS, start < 1_000 * _MILLISECONDS], [1, 1_000], 1_000_000)
        return np.where(start % unit == 0, start // unit, -1)


def candle_dialect(path: Path, head: Sequence[bytes]) -> BarDialect | None:
    """Return the dialect of a text of candles; None if the text holds no candles.

    Args:
        head: the first lines, blank lines too.

    Raises:
        ValueError: the rows do not show the length of a candle, or which volume is the base currency's.
    """
    header, start, header_lines = [""], None, 0
    for line in head[:5]:
        header_lines += 1
        try:
            header = [name.strip().lower() for name in next(csv.reader([line.decode()]), [])]
        except (UnicodeDecodeError, csv.Error):
            continue
        start = next((name for name in _START_NAMES if name in header), None)
        if start is not None and {"symbol", *PRICE_COLUMNS} <= set(header):
            break
    else:
        return None
    volumes = [i for i, name in enumerate(header) if "vol" in name]
    if len(volumes) != 2:
        raise ValueError(f"has candles with {len(volumes)} columns of volumes; two are read: of base and of quote")
    columns = {name: (header.index(name), name) for name in PRICE_COLUMNS}
    columns |= {"start": (header.index(start), start), "product_id": (header.index("symbol"), "symbol")}
    if (count := next((name for name in _COUNT_NAMES if name in header), None)) is not None:
        columns["count"] = (header.index(count), count)
    candles = _Candles(path, columns, len(header), header_lines)
    if not any(line.strip() for line in head[header_lines:]):
        raise ValueError("has the header of candles and no row")
    starts, base = _starts_and_base_volume(head[header_lines:], columns, volumes, len(header))
    steps = Counter(abs(int(step)) for step in np.diff(candles.start_s(np.array(starts, np.int64))) if step)
    if not steps:
        raise ValueError("has candles, but fewer than two times: how long a candle is cannot be told")
    candles.step_s = max(steps, key=lambda step: (steps[step], -step))
    candles.newest_first = starts[0] > starts[-1]
    candles.columns = {**columns, "volume": (base, header[base])}
    order = "newest" if candles.newest_first else "oldest"
    candles.name += f" of {candles.step_s} s, {order} first, base volume in {header[base]!r}"
    return candles


def _starts_and_base_volume(
    head: Sequence[bytes], columns: Mapping[str, tuple[int, str]], volumes: Sequence[int], width: int
) -> tuple[list[int], int]:
    """Return the starts of the first rows, and the index of the column with the base currency's volume.

    Names of columns do not help: in some files the first name means base and the second quote, in others the reverse.
    But the ratio of quote volume to base volume is the mean price of the bar.

    Raises:
        ValueError: the ratio does not decide.
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
"""Allowed distance between the log ratio of the volumes and the log close: a bar's mean price is not the last price."""
