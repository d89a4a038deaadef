"""The sink on a real broker: removed records, and a topic made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.records import FEATURES
from data.stream.topics.creation import create_topics
from offline.lake.store import Lake
from offline.served.manifest import Hole, read_manifest
from offline.served.sink import sink, topic_reader
from tests.broker import Broker
from tests.days import MIDNIGHT
from tests.pipeline import wait_until
from tests.served import record, records_of


def publish(servers: str, first: int, last: int) -> None:
    producer = Producer({"bootstrap.servers": servers})
    for i in range(first, last + 1):
        producer.produce(FEATURES, record(FEATURES, i, MIDNIGHT + i), partition=4)
    producer.flush(10)


def test_removed_records_are_a_hole_and_a_topic_made_anew_is_a_generation(own_broker: Broker, tmp_path: Path) -> None:
    servers, lake = own_broker.bootstrap_servers, Lake.open(tmp_path / "lake")
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    admin = AdminClient({"bootstrap.servers": servers})
    publish(servers, 1, 10)
    with topic_reader(settings) as reader:
        assert sink(lake, reader, FEATURES).rows == 10
    publish(servers, 11, 20)
    for future in admin.delete_records([TopicPartition(FEATURES, 4, 15)]).values():
        future.result(10)
    with topic_reader(settings) as reader:
        with pytest.raises(NotRead, match="refuses"):  # a reader that does not look first is told
            list(reader.read(FEATURES, 4, 10, 20))
        report = sink(lake, reader, FEATURES)
    assert (report.rows, report.lost) == (5, 5)
    assert read_manifest(lake, FEATURES).holes == [Hole(0, 4, 10, 14)]
    admin.delete_topics([FEATURES])[FEATURES].result(30)
    wait_until(lambda: FEATURES not in admin.list_topics(timeout=10).topics, "the topic is gone")
    create_topics({"bootstrap.servers": servers})
    publish(servers, 21, 22)
    with topic_reader(settings) as reader:
        assert sink(lake, reader, FEATURES).rows == 2
        assert sink(lake, reader, FEATURES).rows == 0
        with pytest.raises(NotRead, match="no topic"):
            reader.partitions("spam")
    assert [offset for _, offset in records_of(lake, FEATURES)] == [*range(10), *range(15, 20)]
    assert [offset for _, offset in records_of(lake, FEATURES, generation=1)] == [0, 1]
