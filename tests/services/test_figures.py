"""The topic `figures` on a real broker: written whole, read from the beginning, followed, and compacted."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.figures import FiguresReader, publish_figures, publish_or_warn
from data.stream.records import FIGURES, Figure
from tests.broker import Broker


def settings(broker: Broker) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)


def figure(name: str, value: float, at: int = 1, **labels: str) -> Figure:
    return Figure(name, labels, value, at)


def test_figures_are_read_from_the_beginning_and_followed(broker: Broker) -> None:
    first = [figure("drift_ratio", 0.5, product_id="BTC-USD", view="change"), figure("retrain_failed", 0.0)]
    publish_figures(settings(broker), first)
    with FiguresReader(settings(broker)) as reader:
        assert reader.read().records[-2:] == first
        assert reader.read().records == []
        newer = figure("drift_ratio", 1.5, at=2, product_id="BTC-USD", view="change")
        publish_figures(settings(broker), [newer])
        assert reader.read().records == [newer]
    with FiguresReader(settings(broker)) as another:
        assert another.read().records[-1] == newer


def test_the_newest_figure_of_a_key_stays() -> None:
    """The order of labels is not part of the key."""
    keys = {
        figure("drift_alarm", 0.0, product_id="BTC-USD", view="loss").key,
        figure("drift_alarm", 1.0, at=9, view="loss", product_id="BTC-USD").key,
    }
    assert keys == {"drift_alarm{product_id=BTC-USD,view=loss}"}
    assert figure("retrain_failed", 0.0).key == "retrain_failed{}"


def test_the_topic_is_compacted_and_has_one_partition(broker: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    assert len(admin.list_topics(FIGURES, timeout=10).topics[FIGURES].partitions) == 1
    resource = ConfigResource(ResourceType.TOPIC, FIGURES)
    assert admin.describe_configs([resource])[resource].result(10)["cleanup.policy"].value == "compact"


def test_malformed_records_are_named_and_hide_no_figure(broker: Broker) -> None:
    bad: list[bytes] = [b"", b"{}", b'{"name":"drift_alarm","labels":{"a":1},"value":0,"at":1}', b"\xff"]
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for value in bad:
        producer.produce(FIGURES, value, b"key")
    producer.flush(10)
    last = figure("parity_different_rows", 0.0, product_id="BTC-USD")
    publish_figures(settings(broker), [last])
    with FiguresReader(settings(broker)) as reader:
        found = reader.read()
    assert found.records[-1] == last
    assert len(found.unreadable) == len(bad)


def test_figures_that_are_not_finite_or_find_no_broker_are_refused(broker: Broker, nobody: str) -> None:
    with pytest.raises(ValueError, match=r"a figure must be finite, drift_ratio\{\} was nan"):
        publish_figures(settings(broker), [figure("drift_ratio", float("nan"))])
    away = KafkaSettings(kafka_bootstrap_servers=nobody.removeprefix("http://"))
    with pytest.raises(NotRead, match=r"1 of 1 figures were not written to figures at .*make run"):
        publish_figures(away, [figure("retrain_failed", 0.0)], within_s=1.0)
    warnings: list[str] = []
    assert not publish_or_warn(away, [figure("retrain_failed", 0.0)], warnings.append, within_s=1.0)
    assert warnings[0].startswith("1 of 1 figures were not written")
