"""Make the missing topics of the stack."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # its types forget the second
from confluent_kafka.cimpl import NewTopic

from data.stream.records import PARTITIONS, TOPICS

RETENTION = timedelta(days=7)
ANSWER_S = 5.0
"""Limit before a silent broker counts as away; making topics may take longer."""


def create_topics(
    kafka: Mapping[str, str | int | float | bool],
    *,
    topics: Iterable[str] = TOPICS,
    partitions: int = PARTITIONS,
    replication: int = -1,
    retention: timedelta = RETENTION,
    timeout_s: float = 30.0,
) -> list[str]:
    """Make the missing topics and return their names. Existing topics are left alone.

    Args:
        kafka: client configuration: `bootstrap.servers`, and the keys for a secured broker.
        replication: copies of each partition; -1 is the broker's default.
        retention: how long a record is kept, counted from its ingest time.

    Raises:
        ValueError: a topic exists with another number of partitions.
        KafkaException: the broker does not answer, or refuses.
        TimeoutError: a topic stayed without a leader.
    """
    admin = AdminClient(dict(kafka))
    admin.list_topics(timeout=min(timeout_s, ANSWER_S))  # otherwise a missing broker would be asked until `timeout_s`
    config = {"retention.ms": str(int(retention.total_seconds() * 1000)), "message.timestamp.type": "CreateTime"}
    wanted = [NewTopic(name, partitions, replication, config=config) for name in topics]
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=timeout_s, request_timeout=timeout_s).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    for topic in wanted:
        found = _partition_count(admin, topic.topic, timeout_s)
        if found != partitions:
            raise ValueError(
                f"topic {topic.topic} has {found} partitions, {partitions} are needed: records are keyed by product, "
                f"and another number would split a product's history; delete the topic, or use another broker"
            )
    return created


def _partition_count(admin: AdminClient, topic: str, timeout_s: float) -> int:
    """Return a topic's partition count once each partition answers: the broker shows a new topic before it answers."""
    deadline = time.monotonic() + timeout_s
    while True:
        partitions = admin.list_topics(topic, timeout=timeout_s).topics[topic].partitions
        try:
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client's
            ends = dict.fromkeys((TopicPartition(topic, partition) for partition in partitions), latest)
            for future in admin.list_offsets(ends, request_timeout=timeout_s).values():
                future.result()
            if partitions:
                return len(partitions)
            said = "it has no partitions"
        except KafkaException as error:  # "not leader for partition", for some milliseconds
            said = error.args[0].str()
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {topic} is not served after {timeout_s} s: {said}")
        time.sleep(0.02)
