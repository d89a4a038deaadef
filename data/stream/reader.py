"""Read topics afterwards, for `data.stream.export` and the offline side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from data.names import NotRead

ANSWER_S = 10.0
"""Seconds that the broker may be silent."""
READ_BATCH = 10_000
FETCH_BYTES = 1_048_576
"""Bytes of one fetch: about `READ_BATCH` records."""
QUEUED_FETCHES = 32
"""Fetches that the client keeps in memory until the records are read."""
RETRY_S = 0.05

_PASSING = {
    KafkaError._WAIT_COORD,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}

T = TypeVar("T")


class Stretch(NamedTuple):
    """Consecutive records of one partition.

    Attributes:
        offsets, values: offset and value of each record.
    """

    offsets: list[int]
    values: list[bytes | None]


def client_config(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the broker's address and login: KAFKA_BOOTSTRAP_SERVERS, and the security settings of `.env.example`."""
    config = {"bootstrap.servers": "localhost:9092"}
    for name, value in environment.items():
        if value and name.startswith(("KAFKA_BOOTSTRAP_", "KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_")):
            config[name.removeprefix("KAFKA_").lower().replace("_", ".")] = value
    return config


class TopicReader:
    """Reads committed records, and commits no offset. Close the reader, or use a `with` block.

    All methods raise `NotRead`.

    Args:
        config: see `client_config`.
        group: group whose committed offsets `committed` returns; the client always requires a name.
        fetch_bytes: bytes of one fetch, at least one batch of a producer. A small fetch makes short readings quick, a
            large fetch makes long readings quick.
        answer_s: seconds that the broker may be silent; None: `ANSWER_S`.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        group: str = "unused",
        fetch_bytes: int = FETCH_BYTES,
        answer_s: float | None = None,
    ) -> None:
        self._answer_s = ANSWER_S if answer_s is None else answer_s
        self._servers = config["bootstrap.servers"]
        self._batch = max(1, READ_BATCH * fetch_bytes // FETCH_BYTES)
        # After a request about a partition, the client reads the partition at once; without, after up to a second.
        self._asked: set[tuple[str, int]] = set()
        self._consumer = Consumer(
            {
                **config,
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.message.max.bytes": fetch_bytes,
                "queued.max.messages.kbytes": fetch_bytes * QUEUED_FETCHES // 1_024,
                "fetch.queue.backoff.ms": 5,  # the default pauses for a second each time that the queue is full
                "fetch.wait.max.ms": 2,  # how long a reading, and the next one, may wait where the partition ends
                "log_level": 0,  # the errors below say the same as the client's log
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._consumer.close()

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic."""
        found = self._ask(lambda: self._consumer.list_topics(topic, timeout=self._answer_s)).topics[topic]
        if found.error is not None:
            raise NotRead(
                f"the broker at {self._servers} has no topic {topic!r}: it appears with `make run`", found.error
            )
        return sorted(found.partitions)

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the oldest offset that a partition still holds, and the offset after its newest record."""
        place = TopicPartition(topic, partition)
        self._asked.add((topic, partition))
        low, high = self._ask(lambda: self._consumer.get_watermark_offsets(place, timeout=self._answer_s))
        return int(low), int(high)

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose record's time (`ingest_time` on our topics) is at or after `time_ms`."""
        times = [TopicPartition(topic, partition, time_ms)]
        (found,) = self._ask(lambda: self._consumer.offsets_for_times(times, timeout=self._answer_s))
        return found.offset if found.offset >= 0 else self.span(topic, partition)[1]

    def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        """Return offset and note by partition, for each partition with a committed offset of the group."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        found = self._ask(lambda: self._consumer.committed(wanted, timeout=self._answer_s))
        return {p.partition: (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def read(
        self, topic: str, partition: int, start: int = OFFSET_BEGINNING, end: int | None = None
    ) -> Iterator[Stretch]:
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
            at_end = False
            while not at_end:
                first = self._consumer.poll(self._answer_s)
                if first is None:
                    raise self._unreachable(None)
                stretch = Stretch([], [])
                for message in (first, *self._consumer.consume(self._batch, 0)):
                    error, offset = message.error(), message.offset() or 0
                    if error is None:
                        if offset < end:
                            stretch.offsets.append(offset)
                            stretch.values.append(message.value())
                        at_end = at_end or offset >= end - 1
                    elif error.code() == KafkaError._PARTITION_EOF:
                        at_end = True
                    elif error.fatal() or not error.retriable():
                        raise NotRead(f"the broker at {self._servers} says: {error.str()}", error)
                if stretch.offsets:
                    yield stretch
        except KafkaException as error:
            raise self._unreachable(error) from None

    def _ask(self, question: Callable[[], T]) -> T:
        """Retry a request until the broker has a coordinator for the group: the first group takes a moment."""
        deadline = time.monotonic() + self._answer_s
        while True:
            try:
                return question()
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                    raise self._unreachable(error) from None
                time.sleep(RETRY_S)

    def _unreachable(self, error: KafkaException | None) -> NotRead:
        reason = f" ({error.args[0].str()})" if error is not None else ""
        return NotRead(
            f"no broker answers at {self._servers}: is the stack up (`make run`)? KAFKA_BOOTSTRAP_SERVERS names "
            f"another one{reason}",
            error.args[0] if error is not None else None,
        )
