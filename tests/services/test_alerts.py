"""Real Prometheus and Alertmanager: cases of the rules, series of a running stack for each rule, and a webhook."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import msgspec
import pytest
from confluent_kafka import Producer
from msgspec.structs import replace

from data.files import CHECKOUT
from data.process.catalog import FIGURES
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.figures import publish_figures
from data.stream.records import PREDICTIONS, Figure, partition_of
from orchestration.local.dagster.client import open_local
from orchestration.local.observers.configs import alertmanager_file, prometheus_file, web_file, write_configs
from orchestration.local.observers.login import observer_login, password_file
from orchestration.local.parts import fetch_text
from orchestration.local.settings import StackSettings
from orchestration.settings import Login
from tests.broker import Broker, free_ports
from tests.fakes import FakeRegistry
from tests.models import model_bytes, model_file
from tests.pipeline import Process, environment, replay, running, wait_until
from tests.prometheus import as_variables, observers, own_ports, result_of
from tests.rules_files import CASES, RULES, selectors
from tests.unit.test_live_truth import market

PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
ABSENT = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(ABSENT), reason=f"not on this machine: {', '.join(ABSENT)}; apt-get install prometheus prometheus-alertmanager"
)


def check(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def settings(folder: Path, **values: Any) -> StackSettings:
    return StackSettings(_env_file=None, var_dir=folder, **values)


def test_each_alert_fires_and_is_silent_as_its_cases_say() -> None:
    check("promtool", "test", "rules", *sorted(CASES.glob("*.yml")))


def test_the_configuration_is_taken_as_committed_and_as_written_for_a_stack(tmp_path: Path) -> None:
    ours = settings(tmp_path, alert_webhook_url="http://hook.example/path?key=value")
    alertmanager_file(ours).parent.mkdir(parents=True)
    alertmanager_file(ours).write_text("")  # an earlier file, which others may read
    write_configs(ours)
    configs = (prometheus_file(ours), alertmanager_file(ours))
    private = (*configs, *map(web_file, configs), password_file(ours))
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert "key=value" in alertmanager_file(ours).read_text()
    check("promtool", "check", "rules", *sorted(RULES.glob("*.yml")))
    check("promtool", "check", "web-config", *map(web_file, configs))
    for prometheus in (CHECKOUT / "monitoring" / "prometheus.yml", prometheus_file(ours)):
        check("promtool", "check", "config", prometheus)
    for alertmanager in (CHECKOUT / "monitoring" / "alertmanager.yml", alertmanager_file(ours)):
        check("amtool", "check-config", alertmanager)
    assert alertmanager_file(ours).read_text().count('webhook_configs: [{"url": "http://hook.example/') == 2


class Webhook:
    """A receiver on a real socket, and the received documents."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.documents.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the received alerts of a name."""
        every = (alert for document in self.documents for alert in document["alerts"])
        return [alert for alert in every if alert["labels"]["alertname"] == name]

    def alerts(self) -> set[str]:
        """Return the names of the received alerts."""
        return {alert["labels"]["alertname"] for document in self.documents for alert in document["alerts"]}


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


def get(url: str) -> Any:
    with open_local(url, 10) as answer:
        return json.load(answer)


def post(url: str, document: Any) -> None:
    open_local(url, 10, json.dumps(document).encode()).close()


class PromisingRegistry(FakeRegistry):
    """A registry with version 7 of `volatility-ml`, whose promises cannot be kept, and a champion without a file."""

    def answer(self, path: str) -> tuple[int, bytes]:
        if "name=volatility-ml&alias=champion" in path:
            return self.version("8", digest="0")
        if "model-versions/get?name=volatility-ml&version=7" in path:
            digest = self.files["volatility-ml"].digest
            return self.version("7", digest=digest, promised_coverage_05="1.05", promised_qlike_95="0")
        return super().answer(path)

    def version(self, number: str, **tags: str) -> tuple[int, bytes]:
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        return 200, json.dumps({"model_version": {"version": number, "tags": listed}}).encode()


def publish(servers: str, registry: FakeRegistry) -> None:
    """Publish five hours of forecasts by version 7 of `ml`, worse than the baseline, and each figure of batch jobs."""
    producer = Producer({"bootstrap.servers": servers})
    digest = registry.files["volatility-ml"].digest
    for each in market(5).records(digest=digest):
        own = replace(each, score=0.2 * each.score)
        producer.produce(PREDICTIONS, msgspec.json.encode(own), "BTC-USD", partition=partition_of("BTC-USD"))
    producer.flush(30)
    now, labels = time.time_ns(), {"product_id": "BTC-USD", "view": "change", "column": "ret_std", "topic": PREDICTIONS}
    labels |= {"model_variant": "ml", "version": "7", "move": "promote"}
    named = ((metric, metric.name.removeprefix("cryptovol_")) for metric in FIGURES)
    figures = [Figure(name, {label: labels[label] for label in metric.labels}, 1.0, now) for metric, name in named]
    publish_figures(KafkaSettings(kafka_bootstrap_servers=servers), figures)


@pytest.fixture
def promising() -> Iterator[PromisingRegistry]:
    registry = PromisingRegistry()
    registry.files["volatility-ml"] = model_file("volatility-ml", "7", model_bytes(variance_floor="1e-10"))
    registry.files["volatility-baseline"] = model_file(version="1")
    yield registry
    registry.close()


@dataclass
class Prometheus:
    """Questions to a Prometheus."""

    url: str

    def values(self, expression: str) -> list[dict[str, Any]]:
        """Return the value of each series of an expression."""
        return result_of(self.url, expression)

    def firing(self) -> set[str]:
        """Return the names of the firing alerts."""
        return {each["metric"]["alertname"] for each in self.values('ALERTS{alertstate="firing"}')}

    def without_data(self) -> set[str]:
        """Return the expressions of rules without a value now.

        A silent alert has no value; the metrics of a silent alert must have values.
        """
        empty: set[str] = set()
        for group in get(f"{self.url}/api/v1/rules")["data"]["groups"]:
            for rule in group["rules"]:
                assert not rule.get("lastError"), rule
                if rule["health"] != "ok":  # not yet evaluated
                    empty.add(rule["name"])
                elif not self.values(rule["query"]):
                    parts = {each.text for each in selectors(rule["query"])}
                    empty |= {part for part in parts if rule["type"] == "recording" or not self.values(part)}
        return empty


def test_each_rule_has_data_in_a_running_stack_and_a_page_reaches_the_webhook(
    own_broker: Broker, promising: PromisingRegistry, webhook: Webhook, tmp_path: Path
) -> None:
    """A replay through forecaster and API; the exporter judges forecasts that were published before."""
    publish(own_broker.bootstrap_servers, promising)
    recording = tmp_path / "recording.csv"
    write_csv(recording, [simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(14, 16)).take(slice(0, 20_000))])
    ports = own_ports()
    environ = environment(own_broker.bootstrap_servers, tmp_path / "models", MLFLOW_TRACKING_URI=promising.uri)
    environ |= as_variables(ports)
    modules = ("online.forecaster", "online.api", "monitoring.exporter")
    processes = [Process(module, environ, tmp_path / f"{module}.log") for module in modules]
    ours = settings(tmp_path, alert_webhook_url=webhook.url, **ports)
    prometheus = Prometheus(observer_login(ours).in_url(f"http://127.0.0.1:{ours.prometheus_port}"))
    with (
        running(*processes, replay(environ, tmp_path, "replayed", recording, REPLAY_SPEED="5")),
        observers(ours, "prometheus", "alertmanager"),
    ):
        wait_until(lambda: prometheus.values('cryptovol_ready{job="api"} == 1'), "the API serves", 120)
        wait_until(lambda: prometheus.values("cryptovol_forecast_worse_p"), "forecasts are judged", 60)
        forecast = f"http://127.0.0.1:{ours.api_port}/predict/ETH-USD"
        wait_until(lambda: fetch_text(forecast), "the API has a forecast of the replay")
        deadline = time.monotonic() + 60
        while (empty := prometheus.without_data()) and time.monotonic() < deadline:
            time.sleep(1)
        assert empty == set()
        pages = {"DriftWithLoss", "ForecastCoverageLow"}
        tickets = {"ForecastLossHigh", "ForecastWorseThanBaseline", "ParityBroken", "RetrainFailing"}
        wait_until(lambda: pages | tickets | {"Watchdog"} <= prometheus.firing(), "the alerts fire")
        wait_until(lambda: pages <= webhook.alerts(), "the pages arrive", 30)
        assert "Watchdog" not in webhook.alerts()
        assert webhook.documents[0]["commonLabels"]["severity"] == "page"  # tickets wait a minute
        [alert] = [each for each in webhook.of("DriftWithLoss") if each["status"] == "firing"]
        assert alert["labels"]["product_id"] == "BTC-USD"
        assert alert["annotations"]["runbook"] == "docs/runbook.md#driftwithloss"


def test_a_dead_broker_silences_what_follows_from_it(webhook: Webhook, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ours = settings(tmp_path, alert_webhook_url=webhook.url, alertmanager_port=port)
    stale = {"alertname": "ForecastStale", "severity": "page", "follows": "broker", "product_id": "BTC-USD"}
    drift = {"alertname": "DriftWithLoss", "severity": "page", "product_id": "BTC-USD"}
    broker = {"alertname": "BrokerDown", "severity": "page"}
    with observers(ours, "alertmanager"):
        url = observer_login(ours).in_url(f"http://127.0.0.1:{port}/api/v2/alerts")
        post(url, [{"labels": labels} for labels in (broker, stale, drift)])
        wait_until(lambda: {"BrokerDown", "DriftWithLoss"} <= webhook.alerts(), "pages arrive", 30)
        assert "ForecastStale" not in webhook.alerts()
    assert webhook.of("DriftWithLoss")[0]["labels"] == drift


def test_prometheus_and_alertmanager_ask_for_the_login(tmp_path: Path) -> None:
    """A password of the settings goes before the generated one."""
    named = dict(zip(("prometheus_port", "alertmanager_port"), free_ports(2), strict=True))
    ours = settings(tmp_path, ui_user="me", ui_password="pass word", **named)
    assert observer_login(settings(tmp_path / "other")) == observer_login(settings(tmp_path / "other")), "made once"
    with observers(ours, "prometheus", "alertmanager"):
        for port, path in ((ours.prometheus_port, "/api/v1/alerts"), (ours.alertmanager_port, "/api/v2/alerts")):
            url = f"http://127.0.0.1:{port}{path}"
            assert get(Login("me", "pass word").in_url(url)) is not None
            for wrong in (url, Login("me", "pass").in_url(url), Login("cryptovol", "pass word").in_url(url)):
                with pytest.raises(HTTPError) as refused:
                    get(wrong)
                assert refused.value.code == 401
        asked = Prometheus(Login("me", "pass word").in_url(f"http://127.0.0.1:{ours.prometheus_port}"))
        told = "prometheus_notifications_alertmanagers_discovered"
        assert asked.values("vector(1)")
        wait_until(lambda: f"{told} 1" in (fetch_text(asked.url + "/metrics") or ""), "Prometheus has Alertmanager")
    assert not password_file(ours).exists()
