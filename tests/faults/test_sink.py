"""The sink under `kill -9`: the lake equals the topics, each record once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from data.settings import KafkaSettings
from data.stream.reader import TopicReader
from data.stream.records import TRADES, partition_of
from data.times import NS
from offline.lake.store import Lake
from offline.served.columns import SERVED_TOPICS
from offline.served.finished import finished_days
from offline.served.manifest import folder_of, read_manifest
from offline.served.sink import offsets_behind, topic_reader
from tests.broker import Broker
from tests.days import MIDNIGHT
from tests.pipeline import Process, environment, wait_until
from tests.proofs import Proof
from tests.seaweed import Lakes
from tests.served import end, normal, record, records_of

KILLS = 10
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
BATCH = 400
"""Records of one transaction, for each topic; every fifth transaction is aborted."""
STEP_NS = 10 * NS
"""Event time between two records of a product: nine thousand records are a day."""


class Arrivals:
    """Writer of records to all topics, in transactions, some of which are aborted.

    Attributes:
        written: number of committed records of each topic.
    """

    def __init__(self, servers: str) -> None:
        config = {"bootstrap.servers": servers, "transactional.id": "test-sink", "linger.ms": 5}
        self._producer = Producer(config)
        self._producer.init_transactions(30)
        self._count = self.written = 0

    def write(self, transactions: int) -> None:
        for _ in range(transactions):
            self._producer.begin_transaction()
            for i in range(self._count, self._count + BATCH):
                product = PRODUCTS[i % 3]
                for topic in SERVED_TOPICS:
                    value = record(topic, i + 1, MIDNIGHT + i // 3 * STEP_NS, product_id=product)
                    value = b"{}" if i % 997 == 0 else end("gone", product) if i % 499 == 0 else value
                    self._producer.produce(topic, value, product, partition=partition_of(product))
                    self._producer.poll(0)
            self._producer.flush(30)  # an abort with records still in the client would break the numbering
            self._count += BATCH
            if self._count // BATCH % 5 == 0:
                self._producer.abort_transaction(30)
            else:
                self._producer.commit_transaction(30)
                self.written += BATCH

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Write until the block ends."""
        over = threading.Event()

        def write() -> None:
            while not over.wait(0.25):
                self.write(1)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def sink_process(servers: str, uri: str, log: Path) -> Process:
    """Return a running sink; each sink has a log of its own."""
    sink = Process("offline.served", environment(servers, log.parent / "models", LAKE_URI=uri), log)
    sink.start()
    return sink


def await_work(sink: Process, lake: Lake) -> None:
    """Return when the sink has changed a manifest of the lake, or has ended."""

    def state() -> list[object]:
        return [lake.objects.get(f"{folder_of(topic)}/manifest.json") for topic in SERVED_TOPICS]

    before = state()
    wait_until(lambda: state() != before or sink.process.poll() is not None, "work of the sink", within_s=120)


def records_on(servers: str, topic: str) -> dict[tuple[int, int], bytes]:
    """Return all committed records of a topic by partition and offset."""
    found: dict[tuple[int, int], bytes] = {}
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=servers)) as reader:
        for partition in reader.partitions(topic):
            for block in reader.read(topic, partition):
                found |= {(partition, offset): value for offset, value in zip(block.offsets, block.values, strict=True)}
    return found


def check(servers: str, lake: Lake, proof: Proof) -> None:
    """Compare the lake with the topics, and the lake's files with its manifests."""
    with topic_reader(KafkaSettings(kafka_bootstrap_servers=servers)) as reader:
        assert set(offsets_behind(lake, reader).values()) == {0}
    for topic in SERVED_TOPICS:
        on_topic = normal(records_on(servers, topic), topic)
        proof.equal(sorted(records_of(lake, topic).items()), sorted(on_topic.items()), f"lake {topic}")
        files = {path for path in lake.objects.paths(folder_of(topic)) if path.endswith(".parquet")}
        assert files == {file.path for file in read_manifest(lake, topic).files}


@pytest.mark.acceptance
def test_a_sink_killed_ten_times_at_random_points_keeps_each_record_once(
    own_broker: Broker, lakes: Lakes, tmp_path: Path, proof: Proof
) -> None:
    """Records arrive all the time; kills fall from the start of the process to the end of its work.

    A random delay before each kill chooses the point.
    """
    proof.disturbs(f"sink killed {KILLS} times by kill -9, lake in {lakes.kind}")
    rng, servers, uri = random.Random(14), own_broker.bootstrap_servers, lakes.uri()
    lake = Lake.open(uri)
    arrivals = Arrivals(servers)
    arrivals.write(50)
    killed = at_work = 0
    with arrivals.going_on():
        while killed < KILLS:
            before = {topic: read_manifest(lake, topic).next for topic in SERVED_TOPICS}
            sink = sink_process(servers, uri, tmp_path / "killed.log")
            if killed % 5:  # else while the process starts
                await_work(sink, lake)
            time.sleep(rng.uniform(0.0, 1.5))
            is_running = sink.process.poll() is None
            sink.kill()
            killed += is_running
            after = {topic: read_manifest(lake, topic).next for topic in SERVED_TOPICS}
            at_work += before != after
    last = sink_process(servers, uri, tmp_path / "last.log")
    assert last.process.wait(300) == 0, last.log.read_text()
    check(servers, lake, proof)
    manifest = read_manifest(lake, TRADES)
    assert finished_days(manifest)
    proof.saw(kills=killed, kills_after_a_manifest=at_work, records_of_each_topic=arrivals.written)


def test_a_sink_killed_twice_and_two_sinks_at_once_keep_each_record_once(
    own_broker: Broker, lakes: Lakes, tmp_path: Path, proof: Proof
) -> None:
    """On the shared broker, a running forecaster made feature rows from the test's trades while the test compared."""
    proof.disturbs(f"sink killed twice, then two sinks at once, lake in {lakes.kind}")
    servers, uri = own_broker.bootstrap_servers, lakes.uri()
    lake = Lake.open(uri)
    arrivals = Arrivals(servers)
    arrivals.write(10)
    for delay_s in (1.8, 2.5):  # about the start of the work, and within the work
        sink = sink_process(servers, uri, tmp_path / "killed.log")
        time.sleep(delay_s)
        sink.kill()
        arrivals.write(3)
    two = [sink_process(servers, uri, tmp_path / f"{name}.log") for name in ("one", "other")]
    codes = sorted(sink.process.wait(120) for sink in two)
    said = [sink.log.read_text() for sink in two]
    assert codes in ([0, 0], [0, 2]), said
    assert codes == [0, 0] or any("another process holds" in each for each in said)
    last = sink_process(servers, uri, tmp_path / "last.log")
    assert last.process.wait(120) == 0, last.log.read_text()
    check(servers, lake, proof)
