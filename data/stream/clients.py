"""Configure the broker's clients for each process, and retry requests to the broker."""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Container, Iterable
from concurrent.futures import Future
from functools import cache
from typing import Any, NamedTuple, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from data.names import NotRead, RecordRefused, Stopped, Unanswered
from data.settings import KafkaSettings

log = structlog.get_logger()

UNUSED = "unused"
"""Group of readers without a group, as the client requires a name. Nothing is committed for the group."""
READ_BATCH = 10_000
MAX_VALUE = 16_384
"""Bytes that are read of a record; our records are much shorter. A longer record is cut and cannot be decoded, so a
reject with the record's bytes stays short enough for the broker."""
MAX_REJECT = 32_768
"""Bytes that are read of a reject: a rejected record's `MAX_VALUE` bytes in base64, and the other fields."""
REPEAT_S = 60.0
"""Seconds between two log lines of one kind of client error."""

SESSION_MS = 6_000
"""Silence after which the broker takes a member without a slot for dead; brokers allow no less by default."""

ANSWER_S = 2.0
"""Timeout of one request to the broker; after a timeout, `retry` checks whether to stop."""
RETRY_S = 0.05
KNOWN_WITHIN_S = 10.0
"""Seconds of waiting between requests, after which an unknown topic or partition does not exist. The waits alone count:
a process without processor time learns nothing meanwhile."""
SILENT_S = 3.0
"""A longer wait for the broker is logged: a broker that has just started needs one or two seconds."""
STILL_SILENT_S = 30.0
"""Seconds between two log lines about one wait."""

DESCRIBE_S = 30.0
"""Timeout of a request to describe groups."""

UNSTABLE_OFFSET_COMMIT = 88
"""Error code: an open transaction of another process holds an offset. The Python client has no name for the code."""

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
"""Errors of a broker that is starting; the client calls these errors retriable in transactions only."""

UNKNOWN_YET = frozenset({KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC})
"""Errors of a client that knows no leader of a partition: the client has just begun or has asked a broker that was
starting, and soon knows better; or there is no such topic or partition. The error is the same in both cases."""

NEW_PROCESS_HELPS = (
    PASSING
    | UNKNOWN_YET
    | {
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
        KafkaError._STATE,  # the client learns by itself which partitions the group took away
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
)
"""Errors that a new process does not meet again: the broker takes the process for another or for dead, or the broker's
trouble passes. A new process would meet all other errors again: a missing right or topic, a forbidden setting."""

MISSING_RIGHTS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)

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
"""Errors of a record that the broker refuses now and later."""

Config = dict[str, Any]
T = TypeVar("T")


class ClientLog:
    """Logs a client's errors, each kind once in `REPEAT_S`: a client reports a lost broker 20 times a second.

    The client recovers by itself.
    """

    def __init__(self) -> None:
        self._last_logged: dict[int, float] = {}
        self._has_missed_topic = False

    def missed_topic(self) -> bool:
        """Return whether the client has missed a topic or a partition since the last call."""
        missed, self._has_missed_topic = self._has_missed_topic, False
        return missed

    def __call__(self, error: KafkaError) -> None:
        self._has_missed_topic |= error.code() in (*UNKNOWN_YET, KafkaError.UNKNOWN_TOPIC_OR_PART)
        now = time.monotonic()
        if now - self._last_logged.get(error.code(), -math.inf) >= REPEAT_S:
            self._last_logged[error.code()] = now
            log.warning("kafka client", error=error.str())


def client_config(settings: KafkaSettings) -> Config:
    """Return the address and the login for a client. The client's own log is off.

    Raises:
        NotRead: the client refuses a setting; the message names the variable.
    """
    config = settings.client_config()
    if len(config) > len(_ALWAYS):
        _try_client(tuple(config.items()))
    return config | {"log_level": 0}


_ALWAYS = ("bootstrap.servers", "security.protocol")
"""Settings that have a value on every machine, and need no trial."""


@cache
def _try_client(config: tuple[tuple[str, str], ...]) -> None:
    """Make a client, once in each process, so that a refused setting is reported by the name of its variable."""
    try:
        AdminClient(dict(config) | {"log_level": 0})
    except KafkaException as error:
        reason = error.args[0].str()
        # No such configuration property: "ssl.endpoint"
        words = set(re.findall(r"[a-z0-9.]+[a-z0-9]", reason))
        variables = [f"KAFKA_{name.upper().replace('.', '_')}" for name, _ in config if name in words]
        raise NotRead(f"{', '.join(variables) or 'KAFKA_*'}: the Kafka client refuses this: {reason}") from None


def _client(settings: KafkaSettings) -> Config:
    """Return the common settings of all clients of a service: `ClientLog` logs the important errors."""
    return client_config(settings) | {"error_cb": ClientLog()}


def consumer_config(settings: KafkaSettings, group: str, slot: int | None) -> Config:
    """Return the settings of a consumer that commits in transactions.

    Args:
        slot: number for a stable member name; the broker gives a restarted process its partitions at once. None: any
            number of members; the partitions of a dead member go to the others when its session is over.
    """
    static = {"group.instance.id": f"{group}-{slot}", "client.id": f"{group}-{slot}"}
    dynamic = {
        "client.id": f"{group}-{_process_name()}",
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": 500,
    }
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
            "fetch.wait.max.ms": 100,  # a first request waits for the partitions that it names, not for the others
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 32_768,  # bounds the memory of a process that is far behind
            "statistics.interval.ms": 1_000,
        }
    )


def transactional_config(settings: KafkaSettings, group: str, slot: int | None, turn: int) -> Config:
    """Return the settings of a producer whose records and offsets are one transaction.

    Args:
        slot: a restarted process with the same slot ends the open transaction of its predecessor. None: the broker
            ends an open transaction after the transaction's timeout; readers wait until then.
        turn: number of the producer within the process.
    """
    name = f"{group}-{_process_name() if slot is None else slot}-{turn}"
    return _client(settings) | {
        "transactional.id": name,
        "client.id": name,
        "compression.type": "lz4",
        "linger.ms": 2,
        # The others take over when the session is over, and then wait for the end of a dead member's transaction.
        "transaction.timeout.ms": SESSION_MS if slot is None else 30_000,
        # With the default, each transaction after the first waits 100 ms for the markers of the transaction before.
        "retry.backoff.ms": 1,
        "retry.backoff.max.ms": 5,
        # Without these limits the client uses a dead connection to a restarted broker for minutes (librdkafka #5511).
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
    """Raise RecordRefused for a record that the broker would refuse again.

    Any other error aborts the transaction, and the transaction is retried.
    """
    if error is not None and error.code() in REFUSALS:
        raise RecordRefused(f"{message.topic()}[{message.partition()}]: {error.str()}")


def idempotent_config(settings: KafkaSettings, linger_ms: int) -> Config:
    """Return the settings of a producer that writes each record once and in order, while the process lives.

    Args:
        linger_ms: milliseconds that a record may wait for further records.
    """
    return _client(settings) | {
        "enable.idempotence": True,
        "partitioner": "murmur2_random",  # the partition that every Java client would choose for the key
        "compression.type": "lz4",
        "linger.ms": linger_ms,
        "message.timeout.ms": 0,  # wait for a lost broker without limit
    }


def reader_config(settings: KafkaSettings) -> Config:
    """Return the settings of a consumer that belongs to no group and commits nothing."""
    return _client(settings) | {
        "group.id": UNUSED,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,  # the default pauses for a second each time that the queue is full
        "fetch.message.max.bytes": 4_194_304,
    }


def offsets_reader(settings: KafkaSettings, group: str) -> Consumer:
    """Return a consumer that asks for the committed offsets of a group, as they are before any open transaction.

    An admin client of librdkafka 2.16 answers such questions no more after a broker was killed and started again, and
    may abort the process; a new consumer answers within a tenth of a second.
    """
    config = {"group.id": group, "isolation.level": "read_uncommitted", "enable.auto.commit": False}
    return Consumer(client_config(settings) | config)


def checked(answers: Iterable[TopicPartition]) -> list[TopicPartition]:
    """Return the answers of the broker about partitions, as of `committed` and `offsets_for_times`, without an error.

    The client raises an error of the whole request alone. A refused partition has its error in the answer, beside an
    offset that says nothing.

    Raises:
        KafkaException: the broker refuses one of the partitions.
    """
    found = list(answers)
    if error := next((each.error for each in found if each.error is not None), None):
        raise KafkaException(error)
    return found


class GroupMembers:
    """Ask the broker for the members of a consumer group.

    librdkafka 2.16 aborts the process if several requests to describe groups time out on a silent broker. So one
    request runs at a time, after the broker has answered a simpler request, and with much time. A client that has lost
    its broker describes no groups for a minute, so each broker that is back gets a new client.
    """

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._settings, self._group = settings, group
        self._admin: AdminClient | None = None
        self._asked: Future[Any] | None = None

    def members(self, timeout_s: float) -> list[str]:
        """Return client and host of each member.

        Raises:
            KafkaException: the broker does not answer within `timeout_s`, or refuses.
        """
        if self._asked is None:
            admin = self._admin or AdminClient(client_config(self._settings))
            self._admin = None
            admin.list_topics(timeout=timeout_s)
            self._admin = admin
            self._asked = admin.describe_consumer_groups([self._group], request_timeout=DESCRIBE_S)[self._group]
        try:
            found = self._asked.result(timeout_s)
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
        except KafkaException:
            self._asked = self._admin = None
            raise
        self._asked = None
        return [f"{member.client_id} at {member.host}" for member in found.members or ()]


class Incoming(NamedTuple):
    """One record of a topic.

    Attributes:
        value: at most `MAX_VALUE` bytes.
        ingest_time_ms: the record's time, ms since 1970.
    """

    topic: str
    partition: int
    offset: int
    value: bytes
    ingest_time_ms: int


def incoming(messages: Iterable[Message], partitions: Container[int]) -> tuple[list[Incoming], set[int]]:
    """Return the records of some partitions, and the partitions whose next record is gone.

    Raises:
        KafkaException: the client returned another error instead of a record.
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


def refusal(error: KafkaError, topics: Iterable[str], groups: Iterable[str] = ()) -> str:
    """Return the text of an error; for a missing right, with the names of topics or groups that a process uses.

    Most errors of broker and client name neither.

    Args:
        groups: also prefixes of transactional ids.

    >>> refusal(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), ["features"])
    'Broker: Topic authorization failed: the login needs a right on features (docs/kafka-access.md)'
    """
    text = error.str()
    if error.code() not in MISSING_RIGHTS:
        return text
    names = list(topics if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED else groups)
    if any(name in text for name in names):
        return text
    return f"{text}: the login needs a right on {', '.join(names)} (docs/kafka-access.md)"


def is_passing(error: KafkaError) -> bool:
    """Return whether the same request may succeed later; of `UNKNOWN_YET`, within `KNOWN_WITHIN_S`.

    A transaction in which a record had no partition is over: only another transaction may succeed.
    """
    is_unknown_yet = error.code() in UNKNOWN_YET and not error.txn_requires_abort()
    return error.retriable() or error.code() in PASSING or is_unknown_yet


def new_process_helps(error: KafkaError) -> bool:
    """Return whether a new process can continue after an error."""
    return error.retriable() or error.code() in NEW_PROCESS_HELPS


def retry(ask: Callable[[float], T], running: Callable[[], bool], address: str, patience_s: float = math.inf) -> T:
    """Call `ask` until the broker answers, and return the answer; log a long wait, and its end.

    Args:
        ask: one request; the argument is the timeout, seconds.
        running: returns False when the process must stop.
        address: address of the broker, for the log.
        patience_s: longest wait, seconds.

    Raises:
        Stopped: `running` returned False before an answer. The next start repeats uncommitted work.
        Unanswered: no answer for `patience_s`.
        KafkaException: the broker refuses the request; `UNKNOWN_TOPIC_OR_PART` if the client knew no such topic or
            partition for `KNOWN_WITHIN_S`.
    """
    began, unknown_s = time.monotonic(), 0.0
    log_at, is_logged = began + SILENT_S, False
    while True:
        try:
            answer = ask(ANSWER_S)
        except KafkaException as error:
            if not is_passing(error.args[0]):
                raise
            if not running():
                raise Stopped from error
            now = time.monotonic()
            if now - began > patience_s:
                raise Unanswered from error
            if error.args[0].code() in UNKNOWN_YET:
                if unknown_s >= KNOWN_WITHIN_S:
                    said = f"{error.args[0].str()}, for {KNOWN_WITHIN_S:g} s"
                    raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, said)) from error
                unknown_s += RETRY_S
            if now >= log_at:
                waited_s, reason = round(now - began, 1), error.args[0].str()
                log.warning("waiting for the broker", address=address, waited_s=waited_s, reason=reason)
                log_at, is_logged = now + STILL_SILENT_S, True
            time.sleep(RETRY_S)
        else:
            if is_logged:
                log.info("the broker answers", address=address, waited_s=round(time.monotonic() - began, 1))
            return answer
