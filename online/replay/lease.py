"""Grant the right to write a source: to at most one process at a time, as the broker decides."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from data.names import Stopped
from data.settings import KafkaSettings
from data.stream.clients import ANSWER_S, GroupMembers, reader_config, retry
from data.stream.origin import group_of
from data.stream.records import TRADES

log = structlog.get_logger()

T = TypeVar("T")

SESSION_S = 6.0
"""Silence after which the broker takes a member for dead; brokers allow no less by default."""
PATIENCE_S = SESSION_S + 4.0
"""How long a start waits for a member that may be dead."""
LOOK_AGAIN_S = 0.25
POLL_S = 0.05
HANDED_OUT_S = 3.0
"""Longest usual wait for an assignment: a longer wait means another member, most often a killed process."""
LOST = "the broker has given it to another ingestor, or taken this one for dead"
LOCK = 0
"""The partition whose owner, in the source's consumer group, may write the source."""

NOT_A_MEMBER = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._STATE,
    }
)
"""Error codes of a commit by a process that may not write the source."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Clock that runs on while the machine sleeps, if the system has a clock of this kind."""


class SourceTaken(Exception):
    """Another process writes the source, or has begun to."""


class SourceLease:
    """Hold the right to write a source while the block runs.

    The writer of a source is a member of the source's own consumer group. A dead member loses its place at the end of
    its session; a member that was frozen for longer learns of the loss by `check`, before its next write.

    Args:
        is_new: no other process can know this source; a start does not look for other members.

    Attributes:
        group: the consumer group of the source.
        consumer: the member of this process.
        was_held: whether this process ever had the right.
        beginning: a committed offset, if any: a second commit of the offset shows whether this process is a member.

    Raises:
        SourceTaken: another process is a member.
        Stopped: told to stop before the broker answered.
        KafkaException: the broker refuses, or has no topic of trades.
    """

    def __init__(
        self, settings: KafkaSettings, source_id: str, running: Callable[[], bool], *, is_new: bool = False
    ) -> None:
        self.group = group_of(source_id)
        self._settings, self._source_id, self._running, self._is_new = settings, source_id, running, is_new
        self.was_held = self._holds = self._is_lost = self._has_no_topic = False
        self._assigned, self._closing = threading.Event(), threading.Event()
        self.beginning: TopicPartition | None = None
        self._checked_at = time.clock_gettime(_CLOCK)
        session = {"session.timeout.ms": int(1e3 * SESSION_S), "heartbeat.interval.ms": 500}
        rules = {"group.id": self.group, "partition.assignment.strategy": "range"}
        self.consumer = Consumer(reader_config(settings) | session | rules)
        self._thread = threading.Thread(target=self._poll, name="lease", daemon=True)

    def __enter__(self) -> Self:
        try:
            if not self._is_new:
                self._await_empty_group()
            self._thread.start()
            self._await_assignment()
            if not self._holds:
                raise SourceTaken(self._taken("another ingestor has begun to write it at this moment"))
        except BaseException:
            self._close()
            raise
        self.was_held = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def check(self) -> bool:
        """Return whether this process may write now; False while the broker decides.

        Raises:
            SourceTaken: the right is lost.
        """
        now = time.clock_gettime(_CLOCK)
        was_frozen = now - self._checked_at > SESSION_S / 2
        self._checked_at = now
        if was_frozen and self.beginning is not None:
            self.commit([self.beginning])  # the broker takes a commit only from members
        if self._is_lost:
            raise SourceTaken(self._taken(LOST))
        return self._holds

    def commit(self, offsets: list[TopicPartition]) -> None:
        """Commit offsets of the source's group; the first offset may carry a note.

        Raises:
            SourceTaken: this process is no member any more.
            KafkaException: the broker refuses for another reason.
            Stopped: told to stop before the broker answered.
        """
        self.beginning = offsets[0]
        try:
            self._ask(lambda _: self.consumer.commit(offsets=offsets, asynchronous=False))
        except KafkaException as error:
            if error.args[0].code() not in NOT_A_MEMBER:
                raise
            self._is_lost = True
            raise SourceTaken(self._taken(LOST)) from error

    def commit_soon(self, offset: TopicPartition) -> None:
        """Commit an offset without waiting for the broker; a commit that fails is lost."""
        with contextlib.suppress(KafkaException):
            self.consumer.commit(offsets=[offset], asynchronous=True)

    def _ask(self, ask: Callable[[float], T]) -> T:
        return retry(ask, self._running, self._settings.kafka_bootstrap_servers)

    def _await_empty_group(self) -> None:
        """Wait until the group has no member; a dead member stays for the rest of its session."""
        watch = GroupMembers(self._settings, self.group)
        members = self._ask(watch.members)
        deadline = time.monotonic() + PATIENCE_S
        if members:
            log.info("waiting for the end of another ingestor of this source", ingestor=members[0])
        while members:
            if time.monotonic() > deadline:
                raise SourceTaken(self._taken(f"another ingestor writes it: {members[0]}"))
            time.sleep(LOOK_AGAIN_S)
            members = self._ask(watch.members)

    def _await_assignment(self) -> None:
        """Wait until the broker has handed out the partitions of the group."""
        began, is_told = time.monotonic(), False
        while not self._assigned.wait(LOOK_AGAIN_S):
            if not self._running():
                raise Stopped
            if not is_told and time.monotonic() - began > HANDED_OUT_S:
                self._ask(lambda timeout_s: self.consumer.list_topics(TRADES, timeout=timeout_s))
                log.info(f"waiting for the source: a killed ingestor keeps its place for {SESSION_S:g} s")
                is_told = True
        if self._has_no_topic:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"it has no topic {TRADES}"))

    def _taken(self, reason: str) -> str:
        return f"source {self._source_id} is not written by this process: {reason}"

    def _poll(self) -> None:
        self.consumer.subscribe([TRADES], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        while not self._closing.wait(POLL_S):
            self.consumer.poll(0)  # a call that waits would keep the other thread's calls out

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign([])  # the trades themselves are not read here
        if not partitions:
            self._has_no_topic = not consumer.list_topics(TRADES, timeout=ANSWER_S).topics[TRADES].partitions
        self._holds = any(assigned.partition == LOCK for assigned in partitions)
        self._is_lost = self._is_lost or (self._assigned.is_set() and not self._holds)
        self._assigned.set()

    def _on_revoke(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._holds = False
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._holds, self._is_lost = False, True
        consumer.unassign()

    def _close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.consumer.close()
