"""Run the parts whose metrics the dashboards show, with a client, and with models that move."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from confluent_kafka import Producer

from data.models.registry import ModelFile
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.stream.figures import publish_figures
from data.stream.records import TRADES, Figure
from data.trades import Trades
from offline.promotion.ledger import Action, Entry, move_figures
from orchestration.local.observers.login import observer_login
from orchestration.local.settings import StackSettings
from tests.broker import Broker
from tests.fakes import FakeRegistry
from tests.pipeline import Process, environment, replay, running, wait_until
from tests.prometheus import as_variables, observers, own_ports, result_of

ASKED_S = 0.1
"""Seconds between two requests of the client."""
ROWS_TO_A_REJECT = 5_000
"""Trades of a recording between two rows that are no trades."""


@dataclass
class ObservedStack:
    """Forecaster, API, exporter and Prometheus on a broker and a registry.

    Attributes:
        environ: environment of more processes.
        prometheus: address of a Prometheus with the rules of the project, login included.
    """

    folder: Path
    broker: Broker
    registry: FakeRegistry
    environ: dict[str, str]
    prometheus: str

    def ingestor(self, source_id: str, trades: Trades, **settings: str) -> Process:
        """Return the ingestor of a source, whose recording has rows that are no trades; not yet started."""
        path = self.folder / f"{source_id}.csv"
        write_csv(path, [trades])
        rows = path.read_text().splitlines(keepends=True)
        for at in range(len(rows), 1, -ROWS_TO_A_REJECT):
            rows.insert(at, "this row is no trade\n")
        path.write_text("".join(rows))
        return replay(self.environ, self.folder, source_id, path, **settings)

    def send_malformed(self) -> None:
        """Write a record that is no trade to the topic of trades."""
        producer = Producer({"bootstrap.servers": self.broker.bootstrap_servers})
        producer.produce(TRADES, b"{", partition=0)
        assert producer.flush(30) == 0

    def move(self, action: Action, file: ModelFile) -> None:
        """Make a version champion, and publish the move as `offline.promotion` does."""
        self.registry.files[file.name] = file
        self.registry.challengers = {n: each for n, each in self.registry.challengers.items() if each != file}
        now = dt.datetime.now(dt.UTC)
        self.publish(move_figures([Entry(action=action, model=file.name, to_version=file.version, digest="", at=now)]))

    def publish(self, figures: Iterable[Figure]) -> None:
        """Publish figures as the batch jobs do."""
        publish_figures(KafkaSettings(kafka_bootstrap_servers=self.broker.bootstrap_servers), figures)


@contextmanager
def observed_stack(folder: Path, broker: Broker, registry: FakeRegistry) -> Iterator[ObservedStack]:
    """Yield a stack whose API serves a client that asks all the time."""
    ports = own_ports()
    environ = environment(broker.bootstrap_servers, folder / "models", MLFLOW_TRACKING_URI=registry.uri)
    environ |= as_variables(ports)
    parts = ("online.forecaster", "online.api", "monitoring.exporter")
    processes = [Process(module, environ, folder / f"{module}.log") for module in parts]
    settings = StackSettings(_env_file=None, var_dir=folder, **ports)
    prometheus = observer_login(settings).in_url(f"http://127.0.0.1:{settings.prometheus_port}")
    with running(*processes), observers(settings, "prometheus"), _client(f"http://127.0.0.1:{settings.api_port}"):
        wait_until(lambda: result_of(prometheus, 'cryptovol_ready{job="api"} == 1'), "the API serves", 300)
        yield ObservedStack(folder, broker, registry, environ, prometheus)


@contextmanager
def _client(api: str) -> Iterator[None]:
    """Ask for forecasts of both kinds, all the time."""
    closing = threading.Event()
    rows = json.dumps({"rows": [{"n": 50, "ret_mean": 1e-5, "ret_std": 2e-4}]}).encode()
    posted = urllib.request.Request(f"{api}/predict", rows, {"content-type": "application/json"})
    products = ("BTC-USD", "ETH-USD")
    requests = cycle([posted, *(urllib.request.Request(f"{api}/predict/{product_id}") for product_id in products)])

    def ask() -> None:
        for request in requests:
            if closing.wait(ASKED_S):
                return
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=5.0).close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()
