"""Read the committed records of a topic, without a group and from any offset."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from data.names import NotRead, Stopped
from data.settings import KafkaSettings
from data.stream.clients import (
    MAX_REJECT,
    MAX_VALUE,
    MISSING_RIGHTS,
    READ_BATCH,
    RETRY_S,
    UNUSED,
    checked,
    client_config,
    is_passing,
    reader_config,
    refusal,
    retry,
)
from data.stream.records import REJECTED

PATIENCE_S = 10.0
"""Seconds that the broker may be silent."""
FETCH_BYTES = 1_048_576
"""Bytes of one fetch: about `READ_BATCH` records."""
POLL_S = 0.5
"""Seconds between two looks whether to stop, while the broker is silent."""
QUEUED_FETCHES = 32
"""Fetches that the client keeps in memory until the records are read."""

T = TypeVar("T")


class RecordBlock(NamedTuple):
    """Consecutive records of one partition.

    Attributes:
        offsets: offset of each record.
        values: value of each record, at most `MAX_VALUE` bytes, of rejects `MAX_REJECT`; empty for a record without a
            value.
        times_ms: time of each reject, ms since 1970; empty on other topics.
    """

    offsets: list[int]
    values: list[bytes]
    times_ms: Sequence[int] = ()


class TopicReader(AbstractContextManager["TopicReader"]):
    """Reads committed records in a `with` block, and commits no offset.

    Args:
        group: group whose committed offsets `committed` returns; the client always requires a name.
        fetch_bytes: bytes of one fetch, at least one batch of a producer. A small fetch makes short readings quick, a
            large fetch makes long readings quick.
        running: None: all methods raise `NotRead` if the broker is silent for `PATIENCE_S`. Otherwise a silent broker
            is waited for while `running` returns True, then all methods raise `Stopped`; if the broker refuses, they
            raise KafkaException.
        skips_lost: whether a reading goes on behind records that retention removes meanwhile; False: the reading
            raises `NotRead`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str = UNUSED,
        fetch_bytes: int = FETCH_BYTES,
        running: Callable[[], bool] | None = None,
        skips_lost: bool = True,
    ) -> None:
        self._running, self._group = running, group
        self._settings = settings
        self._servers = settings.kafka_bootstrap_servers
        self._batch = max(1, READ_BATCH * fetch_bytes // FETCH_BYTES)
        # After a request about a partition, the client reads the partition at once; without, after up to a second.
        self._asked: set[tuple[str, int]] = set()
        config = reader_config(settings) | {
            "group.id": group,
            "fetch.message.max.bytes": fetch_bytes,
            "queued.max.messages.kbytes": fetch_bytes * QUEUED_FETCHES // 1_024,
            "auto.offset.reset": "earliest" if skips_lost else "error",
            "fetch.wait.max.ms": 2,  # how long a reading, and the next one, may wait where the partition ends
        }
        if running is None:
            del config["error_cb"]  # NotRead has the same reason
        self._consumer = Consumer(config)

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic."""
        asked = self._ask(topic, lambda timeout_s: self._consumer.list_topics(topic, timeout=timeout_s))
        found = asked.topics[topic]
        if found.error is not None and found.error.code() in MISSING_RIGHTS:
            raise self._refused(KafkaException(found.error), topic)
        if found.error is not None:
            raise NotRead(f"the broker at {self._servers} has no topic {topic!r}: `make run` makes the topics")
        return sorted(found.partitions)

    def topic_id(self, topic: str) -> str:
        """Return the id of a topic, another one after the topic was made anew; empty if the broker knows no ids."""
        admin = AdminClient(client_config(self._settings))
        asked = TopicCollection([topic])
        describe = admin.describe_topics
        found = self._ask(topic, lambda timeout_s: describe(asked, request_timeout=timeout_s)[topic].result())
        high, low = found.topic_id.get_most_significant_bits(), found.topic_id.get_least_significant_bits()
        return f"{high % 2**64:016x}{low % 2**64:016x}" if high or low else ""

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the oldest offset that a partition still holds, and the offset after its newest record."""
        place = TopicPartition(topic, partition)
        self._asked.add((topic, partition))
        low, high = self._ask(topic, lambda timeout_s: self._consumer.get_watermark_offsets(place, timeout=timeout_s))
        return int(low), int(high)

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose record's time (`ingest_time` on our topics) is at or after `time_ms`."""
        times = [TopicPartition(topic, partition, time_ms)]
        ask = self._consumer.offsets_for_times
        (found,) = self._ask(topic, lambda timeout_s: checked(ask(times, timeout=timeout_s)))
        return found.offset if found.offset >= 0 else self.span(topic, partition)[1]

    def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        """Return offset and note by partition, for each partition with a committed offset of the group."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        ask = self._consumer.committed
        found = self._ask(topic, lambda timeout_s: checked(ask(wanted, timeout=timeout_s)))
        return {p.partition: (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def read(
        self, topic: str, partition: int, start: int = OFFSET_BEGINNING, end: int | None = None
    ) -> Iterator[RecordBlock]:
        """Read one partition from offset `start` up to, not with, `end`; None: to the current end of the partition.

        A new reading ends the reading before.
        """
        if end is None or (topic, partition) not in self._asked:
            newest = self.span(topic, partition)[1]
            end = newest if end is None else end
        if start >= end or end == 0:
            return
        try:
            self._consumer.assign([TopicPartition(topic, partition, start)])
            is_over = False
            while not is_over:
                block, is_over = _before(end, self._poll(), are_rejects=topic == REJECTED)
                if block.offsets:
                    yield block
        except KafkaException as error:
            if self._running is not None:
                raise
            raise self._refused(error, topic) from None

    def _poll(self) -> list[Message]:
        """Return the next messages, at least one."""
        while self._running is None or self._running():
            first = self._consumer.poll(PATIENCE_S if self._running is None else POLL_S)
            if first is not None:
                return [first, *self._consumer.consume(self._batch, 0)]
            if self._running is None:
                raise self._unreachable(None)
        raise Stopped

    def _ask(self, topic: str, question: Callable[[float], T]) -> T:
        """Retry a request until the broker has a coordinator for the group: the first group takes a moment."""
        if self._running is not None:
            return retry(question, self._running, self._servers)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return question(PATIENCE_S)
            except KafkaException as error:
                if error.args[0].code() in MISSING_RIGHTS:
                    raise self._refused(error, topic) from None
                if not is_passing(error.args[0]) or time.monotonic() > deadline:
                    raise self._unreachable(error) from None
                time.sleep(RETRY_S)

    def _refused(self, error: KafkaException, topic: str) -> NotRead:
        return NotRead(f"the broker at {self._servers} refuses: {refusal(error.args[0], [topic], [self._group])}")

    def _unreachable(self, error: KafkaException | None) -> NotRead:
        reason = f" ({error.args[0].str()})" if error is not None else ""
        return NotRead(
            f"no broker answers at {self._servers}: is the stack up (`make run`)? KAFKA_BOOTSTRAP_SERVERS names "
            f"another one{reason}"
        )


def _before(end: int, messages: Sequence[Message], *, are_rejects: bool) -> tuple[RecordBlock, bool]:
    """Return the records before an offset, and whether the offset or the end of the partition was reached.

    Args:
        are_rejects: rejects may be longer than other records, and their times are wanted.

    Raises:
        KafkaException: the broker refuses to read.
    """
    most = MAX_REJECT if are_rejects else MAX_VALUE
    read = [message for message in messages if message.error() is None]
    is_over = False
    for message in messages if len(read) < len(messages) else ():
        if (error := message.error()) is None:
            continue
        if error.code() == KafkaError._PARTITION_EOF:
            is_over = True
        elif error.fatal() or not error.retriable():
            raise KafkaException(error)
    offsets = [message.offset() or 0 for message in read]
    count = bisect_left(offsets, end)
    read = read[:count]
    values = [(message.value() or b"")[:most] for message in read]
    times_ms = [message.timestamp()[1] for message in read] if are_rejects else []
    block = RecordBlock(offsets[:count], values, times_ms)
    is_over = is_over or (bool(offsets) and offsets[-1] >= end - 1)
    return block, is_over
