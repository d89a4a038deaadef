"""The same day without adaptation: when the alert of coverage fires."""

from __future__ import annotations

from pathlib import Path

from data.files import CHECKOUT
from data.stream.topics.creation import create_topics
from monitoring.drift.hours import HOUR_NS
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import fetch_jars
from orchestration.local.observers.login import observer_login
from orchestration.local.parts import says_ready
from orchestration.local.settings import StackSettings
from tests.broker import running_broker
from tests.harm.asking import await_rules
from tests.harm.clock import EventClock
from tests.harm.day import HARM_FROM, SOURCE, WATCHED_HOURS, play
from tests.pipeline import Process, environment, running, wait_until
from tests.prometheus import as_variables, observers, own_ports, result_of

READY_S = 600.0
"""Limit for a start, in which the forecaster may compile its kernels, on two busy processors."""
ALERT = 'ALERTS{alertname="ForecastCoverageLow",alertstate="firing"}'


def first_page(folder: Path, recording: Path, mlflow: str) -> int | None:
    """Return the event time, ns since 1970, at which the alert of coverage fires for forecasts without adaptation.

    None if the alert is silent in the watched hours. Broker, forecaster, exporter and Prometheus are of this function
    alone; the champion and its promises are of the registry.

    Args:
        folder: new; for all state.
        mlflow: address of the registry.
    """
    folder.mkdir()
    ports = own_ports()
    ours = StackSettings(_env_file=None, var_dir=folder, **ports)
    with running_broker(folder / "kafka", fetch_jars(jars_folder(CHECKOUT / "var"))) as broker:
        servers = broker.bootstrap_servers
        create_topics({"bootstrap.servers": servers, "log_level": 4})
        environ = environment(servers, folder / "models", MLFLOW_TRACKING_URI=mlflow, PURPOSE="replay")
        environ |= as_variables(ports)
        modules = ("tests.harm.unadapted", "monitoring.exporter")
        processes = [Process(module, environ, folder / f"{module}.log") for module in modules]
        url = observer_login(ours).in_url(f"http://127.0.0.1:{ours.prometheus_port}")
        with running(*processes), observers(ours, "prometheus"), EventClock(servers, SOURCE) as clock:
            for port in (ours.forecaster_port, ours.exporter_port):
                wait_until(says_ready(f"http://127.0.0.1:{port}/metrics"), f"port {port} is ready", READY_S)
            for hour in range(WATCHED_HOURS + 1):
                play(environ, folder, recording, clock, HARM_FROM + hour * HOUR_NS)
                await_rules(url)
                if result_of(url, ALERT):
                    return clock.now
    return None
