"""The local broker: intact jars, survival of faults, right topics."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from data.stream.records import FIGURES, PARTITIONS, TOPICS
from data.stream.topics.creation import create_topics, keeps_newest
from orchestration.local.kafka import jars as jars_module
from orchestration.local.kafka.broker import is_ready
from orchestration.local.kafka.jars import Jar, JarsMissing, fetch_jars, read_lock
from tests.broker import Broker, free_ports, running_broker


def test_the_lock_names_a_sha256_for_every_jar() -> None:
    locked = read_lock()
    assert any(jar.artifact == "kafka_2.13" and jar.version == "4.2.1" for jar in locked)
    assert all(len(jar.sha256) == 64 for jar in locked)


def test_a_damaged_jar_is_noticed_and_fetched_again(
    tmp_path: Path, jars: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flip a byte in a jar: no other jar is fetched."""
    jar = next(jar for jar in read_lock() if jar.artifact == "slf4j-simple")
    original = next(path for path in jars if path.name == jar.path(tmp_path).name)
    copy = jar.path(tmp_path)
    copy.parent.mkdir(parents=True)
    damaged = bytearray(original.read_bytes())
    damaged[100] ^= 1
    copy.write_bytes(damaged)
    assert not jar.is_intact(tmp_path)

    def download(missing: list[Jar], folder: Path, pool: object) -> None:
        assert missing == [jar]
        shutil.copyfile(original, jar.path(folder))

    monkeypatch.setattr(jars_module, "_download", download)
    assert fetch_jars(tmp_path, [jar]) == [copy]
    assert jar.is_intact(tmp_path)


def test_a_jar_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoNetwork:
        def __init__(self, **_: object) -> None:
            self.remote_repos: dict[str, str] = {}

        def project(self, *_: object) -> None:
            raise ConnectionError("no route")

    monkeypatch.setattr("jgo.maven.MavenContext", NoNetwork)
    with pytest.raises(
        JarsMissing, match=r"1 of 1 jars .* kafka 1: ConnectionError: no route.*KAFKA_BOOTSTRAP_SERVERS"
    ):
        fetch_jars(tmp_path, [Jar("org.example", "kafka", "1", "0" * 64)])


def test_topics_are_made_once_with_their_settings(broker: Broker) -> None:
    assert create_topics({"bootstrap.servers": broker.bootstrap_servers}) == []  # the fixture made them
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    found = admin.list_topics(timeout=10).topics
    assert {name: len(found[name].partitions) for name in TOPICS} == dict.fromkeys(TOPICS, PARTITIONS)
    resource = ConfigResource(ResourceType.TOPIC, "predictions")
    settings = admin.describe_configs([resource])[resource].result(10)
    assert settings["retention.ms"].value == str(7 * 24 * 3600 * 1000)
    assert settings["message.timestamp.type"].value == "CreateTime"


def config_of(broker: Broker, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = AdminClient({"bootstrap.servers": broker.bootstrap_servers}).describe_configs([resource])[resource]
    return {name: entry.value for name, entry in found.result(10).items()}


def test_topics_keep_to_their_time_and_size_and_old_ones_only_if_asked(broker: Broker) -> None:
    """The rest of an old topic's configuration stays."""
    client = {"bootstrap.servers": broker.bootstrap_servers}
    bounds = ("retention.ms", "retention.bytes", "segment.bytes", "segment.ms", "message.timestamp.type")
    make = partial(create_topics, client, topics=["bounded"], partitions=1)
    make(retention=timedelta(days=2), partition_bytes=40_000_000)
    before = config_of(broker, "bounded")
    assert [before[name] for name in bounds] == ["172800000", "40000000", "10000000", "86400000", "CreateTime"]
    make(retention=timedelta(hours=1), partition_bytes=8_000_000)
    assert config_of(broker, "bounded") == before
    make(retention=timedelta(hours=1), partition_bytes=8_000_000, keeps_to_it=True)
    after = config_of(broker, "bounded")
    assert [after[name] for name in bounds] == ["3600000", "8000000", "2000000", "3600000", "CreateTime"]


def test_only_the_topic_of_figures_keeps_the_newest_of_each_key(broker: Broker) -> None:
    client = {"bootstrap.servers": broker.bootstrap_servers}
    assert [name for name in (*TOPICS, FIGURES) if keeps_newest(client, name)] == [FIGURES]


def test_a_topic_with_another_partition_count_is_an_error(broker: Broker) -> None:
    client = {"bootstrap.servers": broker.bootstrap_servers}
    create_topics(client, topics=["narrow"], partitions=2)
    with pytest.raises(ValueError, match="topic narrow has 2 partitions, 12 are needed"):
        create_topics(client, topics=["narrow"])


def test_topics_of_a_broker_that_is_away_are_not_waited_for() -> None:
    """The broker is asked for five seconds, though making topics may take thirty."""
    [nobody] = free_ports(1)
    began = time.monotonic()
    with pytest.raises(KafkaException, match=r"_TRANSPORT|_TIMED_OUT"):
        create_topics({"bootstrap.servers": f"127.0.0.1:{nobody}", "log_level": 0})
    assert time.monotonic() - began < 8


def test_a_killed_broker_comes_back_with_what_was_acknowledged(tmp_path: Path, jars: list[Path]) -> None:
    with running_broker(tmp_path, jars) as broker:
        client: dict[str, str | int | float | bool] = {"bootstrap.servers": broker.bootstrap_servers, "log_level": 0}
        create_topics(client, topics=["kept"], partitions=1)
        producer = Producer(client)
        producer.produce("kept", b"one")
        assert producer.flush(10) == 0
        address = broker.bootstrap_servers

        broker.kill()
        assert not is_ready(address)
        began = time.monotonic()
        broker.start()
        assert broker.bootstrap_servers == address
        assert time.monotonic() - began < 20  # 4 s alone on the machine

        consumer = Consumer({**client, "group.id": "kept", "enable.auto.commit": False})
        consumer.assign([TopicPartition("kept", 0, 0)])
        message = consumer.poll(10)
        assert message is not None and message.value() == b"one"
        consumer.close()


def test_a_paused_broker_does_not_answer_and_a_resumed_one_does(broker: Broker) -> None:
    broker.pause()
    try:
        assert not is_ready(broker.bootstrap_servers, timeout_s=0.5)
    finally:
        broker.resume()
    assert is_ready(broker.bootstrap_servers, timeout_s=20)


def test_a_broker_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path, jars: list[Path], broker: Broker) -> None:
    """The port is taken by another broker, which answers; the cluster id tells the brokers apart."""
    second = Broker(tmp_path, jars, port=broker.config.port, controller_port=free_ports(1)[0])
    with pytest.raises(RuntimeError, match=r"(?s)ended with exit code 1; the end of .*kafka.log:.*in use"):
        second.start()
    assert second.pid is None


def test_a_stopped_broker_leaves_no_process(tmp_path: Path, jars: list[Path]) -> None:
    with running_broker(tmp_path, jars) as broker:
        pid = broker.pid
        assert pid is not None
    assert not psutil.pid_exists(pid)
