"""Make the missing topics on a broker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # untyped
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
)
from confluent_kafka.cimpl import NewTopic

from data.stream.records import FIGURES, PARTITIONS, TOPICS

RETENTION = timedelta(days=7)
PARTITION_BYTES = 2_000_000_000
MIN_SEGMENT, MAX_SEGMENT = 1 << 20, 256 << 20
"""Bytes of a segment. The broker removes whole segments that are closed: so a partition may be a segment larger."""
SEGMENT_TIME = timedelta(days=1)
"""Time after which the broker closes a segment: so a record may stay a day longer than its retention."""


def _ms(time: timedelta) -> int:
    return time // timedelta(milliseconds=1)


COMPACTED = {"cleanup.policy": "compact", "segment.ms": str(_ms(SEGMENT_TIME)), "message.timestamp.type": "CreateTime"}
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
    partition_bytes: int = PARTITION_BYTES,
    replication: int = 1,
    keeps_to_it: bool = False,
) -> list[str]:
    """Make the missing topics and return their names.

    Args:
        kafka: client configuration: `bootstrap.servers`, and the keys for a secured broker.
        partitions: of each topic but `figures`, which has one.
        retention: how long a record is kept, counted from its ingest time; `figures` keeps the newest of each key.
        partition_bytes: disk of a partition; the oldest records go first. `figures` has no such limit.
        replication: brokers that keep a copy of each record.
        keeps_to_it: existing topics get the retention too; by default, existing topics are left alone.

    Raises:
        ValueError: a topic exists with another number of partitions.
        KafkaException: the broker does not answer, or refuses.
        TimeoutError: a topic stayed without a leader.
    """
    admin = AdminClient(dict(kafka))
    # Without this question, a missing broker would be asked until `MADE_S`.
    known = admin.list_topics(timeout=ANSWER_S).topics
    bounds = retention_config(retention, partition_bytes)
    config = bounds | {"message.timestamp.type": "CreateTime"}
    wanted = [
        NewTopic(name, 1, replication, config=COMPACTED)
        if name == FIGURES
        else NewTopic(name, partitions, replication, config=config)
        for name in topics
    ]
    # A user without the right to make topics may still find all of them.
    missing = [topic for topic in wanted if topic.topic not in known]
    created = []
    if old := [topic.topic for topic in wanted if topic.topic in known and topic.topic != FIGURES and keeps_to_it]:
        _set_config(admin, old, bounds)
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


def retention_config(retention: timedelta, partition_bytes: int) -> dict[str, str]:
    """Return the configuration of a topic that bounds its records by time and size.

    >>> retention_config(timedelta(days=7), 400_000_000)["retention.ms"]
    '604800000'
    >>> retention_config(timedelta(days=7), 400_000_000)["segment.bytes"]
    '100000000'
    """
    return {
        "retention.ms": str(_ms(retention)),
        "retention.bytes": str(partition_bytes),
        "segment.bytes": str(min(MAX_SEGMENT, max(MIN_SEGMENT, partition_bytes // 4))),
        "segment.ms": str(max(1, _ms(min(retention, SEGMENT_TIME)))),
    }


def _set_config(admin: AdminClient, topics: Iterable[str], config: Mapping[str, str]) -> None:
    """Set some configuration of topics; the rest of their configuration stays."""
    entries = [ConfigEntry(*each, incremental_operation=AlterConfigOpType.SET) for each in config.items()]
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries) for name in topics]
    for future in admin.incremental_alter_configs(resources, request_timeout=MADE_S).values():
        future.result()


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
