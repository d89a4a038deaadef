"""All processes of the system under one hand: broker, registry, two forecasters, replay, sink, API, exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from data.models.registry import Registry
from data.settings import KafkaSettings
from data.stream.records import PARTITIONS, PREDICTIONS
from offline.lake.store import Lake
from offline.served.sink import offsets_behind, topic_reader
from online.settings import RESTARTED
from tests.broker import Broker, free_ports
from tests.faults.parts import PAUSE_S, Part
from tests.mlflow_server import MlflowServer
from tests.models import forced, model_bytes, put_version
from tests.pipeline import Process, environment, replay, wait_until

KAFKA, MLFLOW, INGESTOR, SINK, API, EXPORTER = "kafka", "mlflow", "ingestor", "sink", "api", "exporter"
FORECASTERS = ("forecaster 1", "forecaster 2")
SINK_PAUSE_S = 2.0
"""Pause between two runs of the sink."""


class Counts:
    """Reader of a topic that keeps the number of rows and ends of each source alone."""

    def __init__(self, servers: str, topic: str, source_id: str) -> None:
        config = {"bootstrap.servers": servers, "group.id": "unused", "isolation.level": "read_committed"}
        quiet = {"log_level": 0, "error_cb": lambda _: None, "reconnect.backoff.max.ms": 500}
        self._consumer = Consumer(config | quiet | {"enable.auto.commit": False})
        self._consumer.assign([TopicPartition(topic, place, OFFSET_BEGINNING) for place in range(PARTITIONS)])
        self._mine = f'"source_id":"{source_id}"'.encode()
        self.rows = self.ends = 0

    def read(self) -> None:
        for message in self._consumer.consume(10_000, 0.05):
            value = message.value() or b""
            if message.error() is None and self._mine in value:
                is_end = b'"end":true' in value
                self.ends, self.rows = self.ends + is_end, self.rows + (not is_end)

    def close(self) -> None:
        self._consumer.close()


class Bench:
    """All processes of the system on one broker, each with a log in a folder, and each started again after its end.

    Attributes:
        parts: the processes by name.
        killed: how often each process was killed.
    """

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        (folder / "mlflow").mkdir()
        self.mlflow = MlflowServer(folder / "mlflow")
        self.lake = str(folder / "lake")
        api_port, exporter_port = free_ports(2)
        self.api, self.exporter = (f"http://127.0.0.1:{port}" for port in (api_port, exporter_port))
        more = {"MLFLOW_TRACKING_URI": self.mlflow.uri, "LAKE_URI": self.lake, "SLOT": ""}
        more |= {"API_PORT": str(api_port), "EXPORTER_PORT": str(exporter_port)}
        self.environ = environment(broker.bootstrap_servers, folder / "models", **more)
        self.killed: Counter[str] = Counter()
        self.parts = {
            KAFKA: Part(broker.launch, broker.kill, lambda: 1 if broker.has_ended else None),
            MLFLOW: Part(self.mlflow.launch, self.mlflow.kill, self.mlflow.exit_code),
            **{name: self._part("online.forecaster", name) for name in FORECASTERS},
            SINK: self._part("offline.served", SINK, pause_s=SINK_PAUSE_S),
            API: self._part("online.api", API),
            EXPORTER: self._part("monitoring.exporter", EXPORTER),
        }

    def _part(self, module: str, name: str, pause_s: float = PAUSE_S) -> Part:
        return Part.of(Process(module, self.environ, self.log(name)), pause_s)

    def log(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all processes but the replay in the block; the baseline is champion. End all after the block."""
        started: list[Part] = [self.parts[MLFLOW]]
        self.mlflow.start()
        try:
            put_version(self.mlflow.uri, "volatility-baseline", model_bytes())
            forced(Registry(self.mlflow.uri), "volatility-baseline", "1")
            for name in (*FORECASTERS, SINK, API, EXPORTER):
                self.parts[name].start()
                started.append(self.parts[name])
            wait_until(self.is_well, "API and exporter are ready", within_s=120)
            yield
        finally:
            for part in (*started, *(part for name, part in self.parts.items() if name == INGESTOR)):
                part.kill()

    def is_well(self) -> bool:
        """Return whether API, registry and exporter answer that all is well."""
        self.look()
        try:
            answers = [httpx.get(f"{url}/health", timeout=5.0) for url in (self.api, self.mlflow.uri)]
            exported = httpx.get(f"{self.exporter}/metrics", timeout=5.0).text
        except httpx.TransportError:
            return False
        return all(answer.status_code == 200 for answer in answers) and "cryptovol_ready 1.0" in exported.splitlines()

    def look(self) -> None:
        for part in self.parts.values():
            part.look()

    def kill(self, name: str) -> None:
        """End a running process by SIGKILL, and start it again at once; a process in its pause is waited for."""
        part = self.parts[name]

        def runs() -> bool:
            self.look()
            return part.is_running

        wait_until(runs, f"{name} runs")
        part.kill()
        self.killed[name] += 1
        part.start()

    def replay(self, source_id: str, recording: Path, speed: str) -> Part:
        """Start the replay of a source, over as a part when the source has ended."""
        ingestor = replay(self.environ, self.folder, source_id, recording, REPLAY_SPEED=speed)
        part = self.parts[INGESTOR] = Part.of(ingestor, once=True)
        part.start()
        ingestor.environment = ingestor.environment | RESTARTED
        return part

    def await_end(self, source_id: str, products: int, within_s: float) -> None:
        """Wait until the replay is over, and its ends have gone through to the forecasts."""
        counts = Counts(self.broker.bootstrap_servers, PREDICTIONS, source_id)

        def is_over() -> bool:
            self.look()
            counts.read()
            return self.parts[INGESTOR].is_over and counts.ends >= products

        try:
            wait_until(is_over, f"the end of {source_id}", within_s)
        finally:
            counts.close()

    def await_lake(self, within_s: float = 120.0) -> None:
        """Wait until the sink has taken all records of all topics."""
        lake, kafka = Lake.open(self.lake), KafkaSettings(kafka_bootstrap_servers=self.broker.bootstrap_servers)

        def is_taken() -> bool:
            self.look()
            with topic_reader(kafka) as reader:
                return not any(offsets_behind(lake, reader).values())

        wait_until(is_taken, "the sink has taken all records", within_s)
