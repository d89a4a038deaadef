"""The newest forecast of each stream, as the API reads it from the topic."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from data.topics import PARTITIONS, PREDICTIONS
from data.trades import StreamKey
from online.kafka import reader_config
from online.settings import KafkaSettings

log = structlog.get_logger()

MAX_STREAMS = 10_000
"""Kept at most; the ones heard of longest ago go first."""


class _Head(msgspec.Struct, gc=False):
    """What of a record must be known to keep it; the rest is read when somebody asks."""

    source_id: str
    product_id: str
    ingest_time: str
    end: bool = False


@dataclass(slots=True)
class Newest:
    """The newest record of a stream, and whether its source has ended."""

    source_id: str
    ingest_time: str
    value: bytes | None
    has_ended: bool

    def read(self) -> dict[str, Any]:
        """Return the record."""
        record: dict[str, Any] = msgspec.json.decode(self.value or b"{}")
        return record


class NewestForecasts:
    """Follows `predictions` in a thread of its own, in no group: each replica of the API sees all of it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._consumer = Consumer(reader_config(settings))
        self._admin = AdminClient(settings.client_config())  # asked from other threads than the one that consumes
        self._streams: dict[StreamKey, Newest] = {}
        self._behind = dict.fromkeys(range(PARTITIONS), 0)  # partitions, and the offset where each ended at the start
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="forecasts", daemon=True)
        self._decode = msgspec.json.Decoder(_Head).decode

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was on the topic at the start has been read."""
        return not self._behind

    @property
    def is_following(self) -> bool:
        return self._thread.is_alive()

    def newest(self, product_id: str, source_id: str | None) -> Newest | None:
        """Return the newest forecast for a product: of one source, or of the source with the newest `ingest_time`."""
        if source_id is not None:
            found = self._streams.get(StreamKey(source_id, product_id))
            return found if found is not None and found.value is not None else None
        # A copy: the thread may open a stream meanwhile.
        streams = [(key, newest) for key, newest in list(self._streams.items()) if key.product_id == product_id]
        known = [newest for _, newest in streams if newest.value is not None]
        return max(known, key=lambda newest: newest.ingest_time, default=None)

    def newest_ingest_time(self) -> str | None:
        """Return when the newest row of any open source was ingested."""
        open_streams = (newest for newest in list(self._streams.values()) if not newest.has_ended)
        return max((newest.ingest_time for newest in open_streams), default=None)

    def answers(self, timeout_s: float) -> None:
        """Ask the broker for the topic.

        Raises:
            KafkaException: no answer in time, or there is no such topic.
        """
        topic = self._admin.list_topics(PREDICTIONS, timeout=timeout_s).topics[PREDICTIONS]
        if topic.error is not None:
            raise KafkaException(topic.error)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                for partition in self._behind:
                    place = TopicPartition(PREDICTIONS, partition)
                    self._behind[partition] = self._consumer.get_watermark_offsets(place, timeout=5)[1]
                break
            except KafkaException as error:
                log.warning("the broker does not answer", error=error.args[0].str())
        self._consumer.assign([TopicPartition(PREDICTIONS, partition, OFFSET_BEGINNING) for partition in self._behind])
        while not self._stop.is_set():
            first = self._consumer.poll(0.1)
            for message in (first, *self._consumer.consume(10_000, 0)) if first is not None else ():
                self._read(message)

    def _read(self, message: Message) -> None:
        partition, error = message.partition() or 0, message.error()
        if error is None:
            self._take(message.value() or b"")
            if (message.offset() or 0) >= self._behind.get(partition, 0) - 1:
                self._behind.pop(partition, None)
        elif error.code() == KafkaError._PARTITION_EOF:  # comes only while nothing new does
            self._behind.pop(partition, None)
        else:
            log.warning("kafka", error=str(error))

    def _take(self, value: bytes) -> None:
        try:
            head = self._decode(value)
        except msgspec.MsgspecError as error:
            log.warning("unreadable prediction", reason=str(error))
            return
        key = StreamKey(head.source_id, head.product_id)
        newest = self._streams.get(key)
        if newest is None:
            if len(self._streams) >= MAX_STREAMS:
                del self._streams[next(iter(self._streams))]
            newest = self._streams[key] = Newest(head.source_id, head.ingest_time, None, has_ended=False)
        newest.has_ended = head.end
        if not head.end:
            newest.value, newest.ingest_time = value, head.ingest_time
