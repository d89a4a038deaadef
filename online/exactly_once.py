"""The loop that feature service and scorer share: records read, records written and offsets are one transaction."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

import numpy as np
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from data.topics import REJECTED, Rejected, encode
from data.trades import StreamKey
from online.kafka import Incoming, Stopped, Unanswered, incoming, insist, spare_collector
from online.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")

MAX_BATCH = 10_000
MIN_TRANSACTION_S = 0.01
"""At most one transaction in this time: each costs the broker the same, however many records it holds."""


PATIENCE_S = 15.0
"""How long a question within a transaction may stay unanswered. Where its connection died at the wrong moment, the
client goes on asking over it for minutes after the broker is back (librdkafka #5511): a new process does not."""

Record = tuple[str, int, str, bytes, int]
"""What a stage writes: topic, partition, key, value, ingest time in ms. Plain, as there are 100,000 a second."""


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


def serve(
    consumer: Consumer,
    producer: Producer,
    stage: Stage,
    running: Callable[[], bool],
    metrics: Metrics,
    address: str,
) -> None:
    """Turn records into records until `running` says stop.

    A `read_committed` reader sees the outcome of each record once, whatever is killed: a start goes on after the last
    transaction that was committed, and aborts the one that was not.

    Args:
        address: of the broker, for the log.

    Raises:
        SystemExit: the broker refuses this process for good: another one has its identity, or the broker was frozen for
            so long that it holds this one for another. A new process goes on.
    """
    spare_collector()
    loop = _Loop(consumer, producer, stage, running, metrics, address)
    try:
        loop.run()
    except Stopped as stopped:
        log.warning("stopped while the broker did not answer; the next start goes on", error=str(stopped.__cause__))
    except Unanswered as unanswered:
        log.error("no answer within a transaction; the next start goes on", error=str(unanswered.__cause__))
        os._exit(1)  # to close the clients would be to ask again
    except KafkaException as error:
        log.error("the broker refuses this process; the next start goes on", error=str(error))
        raise SystemExit(1) from error
    finally:
        metrics.ready.set(0)
        consumer.close()


class _Loop:
    """What `serve` works with. The client calls back only from within `poll` and `consume`, so between transactions."""

    def __init__(
        self,
        consumer: Consumer,
        producer: Producer,
        stage: Stage,
        running: Callable[[], bool],
        metrics: Metrics,
        address: str,
    ) -> None:
        self._consumer, self._producer, self._stage = consumer, producer, stage
        self._running, self._metrics, self._address = running, metrics, address
        self._mine: set[int] = set()

    def _insist(self, ask: Callable[[float], T], patience_s: float = PATIENCE_S) -> T:
        """Ask, as within a transaction if nothing else is said."""
        return insist(ask, self._running, self._address, patience_s)

    def run(self) -> None:
        self._insist(self._producer.init_transactions, math.inf)
        self._consumer.subscribe(
            [self._stage.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        next_at = 0.0
        while self._running():
            time.sleep(max(0.0, next_at - time.monotonic()))
            first = self._consumer.poll(0.2)
            if first is None:
                continue
            next_at = (started := time.monotonic()) + MIN_TRANSACTION_S
            read = (first, *self._consumer.consume(MAX_BATCH - 1, 0))
            messages = incoming(read, self._mine)  # the second call may take partitions away
            try:
                self._transact(messages)
            except KafkaException as error:
                # `produce` says _STATE where the transaction failed while its records were still coming.
                if not (error.args[0].txn_requires_abort() or error.args[0].code() == KafkaError._STATE):
                    raise
                log.warning("transaction aborted, going back", error=str(error))
                self._metrics.errors.labels("transaction_aborted").inc()
                self._go_back()
                continue
            self._stage.committed()
            self._metrics.messages_in.labels(self._stage.topic).inc(len(messages))
            self._metrics.transaction.observe(np.array([time.monotonic() - started]))

    def _transact(self, messages: list[Incoming]) -> None:
        self._producer.begin_transaction()
        self._produce(self._stage.process(messages))
        ends = {message.partition: message.offset + 1 for message in messages}
        topic, note = self._stage.topic, self._stage.note
        offsets = [TopicPartition(topic, partition, end, note(partition, end)) for partition, end in ends.items()]
        group = self._consumer.consumer_group_metadata()
        send = self._producer.send_offsets_to_transaction
        self._insist(lambda timeout_s: send(offsets, group, timeout_s))
        self._insist(self._producer.commit_transaction)

    def _produce(self, records: list[Record]) -> None:
        """Hand records to the client, waiting while its queue is full."""
        produce = self._producer.produce
        for topic, partition, key, value, ingest_time_ms in records:
            while True:
                try:
                    produce(topic, value, key, partition, timestamp=ingest_time_ms)
                    break
                except BufferError:
                    self._producer.poll(0.1)

    def _go_back(self) -> None:
        """Undo what the aborted transaction did here: in the client, and in the stage's memory."""
        self._insist(self._producer.abort_transaction)
        for place in self._restored(self._consumer.assignment()):
            self._consumer.seek(place)

    def _restored(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Bring the stage to where these partitions were committed, and return where to read on."""
        committed = self._insist(lambda timeout_s: self._consumer.committed(partitions, timeout=timeout_s), math.inf)
        places = []
        for found in committed:
            if found.error is not None:
                raise KafkaException(found.error)
            self._stage.drop(found.partition)
            if found.offset >= 0:
                self._stage.restore(found.partition, found.offset, found.metadata or "")
            start = found.offset if found.offset >= 0 else OFFSET_BEGINNING
            places.append(TopicPartition(self._stage.topic, found.partition, start))
        return places

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            started = time.monotonic()
            self._consumer.incremental_assign(self._restored(partitions))
            self._mine.update(assigned.partition for assigned in partitions)
            log.info("assigned", partitions=sorted(self._mine), restored_in_s=round(time.monotonic() - started, 2))
        self._metrics.ready.set(1)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for revoked in partitions:
            self._mine.discard(revoked.partition)
            self._stage.drop(revoked.partition)
        self._consumer.incremental_unassign(partitions)


def rejected(
    stage: Literal["feature_service", "scorer"], message: Incoming, reason: str, key: StreamKey | None
) -> Record:
    """Return what goes to `trades-rejected` for a record that a stage does not take."""
    where = f"{message.topic}[{message.partition}]@{message.offset}"
    text = message.value.decode(errors="replace")[:200]
    source_id, product_id = key or (None, None)
    value = encode(Rejected(stage, where, reason[:1_000], text, source_id, product_id))
    return REJECTED, message.partition, product_id or "", value, message.ingest_time_ms
