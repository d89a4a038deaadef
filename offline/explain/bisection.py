"""Search for a forecast on its topic, by bisection over trade ids."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from itertools import chain, pairwise
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from data.stream.codec import decode_records, mark_of
from data.stream.records import PREDICTIONS, Time
from data.trades import StreamKey
from offline.served.kept.records import Records

NEAR = 1_000
"""A range of up to this many offsets is read in order, not bisected."""
READ_ON = 10_000
"""Offsets after a found forecast to search for the next wanted forecast, before a bisection."""
LOOK = 20_000
"""Offsets to read at a place where the stream may be silent or absent."""
PLACES = 50
"""Half the number of places in a partition to look for a stream, or to check the order of trade ids."""
LONG = 1_000_000
"""Offsets after which a long reading is reported on stderr."""


class BadRecord(ValueError):
    """The wanted forecast exists, but the record cannot be read. The message has partition, offset and reason."""

    def __init__(self, partition: int, offset: int, reason: object) -> None:
        super().__init__(f"{PREDICTIONS}[{partition}]@{offset} cannot be read: {reason}")


class ForecastRow(Struct, frozen=True, gc=False):
    """Fields of a record about the forecast's feature row."""

    event_time: Time
    kafka_offset: int
    n: int


UNREADABLE_ROW = ForecastRow(0, sys.maxsize, 0)
"""In place of a row that cannot be read."""


class TopicForecast(NamedTuple):
    """A forecast on `predictions`.

    Attributes:
        offset: of the record.
        trade_id: of the forecast's trade.
        value: the record, JSON.
    """

    offset: int
    trade_id: int
    value: bytes

    @property
    def row(self) -> ForecastRow:
        """Return the forecast's feature row, or `UNREADABLE_ROW`."""
        return next(iter(decode_records([self.value], _decode_row).records), UNREADABLE_ROW)


class Neighbours(NamedTuple):
    """The forecasts of a stream around a place.

    Attributes:
        before, after: the last forecast before and the first forecast after the place, or None.
        is_sure: no other forecast lies between the two.
    """

    before: TopicForecast | None
    after: TopicForecast | None
    is_sure: bool


class _Name(Struct, frozen=True, gc=False):
    """Fields of a record that name a forecast; other fields may be anything."""

    source_id: str
    product_id: str
    trade_id: int


class ForecastSearch:
    """Search for the forecasts of one stream in one partition, by few small reads.

    Args:
        reader: for long readings.
        prober: for short readings, see `PROBE_BYTES`.
        start: the first offset of the search; the stream has no earlier forecast.
    """

    def __init__(self, reader: Records, prober: Records, key: StreamKey, partition: int, start: int) -> None:
        self._reader, self._prober, self._key = reader, prober, key
        self.partition, self.start = partition, start
        self._end = prober.span(PREDICTIONS, partition)[1]
        self._seen: list[TopicForecast] = []  # in the order of their offsets
        self._is_first_seen = self._has_said = False

    def look(self) -> bool:
        """Look for the stream at the start, at the end and at places between; return False if the stream is absent."""
        self._is_first_seen = self.first_in(self.start, self.start + LOOK) is not None
        if not self._is_first_seen:
            self.first_in(self._end - LOOK, self._end)
        if not self._seen and self._end - self.start > 2 * LOOK:
            self._look_at_places(self.start, self._end)
        return bool(self._seen)

    def find(self, trade_ids: Collection[int]) -> dict[int, TopicForecast]:
        """Return the forecasts of some trades by trade id; trades without a forecast are left out."""
        found: dict[int, TopicForecast] = {}
        forecast: TopicForecast | None = None
        near: Iterator[TopicForecast] = iter(())
        for trade_id in sorted(trade_ids):
            if forecast is None or forecast.trade_id < trade_id:
                forecast = next((each for each in near if each.trade_id >= trade_id), None)
            if forecast is None:
                forecast = self._at_least(trade_id)
                near = self._read(forecast.offset + 1, forecast.offset + READ_ON) if forecast is not None else near
            if forecast is not None and forecast.trade_id == trade_id:
                found[trade_id] = forecast
        return found

    def find_in_all(self, trade_ids: Collection[int]) -> dict[int, TopicForecast]:
        """Return the same as `find` from a reading of the whole partition, for streams in any order."""
        self._say(f"all {self._end - self.start:,} offsets are read, as trade ids of the stream do not rise")
        everything = self._forecasts(self._reader, self.start, self._end)
        return {each.trade_id: each for each in everything if each.trade_id in trade_ids}

    def first_and_last(self) -> tuple[TopicForecast, TopicForecast]:
        """Return the first and the last forecast of a stream known to exist, as far as short readings find them."""
        first, last = self.around(lambda _: True).after, self.around(lambda _: False).before
        return first or self._seen[0], last or self._seen[-1]

    def are_in_order(self, first: TopicForecast, last: TopicForecast) -> bool:
        """Return whether trade ids rise from forecast to forecast, at all places checked.

        Args:
            first, last: forecasts of the stream.
        """
        self._look_at_places(first.offset, last.offset)
        return all(one.trade_id < other.trade_id for one, other in pairwise(self._seen))

    def around(self, is_reached: Callable[[TopicForecast], bool]) -> Neighbours:
        """Return the last forecast with a false `is_reached`, and the first forecast with a true `is_reached`.

        Args:
            is_reached: monotonic: true for all forecasts after the first true one.
        """
        at = bisect_left(self._seen, True, key=is_reached)
        after = self._seen[at] if at < len(self._seen) else None
        if at == 0:
            found = Neighbours(None, after, is_sure=self._is_first_seen)
            return found if found.is_sure else self._bisect(is_reached, found, up=True)
        found = self._bisect(is_reached, Neighbours(self._seen[at - 1], after, is_sure=False), up=False)
        if found.is_sure:
            return found
        if found.after is not None:  # the place may be behind a long pause of the stream
            return self._bisect(is_reached, found, up=True)
        return self._read_between(is_reached, found)

    def _bisect(self, is_reached: Callable[[TopicForecast], bool], around: Neighbours, *, up: bool) -> Neighbours:
        """Bisect between two forecasts. A stream silent for `LOOK` offsets may be silent for millions.

        Args:
            up: after a silence, continue behind the silence; else before the silence.
        """
        before, after, _ = around
        low, high = self._between(around)
        is_sure = True  # no silence between `before` and `after` was left unread
        while high - low > NEAR:
            middle = (low + high) // 2
            found = self.first_in(middle, min(high, middle + LOOK))
            if found is None:
                is_empty = middle + LOOK >= high
                is_sure = is_sure and is_empty
                low, high = (middle, high) if up and not is_empty else (low, middle)
            elif is_reached(found):
                after, high, is_sure = found, middle, is_sure or not up
            else:
                before, low, is_sure = found, found.offset + 1, is_sure or up
        for found in self._forecasts(self._prober, low, high):
            if is_reached(found):
                return Neighbours(before, found, is_sure or not up)
            before, is_sure = found, is_sure or up
        return Neighbours(before, after, is_sure)

    def _read_between(self, is_reached: Callable[[TopicForecast], bool], around: Neighbours) -> Neighbours:
        """Read all forecasts between two forecasts, to be sure of the neighbours."""
        before, after, _ = around
        for found in self._read(*self._between(around)):
            if is_reached(found):
                return Neighbours(before, found, is_sure=True)
            before = found
        return Neighbours(before, after, is_sure=True)

    def _between(self, around: Neighbours) -> tuple[int, int]:
        """Return the range of offsets between two forecasts."""
        before, after, _ = around
        return self.start if before is None else before.offset + 1, self._end if after is None else after.offset

    def between(self, start: int, end: int) -> Iterator[TopicForecast]:
        """Read the forecasts in a range of offsets."""
        return self._forecasts(self._reader, start, end)

    def first_in(self, start: int, end: int) -> TopicForecast | None:
        """Return the first forecast in a range of offsets, or None."""
        near = min(start + NEAR, end)
        beyond = self._forecasts(self._reader, near, end)
        found = next(chain(self._forecasts(self._prober, start, near), beyond), None)
        if found is not None:
            at = bisect_left(self._seen, found.offset, key=attrgetter("offset"))
            if self._seen[at : at + 1] != [found]:
                self._seen.insert(at, found)
        return found

    def _at_least(self, trade_id: int) -> TopicForecast | None:
        """Return the first forecast whose trade id is not below `trade_id`."""

        def is_reached(forecast: TopicForecast) -> bool:
            return forecast.trade_id >= trade_id

        found = self.around(is_reached)
        if found.is_sure or (found.after is not None and found.after.trade_id == trade_id):
            return found.after
        return self._read_between(is_reached, found).after

    def _look_at_places(self, start: int, end: int) -> None:
        """Look at places all over a range of offsets; half of the places lie closer and closer to the start."""
        near_start = start + np.geomspace(1, max(end - start, 1), PLACES)
        for place in np.unique([np.linspace(start, end, PLACES), near_start]).astype(np.int64).tolist():
            self.first_in(place, place + NEAR)

    def _read(self, start: int, end: int) -> Iterator[TopicForecast]:
        return self._forecasts(self._reader, start, end, after_end=LOOK)

    def _forecasts(
        self, reader: Records, start: int, end: int, after_end: int = sys.maxsize
    ) -> Iterator[TopicForecast]:
        """Read the forecasts in a range of offsets.

        Args:
            after_end: number of offsets to read after an end record of the stream; no forecast should follow.
        """
        start, end = max(start, self.start), min(end, self._end)
        mine, is_long = mark_of(self._key.source_id), False
        for block in reader.read(PREDICTIONS, self.partition, start, end):
            if block.offsets[-1] - start > LONG and not is_long:
                is_long = True
                self._say(f"up to {end - start:,} offsets are read, as the stream is silent for long")
            kept = {offset: value for offset, value in zip(block.offsets, block.values, strict=True) if mine in value}
            offsets, found = [*kept], decode_records([*kept.values()], decode_name)
            end = min([end, *(offsets[place] + after_end for place, each in found.ends if each.key == self._key)])
            for place, name in zip(found.places, found.records, strict=True):
                if (offset := offsets[place]) >= end:
                    return
                if (name.source_id, name.product_id) == self._key:
                    yield TopicForecast(offset, name.trade_id, kept[offset])
            if block.offsets[-1] >= end:
                return

    def _say(self, what: str) -> None:
        if not self._has_said:
            place = f"{'/'.join(self._key)} in {PREDICTIONS}[{self.partition}]"
            print(f"looking for {place}: {what}", file=sys.stderr)
        self._has_said = True


decode_name, _decode_row = msgspec.json.Decoder(_Name).decode, msgspec.json.Decoder(ForecastRow).decode
