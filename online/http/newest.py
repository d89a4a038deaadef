"""Keep the newest forecast of each stream, read from the topic.

A start reads the newest `RECENT_OFFSETS` records of each partition, however long the topic is, and then answers. The
committed notes of the forecaster name the open streams: an open stream that is not among the newest records is searched
in older records, the newest first, while the service answers. So each open stream is found. The last forecast of an
ended source is found if the forecast lies among the newest records, or came after the start.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from data.names import Stopped, check_names
from data.process.catalog import UNKNOWN
from data.stream.clients import (
    MAX_VALUE,
    READ_BATCH,
    UNUSED,
    ClientLog,
    checked,
    offsets_reader,
    reader_config,
    refusal,
)
from data.stream.codec import check_forecast, decode_records
from data.stream.reader import TopicReader
from data.stream.records import (
    PARTITIONS,
    PREDICTIONS,
    TRADES,
    End,
    Purpose,
    partition_of,
    prediction_type,
    with_time_texts,
)
from data.times import NS, time_text
from data.trades import StreamKey
from online.exactly_once.offset_note import GROUP, read_note, short_name
from online.live.arrival import Arrivals, Heard
from online.live.view import LiveView
from online.metrics import ApiMetrics
from online.settings import ApiSettings

log = structlog.get_logger()

MAX_STREAMS = 10_000
"""Most streams in memory; the stream heard of longest ago goes first."""
MAX_AHEAD_S = 3_600
"""Limit of an ingest time in the future: a later time is no clock's error, and would stay the newest until then."""
RECENT_OFFSETS = 10_000
"""Records that a start reads back in each partition: under a second for all partitions. A search reads as many at
once."""
RECENT_S = 60.0
"""Without a note of the open streams, a search covers older records up to this age beyond the age at which an open
source is stale: clocks differ, and pipelines lag."""
RETRY_S = 1.0
STOP_S = 3.0
TELL_S = 1.0
"""Time between two log lines about unreadable records; each unreadable record is counted."""


class Newest(NamedTuple):
    """Hold the newest forecast of a stream, never changed: a newer forecast replaces an older forecast.

    Attributes:
        purpose: of the source.
        ingest_time: of the trade, ns since 1970.
        value: the record on the topic, JSON.
        heard: place of the record on the topic, which tells which one is newer, whatever the clocks of the sources say.
        seen: time of reading, seconds of the monotonic clock.
        has_ended: the source has ended this product.
    """

    source_id: str
    purpose: Purpose
    ingest_time: int
    value: bytes
    heard: Heard
    seen: float
    has_ended: bool = False

    @property
    def age_s(self) -> float:
        """Return wall time minus ingest time, in seconds; at least the time since the record was read.

        So a clock that was set back makes no silent source look alive.
        """
        return round(max((time.time_ns() - self.ingest_time) / NS, time.monotonic() - self.seen), 3)

    def read(self) -> dict[str, Any]:
        """Return the record's fields, times as RFC 3339 texts."""
        return with_time_texts(msgspec.json.decode(self.value))


@dataclass
class _Search:
    """Hold the state of a search in the older records of a partition.

    Attributes:
        names: short names of the open streams to find; None: every stream.
        end: offset from which on all records were searched.
        floor: offset before which no record is searched.
    """

    names: set[bytes] | None
    end: int
    floor: int

    @property
    def is_done(self) -> bool:
        return self.end <= self.floor or (self.names is not None and not self.names)


class NewestForecasts:
    """Follow `predictions` in a thread, without a group: each replica of the API reads the whole topic.

    Only the thread writes; a reader takes a whole `Newest`, or a copy of the whole dict.

    Attributes:
        view: gets each record too, for the live page.
    """

    def __init__(self, settings: ApiSettings, metrics: ApiMetrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.view = LiveView(settings.spec())
        self._records_in = metrics.messages_in.labels(PREDICTIONS)
        self._streams: dict[StreamKey, Newest] = {}
        self._arrivals = Arrivals()
        self._next: dict[int, int] = {}  # by partition, the offset to read next
        metrics.lag.positions = self._next
        self._behind: dict[int, int] | None = None  # by partition, the end at the start where it is not yet reached
        self._searches: dict[int, _Search] = {}  # by partition
        self._ended: set[StreamKey] = set()  # streams that ended while none of their forecasts was known
        self._problem: str | None = None
        self._tell = ClientLog()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="forecasts", daemon=True)
        self._told_unreadable = -math.inf
        self._decode = msgspec.json.Decoder(prediction_type(settings.spec())).decode

    def start(self) -> None:
        self._thread.start()

    def begin_stop(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        self.begin_stop()
        self._thread.join(STOP_S)

    @property
    def problem(self) -> str | None:
        """Return the reason why the newest forecasts are not known; None if known."""
        if not self._thread.is_alive():
            return f"nobody reads {PREDICTIONS}: the thread has ended"
        if self._problem is not None:
            return self._problem
        behind = self._behind
        if behind is None:
            return f"asking where {PREDICTIONS} ends"
        if behind:
            return f"reading what is on {PREDICTIONS}: {len(behind)} partitions are not read to their end yet"
        return None

    def is_searching(self, product_id: str) -> bool:
        """Return whether older forecasts of a product may still be found."""
        return partition_of(product_id) in self._searches

    def newest(self, product_id: str, source_id: str | None) -> Newest | None:
        """Return the newest forecast for a product: of one source, or of the source that forecast last."""
        if source_id is not None:
            return self._streams.get(StreamKey(source_id, product_id))
        found = (newest for key, newest in self._streams.copy().items() if key.product_id == product_id)
        return max(found, key=lambda newest: newest.heard, default=None)

    def newest_open(self) -> Newest | None:
        """Return the newest forecast of any open source."""
        found = (newest for newest in self._streams.copy().values() if not newest.has_ended)
        return max(found, key=lambda newest: newest.heard, default=None)

    def _follow(self) -> None:
        """Read until stopped; log an error once, and continue after the last record."""
        while not self._stop.is_set():
            try:
                self._read_topic()
            except Stopped:
                return
            except Exception as error:  # of any kind: a service that never reads again would be worse
                is_kafka = isinstance(error, KafkaException)
                said = refusal(error.args[0], (PREDICTIONS, TRADES), (GROUP, UNUSED)) if is_kafka else repr(error)
                problem = f"reading {PREDICTIONS}: {said}"
                if problem != self._problem:
                    log.warning("cannot follow", reason=problem, exc_info=None if is_kafka else error)
                self._problem = problem
                self._metrics.errors.labels("follow").inc()
                self._stop.wait(RETRY_S)

    def _read_topic(self) -> None:
        config = reader_config(self._settings) | {
            "reconnect.backoff.max.ms": 1_000,  # a broker that is back is read at once, not in ten seconds
            "queued.max.messages.kbytes": 16_384,  # bounds the memory of a start with much on the topic
            "statistics.interval.ms": 1_000,
            "stats_cb": self._metrics.lag.read_statistics,
            "error_cb": self._tell,
        }
        with Consumer(config) as consumer:
            searches = self._to_search(consumer)
            behind, starts = {}, []
            for partition, search in searches.items():
                place = TopicPartition(PREDICTIONS, partition)
                first, end = consumer.get_watermark_offsets(place, timeout=RETRY_S)
                start = self._next.get(partition, max(first, end - RECENT_OFFSETS))
                starts.append(TopicPartition(PREDICTIONS, partition, start))
                if start < end:
                    behind[partition] = end
                search.end = start
                search.floor = max(first, search.floor)
                if self._stop.is_set():
                    return
            if self._behind is None:  # a reconnect keeps the records and searches of before
                self._searches = {partition: search for partition, search in searches.items() if not search.is_done}
            self._next.update({start.partition: start.offset for start in starts})
            self._behind, self._problem = behind, None
            consumer.assign(starts)
            while not self._stop.is_set():
                message = consumer.poll(0.0 if self._searches and not behind else 0.1)
                if message is not None:
                    for each in (message, *consumer.consume(READ_BATCH, 0)):
                        self._read(each, behind)
                        self.view.flush(is_live=not behind)
                else:
                    self.view.flush(is_live=not behind)
                if self._searches and not behind:
                    self._search_on()

    def _to_search(self, consumer: Consumer) -> dict[int, _Search]:
        """Return the search of each partition: for the open streams of its note, without a note for recent streams."""
        trades = [TopicPartition(TRADES, partition) for partition in range(PARTITIONS)]
        since_ms = int(1e3 * (time.time() - self._settings.max_feature_age_s - RECENT_S))
        times = [TopicPartition(PREDICTIONS, partition, since_ms) for partition in range(PARTITIONS)]
        recent = {p.partition: p.offset for p in checked(consumer.offsets_for_times(times, timeout=RETRY_S))}
        searches = {}
        for found in self._notes(trades):
            names: set[bytes] | None = None
            if found.offset >= 0:
                with contextlib.suppress(ValueError):
                    names = set(read_note(found.metadata or "", found.offset)[0])
            since = recent[found.partition]
            floor = 0 if names is not None else since if since >= 0 else sys.maxsize
            searches[found.partition] = _Search(names, 0, floor)
        return searches

    def _notes(self, trades: list[TopicPartition]) -> list[TopicPartition]:
        """Return the forecaster's offsets with their notes, without waiting for an open transaction.

        At full speed a transaction is nearly always open, and a `read_committed` reader is answered only between two
        transactions. The note before an open transaction is good enough: streams that the note does not name yet are
        among the newest records.
        """
        with offsets_reader(self._settings, GROUP) as consumer:
            return checked(consumer.committed(trades, timeout=RETRY_S))

    def _search_on(self) -> None:
        """Search the next older records of one partition."""
        partition, search = next(iter(self._searches.items()))
        known = {short_name(key) for key in (*self._streams, *self._ended)}
        if search.names is not None:
            search.names -= known
        if not search.is_done:
            start = max(search.floor, search.end - RECENT_OFFSETS)
            older: dict[StreamKey, Newest] = {}
            with TopicReader(self._settings, running=lambda: not self._stop.is_set()) as reader:
                for block in reader.read(PREDICTIONS, partition, start, search.end):
                    for value, offset in zip(block.values, block.offsets, strict=True):
                        self._take_older(value, offset, older)
            for key, newest in sorted(older.items(), key=lambda item: item[1].heard.offset, reverse=True):
                heard = self._arrivals.older(partition, newest.heard.offset, newest.ingest_time)
                older[key] = newest._replace(heard=heard)
                self.view.remember(self._decode(newest.value), heard)
            found = older | self._streams  # records read since the start are newer
            if len(found) > MAX_STREAMS:
                by_place = sorted(found, key=lambda key: found[key].heard)
                found = {key: found[key] for key in by_place[-MAX_STREAMS:]}
            self._streams = found
            search.end = start
        else:
            del self._searches[partition]
            if not self._searches:
                self._ended.clear()

    def _take_older(self, value: bytes, offset: int, older: dict[StreamKey, Newest]) -> None:
        """Take a record that is older than all known records; an unreadable record was counted when new.

        Its place is known once the whole block is: a block is read forwards.
        """
        with contextlib.suppress(ValueError):
            key, said = self._understood(value)
            if isinstance(said, End):
                self._ended.add(key)
                if key in older:
                    older[key] = older[key]._replace(has_ended=True)
            elif key not in self._streams:
                unplaced = Heard(0, said.ingest_time, offset)
                older[key] = _newest(said, value, unplaced)._replace(has_ended=key in self._ended)

    def _read(self, message: Message, behind: dict[int, int]) -> None:
        partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
        if error is None:
            self._next[partition] = offset + 1
            is_live = not behind
            if behind and self._next[partition] >= behind.get(partition, 0):
                behind.pop(partition, None)
            self._records_in.inc()
            self._take((message.value() or b"")[:MAX_VALUE], partition, offset, is_live=is_live)
        elif error.code() == KafkaError._PARTITION_EOF:  # comes only while no new record does
            behind.pop(partition, None)
        else:
            self._tell(error)

    def _take(self, value: bytes, partition: int, offset: int, *, is_live: bool) -> None:
        try:
            key, said = self._understood(value)
        except ValueError as error:
            self._reject(f"{PREDICTIONS}[{partition}]@{offset}", str(error))
            return
        heard = self._arrivals.newer(partition, offset, said.ingest_time, is_live=is_live)
        self.view.add(said, heard)
        if not isinstance(said, End):
            if key not in self._streams and len(self._streams) >= MAX_STREAMS:
                del self._streams[min(self._streams, key=lambda known: self._streams[known].heard)]
            self._streams[key] = _newest(said, value, heard)
        elif key in self._streams:
            self._streams[key] = self._streams[key]._replace(has_ended=True)
        elif self._behind or self._searches:
            self._ended.add(key)

    def _understood(self, value: bytes) -> tuple[StreamKey, Any]:
        """Return the stream of a record, and the decoded record: a forecast or an end.

        Raises:
            ValueError: the record is neither a forecast nor an end.
        """
        found = decode_records([value], self._decode)
        if found.unreadable:
            raise ValueError(found.unreadable[0].reason)
        [said] = found.records or [end for _, end in found.ends]
        if said.ingest_time > time.time_ns() + MAX_AHEAD_S * NS:
            raise ValueError(
                f"ingest_time must not be more than {MAX_AHEAD_S} s ahead, was {time_text(said.ingest_time)}"
            )
        key = StreamKey(said.source_id, said.product_id)
        if key not in self._streams:
            check_names(key)
        if found.records:
            check_forecast(said)
        return key, said

    def _reject(self, where: str, reason: str) -> None:
        self._metrics.rejects.labels("unreadable", UNKNOWN).inc()
        if time.monotonic() >= self._told_unreadable + TELL_S:
            self._told_unreadable = time.monotonic()
            log.warning("unreadable prediction", where=where, reason=reason[:200])


def _newest(record: Any, value: bytes, heard: Heard) -> Newest:
    """Return the newest forecast of a stream, read now."""
    return Newest(record.source_id, record.purpose, record.ingest_time, value, heard, time.monotonic())
