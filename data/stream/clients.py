"""The clients of the broker, as each process needs them."""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Container, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from data.settings import KafkaSettings

log = structlog.get_logger()

READ_BATCH = 10_000
MAX_VALUE = 16_384
"""Bytes of a record that are read; none of ours is nearly as long. A longer one is cut, so that it cannot be read: what
is written about it is no longer than the broker takes."""
REPEAT_S = 60.0

ANSWER_S = 2.0
"""How long one question to the broker may take before we look whether we should stop."""
RETRY_S = 0.05
SILENT_S = 3.0
"""A broker that takes longer to answer is said to be waited for: one that has just started takes a second or two."""
STILL_SILENT_S = 30.0
"""Between two lines about one wait."""

UNSTABLE_OFFSET_COMMIT = 88
"""A transaction of another process that holds an offset is still open. The client's Python has no name for it."""

PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._WAIT_COORD,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        UNSTABLE_OFFSET_COMMIT,
    }
)
"""What a broker says while it starts; the client calls these retriable in transactions only."""

NEW_PROCESS_HELPS = PASSING | {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.TRANSACTION_COORDINATOR_FENCED,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,  # the client learns by itself of what the group took away
    KafkaError._FATAL,  # of a consumer: fenced
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
}
"""The broker holds this process for another one or for dead, or has troubles that pass. All else a new process would be
told again: a right that is missing, a topic that is not there, a setting that the broker does not allow."""

REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
"""Why a broker does not take a record, now or later."""

Config = dict[str, Any]
T = TypeVar("T")


class Stopped(Exception):
    """Told to stop while waiting for the broker."""


class Unanswered(Exception):
    """The broker did not answer for too long."""


class RecordRefused(Exception):
    """The broker refuses a record, and would refuse it again."""


class ClientLog:
    """Logs what a client says of itself, each kind of error once in `REPEAT_S`: of a lost broker it speaks 20 times a
    second. It goes on by itself."""

    def __init__(self) -> None:
        self._told: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now - self._told.get(error.code(), -math.inf) >= REPEAT_S:
            self._told[error.code()] = now
            log.warning("kafka client", error=error.str())


def _client(settings: KafkaSettings) -> Config:
    """Return what all clients have in common. The client's own log goes: `ClientLog` has what matters of it."""
    return settings.client_config() | {"error_cb": ClientLog(), "log_level": 0}


def consumer_config(settings: KafkaSettings, group: str, slot: int | None) -> Config:
    """Return the settings of a consumer that commits in transactions.

    Args:
        slot: gives the member a stable name, so that the broker hands a restarted process its partitions at once. None:
            any number of members; those of a dead one go to the others when its session is over.
    """
    static = {"group.instance.id": f"{group}-{slot}", "client.id": f"{group}-{slot}"}
    dynamic = {"client.id": f"{group}-{_process_name()}", "session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}
    return (
        _client(settings)
        | (dynamic if slot is None else static)
        | {
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # records that were removed unread are no reason to go on in silence
            "partition.assignment.strategy": "cooperative-sticky",
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 32_768,  # bounds the memory of a process that is far behind
            "statistics.interval.ms": 1_000,
        }
    )


def transactional_config(settings: KafkaSettings, group: str, slot: int | None, turn: int) -> Config:
    """Return the settings of a producer whose records and offsets are one transaction.

    Args:
        turn: tells apart the producers of one process.
        slot: a restarted process with the same one ends the transaction that its predecessor left open. None: the
            broker ends an open transaction after its timeout; readers wait for that.
    """
    name = f"{group}-{_process_name() if slot is None else slot}-{turn}"
    return _client(settings) | {
        "transactional.id": name,
        "client.id": name,
        "compression.type": "lz4",
        "linger.ms": 2,
        "transaction.timeout.ms": 8_000 if slot is None else 30_000,
        # With the default, each transaction after the first waits 100 ms for the markers of the one before.
        "retry.backoff.ms": 1,
        "retry.backoff.max.ms": 5,
        # A broker that was killed and came back is else asked over a dead connection for minutes (librdkafka #5511).
        "metadata.max.age.ms": 5_000,
        "connections.max.idle.ms": 4_000,
        "delivery.report.only.error": True,
        "on_delivery": _raise_refusal,
    }


@cache
def _process_name() -> str:
    """Return a name that no other process has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _raise_refusal(error: KafkaError | None, message: Message) -> None:
    """Raise for a record that the broker would refuse again; all else aborts the transaction, which is tried anew."""
    if error is not None and error.code() in REFUSALS:
        raise RecordRefused(f"{message.topic()}[{message.partition()}]: {error.str()}")


def idempotent_config(settings: KafkaSettings, linger_ms: int) -> Config:
    """Return the settings of a producer that writes each record once and in order, for as long as the process lives.

    Args:
        linger_ms: how long a record may wait for others.
    """
    return _client(settings) | {
        "enable.idempotence": True,
        "partitioner": "murmur2_random",  # the partition that every Java client would choose for the key
        "compression.type": "lz4",
        "linger.ms": linger_ms,
        "message.timeout.ms": 0,  # a lost broker is waited for
    }


def reader_config(settings: KafkaSettings) -> Config:
    """Return the settings of a consumer that belongs to no group and commits nothing."""
    return _client(settings) | {
        "group.id": "unused",  # the client wants one
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,  # the default pauses for a second each time that the queue is full
        "fetch.message.max.bytes": 4_194_304,
    }


class Incoming(NamedTuple):
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    value: bytes
    ingest_time_ms: int


def incoming(messages: Iterable[Message], partitions: Container[int]) -> tuple[list[Incoming], set[int]]:
    """Return the records that were read of some partitions, and the partitions whose next record is gone.

    Raises:
        KafkaException: the client returned another error in the place of a record.
    """
    found, gone = [], set()
    for message in messages:
        if (error := message.error()) is not None:
            if error.code() != KafkaError._AUTO_OFFSET_RESET:
                raise KafkaException(error)
            gone.add(message.partition() or 0)
        elif (partition := message.partition() or 0) in partitions:
            value, time_ms = (message.value() or b"")[:MAX_VALUE], message.timestamp()[1]
            # Half the time of a call of the class.
            found.append(tuple.__new__(Incoming, (message.topic(), partition, message.offset(), value, time_ms)))
    return found, gone


class Stretch(NamedTuple):
    """Some consecutive records of one partition: only what a start reads of hundreds of thousands of them.

    Attributes:
        offsets: of each record.
        values: of each record.
    """

    offsets: list[int]
    values: list[bytes]


def read_range(
    config: Config, running: Callable[[], bool], topic: str, partition: int, start: int, end: int
) -> Iterator[Stretch]:
    """Read the records of one partition from offset `start` up to, not with, `end`, in batches.

    Where `running` says stop, or the topic ends sooner, it is less.

    Raises:
        KafkaException: the broker says that reading is not possible.
    """
    if start >= end:
        return
    consumer = Consumer(config)
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        at_end = False
        while running() and not at_end and consumer.position([TopicPartition(topic, partition)])[0].offset < end:
            first = consumer.poll(1.0)
            messages = [first, *consumer.consume(READ_BATCH, 0)] if first is not None else []
            for error in filter(None, (message.error() for message in messages)):
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                at_end = True
            wanted = [message for message in messages if message.error() is None and (message.offset() or 0) < end]
            if wanted:
                yield Stretch([m.offset() or 0 for m in wanted], [(m.value() or b"")[:MAX_VALUE] for m in wanted])
    finally:
        consumer.close()


def new_process_helps(error: KafkaError) -> bool:
    """Return whether a new process can go on after an error."""
    return error.retriable() or error.code() in NEW_PROCESS_HELPS


def insist(ask: Callable[[float], T], running: Callable[[], bool], address: str, patience_s: float = math.inf) -> T:
    """Ask the broker until it answers; that it is waited for is logged, and its answer then too.

    Args:
        address: of the broker, for the log.

    Raises:
        Stopped: told to stop before it did. What is not committed will be done again by the next start.
        Unanswered: it did not for `patience_s`.
        KafkaException: it refuses.
    """
    began = time.monotonic()
    tell_at, told = began + SILENT_S, False
    while True:
        try:
            answer = ask(ANSWER_S)
        except KafkaException as error:
            if not (error.args[0].retriable() or error.args[0].code() in PASSING):
                raise
            if not running():
                raise Stopped from error
            now = time.monotonic()
            if now - began > patience_s:
                raise Unanswered from error
            if now >= tell_at:
                waited_s, reason = round(now - began, 1), error.args[0].str()
                log.warning("waiting for the broker", address=address, waited_s=waited_s, reason=reason)
                tell_at, told = now + STILL_SILENT_S, True
            time.sleep(RETRY_S)
        else:
            if told:
                log.info("the broker answers", address=address, waited_s=round(time.monotonic() - began, 1))
            return answer
