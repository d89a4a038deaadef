"""Exports of real processes, and the lag of a real client."""

from __future__ import annotations

import datetime as dt
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from data.process.catalog import CONSUMER_LAG, metrics_of
from data.process.declarations import Process as ProcessName
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.clients import reader_config
from data.stream.records import partition_of
from online.consumer_lag import ConsumerLag
from tests.broker import Broker, free_ports
from tests.exported import names_in
from tests.pipeline import Process, environment, replay, running, wait_until

MOST_SERIES = 2_000


def page_of(port: int) -> str:
    """Return the exports of a process; an empty text while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def samples(page: str) -> dict[tuple[str, ...], float]:
    """Return the values on a page, by name and label values."""
    families = text_string_to_metric_families(page)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_each_process_exports_exactly_what_is_declared_for_it(own_broker: Broker, models: Path, tmp_path: Path) -> None:
    """A replay at the recorded pace, some seconds long; the forecaster and the API on the same broker."""
    recording = tmp_path / "recording.csv"
    write_csv(recording, [simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, 5_000))])
    ports = dict(zip(("api", "forecaster", "ingestor"), free_ports(3), strict=True))
    settings = {f"{name.upper()}_PORT": str(port) for name, port in ports.items()}
    environ = environment(own_broker.bootstrap_servers, models, **settings)
    processes = [Process(f"online.{name}", environ, tmp_path / f"{name}.log") for name in ("api", "forecaster")]
    ingestor = replay(environ, tmp_path, "exported", recording, REPLAY_SPEED="5", PURPOSE="drill")
    with running(*processes, ingestor):
        latency = ("cryptovol_latency_seconds_count", "drill")
        wait_until(lambda: samples(page_of(ports["forecaster"])).get(latency), "forecasts of the replay")
        wait_until(lambda: samples(page_of(ports["ingestor"])).get(("cryptovol_replay_speed", "reached"), 0) > 0, "5 s")
        wait_until(lambda: ("cryptovol_ready",) in samples(page_of(ports["api"])), "the API answers")
        pages: dict[ProcessName, str] = {"api": "", "forecaster": "", "ingestor": ""}
        for name in pages:
            pages[name] = page_of(ports[name])
    for name, page in pages.items():
        assert names_in(page) == {metric.exported_name for metric in metrics_of(name)}, name
        assert len(samples(page)) <= MOST_SERIES
    ingested, scored = samples(pages["ingestor"]), samples(pages["forecaster"])
    assert 0 < ingested["cryptovol_replay_progress_ratio",] < 1
    assert ingested["cryptovol_replay_speed", "asked"] == 5
    assert ingested["cryptovol_replay_speed", "reached"] == pytest.approx(5, rel=0.3)
    partition = str(partition_of("ETH-USD"))
    assert scored["cryptovol_open_streams", partition, "drill"] == 1
    assert scored["cryptovol_open_streams", partition, "live"] == 0
    assert ingested["cryptovol_replay_partition_speed", partition] == 5
    assert scored["cryptovol_latency_seconds_count", "live"] == 0
    assert time.time() - 60 < scored["cryptovol_model_since_timestamp_seconds", "baseline", "1"] <= time.time()
    assert scored["cryptovol_model_train_end_timestamp_seconds", "baseline", "1"] > 0


class LagReader:
    """Read a topic record by record, and keep the lag that the client's statistics show meanwhile.

    Attributes:
        positions: next offset to take, by partition.
        seen: lag in sum and records that are left of 16, at each statistics of all partitions.
    """

    def __init__(self, broker: Broker, topic: str, partitions: Sequence[int]) -> None:
        self._registry = CollectorRegistry()
        gauge = Gauge(CONSUMER_LAG.name, CONSUMER_LAG.meaning, CONSUMER_LAG.labels, registry=self._registry)
        self._lag, self.positions = ConsumerLag(gauge, topic), dict.fromkeys(partitions, 0)
        self._lag.positions = self.positions
        self.seen: list[tuple[float, int]] = []
        config = reader_config(KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers))
        self._consumer = Consumer(config | {"statistics.interval.ms": 50, "stats_cb": self._read_statistics})
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])

    @property
    def left(self) -> int:
        return 16 - sum(self.positions.values())

    def take(self) -> list[float]:
        """Take at most one record; return the lag of each partition."""
        message = self._consumer.poll(0.1)
        if message is not None and message.error() is None:
            self.positions[message.partition() or 0] = (message.offset() or 0) + 1
        return self._lags()

    def take_all(self, pause_s: float = 0.0) -> None:
        """Take 16 records with a pause before each record; return when the statistics show no lag."""
        while self.left:
            time.sleep(pause_s)
            self.take()
        wait_until(lambda: self.take() and self.seen[-1:] == [(0, 0)], "nothing is left")

    def close(self) -> None:
        self._consumer.close()

    def _lags(self) -> list[float]:
        return [sample.value for family in self._registry.collect() for sample in family.samples]

    def _read_statistics(self, statistics: str) -> None:
        self._lag.read_statistics(statistics)
        lags = self._lags()
        if len(lags) == len(self.positions):
            self.seen.append((sum(lags), self.left))


def test_16_records_behind_on_several_partitions_are_a_lag_of_16(broker: Broker) -> None:
    """The client fetches all records into one queue, and the reader takes record by record.

    The client's clock sends the statistics, on a busy machine late: then the next reader pauses for longer. The last
    records come in a transaction; the markers of the transaction are no lag.
    """
    topic, partitions = "lag-of-16", (0, 2, 5, 11)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    admin.create_topics([NewTopic(topic, 12, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for row in range(16):
        producer.produce(topic, b"row", partition=partitions[row % 4])
    assert producer.flush(30) == 0
    for pause_s in (0.12, 0.5, 2.0):
        with closing(LagReader(broker, topic, partitions)) as reader:
            time.sleep(8 * pause_s)  # the client fetches all records, and the reader takes none
            reader.take_all(pause_s)
        assert [pair for pair in reader.seen if pair[0] != pair[1]] == []
        if {left for _, left in reader.seen} > {1, 8, 15, 16}:
            break
    assert reader.seen[0] == (16, 16)
    assert {left for _, left in reader.seen} > {1, 8, 15}, "states between the first and the last"
    with closing(LagReader(broker, topic, partitions)) as reader:
        reader.take_all()
        writer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": topic})
        writer.init_transactions(30)
        writer.begin_transaction()
        for partition in partitions:
            writer.produce(topic, b"row", partition=partition)
        writer.commit_transaction(30)
        wait_until(lambda: not sum(reader.take()) and sum(reader.positions.values()) == 20, "markers are no lag")
        del reader.positions[0]
        wait_until(lambda: len(reader.take()) == 3, "a revoked partition is gone")
