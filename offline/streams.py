"""One stream as it stands on the topics: forecasts that are asked for, and the trades that their rows are made from.

No stream is read from its beginning: a bisection finds its forecasts, whose trade ids rise with the offset, and each
forecast names the offset of its trade.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from operator import attrgetter
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data.admission import TAKEN, Admission
from data.topic_reader import TopicReader
from data.topics import PARTITIONS, PREDICTIONS, TRADES, Purpose, decode_records, decode_trades, partition_of
from data.trades import Int64s, StreamKey, Trades, parse_times

SHOWN = 20
"""Of sources and products, where a forecast is not found."""
PROBE_BYTES = 65_536
"""What a probe fetches: one batch of a producer, some hundred forecasts, in a millisecond."""
NEAR = 1_000
"""Offsets that are read one after the other instead of bisected."""
READ_ON = 10_000
"""Offsets behind a forecast in which the next one that is asked for is looked for before a bisection."""
LOOK = 20_000
"""Offsets that are read where it is not known whether the stream reaches so far."""
PLACES = 50
"""Twice as many are spread over a partition, where a stream is looked for, or where its order is checked."""
SKEW_MS = 60_000
"""By how much the clocks of two ingestors may differ."""
LONG = 1_000_000
"""Offsets after which it is said that a reading takes long."""
STEP = 512
"""Offsets from a forecast back to where the first older one is looked for; each further one is twice as far back."""
TOGETHER = 50_000
"""Trades with fewer offsets between them are read in one go."""

T = TypeVar("T")


class NotFound(LookupError):
    """There is no such forecast. The message says what there is."""


class BadRecord(ValueError):
    """A forecast that is asked for is there and cannot be read. The message says where it stands, and why."""

    def __init__(self, partition: int, offset: int, reason: object) -> None:
        super().__init__(f"{PREDICTIONS}[{partition}]@{offset} cannot be read: {reason}")


class Forecast(NamedTuple):
    """A forecast on `predictions`.

    Attributes:
        offset: where the record stands.
        trade_id: of its trade.
        value: the record.
    """

    offset: int
    trade_id: int
    value: bytes


class Neighbours(NamedTuple):
    """The forecasts of a stream around a place.

    Attributes:
        before, after: the last one before it and the first one after it; None where there is none.
        is_sure: there is none between these two.
    """

    before: Forecast | None
    after: Forecast | None
    is_sure: bool


class Target(NamedTuple):
    """A forecast whose trades are asked for.

    Attributes:
        forecast: as it stands on the topic.
        kafka_partition, kafka_offset: of its trade, as the record says.
        since: event time, ns since 1970: on the grid its row needs the last trade that is not later, and none before.
    """

    forecast: Forecast
    kafka_partition: int
    kafka_offset: int
    since: int


class Passage(NamedTuple):
    """Consecutive trades of one stream on `coinbase-trades`.

    Attributes:
        partition: of all topics.
        oldest: the first offset that the partition still holds.
        trades: n trades, taken or not.
        offsets: shape (n,).
        is_taken: shape (n,).
        counts_as: event time that the first trade counts as, ns since 1970: where time falls, the time before.
        is_whole: no row reaches back behind the first trade.
        purposes: what the trades' records say, by offset; of those trades alone whose forecasts are asked for.
    """

    partition: int
    oldest: int
    trades: Trades
    offsets: Int64s
    is_taken: NDArray[np.bool_]
    counts_as: int
    is_whole: bool
    purposes: dict[int, Purpose]

    def index_of(self, kafka_offset: int) -> int | None:
        """Return the index of the trade at an offset, or None if no trade of the stream stands there."""
        at = bisect_left(self.offsets, kafka_offset)
        return at if at < len(self.offsets) and self.offsets[at] == kafka_offset else None

    def takes(self, target: Target) -> bool:
        """Return whether the trade that a forecast names is of the stream, and taken."""
        at = self.index_of(target.kafka_offset)
        return at is not None and bool(self.is_taken[at]) and self.trades.trade_id[at] == target.forecast.trade_id


class _Name(Struct, frozen=True, gc=False):
    """What names a forecast, where the rest of its record may be anything."""

    source_id: str
    product_id: str
    trade_id: int


class _Row(Struct, frozen=True, gc=False):
    """What a forecast says of its row."""

    event_time: str
    kafka_offset: int
    n: int


class _Anchor(NamedTuple):
    """A forecast whose trade stands where the forecast says. What the stream takes after that trade is known.

    Attributes:
        kafka_offset: of its trade.
        event_time: that the trade counts as, ns since 1970.
        n: returns in the row's window; 0 where a segment begins.
        is_last: there is no use in looking for an older one.
    """

    kafka_offset: int
    event_time: int
    n: int
    is_last: bool


class _Piece(NamedTuple):
    """The trades of one stream in a range of offsets.

    Attributes:
        trades: n trades.
        offsets: shape (n,).
        ends: offsets of the stream's end records.
        purposes: see `Passage`.
    """

    trades: Trades
    offsets: Int64s
    ends: list[int]
    purposes: dict[int, Purpose]


class Forecasts:
    """The forecasts of one stream in one partition, found by few small reads.

    Args:
        reader: for long readings.
        prober: for short ones, see `PROBE_BYTES`.
        start: the stream has no forecast at an offset before this one.
    """

    def __init__(self, reader: TopicReader, prober: TopicReader, key: StreamKey, partition: int, start: int) -> None:
        self._reader, self._prober, self._key = reader, prober, key
        self.partition, self.start = partition, start
        self._end = prober.span(PREDICTIONS, partition)[1]
        self._seen: list[Forecast] = []  # in the order of their offsets
        self._is_first_seen = self._has_said = False

    def look(self) -> bool:
        """Look for the stream at the start, at the end and at places between, and return whether it is there."""
        self._is_first_seen = self.first_in(self.start, self.start + LOOK) is not None
        if not self._is_first_seen:
            self.first_in(self._end - LOOK, self._end)
        if not self._seen and self._end - self.start > 2 * LOOK:
            self._look_at_places(self.start, self._end)
        return bool(self._seen)

    def find(self, trade_ids: Collection[int]) -> dict[int, Forecast]:
        """Return the forecasts of some trades by trade id, as far as there are any."""
        found: dict[int, Forecast] = {}
        forecast: Forecast | None = None
        near: Iterator[Forecast] = iter(())
        for trade_id in sorted(trade_ids):
            if forecast is None or forecast.trade_id < trade_id:
                forecast = _first(near, trade_id)
            if forecast is None:
                forecast = self._at_least(trade_id)
                near = self._read(forecast.offset + 1, forecast.offset + READ_ON) if forecast is not None else near
            if forecast is not None and forecast.trade_id == trade_id:
                found[trade_id] = forecast
        return found

    def find_in_all(self, trade_ids: Collection[int]) -> dict[int, Forecast]:
        """Return the same from all that the partition holds of the stream, whatever the order."""
        self._say(f"all {self._end - self.start:,} offsets are read, as trade ids of the stream do not rise")
        everything = self._forecasts(self._reader, self.start, self._end, after_end=self._end)
        return {each.trade_id: each for each in everything if each.trade_id in trade_ids}

    def first_and_last(self) -> tuple[Forecast, Forecast]:
        """Return the first forecast of a stream that is there, as far as short readings show it, and the last."""
        first, last = self.around(lambda _: True).after, self.around(lambda _: False).before
        return first or self._seen[0], last or self._seen[-1]

    def are_in_order(self, first: Forecast, last: Forecast) -> bool:
        """Return whether trade ids rise from forecast to forecast, at all places of the stream that were looked at.

        Args:
            first, last: of the stream.
        """
        self._look_at_places(first.offset, last.offset)
        return all(one.trade_id < other.trade_id for one, other in pairwise(self._seen))

    def around(self, is_reached: Callable[[Forecast], bool]) -> Neighbours:
        """Return the last forecast for which `is_reached` is false, and the first for which it is true.

        Args:
            is_reached: true for all forecasts after the first for which it is.
        """
        at = bisect_left(self._seen, True, key=is_reached)
        before = self._seen[at - 1] if at else None
        after = self._seen[at] if at < len(self._seen) else None
        if before is None and self._is_first_seen:
            return Neighbours(None, after, is_sure=True)
        if before is None:
            return self._bisect(is_reached, None, after, up=True)
        found = self._bisect(is_reached, before, after, up=False)
        if found.is_sure:
            return found
        if found.after is not None:  # the place may be behind a long pause of the stream
            return self._bisect(is_reached, found.before, found.after, up=True)
        return self._read_between(is_reached, found)

    def _bisect(
        self, is_reached: Callable[[Forecast], bool], before: Forecast | None, after: Forecast | None, *, up: bool
    ) -> Neighbours:
        """Narrow what is around a place. A stream that is silent for `LOOK` offsets may be so for millions.

        Args:
            up: look for the place behind such a silence; else before it.
        """
        low = self.start if before is None else before.offset + 1
        high = self._end if after is None else after.offset
        is_sure = True  # no silence that was not read to its end lies between `before` and `after`
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
        for found in self._probe(low, high):
            if is_reached(found):
                return Neighbours(before, found, is_sure or not up)
            before, is_sure = found, is_sure or up
        return Neighbours(before, after, is_sure)

    def _read_between(self, is_reached: Callable[[Forecast], bool], around: Neighbours) -> Neighbours:
        """Read all forecasts between two, to be sure."""
        before, after, _ = around
        start = self.start if before is None else before.offset + 1
        for found in self._read(start, self._end if after is None else after.offset):
            if is_reached(found):
                return Neighbours(before, found, is_sure=True)
            before = found
        return Neighbours(before, after, is_sure=True)

    def first_in(self, start: int, end: int) -> Forecast | None:
        """Return the first forecast in a range of offsets."""
        near = min(start + NEAR, end)
        beyond = self._forecasts(self._reader, near, end, after_end=self._end)
        found = next(chain(self._probe(start, near), beyond), None)
        if found is not None:
            at = bisect_left(self._seen, found.offset, key=attrgetter("offset"))
            if self._seen[at : at + 1] != [found]:
                self._seen.insert(at, found)
        return found

    def _at_least(self, trade_id: int) -> Forecast | None:
        """Return the first forecast whose trade id is not below `trade_id`."""

        def is_reached(forecast: Forecast) -> bool:
            return forecast.trade_id >= trade_id

        found = self.around(is_reached)
        if found.is_sure or (found.after is not None and found.after.trade_id == trade_id):
            return found.after
        return self._read_between(is_reached, found).after

    def _look_at_places(self, start: int, end: int) -> None:
        """Look at places all over a range of offsets, half of them ever nearer to its start."""
        near_start = start + np.geomspace(1, max(end - start, 1), PLACES)
        for place in np.unique([np.linspace(start, end, PLACES), near_start]).astype(np.int64).tolist():
            self.first_in(place, place + NEAR)

    def _probe(self, start: int, end: int) -> Iterator[Forecast]:
        return self._forecasts(self._prober, start, end, after_end=self._end)

    def _read(self, start: int, end: int) -> Iterator[Forecast]:
        return self._forecasts(self._reader, start, end, after_end=LOOK)

    def _forecasts(self, reader: TopicReader, start: int, end: int, *, after_end: int) -> Iterator[Forecast]:
        """Read the forecasts in a range of offsets.

        Args:
            after_end: offsets that are read after an end record of the stream, which no forecast should follow.
        """
        start, end = max(start, self.start), min(end, self._end)
        mine, is_long = _mark(self._key), False
        for stretch in reader.read(PREDICTIONS, self.partition, start, end):
            if stretch.offsets[-1] - start > LONG and not is_long:
                is_long = True
                self._say(f"up to {end - start:,} offsets are read, as the stream is silent for long")
            for offset, value in zip(stretch.offsets, stretch.values, strict=True):
                if offset >= end:
                    return
                if value is None or mine not in value:
                    continue
                if (name := _decoded(value, _decode_name)) is None:
                    ends = decode_records([value], _decode_name).ends
                    end = min(end, offset + after_end) if any(record.key == self._key for _, record in ends) else end
                elif (name.source_id, name.product_id) == self._key:
                    yield Forecast(offset, name.trade_id, value)

    def _say(self, what: str) -> None:
        if not self._has_said:
            place = f"{'/'.join(self._key)} in {PREDICTIONS}[{self.partition}]"
            print(f"looking for {place}: {what}", file=sys.stderr)
        self._has_said = True


class Stream:
    """One stream on the topics. All methods raise `NotRead`.

    Args:
        reader: of the group in which the ingestor has noted where the source begins; for long readings.
        prober: for short ones, see `PROBE_BYTES`.

    Attributes:
        partition: of all topics.
        note: what the ingestor says of the source's recordings; empty where it said nothing.

    Raises:
        NotFound: the stream has no forecast.
    """

    def __init__(self, reader: TopicReader, prober: TopicReader, key: StreamKey) -> None:
        self._reader, self._prober, self._key = reader, prober, key
        self._begin = reader.committed(TRADES, range(PARTITIONS))
        self.note = next((note for _, note in self._begin.values() if note), "")
        self._forecasts = self._look()
        self.partition = self._forecasts.partition
        self._oldest, self._end = prober.span(TRADES, self.partition)

    def find(self, trade_ids: Collection[int]) -> dict[int, Forecast]:
        """Return the forecasts of some trades, by trade id.

        Raises:
            NotFound: there is no forecast of one of these trades.
        """
        found = self._forecasts.find(trade_ids)
        absent = sorted(set(trade_ids) - set(found))
        if not absent:
            return found
        first, last = self._forecasts.first_and_last()
        if not self._forecasts.are_in_order(first, last):
            found |= self._forecasts.find_in_all(absent)
            absent = sorted(set(trade_ids) - set(found))
        if absent:
            raise NotFound(
                f"source {self._key.source_id} has no forecast of {self._key.product_id} trade "
                f"{', '.join(map(str, absent[:5]))}; it has forecasts of it from trade {first.trade_id} to "
                f"{last.trade_id}"
            )
        return found

    def passages(
        self, targets: Iterable[Target], reaches: Callable[[Passage, Target], bool]
    ) -> Iterator[tuple[list[Target], Passage]]:
        """Read the trades that the rows of some forecasts are made from, those of rows near each other in one go.

        Args:
            targets: one whose trade is not on the topic comes with an empty passage.
            reaches: says whether a passage that ends with a row's trade begins with all that the row needs.
        """
        there: list[Target] = []
        elsewhere: list[Target] = []
        for target in targets:
            is_there = target.kafka_partition == self.partition and self._oldest <= target.kafka_offset < self._end
            (there if is_there else elsewhere).append(target)
        if elsewhere:
            yield elsewhere, self._passage([], None, is_whole=False)
        there.sort(key=attrgetter("kafka_offset"))
        gaps = [i for i, (a, b) in enumerate(pairwise(there), 1) if b.kafka_offset - a.kafka_offset > TOGETHER]
        for first, after in pairwise([0, *gaps, len(there)]):
            if together := there[first:after]:
                yield together, self._read_passage(together, reaches)

    def _look(self) -> Forecasts:
        """Return the stream's forecasts, in the partition of its product or, if its producer chose otherwise, another.

        Raises:
            NotFound: there are none.
        """
        if (forecasts := self._forecasts_in(partition_of(self._key.product_id))) is not None:
            return forecasts
        there, is_cut = _newest_streams(self._reader)
        if self._key in there and (forecasts := self._forecasts_in(there[self._key])) is not None:
            return forecasts
        limit = f" (only the newest {LOOK:,} records of each partition were looked at)" if is_cut else ""
        raise NotFound(_nothing(self._key, there) + limit)

    def _forecasts_in(self, partition: int) -> Forecasts | None:
        """Return the stream's forecasts in a partition, or None if there are none where they are looked for."""
        oldest = self._prober.span(PREDICTIONS, partition)[0]
        starts = [oldest]
        if (first_ms := self._first_ingest_ms(partition)) is not None:
            # The records of both topics carry the ingest time of the trade, unless somebody else has written them.
            starts.insert(0, max(oldest, self._prober.offset_at(PREDICTIONS, partition, first_ms)))
        for start in starts:
            forecasts = Forecasts(self._reader, self._prober, self._key, partition, start)
            if forecasts.look():
                return forecasts
        return None

    def _source_begin(self, partition: int) -> int | None:
        """Return the offset before which the source has no trades, or None if some of its trades may have expired."""
        begin = self._begin.get(partition, (0, ""))[0]
        return begin if begin >= self._prober.span(TRADES, partition)[0] else None

    def _first_ingest_ms(self, partition: int) -> int | None:
        """Return the ingest time of the stream's first trade, or an earlier time, ms since 1970; None: not known."""
        earliest: int | None = None
        if (begin := self._source_begin(partition)) is None:
            return None
        end = min(begin + LOOK, self._prober.span(TRADES, partition)[1])
        for stretch in self._prober.read(TRADES, partition, begin, end):
            trades = decode_trades(stretch.values).trades
            ingest_ms = trades.ingest_time // 1_000_000
            if self._key in trades.keys:
                return int(ingest_ms[trades.stream == trades.keys.index(self._key)][0])
            if earliest is None and len(trades):
                earliest = max(int(ingest_ms[0]) - SKEW_MS, 0)
        return earliest

    def _read_passage(self, together: Sequence[Target], reaches: Callable[[Passage, Target], bool]) -> Passage:
        """Read the trades from those that the row of the first target needs to the last target.

        What a stream takes depends on what it took before, so a passage begins with a trade that has a forecast.
        """
        wanted = {target.kafka_offset for target in together}
        pieces: list[_Piece] = []
        begin = end = together[-1].kafka_offset + 1
        for anchor in self._anchors(together[0]):
            start, is_whole = anchor.kafka_offset, anchor.n == 0
            counts_as: int | None = anchor.event_time
            if anchor.is_last and not is_whole and (source_begin := self._source_begin(self.partition)) is not None:
                start, counts_as, is_whole = source_begin, None, True  # forecasts have expired, and trades have not
            pieces = [*self._pieces(self._reader, self.partition, start, begin, wanted), *pieces]
            begin = min(begin, start)
            passage = self._passage(pieces, counts_as, is_whole=is_whole)
            first = next((target for target in together if passage.takes(target)), None)
            if anchor.is_last or first is None or reaches(passage, first):
                return passage
        alone = [*self._pieces(self._reader, self.partition, together[0].kafka_offset, end, wanted)]
        return self._passage(alone, None, is_whole=False)

    def _anchors(self, target: Target) -> Iterator[_Anchor]:
        """Yield forecasts further and further back, from where the grid of a row begins to the last that is of use."""
        edge = self._forecasts.around(lambda forecast: _event_time(forecast) > target.since)
        place = (edge.before or edge.after or target.forecast).offset
        back, start = STEP, self._forecasts.start
        while True:
            at = max(place - back, start)
            anchor = self._anchor(at, target.forecast.offset + 1)
            if anchor is not None:
                yield anchor
            if at == start or (anchor is not None and anchor.is_last):
                return
            back *= 2

    def _anchor(self, start: int, end: int) -> _Anchor | None:
        """Return the first anchor among the forecasts in a range of offsets whose trades the topic still holds."""
        forecast, is_last = self._forecasts.first_in(start, end), start == self._forecasts.start
        if forecast is not None and not self._is_kept(forecast):
            forecast = self._forecasts.around(self._is_kept).after
            is_last = True
        while forecast is not None and forecast.offset < end:
            row, event_time = _decoded(forecast.value, _decode_row), _event_time(forecast)
            if row is not None and event_time and self._stands(row.kafka_offset, forecast.trade_id):
                return _Anchor(row.kafka_offset, event_time, row.n, is_last or row.n == 0)
            forecast = self._forecasts.first_in(forecast.offset + 1, end)
        return None

    def _is_kept(self, forecast: Forecast) -> bool:
        """Return whether the topic may still hold the trade of a forecast."""
        row = _decoded(forecast.value, _decode_row)
        return row is None or row.kafka_offset >= self._oldest

    def _stands(self, kafka_offset: int, trade_id: int) -> bool:
        """Return whether a trade of the stream stands at an offset."""
        if not self._oldest <= kafka_offset < self._end:
            return False
        pieces = self._pieces(self._prober, self.partition, kafka_offset, kafka_offset + 1)
        return any(trade_id in piece.trades.trade_id for piece in pieces)

    def _pieces(
        self, reader: TopicReader, partition: int, start: int, end: int, wanted: Collection[int] = ()
    ) -> Iterator[_Piece]:
        """Read the stream's trades in a range of offsets, and the purposes at the `wanted` ones."""
        mine = _mark(self._key)
        for stretch in reader.read(TRADES, partition, start, end):
            places, values = [], []
            for offset, value in zip(stretch.offsets, stretch.values, strict=True):
                if value is not None and mine in value:
                    places.append(offset)
                    values.append(value)
            found = decode_trades(values)
            ends = [places[place] for place, record in found.ends if record.key == self._key]
            trades, offsets = _EMPTY, np.zeros(0, np.int64)
            if self._key in found.trades.keys:
                rows = found.trades.stream == found.trades.keys.index(self._key)
                trades, offsets = found.trades.take(rows), np.array(places, np.int64)[found.places[rows]]
                trades = replace(trades, keys=(self._key,), stream=np.zeros(len(trades), np.int32))
            asked = ((place, value) for place, value in zip(places, values, strict=True) if place in wanted)
            purposes = {place: decode_trades([value]).purposes.get(self._key) for place, value in asked}
            yield _Piece(trades, offsets, ends, {place: said for place, said in purposes.items() if said is not None})

    def _passage(self, pieces: Sequence[_Piece], counts_as: int | None, *, is_whole: bool) -> Passage:
        """Join pieces and judge their trades; after an end record the stream takes none.

        Args:
            counts_as: event time that the first trade counts as; None: its own.
        """
        trades = Trades.join([_EMPTY, *(piece.trades for piece in pieces)])
        offsets = np.concatenate([np.zeros(0, np.int64), *(piece.offsets for piece in pieces)])
        event_time = trades.event_time.copy()
        if counts_as is not None:
            event_time[:1] = counts_as
        is_taken = Admission().judge(replace(trades, event_time=event_time)) == TAKEN
        if ends := [end for piece in pieces for end in piece.ends]:
            is_taken &= offsets < min(ends)
        purposes = {place: said for piece in pieces for place, said in piece.purposes.items()}
        first = int(event_time[0]) if len(event_time) else 0
        return Passage(self.partition, self._oldest, trades, offsets, is_taken, first, is_whole, purposes)


_EMPTY = decode_trades([]).trades
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode_name, _decode_row = msgspec.json.Decoder(_Name).decode, msgspec.json.Decoder(_Row).decode


def _decoded(value: bytes, decode: Callable[[bytes], T]) -> T | None:
    """Return what `decode` reads, or None if it cannot."""
    try:
        return decode(value)
    except _UNREADABLE:
        return None


def _event_time(forecast: Forecast) -> int:
    """Return the event time that a forecast says, ns since 1970, or 0 if that cannot be read."""
    row = _decoded(forecast.value, _decode_row)
    try:
        return 0 if row is None else int(parse_times([row.event_time])[0])
    except ValueError:
        return 0


def _mark(key: StreamKey) -> bytes:
    """Return what stands in all records of a source."""
    return f'"source_id":"{key.source_id}"'.encode()


def _first(forecasts: Iterator[Forecast], trade_id: int) -> Forecast | None:
    """Return the next forecast whose trade id is not below `trade_id`."""
    return next((forecast for forecast in forecasts if forecast.trade_id >= trade_id), None)


def _newest_streams(reader: TopicReader) -> tuple[dict[StreamKey, int], bool]:
    """Return the partition of each stream that has one of the newest forecasts, and whether there are older ones."""
    there: dict[StreamKey, int] = {}
    is_cut = False
    for partition in reader.partitions(PREDICTIONS):
        oldest, end = reader.span(PREDICTIONS, partition)
        is_cut = is_cut or oldest < end - LOOK
        for stretch in reader.read(PREDICTIONS, partition, max(oldest, end - LOOK), end):
            for record in decode_records(stretch.values, _decode_name).records:
                there.setdefault(StreamKey(record.source_id, record.product_id), partition)
    return there, is_cut


def _nothing(key: StreamKey, there: Collection[StreamKey]) -> str:
    """Say what there is instead of a stream."""
    if not there:
        return f"{PREDICTIONS} holds no forecasts at all: replay a recording first, as `make run RECORDING=trades.csv`"
    if products := sorted(other.product_id for other in there if other.source_id == key.source_id):
        return f"source {key.source_id} has no forecast of {key.product_id}; it has some of {_some(products)}"
    sources = sorted({other.source_id for other in there if other.product_id == key.product_id})
    if sources:
        return f"there is no source {key.source_id}; {key.product_id} is forecast in {_some(sources)}"
    return f"there is no forecast {'/'.join(key)}; there are some of {_some(sorted('/'.join(k) for k in there))}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
