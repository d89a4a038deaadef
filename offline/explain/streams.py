"""Reading of one stream on the topics: wanted forecasts, and the trades behind their rows.

No stream is read from the beginning: trade ids of forecasts rise with the offset, so a bisection finds the forecasts,
and each forecast names the offset of its trade.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.admission import RESTARTED, Admission, is_taken
from data.features.reach import oldest_block, oldest_trade
from data.features.spec import FeatureSpec
from data.stream.codec import decode_records, decode_trades, mark_of
from data.stream.records import PARTITIONS, PREDICTIONS, TRADES, Purpose, partition_of
from data.trades import Int64s, StreamKey, Trades
from offline.explain.bisection import (
    LOOK,
    ForecastRow,
    ForecastSearch,
    TopicForecast,
    decode_name,
)
from offline.explain.findings import Explanation
from offline.served.kept.records import Records

SHOWN = 20
"""Maximum number of sources or products in an error message."""
PROBE_BYTES = 65_536
"""Bytes fetched by a probe: one batch of a producer, some hundred forecasts, in a millisecond."""
SKEW_MS = 60_000
"""Allowed difference between the clocks of two ingestors."""
STEP = 512
"""Offsets from a forecast back to the first older forecast to try; each next step is twice as far back."""
TOGETHER = 50_000
"""Trades with at most this number of offsets between them are read together."""


class ForecastNotFound(LookupError):
    """The stream has no forecast of the trade. The message lists existing forecasts."""


class Passage(NamedTuple):
    """Consecutive trades of one stream on `coinbase-trades`.

    Attributes:
        trades: n trades, taken or not.
        offsets: shape (n,).
        is_taken: shape (n,).
        restarts: indexes of the trades at which the stream starts anew after rejects, see `judge_one`.
        counts_as: counted time of the first trade, ns since 1970.
        is_whole: no row reaches back beyond the first trade.
        purposes: purpose in the trades' records, by offset; only for trades of wanted forecasts.
    """

    trades: Trades
    offsets: Int64s
    is_taken: NDArray[np.bool_]
    restarts: NDArray[np.intp]
    counts_as: int
    is_whole: bool
    purposes: dict[int, Purpose]

    def index_of(self, kafka_offset: int) -> int | None:
        """Return the index of the trade at an offset, or None if the stream has no trade at the offset."""
        at = bisect_left(self.offsets, kafka_offset)
        return at if at < len(self.offsets) and self.offsets[at] == kafka_offset else None

    def taken_at(self, record: Any) -> int | None:
        """Return the index of the trade named by a forecast's record; None if it is no taken trade of the stream."""
        at = self.index_of(record.kafka_offset)
        return at if at is not None and self.is_taken[at] and self.trades.trade_id[at] == record.trade_id else None

    def behind_row(self, at: int, spec: FeatureSpec) -> NDArray[np.intp] | None:
        """Return the indexes of the trades behind the row of the trade at an index; None if some trades are absent."""
        begin, counts_as, is_whole = 0, self.counts_as, self.is_whole
        if len(restarts := self.restarts[self.restarts <= at]):
            begin, is_whole = int(restarts[-1]), True
            counts_as = int(self.trades.event_time[begin])
        taken = begin + np.flatnonzero(self.is_taken[begin : at + 1])
        event_time = self.trades.event_time[taken]
        first = oldest_trade(event_time, spec, counts_as=counts_as, is_whole=is_whole)
        return None if first is None else taken[first:]


class _TradeChunk(NamedTuple):
    """The trades of one stream in a range of offsets.

    Attributes:
        trades: n trades.
        offsets: shape (n,).
        ends: offsets of end records of the stream.
        purposes: see `Passage`.
    """

    trades: Trades
    offsets: Int64s
    ends: list[int]
    purposes: dict[int, Purpose]


class Stream:
    """One stream on the topics. All methods raise `NotRead` if the broker does not answer.

    Args:
        reader: for long readings; of the group with the ingestor's note on the begin of the source.
        prober: for short readings, see `PROBE_BYTES`.

    Attributes:
        partition: the same on all topics.
        oldest: first offset still held by the partition of `coinbase-trades`.
        note: the ingestor's note on the source's recordings; empty if missing.

    Raises:
        ForecastNotFound: the stream has no forecast.
    """

    def __init__(self, reader: Records, prober: Records, key: StreamKey) -> None:
        self._reader, self._prober, self._key = reader, prober, key
        self._begin = reader.committed(TRADES, range(PARTITIONS))
        self.note = next((note for _, note in self._begin.values() if note), "")
        self._forecasts = self._look()
        self.partition = self._forecasts.partition
        self.oldest, self._end = prober.span(TRADES, self.partition)

    def find(self, trade_ids: Collection[int]) -> dict[int, TopicForecast]:
        """Return the forecasts of some trades, by trade id.

        Raises:
            ForecastNotFound: a trade has no forecast.
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
            raise ForecastNotFound(
                f"source {self._key.source_id} has no forecast of {self._key.product_id} trade "
                f"{', '.join(map(str, absent[:5]))}; it has forecasts of it from trade {first.trade_id} to "
                f"{last.trade_id}"
            )
        return found

    def forecasts_up_to(self, offset: int, back: int) -> tuple[list[bytes], bool]:
        """Return the stream's forecasts among the offsets up to `offset`, and whether older ones cannot be read.

        Args:
            offset: of a forecast on `predictions`.
            back: number of offsets to read before `offset`.
        """
        start = max(offset - back, self._forecasts.start)
        values = [forecast.value for forecast in self._forecasts.between(start, offset + 1)]
        return values, start == self._forecasts.start

    def passages(
        self, forecasts: Iterable[Explanation], spec: FeatureSpec
    ) -> Iterator[tuple[list[Explanation], Passage]]:
        """Read the trades behind the rows of some forecasts; trades near each other are read together.

        Args:
            forecasts: in any order; a forecast whose trade is not on the topic gets an empty passage.
        """
        there: list[Explanation] = []
        elsewhere: list[Explanation] = []
        for each in forecasts:
            record = each.prediction
            is_there = record.kafka_partition == self.partition and self.oldest <= record.kafka_offset < self._end
            (there if is_there else elsewhere).append(each)
        if elsewhere:
            yield elsewhere, self._passage([], None, is_whole=False)
        there.sort(key=attrgetter("prediction.kafka_offset"))
        gaps = np.flatnonzero(np.diff([each.prediction.kafka_offset for each in there]) > TOGETHER) + 1
        for first, after in pairwise([0, *gaps.tolist(), len(there)]):
            if together := there[first:after]:
                yield together, self._read_passage(together, spec)

    def _look(self) -> ForecastSearch:
        """Find the stream's forecasts, in the partition of the product, else in the partition chosen by the producer.

        Raises:
            ForecastNotFound: the stream has no forecast.
        """
        if (forecasts := self._forecasts_in(partition_of(self._key.product_id))) is not None:
            return forecasts
        there, is_cut = _newest_streams(self._reader)
        if self._key in there and (forecasts := self._forecasts_in(there[self._key])) is not None:
            return forecasts
        limit = f" (only the newest {LOOK:,} records of each partition were looked at)" if is_cut else ""
        raise ForecastNotFound(_absence_message(self._key, there) + limit)

    def _forecasts_in(self, partition: int) -> ForecastSearch | None:
        """Find the stream's forecasts in a partition; None if no place checked has a forecast."""
        oldest = self._prober.span(PREDICTIONS, partition)[0]
        starts = [oldest]
        if (first_ms := self._first_ingest_ms(partition)) is not None:
            # The records of both topics carry the ingest time of the trade, unless written by another program.
            starts.insert(0, max(oldest, self._prober.offset_at(PREDICTIONS, partition, first_ms)))
        for start in starts:
            forecasts = ForecastSearch(self._reader, self._prober, self._key, partition, start)
            if forecasts.look():
                return forecasts
        return None

    def _source_begin(self, partition: int) -> int | None:
        """Return the offset where the source's trades begin, or None if some trades may have expired."""
        begin = self._begin.get(partition, (0, ""))[0]
        return begin if begin >= self._prober.span(TRADES, partition)[0] else None

    def _first_ingest_ms(self, partition: int) -> int | None:
        """Return the ingest time of the stream's first trade, or an earlier time, ms since 1970; None if unknown."""
        earliest: int | None = None
        if (begin := self._source_begin(partition)) is None:
            return None
        end = min(begin + LOOK, self._prober.span(TRADES, partition)[1])
        for block in self._prober.read(TRADES, partition, begin, end):
            trades = decode_trades(block.values).trades
            ingest_ms = trades.ingest_time // 1_000_000
            if self._key in trades.keys:
                return int(ingest_ms[trades.stream == trades.keys.index(self._key)][0])
            if earliest is None and len(trades):
                earliest = max(int(ingest_ms[0]) - SKEW_MS, 0)
        return earliest

    def _read_passage(self, together: Sequence[Explanation], spec: FeatureSpec) -> Passage:
        """Read the trades from the oldest trade behind the first forecast's row to the trade of the last forecast.

        Whether a trade is taken depends on earlier taken trades, so a passage begins with a trade that has a forecast.
        """
        wanted = [each.prediction.kafka_offset for each in together]
        chunks: list[_TradeChunk] = []
        begin = end = wanted[-1] + 1
        for row, is_last in self._anchors(together[0], spec):
            start, is_whole = row.kafka_offset, row.n == 0
            counts_as: int | None = row.event_time
            if is_last and not is_whole and (source_begin := self._source_begin(self.partition)) is not None:
                start, counts_as, is_whole = source_begin, None, True  # forecasts have expired, and trades have not
            chunks = [*self._read_chunks(self._reader, start, begin, wanted), *chunks]
            begin = min(begin, start)
            passage = self._passage(chunks, counts_as, is_whole=is_whole)
            at = next((at for each in together if (at := passage.taken_at(each.prediction)) is not None), None)
            if is_last or at is None or passage.behind_row(at, spec) is not None:
                return passage
        alone = [*self._read_chunks(self._reader, wanted[0], end, wanted)]
        return self._passage(alone, None, is_whole=False)

    def _anchors(self, each: Explanation, spec: FeatureSpec) -> Iterator[tuple[ForecastRow, bool]]:
        """Yield anchors further and further back, from the begin of a row's grid to the last useful anchor.

        An anchor is the row of a forecast whose trade exists at the named offset, so later trades can be judged from
        there: `event_time` is the counted time of the trade, and `n` is 0 at the begin of a segment. The second value
        is true if an older anchor would be of no use.
        """
        since = oldest_block(each.prediction.event_time, spec)
        edge = self._forecasts.around(lambda forecast: forecast.row.event_time > since)
        nearest = edge.before or edge.after
        place = each.kafka_offset if nearest is None else nearest.offset
        back, start = STEP, self._forecasts.start
        while True:
            at = max(place - back, start)
            anchor = self._anchor(at, each.kafka_offset + 1)
            if anchor is not None:
                yield anchor
            if at == start or (anchor is not None and anchor[1]):
                return
            back *= 2

    def _anchor(self, start: int, end: int) -> tuple[ForecastRow, bool] | None:
        """Return the first anchor in a range of offsets of forecasts, or None if the topic holds no trade for one."""
        forecast, is_last = self._forecasts.first_in(start, end), start == self._forecasts.start
        if forecast is not None and forecast.row.kafka_offset < self.oldest:
            forecast = self._forecasts.around(lambda each: each.row.kafka_offset >= self.oldest).after
            is_last = True
        while forecast is not None and forecast.offset < end:
            row = forecast.row
            if row.event_time and self._has_trade_at(row.kafka_offset, forecast.trade_id):
                return row, is_last or row.n == 0
            forecast = self._forecasts.first_in(forecast.offset + 1, end)
        return None

    def _has_trade_at(self, kafka_offset: int, trade_id: int) -> bool:
        """Return whether the stream's trade `trade_id` is at an offset."""
        if not self.oldest <= kafka_offset < self._end:
            return False
        chunks = self._read_chunks(self._prober, kafka_offset, kafka_offset + 1)
        return any(trade_id in chunk.trades.trade_id for chunk in chunks)

    def _read_chunks(
        self, reader: Records, start: int, end: int, wanted: Collection[int] = ()
    ) -> Iterator[_TradeChunk]:
        """Read the stream's trades in a range of offsets, and the purposes at the `wanted` offsets."""
        mine = mark_of(self._key.source_id)
        for block in reader.read(TRADES, self.partition, start, end):
            kept = {offset: value for offset, value in zip(block.offsets, block.values, strict=True) if mine in value}
            found, offsets = decode_trades([*kept.values()]), np.array([*kept], np.int64)
            ends = [int(offsets[place]) for place, record in found.ends if record.key == self._key]
            is_mine = np.array([key == self._key for key in found.trades.keys], np.bool_)
            rows = is_mine[found.trades.stream]
            said = {offset: decode_trades([kept[offset]]).purposes for offset in kept.keys() & wanted}
            purposes = {offset: by_stream[self._key] for offset, by_stream in said.items() if self._key in by_stream}
            yield _TradeChunk(found.trades.take(rows), offsets[found.places[rows]], ends, purposes)

    def _passage(self, chunks: Sequence[_TradeChunk], counts_as: int | None, *, is_whole: bool) -> Passage:
        """Join chunks, and judge which trades are taken; no trade is taken after an end record.

        Args:
            counts_as: counted time of the first trade, ns since 1970; None: the trade's own event time.
        """
        trades = Trades.join([decode_trades([]).trades, *(chunk.trades for chunk in chunks)])
        offsets = np.concatenate([np.zeros(0, np.int64), *(chunk.offsets for chunk in chunks)])
        event_time = trades.event_time.copy()
        if counts_as is not None:
            event_time[:1] = counts_as
        status = Admission().judge(replace(trades, event_time=event_time))
        taken = is_taken(status)
        if ends := [end for chunk in chunks for end in chunk.ends]:
            taken &= offsets < min(ends)
        purposes = {place: said for chunk in chunks for place, said in chunk.purposes.items()}
        first = int(event_time[0]) if len(event_time) else 0
        restarts = np.flatnonzero(taken & (status == RESTARTED))
        return Passage(trades, offsets, taken, restarts, counts_as=first, is_whole=is_whole, purposes=purposes)


def _newest_streams(reader: Records) -> tuple[dict[StreamKey, int], bool]:
    """Return the partitions of all streams among the newest forecasts, and whether older forecasts were skipped."""
    there: dict[StreamKey, int] = {}
    is_cut = False
    for partition in reader.partitions(PREDICTIONS):
        oldest, end = reader.span(PREDICTIONS, partition)
        is_cut = is_cut or oldest < end - LOOK
        for block in reader.read(PREDICTIONS, partition, max(oldest, end - LOOK), end):
            for record in decode_records(block.values, decode_name).records:
                there.setdefault(StreamKey(record.source_id, record.product_id), partition)
    return there, is_cut


def _absence_message(key: StreamKey, there: Collection[StreamKey]) -> str:
    """Return the error message for an absent stream, with the existing streams."""
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
