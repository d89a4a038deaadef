"""Run the transaction loop: records read, records written and offsets are one Kafka transaction."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Protocol, TypeVar

import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from data.names import RecordRefused, Stopped, Unanswered
from data.process.running import AGAIN, REFUSED
from data.stream.clients import UNUSED, Incoming, checked, incoming, new_process_helps, refusal, retry
from data.stream.codec import encode
from data.stream.records import REJECTED, TOPICS, TRADES, Rejected
from data.trades import StreamKey
from online.exactly_once.offset_note import GROUP
from online.metrics import ForecasterMetrics

log = structlog.get_logger()

T = TypeVar("T")

MAX_BATCH = 10_000
SWITCH_S = 0.0005
"""Switch interval in seconds between the thread of the next batch and the thread that ends a transaction; Python's
default is 0.005."""

PATIENCE_S = 15.0
"""How long a request within a transaction may stay unanswered. After a connection died at the wrong moment, the client
repeats the request over the dead connection for minutes after the broker is back (librdkafka #5511). A new process does
not."""

LEAVE_S = 3.0
"""Time limit for leaving the group."""

FIND_PLACE = "`.venv/bin/python -m online.forecaster --find-place`"

Record = tuple[str, int, str, bytes, int]
"""A record to write: topic, partition, key, value, ingest time in ms. A plain tuple, as a stage makes 100,000 a
second."""


def tune_garbage_collector() -> None:
    """Run the garbage collector less often: a batch makes tens of thousands of tuples, all gone with the batch, and
    scanning the tuples would take as long as making them."""
    gc.freeze()
    gc.set_threshold(100_000)


class LostPlace(Exception):
    """The broker no longer knows how far a partition was read, or names an offset that the topic does not have."""


class Stage(Protocol):
    """Turn trades into records for the loop; a start can rebuild the whole memory of a stage from the topic."""

    def restore(self, partition: int, offset: int, note: str, low: int) -> None:
        """Rebuild the memory of the records before `offset`, from the `note` that was committed with `offset`.

        Args:
            low: the oldest offset on the topic. If `low` is above `offset`, streams start anew.
        """

    def drop(self, partition: int) -> None:
        """Forget a partition: another process has the partition now, or `restore` follows."""

    def cut(self, partition: int) -> None:
        """Start all streams of a partition anew: records were removed before they were read."""

    def process(self, messages: list[Incoming]) -> tuple[list[Record], Callable[[], None]]:
        """Return the outcome of the next records, of any partitions, and a callable that counts the outcome.

        The loop calls the callable after the commit, in another thread, one batch after the other.
        """

    def note(self, partition: int, offset: int) -> str:
        """Return the note from which `restore` can start at `offset`."""


def serve(
    consumer: Consumer,
    producers: Sequence[Producer],
    stage: Stage,
    check_new: Callable[[list[int]], None],
    missed_topic: Callable[[], bool],
    running: Callable[[], bool],
    metrics: ForecasterMetrics,
    address: str,
) -> None:
    """Turn records into records while `running` is true.

    A `read_committed` reader sees the outcome of each record once, also after a kill: a start continues after the last
    committed transaction, and aborts an open transaction.

    Args:
        producers: two, each with its own transactional id; the two take turns. With a single producer, each transaction
            would wait until the broker has written the markers of the transaction before: at times the client asks
            again only after 20 ms.
        check_new: called with the partitions for which the group has no offset; raises `LostPlace` if a partition was
            read before.
        missed_topic: see `ClientLog`, of the consumer.
        address: of the broker, for the log.

    Raises:
        SystemExit: with `AGAIN` if a new process can continue: the broker takes this process for another process, or
            does not answer within a transaction. With `REFUSED` if a person must act: a place was lost. With 1 if the
            broker refuses a record, or a request that the process needs.
    """
    tune_garbage_collector()
    sys.setswitchinterval(SWITCH_S)
    loop = _Loop(consumer, producers, stage, check_new, missed_topic, running, metrics, address)
    try:
        loop.run()
    except Stopped as stopped:
        log.warning("stopped while the broker did not answer; the next start goes on", error=str(stopped.__cause__))
    except Unanswered as unanswered:
        log.error("no answer within a transaction; the next start goes on", error=str(unanswered.__cause__))
        os._exit(AGAIN)  # closing the clients would ask the broker again
    except LostPlace as lost:
        log.error(str(lost))
        _leave(consumer)
        raise SystemExit(REFUSED) from lost
    except RecordRefused as refused:
        log.error("the broker refuses a record, nothing of its transaction was written", error=str(refused))
        raise SystemExit(1) from refused
    except KafkaException as error:
        if new_process_helps(error.args[0]):
            log.error("the broker refuses this process; the next start goes on", error=str(error))
            raise SystemExit(AGAIN) from error
        said = refusal(error.args[0], TOPICS, (GROUP, UNUSED))
        log.error(f"the broker refuses what the forecaster needs: {said}", error=error.args[0].name())
        raise SystemExit(1) from error
    finally:
        metrics.ready.set(0)
        _close(consumer)


class _Transaction:
    """End a transaction in a thread, while the loop makes the next batch.

    Args:
        ends: by partition, the offset to read next.
    """

    def __init__(self, producer: Producer, ends: dict[int, int]) -> None:
        self.producer, self.ends = producer, ends
        self.is_written = threading.Event()
        self.result: Future[None] | None = None


@dataclass(eq=False)
class _Loop:
    """Hold the state of `serve`. The client calls back only from within `poll` and `consume`, so between two batches.

    While a transaction ends, the loop reads and makes the next batch. The next records go to the other producer when
    all records of the first producer are written, so that the order is kept; the next offsets follow when the first
    transaction has ended.
    """

    _consumer: Consumer
    _producers: Sequence[Producer]
    _stage: Stage
    _check_new: Callable[[list[int]], None]
    _missed_topic: Callable[[], bool]
    _running: Callable[[], bool]
    _metrics: ForecasterMetrics
    _address: str

    def __post_init__(self) -> None:
        self._turns = cycle(self._producers)
        self._ender = ThreadPoolExecutor(1, thread_name_prefix="transactions")
        self._ending: _Transaction | None = None
        self._due: dict[int, int] = {}  # by assigned partition, the offset to read next
        self._metrics.lag.positions = self._due
        self._is_serving = True  # False at the end: the last log line of a process is the reason of its end
        self._behind: dict[int, int] = {}  # by partition, the offset behind a hole that is logged and not yet committed

    def _ask(self, ask: Callable[[float], T], patience_s: float = PATIENCE_S) -> T:
        """Ask, by default as within a transaction."""
        return retry(ask, self._running, self._address, patience_s)

    def run(self) -> None:
        """Run until stopped, or until an error ends the loop."""
        try:
            self._run()
        finally:
            self._is_serving = False

    def _run(self) -> None:
        for producer in self._producers:
            self._ask(producer.init_transactions, math.inf)
        self._consumer.subscribe([TRADES], on_assign=self._on_assign, on_revoke=self._on_revoke)  # also when lost
        while self._running():
            first = self._consumer.poll(0.2)
            started = time.monotonic()
            if first is None:
                if self._behind:
                    self._transact([], started)
                self._settle()
                if self._missed_topic():
                    self._check_places()
                continue
            read = (first, *self._consumer.consume(MAX_BATCH - 1, 0))
            # The second call may take partitions away.
            messages, removed = incoming(read, self._due)
            if messages:
                self._transact(messages, started)
            for partition in removed:
                self._settle()
                if partition in self._due:
                    self._jump(partition)
        self._settle()

    def _transact(self, messages: list[Incoming], started: float) -> None:
        """Write the outcome of some records, and start the end of their transaction.

        The transaction also commits the offsets behind holes: each hole is logged and counted once.
        """
        ends = self._behind | {message.partition: message.offset + 1 for message in messages}
        transaction = _Transaction(next(self._turns), ends)
        records, count = self._stage.process(messages)
        if self._ending is not None:
            self._ending.is_written.wait()
        try:
            transaction.producer.begin_transaction()
            self._produce(transaction.producer, records)
        except KafkaException as error:
            # `produce` raises _STATE where the transaction failed while its records were still coming, and _FATAL where
            # it failed for good: to abort it raises the cause.
            failed = (KafkaError._STATE, KafkaError._FATAL)
            if not (error.args[0].txn_requires_abort() or error.args[0].code() in failed):
                raise
            self._settle()
            self._go_back(error, [transaction])
            return
        if not self._settle(transaction):
            return
        note = self._stage.note
        offsets = [TopicPartition(TRADES, partition, end, note(partition, end)) for partition, end in ends.items()]
        group = self._consumer.consumer_group_metadata()

        def end() -> None:
            send, producer = transaction.producer.send_offsets_to_transaction, transaction.producer
            try:
                self._ask(lambda timeout_s: send(offsets, group, timeout_s))
                self._ask(partial(_flush, producer))
            finally:
                transaction.is_written.set()
            self._ask(producer.commit_transaction)
            count()
            self._metrics.messages_in.labels(TRADES).inc(len(messages))
            self._metrics.transaction.observe(np.array([time.monotonic() - started]))

        self._due.update(ends)
        self._behind.clear()
        transaction.result = self._ender.submit(end)
        self._ending = transaction

    def _settle(self, begun: _Transaction | None = None) -> bool:
        """Wait for the ending transaction; return False if the ending transaction, and `begun` too, was aborted."""
        ending, self._ending = self._ending, None
        if ending is None or ending.result is None:
            return True
        try:
            ending.result.result()
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            self._go_back(error, [ending, begun] if begun is not None else [ending])
            return False
        return True

    def _produce(self, producer: Producer, records: list[Record]) -> None:
        """Hand records to the client, waiting while its queue is full."""
        produce = producer.produce
        for topic, partition, key, value, ingest_time_ms in records:
            while True:
                try:
                    produce(topic, value, key, partition, None, None, ingest_time_ms)  # by position: a fifth faster
                    break
                except BufferError:
                    producer.poll(0.1)

    def _go_back(self, error: KafkaException, transactions: list[_Transaction]) -> None:
        """Undo transactions in the clients, and in the stage's memory of their partitions."""
        log.warning("transaction aborted, going back", error=str(error))
        self._metrics.errors.labels("transaction_aborted").inc()
        for transaction in transactions:
            self._ask(transaction.producer.abort_transaction)
            transaction.producer.poll(0)  # a refused record raises here
        partitions = {partition for transaction in transactions for partition in transaction.ends}
        places = [TopicPartition(TRADES, partition) for partition in partitions & self._due.keys()]
        for place in self._restored(places) if places else ():
            try:
                self._consumer.seek(place)
            except KafkaException as refusal:
                if refusal.args[0].code() != KafkaError._STATE:
                    raise
                self._forget(place.partition)  # the group has revoked the partition: the next poll reports it

    def _jump(self, partition: int) -> None:
        """Continue at the topic's oldest offset, if records were removed before they were read."""
        due = self._due[partition]
        low = self._oldest(partition, due)
        if low > due:
            self._hole(partition, due, low)
            self._stage.cut(partition)
            self._due[partition] = low
        self._consumer.seek(TopicPartition(TRADES, partition, self._due[partition]))

    def _hole(self, partition: int, due: int, low: int) -> None:
        log.warning(
            "trades were removed before they were read: the streams of this partition start anew",
            partition=partition,
            due=due,
            oldest=low,
            removed=low - due,
        )
        self._metrics.removed.inc(low - due)
        self._behind[partition] = low

    def _oldest(self, partition: int, due: int) -> int:
        """Return the topic's oldest offset of a partition.

        Raises:
            LostPlace: the partition ends before the offset `due`.
        """
        place = TopicPartition(TRADES, partition)
        watermarks = self._consumer.get_watermark_offsets
        low, high = self._ask(lambda timeout_s: watermarks(place, timeout=timeout_s), math.inf)
        if due > high:
            raise LostPlace(
                f"{TRADES}[{partition}] ends at offset {high}, and was read up to {due}: was the topic deleted and "
                f"made anew? {FIND_PLACE} finds where to go on; under `make run`, `make reset` forgets all"
            )
        return int(low)

    def _check_places(self) -> None:
        """Check that the broker has still the offsets of partitions that were read: it forgets those of deleted topics.

        Raises:
            LostPlace: an offset is gone.
        """
        places = [TopicPartition(TRADES, partition) for partition in self._due]
        ask = self._consumer.committed
        committed = checked(self._ask(lambda timeout_s: ask(places, timeout=timeout_s), math.inf)) if places else []
        if lost := [found.partition for found in committed if found.offset < 0]:
            self._check_new(lost)

    def _restored(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Restore the stage at the committed offsets of partitions, and return the next offsets to read."""
        ask = self._consumer.committed
        committed = checked(self._ask(lambda timeout_s: ask(partitions, timeout=timeout_s), math.inf))
        if new := [found.partition for found in committed if found.offset < 0]:
            self._check_new(new)
        for found in committed:
            partition, due = found.partition, found.offset
            low = self._oldest(partition, due)
            self._stage.drop(partition)
            if due < 0:
                due = low  # records that were removed before the first start are no loss
            else:
                low = self._restore(partition, due, found.metadata or "", low)
            if low > (told := self._behind.get(partition, due)):
                self._hole(partition, told, low)
            self._due[partition] = max(due, low)
        return [TopicPartition(TRADES, found.partition, self._due[found.partition]) for found in committed]

    def _restore(self, partition: int, due: int, note: str, low: int) -> int:
        """Restore the stage at an offset, once more if the topic loses records meanwhile; return the oldest offset.

        The offsets of the records tell no loss: they leave out the markers of other writers' transactions.
        """
        while True:
            self._stage.restore(partition, due, note, low)
            if (oldest := self._oldest(partition, due)) == low:
                return low
            self._stage.drop(partition)
            low = oldest

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            started = time.monotonic()
            self._consumer.incremental_assign(self._restored(partitions))
            log.info("assigned", partitions=sorted(self._due), restored_in_s=round(time.monotonic() - started, 2))
        self._metrics.ready.set(1)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._settle()
        for revoked in partitions:
            self._forget(revoked.partition)
        self._consumer.incremental_unassign(partitions)
        if partitions and self._is_serving and self._running():
            log.info("revoked", partitions=sorted(p.partition for p in partitions), left=sorted(self._due))

    def _forget(self, partition: int) -> None:
        self._due.pop(partition, None)
        self._behind.pop(partition, None)
        self._stage.drop(partition)


def _leave(consumer: Consumer) -> None:
    """Leave the group, also with a slot: after `close` alone the member would stay for its session of 45 s, and nobody
    can commit a found place for a group with a member."""
    try:
        consumer.unsubscribe()
        deadline = time.monotonic() + LEAVE_S
        while consumer.memberid() and time.monotonic() < deadline:
            consumer.poll(0.05)
    except Exception as error:  # of any kind: `--find-place` waits for the end of the session
        log.warning("the group was not left", error=str(error))


def _close(consumer: Consumer) -> None:
    """Leave the group, and only log an error: the exit code of the process was decided before."""
    try:
        consumer.close()
    except Exception as error:  # of any kind: the client calls back into the loop, which may end a transaction
        log.warning("closed without an orderly end; the next start goes on", error=str(error))


def _flush(producer: Producer, timeout_s: float) -> None:
    """Wait until the broker has all records of a producer.

    Raises:
        KafkaException: the broker lacks records after `timeout_s`.
    """
    if producer.flush(timeout_s):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def rejected(message: Incoming, reason: str, key: StreamKey | None) -> Record:
    """Return the record of `trades-rejected` for a refused record."""
    where = f"{message.topic}[{message.partition}]@{message.offset}"
    text = message.value.decode(errors="replace")[:200]
    source_id, product_id = key or (None, None)
    at = message.topic, message.partition, message.offset
    value = encode(Rejected("forecaster", where, reason[:1_000], text, source_id, product_id, message.value, *at))
    return REJECTED, message.partition, product_id or "", value, message.ingest_time_ms
