"""Read all rows of candles once, before the first candle: length, order, units of time, order of prices, volumes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrow import is_true, texts_of
from data.names import BeyondLimit, Damaged
from data.recordings.dialects.bars.columns import CandleColumns
from data.recordings.dialects.bars.starts import STARTS, whole_starts
from data.recordings.dialects.tables.known import COIN_CONTRACTS
from data.recordings.fields import by_name, prices, products, sizes, unit_ns
from data.recordings.limits import RecordingLimits
from data.recordings.lines import Lines, csv_fields
from data.times import NS
from data.trades import Floats, Int64s

RARE_SHARE: Final = 0.01
"""Steps that are rarer, all together, do not count for the length of a candle: their rows are rejected."""
RATIO_OFF: Final = 0.1
"""Allowed distance between the log ratio of the volumes and the log close: a bar's mean price is not the last price."""
_SOME_OF_A_BLOCK = 1_000
_MOST_BLOCKS = 256
_DAY, _QUARTER, _MINUTE = 86_400, 900, 60
_LENGTH = re.compile(r"(\d{1,6})\s*(s|sec|m|min|t|h|hour|d|day|w|week)?")
_UNIT_S: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "t": 60, "h": 3_600, "hour": 3_600, "d": _DAY, "day": _DAY,
                  "w": 7 * _DAY, "week": 7 * _DAY}  # fmt: skip
_MOST_A_DAY: Final = 1e14
"""Volume times price in a day, in any currency: Bitcoin's markets together have a thousandth of that in dollars."""
MOST_STEPS: Final = 100_000
"""Different steps of time; candles have a few, whatever holes they have."""
_UNIT_NAMES: Final = {NS: "s", 1_000_000: "ms", 1_000: "us", 1: "ns"}


_MONTHS_S: Final = tuple(days * _DAY for days in (28, 29, 30, 31))


def _length_s(text: str) -> int:
    """Return the length of a candle that a text names, in seconds; 0 for another text. M is a month, and none.

    >>> _length_s("5m"), _length_s("1H"), _length_s("300"), _length_s("1M")
    (300, 3600, 300, 0)
    """
    found = _LENGTH.fullmatch(text.strip() if text.endswith("M") else text.strip().lower())
    return int(found[1]) * _UNIT_S[found[2] or "s"] if found else 0


class Survey(NamedTuple):
    """What all rows of a file of candles show.

    Attributes:
        step_s: seconds that a candle covers.
        phase_s: start of most candles behind a multiple of the step since 1970, a multiple of a quarter of an hour.
        newest_first: whether times mostly fall.
        units: units of the times that are numbers, in the order of their first row.
        base: index of the column with the base currency's volume, among the surveyed volumes.
        order: index of the order of prices that most rows have, among the possible orders; of equals, the first.
        products: names of products as they stand in the rows.
    """

    step_s: int
    phase_s: int
    newest_first: bool
    units: tuple[str, ...]
    base: int
    order: int
    products: tuple[str, ...]


def survey(blocks: Iterator[Lines], columns: CandleColumns) -> Survey:
    """Read all rows.

    Raises:
        ValueError: the rows do not show the length of a candle, or which volume is the base currency's, or rows differ
            that must be alike.
    """
    found = _Found(columns)
    try:
        for lines in blocks:
            readable, _ = lines.readable()
            found.add(csv_fields(lines.take(readable), len(columns.names), found.wanted).texts)
    except Damaged:
        pass  # the readable rows decide, and the reader tells of the damage
    order = int(np.argmax(found.fitting))
    step_s = found.step_s()
    base = found.base(step_s)
    falls = found.falls > found.rises
    return Survey(step_s, found.phase_s(step_s), falls, tuple(found.units), base, order, tuple(found.last))


T = TypeVar("T")


class _Some(list[T]):
    """Findings of blocks that lie evenly in a file, at most `_MOST_BLOCKS`: memory does not grow with the rows.

    >>> some = _Some[int]()
    >>> for block in range(1_000):
    ...     some.add(block)
    >>> len(some), some[:3]
    (250, [0, 4, 8])
    """

    _seen, _every = 0, 1

    def add(self, finding: T) -> None:
        """Keep the finding of a block; beyond the limit, keep the findings of half the blocks."""
        if self._seen % self._every == 0:
            self.append(finding)
        self._seen += 1
        if len(self) > _MOST_BLOCKS:
            del self[1::2]
            self._every *= 2


class _Found:
    """Counts over the rows so far."""

    def __init__(self, columns: CandleColumns) -> None:
        self.columns, self.start, self.orders = columns, columns.at["start"], columns.orders
        others = (i for i in (columns.product, columns.length, columns.end) if i is not None)
        self.wanted = sorted({self.start, *columns.volumes, *columns.alike, *others}.union(*self.orders))
        self.limits = RecordingLimits.here()
        self.last: dict[str, int] = {}
        self.steps: Counter[int] = Counter()
        self.rises = self.falls = 0
        self.units: dict[str, None] = {}
        self.ratios = _Some[Floats]()
        self.fitting = np.zeros(len(self.orders), np.int64)
        self.alike: dict[int, str] = {}  # value of each column of which all rows must have the same
        self.lengths: Counter[int] = Counter()  # by the column of lengths, or of ends
        self.some = _Some[Int64s]()  # times, of which most tell the phase
        self.turnovers = _Some[float]()  # volume times close, of each block

    def add(self, texts: Mapping[int, pa.Array]) -> None:
        """Note some rows, by the index of a column; raises as `survey`."""
        self._add_candles(texts)
        self._check_alike(texts)
        self._add_lengths(texts)

    def _add_candles(self, texts: Mapping[int, pa.Array]) -> None:
        product, volumes = self.columns.product, self.columns.volumes
        ns, good = STARTS.parse(texts[self.start])
        seconds = ns // NS
        self.some.add(seconds[np.flatnonzero(good)[:_SOME_OF_A_BLOCK]])
        self._add_units(texts[self.start])
        rows = len(seconds)
        named = products(texts[product] if product is not None else texts_of([""] * rows))
        try:
            self.limits.check_products(len(self.last.keys() | set(named.names)))
        except BeyondLimit as error:  # `survey` takes damage for the end of the rows
            raise ValueError(str(error)) from None
        for i, name in enumerate(named.names):
            mine = seconds[good & (named.code == i)]
            if len(mine):
                self._add_steps(name, mine)
        parsed = {i: prices(texts[i]) for i in sorted(set().union(*self.orders))}
        for place, order in enumerate(self.orders):
            four, are_prices = zip(*(parsed[i] for i in order), strict=True)
            opened, high, low, closed = np.array(four)[:, np.logical_and.reduce(are_prices)]
            inside = (np.minimum(opened, closed) >= low) & (np.maximum(opened, closed) <= high)
            self.fitting[place] += int(np.sum(inside))
        close, is_price = parsed[self.orders[0][3]]
        if len(volumes) == 2:
            self._add_ratios([sizes(texts[i])[0][is_price] for i in volumes], close[is_price])
        elif is_price.any():
            some = close[:_SOME_OF_A_BLOCK] * sizes(texts[volumes[0]].slice(0, _SOME_OF_A_BLOCK))[0]
            self.turnovers.add(float(np.median(np.nan_to_num(some))))

    def _add_lengths(self, texts: Mapping[int, pa.Array]) -> None:
        """Note the lengths of candles that a column names, or that their ends tell; an end may be 1 ms earlier."""
        length, end = self.columns.length, self.columns.end
        if length is not None:
            code, names = by_name(texts[length], list)
            counts = np.bincount(code, minlength=len(names)).tolist()
            self.lengths.update({_length_s(name): count for name, count in zip(names, counts, strict=True)})
        elif end is not None and len(self.lengths) <= MOST_STEPS:
            both = (texts[i].slice(0, _SOME_OF_A_BLOCK) for i in (self.start, end))
            (starts, are_starts), (ends, are_ends) = map(STARTS.parse, both)
            found = -(-(ends - starts)[are_starts & are_ends] // NS)
            self.lengths.update(dict(zip(*map(np.ndarray.tolist, np.unique(found, return_counts=True)), strict=True)))

    def _check_alike(self, texts: Mapping[int, pa.Array]) -> None:
        """Raise ValueError if the rows so far have several values in a column of which they must have the same."""
        for i in self.columns.alike:
            for value in filter(None, by_name(texts[i], list)[1]):
                if (first := self.alike.setdefault(i, value)) != value:
                    raise ValueError(
                        f"has candles that are no single series, as the column {self.columns.names[i]!r} tells: "
                        f"{first[:40]!r} and {value[:40]!r}; write one file for each"
                    )

    def _add_units(self, starts: pa.Array) -> None:
        count, is_number = whole_starts(pc.ascii_trim_whitespace(starts))
        units = unit_ns(count[is_true(is_number)])
        for i in np.sort(np.unique(units, return_index=True)[1]):
            self.units[_UNIT_NAMES[int(units[i])]] = None

    def _add_steps(self, name: str, seconds: Int64s) -> None:
        steps = np.diff(seconds, prepend=self.last.get(name, seconds[0]))
        self.last[name] = int(seconds[-1])
        self.rises += int(np.sum(steps > 0))
        self.falls += int(np.sum(steps < 0))
        lengths, counts = np.unique(np.abs(steps[steps != 0]), return_counts=True)
        if len(self.steps) > MOST_STEPS:
            raise ValueError(
                f"has candles whose times do not tell their length: more than {MOST_STEPS:,} different steps"
            )
        self.steps.update(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))

    def _add_ratios(self, pair: Sequence[Floats], close: Floats) -> None:
        usable = np.flatnonzero((pair[0] > 0) & (pair[1] > 0) & np.isfinite(pair[0]) & np.isfinite(pair[1]))
        usable = usable[:_SOME_OF_A_BLOCK]
        ratio, log_price = np.log(pair[1][usable] / pair[0][usable]), np.log(close[usable])
        self.ratios.add(np.array([abs(ratio - log_price), abs(ratio + log_price), ratio + log_price]))

    def step_s(self) -> int:
        """Return the greatest common step of the times, without rare steps."""
        total = self.steps.total()
        if not self.last:
            raise ValueError(
                f"has candles, but no time is understood: a time {STARTS.explain('')}, date and hour together"
            )
        if not total:
            raise ValueError("has candles, but fewer than two times: how long a candle is cannot be told")
        step, seen = 0, 0
        for length, count in sorted(self.steps.items(), key=lambda item: (-item[1], item[0])):
            if seen >= total * (1 - RARE_SHARE):
                break
            step, seen = gcd(step, length), seen + count
        usual = [length for length, count in self.steps.items() if count > total * RARE_SHARE]
        if usual and set(usual) <= set(_MONTHS_S):
            raise ValueError(
                "has candles of months, whose times do not tell their length: candles up to weeks are read"
            )
        named, rows = max(self.lengths.items(), key=lambda item: item[1], default=(0, 0))
        if named > 0 and rows >= self.lengths.total() * (1 - RARE_SHARE) and step % named == 0:
            return named
        common, count = max(self.steps.items(), key=lambda item: (item[1], -item[0]))
        if step not in self.steps and count > total / 2:
            raise ValueError(
                f"has candles whose times do not tell their length: most steps are {common:,} s, but the greatest "
                f"common step is {step:,} s, and no two times lie so near; some times must be wrong, or the candles "
                "differ in length"
            )
        return step

    def phase_s(self, step_s: int) -> int:
        """Return where in a step most candles start, a quarter of an hour as in a time zone; 0 for other places.

        Candles up to a minute lie on the grid.
        """
        if step_s <= _MINUTE:
            return 0
        phases, counts = np.unique(np.concatenate(self.some) % step_s, return_counts=True)
        phase = int(phases[np.argmax(counts)])
        return phase if phase % _QUARTER == 0 else 0  # a second before the hour is the end of a candle, and no start

    def base(self, step_s: int) -> int:
        """Return which of the volumes is the base currency's.

        Names of columns do not help: in some files the first name means base and the second quote, in others the
        reverse. But the ratio of quote volume to base volume is the mean price of the bar. Of coin contracts the first
        volume counts contracts, and the second is the base currency's.
        """
        is_named = self.columns.is_named
        if len(self.columns.volumes) == 1:
            a_day = float(np.median(self.turnovers or [0.0])) * _DAY / step_s
            if a_day > _MOST_A_DAY:
                raise ValueError(
                    f"has candles whose volume times price is {a_day:.0e} a day, more than any market trades: the "
                    "volume is in the quote currency, or counts contracts"
                )
            return 0
        off: NDArray[Any] = np.concatenate([np.empty((3, 0)), *self.ratios], axis=1)
        first_is_base, second_is_base, contract = np.median(off, axis=1) if off.size else (np.inf, np.inf, np.inf)
        found = min(first_is_base, second_is_base)
        if not found < RATIO_OFF or abs(first_is_base - second_is_base) < RATIO_OFF:
            # A constant factor beside the price is of lots, and beside its inverse of contracts of the quote currency.
            lots, contracts = (float(np.median(np.abs(off[i] - middle))) if off.size else np.inf
                               for i, middle in ((0, first_is_base), (2, contract)))  # fmt: skip
            are_coins = contracts < lots and min(abs(contract - np.log(COIN_CONTRACTS))) < RATIO_OFF
            if is_named and found >= RATIO_OFF and are_coins:
                return 1
            if is_named and (found < RATIO_OFF or lots >= RATIO_OFF):
                return 0
            raise ValueError(
                "has candles whose volumes do not tell which of them is the base currency's: one over the other must "
                f"be the price, within {RATIO_OFF:.0%}, and the price not near 1; a volume of lots or contracts is none"
            )
        return 0 if first_is_base < second_is_base else 1
