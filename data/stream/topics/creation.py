"""Make the missing topics on a broker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined] # untyped
from confluent_kafka.cimpl import NewTopic

from data.stream.records import FIGURES, PARTITIONS, TOPICS

RETENTION = timedelta(days=7)
COMPACTED = {"cleanup.policy": "compact", "segment.ms": str(24 * 3600 * 1000), "message.timestamp.type": "CreateTime"}
"""Configuration of `figures`. The broker compacts closed segments alone, so a segment closes after a day."""
ANSWER_S = 5.0
"""Limit before a silent broker counts as away."""
MADE_S = 30.0
"""Limit for the broker to make topics."""


def create_topics(
    kafka: Mapping[str, str | int | float | bool],
    *,
    topics: Iterable[str] = (*TOPICS, FIGURES),
    partitions: int = PARTITIONS,
    retention: timedelta = RETENTION,
    replication: int = 1,
) -> list[str]:
    """Make the missing topics and return their names. Existing topics are left alone.

    Args:
        kafka: client configuration: `bootstrap.servers`, and the keys for a secured broker.
        partitions: of each topic but `figures`, which has one.
        retention: how long a record is kept, counted from its ingest time; `figures` keeps the newest of each key.
        replication: brokers that keep a copy of each record.

    Raises:
        ValueError: a topic exists with another number of partitions.
        KafkaException: the broker does not answer, or refuses.
        TimeoutError: a topic stayed without a leader.
    """
    admin = AdminClient(dict(kafka))
    # Without this question, a missing broker would be asked until `MADE_S`.
    known = admin.list_topics(timeout=ANSWER_S).topics
    config = {"retention.ms": str(int(retention.total_seconds() * 1000)), "message.timestamp.type": "CreateTime"}
    wanted = [
        NewTopic(name, 1, replication, config=COMPACTED)
        if name == FIGURES
        else NewTopic(name, partitions, replication, config=config)
        for name in topics
    ]
    # A user without the right to make topics may still find all of them.
    missing = [topic for topic in wanted if topic.topic not in known]
    created = []
    if missing:
        for name, future in admin.create_topics(missing, operation_timeout=MADE_S, request_timeout=MADE_S).items():
            try:
                future.result()
                created.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise KafkaException(KafkaError(error.args[0].code(), f"{name}: {error.args[0].str()}")) from error
    for topic in wanted:
        found, needed = _partition_count(admin, topic.topic), topic.num_partitions
        if found != needed:
            raise ValueError(
                f"topic {topic.topic} has {found} partitions, {needed} are needed: records are keyed, "
                f"and another number would split a key's history; delete the topic, or use another broker"
            )
    return created


def keeps_newest(kafka: Mapping[str, str | int | float | bool], topic: str) -> bool:
    """Return whether a topic is compacted; True if the broker does not tell this user."""
    asked, admin = ConfigResource(ConfigResource.Type.TOPIC, topic), AdminClient(dict(kafka))
    try:
        found = admin.describe_configs([asked], request_timeout=MADE_S)[asked].result()
    except KafkaException:
        return True
    return "compact" in found["cleanup.policy"].value


def _partition_count(admin: AdminClient, topic: str) -> int:
    """Return a topic's partition count once each partition answers: the broker shows a new topic before it answers."""
    deadline = time.monotonic() + MADE_S
    while True:
        partitions = admin.list_topics(topic, timeout=MADE_S).topics[topic].partitions
        try:
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client's
            ends = dict.fromkeys((TopicPartition(topic, partition) for partition in partitions), latest)
            for future in admin.list_offsets(ends, request_timeout=MADE_S).values():
                future.result()
            if partitions:
                return len(partitions)
            said = "it has no partitions"
        except KafkaException as error:  # "not leader for partition", for some milliseconds
            said = error.args[0].str()
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {topic} is not served after {MADE_S} s: {said}")
        time.sleep(0.02)
