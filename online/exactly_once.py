"""The loop that feature service and scorer share: records read, records written and offsets are one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from data.topics import REJECTED, Rejected, encode
from data.trades import StreamKey
from online.kafka import Incoming, incoming
from online.metrics import Metrics

log = structlog.get_logger()

MAX_BATCH = 10_000
MIN_TRANSACTION_S = 0.01
"""At most one transaction in this time: each costs the broker the same, however many records it holds."""

COMMIT_TIMEOUT_S = 5.0


class Record(NamedTuple):
    """What a stage writes."""

    topic: str
    partition: int
    key: str
    value: bytes
    ingest_time_ms: int


class Stage(Protocol):
    """What a service does with records; all that it remembers can be rebuilt from its topic."""

    topic: str

    def restore(self, partition: int, offset: int, note: str) -> None:
        """Rebuild what the records before `offset` left, from the `note` that was committed with it."""

    def drop(self, partition: int) -> None:
        """Forget a partition: it is somebody else's, or will be restored."""

    def process(self, messages: list[Incoming]) -> list[Record]:
        """Return what follows from the next records of any partitions."""

    def note(self, partition: int, offset: int) -> str:
        """Return what `restore` needs to know if a start begins at `offset`."""

    def committed(self) -> None:
        """The records of the last `process` are now visible."""


def serve(consumer: Consumer, producer: Producer, stage: Stage, running: Callable[[], bool], metrics: Metrics) -> None:
    """Turn records into records until `running` says stop.

    A `read_committed` reader sees the outcome of each record once, whatever is killed: a start goes on after the last
    transaction that was committed, and aborts the one that was not.

    Raises:
        KafkaException: the broker refuses for good (another process has this slot's identity, say).
    """
    producer.init_transactions()

    def restored(partitions: list[TopicPartition]) -> list[TopicPartition]:
        committed = consumer.committed(partitions, timeout=30)
        for found in committed:
            stage.drop(found.partition)
            if found.error is not None:
                raise KafkaException(found.error)
            if found.offset >= 0:
                started = time.monotonic()
                stage.restore(found.partition, found.offset, found.metadata or "")
                if (took_s := time.monotonic() - started) > 1:
                    log.info("restored", partition=found.partition, seconds=round(took_s, 1))
        return [TopicPartition(stage.topic, found.partition, found.offset) for found in committed]

    def on_assign(_: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            consumer.incremental_assign(restored(partitions))
            log.info("assigned", partitions=sorted(p.partition for p in consumer.assignment()))
        metrics.ready.set(1)

    def on_revoke(_: Consumer, partitions: list[TopicPartition]) -> None:
        for revoked in partitions:
            stage.drop(revoked.partition)
        consumer.incremental_unassign(partitions)

    consumer.subscribe([stage.topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)
    next_at = 0.0
    try:
        while running():
            time.sleep(max(0.0, next_at - time.monotonic()))
            first = consumer.poll(0.2)
            if first is None:
                continue
            next_at = (started := time.monotonic()) + MIN_TRANSACTION_S
            messages = [incoming(message) for message in (first, *consumer.consume(MAX_BATCH - 1, 0))]
            try:
                _transact(consumer, producer, stage, messages, running)
            except KafkaException as error:
                if not error.args[0].txn_requires_abort():
                    raise
                log.warning("transaction aborted, going back", error=str(error))
                metrics.errors.labels("transaction_aborted").inc()
                producer.abort_transaction()
                for place in restored(consumer.assignment()):
                    consumer.seek(place)
                continue
            stage.committed()
            metrics.messages_in.labels(stage.topic).inc(len(messages))
            metrics.transaction.observe(np.array([time.monotonic() - started]))
    finally:
        metrics.ready.set(0)
        consumer.close()


def _transact(
    consumer: Consumer, producer: Producer, stage: Stage, messages: list[Incoming], running: Callable[[], bool]
) -> None:
    producer.begin_transaction()
    for record in stage.process(messages):
        produce(producer, record)
    ends: dict[int, int] = {}
    for message in messages:
        ends[message.partition] = message.offset + 1
    offsets = [TopicPartition(stage.topic, p, offset, stage.note(p, offset)) for p, offset in ends.items()]
    producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
    while True:
        try:
            return producer.commit_transaction(COMMIT_TIMEOUT_S)
        except KafkaException as error:
            if not (error.args[0].retriable() and running()):
                raise


def produce(producer: Producer, record: Record) -> None:
    """Hand a record to the client, waiting while its queue is full."""
    while True:
        try:
            return producer.produce(
                record.topic, record.value, record.key, record.partition, timestamp=record.ingest_time_ms
            )
        except BufferError:
            producer.poll(0.1)


def rejected(
    stage: Literal["feature_service", "scorer"], message: Incoming, reason: str, key: StreamKey | None
) -> Record:
    """Return what goes to `trades-rejected` for a record that a stage does not take."""
    where = f"{message.topic}[{message.partition}]@{message.offset}"
    text = message.value.decode(errors="replace")[:200]
    source_id, product_id = key or (None, None)
    value = encode(Rejected(stage, where, reason, text, source_id, product_id))
    return Record(REJECTED, message.partition, product_id or "", value, message.ingest_time_ms)
