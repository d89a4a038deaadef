"""Dagster's real UI with and without the door, and pages of another origin in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import httpx
import pytest
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_graphql import DagsterGraphQLClient
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.types import ASGIApp

from data.files import CHECKOUT
from orchestration.local.observers.configs import write_configs
from orchestration.local.observers.login import observer_login
from orchestration.local.observers.parts import observer_parts
from orchestration.local.parts import listens, stack_parts
from orchestration.local.settings import StackSettings
from orchestration.local.stack import child_environment
from orchestration.settings import Login
from orchestration.ui.door import Door
from tests.browser import running_browser
from tests.other_origin import REBINDING, Socket, Target, Write, attack
from tests.pipeline import wait_until
from tests.prometheus import own_ports

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of uvicorn's WebSockets and of Dagster's client
]

ADDRESS = "127.0.0.1"
CHECK = "/report_asset_check/rows?check_name=planted&passed=true"


ASKED = """fetch('/graphql', {method: 'POST', headers: {'content-type': 'application/json'},
    body: JSON.stringify({query: '{version}'})}).then(answer => answer.status)"""
OPENED = """new Promise(done => {
    const socket = new WebSocket(location.origin.replace('http', 'ws') + '/graphql', 'graphql-ws');
    socket.onopen = () => done(true);
    socket.onerror = () => done(false); })"""


def mutation(key: str) -> str:
    """Return a mutation that leaves a trace in the instance."""
    return f'mutation {{ setConcurrencyLimit(concurrencyKey: "{key}", limit: 1) }}'


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """Serve an application in a thread; yield the port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "the server listens")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


class Dagster:
    """Dagster's application on an instance of its own, with what others have done to it."""

    def __init__(self, instance: dg.DagsterInstance, app: ASGIApp) -> None:
        self.instance, self.app = instance, app

    def traces(self) -> set[str]:
        """Return the keys of executed mutations, and `planted` for a reported check."""
        keys = set(self.instance.event_log_storage.get_concurrency_keys())
        events = self.instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION))
        return keys | ({"planted"} if events else set())


@pytest.fixture
def dagster() -> Iterator[Dagster]:
    with (
        dg.instance_for_test() as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget(), dg.__version__) as context,
    ):
        yield Dagster(instance, create_app_from_workspace_process_context(context))


def target(port: int) -> Target:
    connect: list[dict[str, Any]] = [
        {"type": "connection_init"},
        {"id": "1", "type": "start", "payload": {"query": "{version}"}},
    ]
    return Target(
        "Dagster UI",
        port,
        ["/graphql?query={version}", "/server_info", "/graphql"],
        [
            Write(f"/graphql?query={quote(mutation('by_get'))}", method="GET"),
            Write(f"/graphql?query={quote(mutation('by_form'))}", json.dumps({"query": mutation("by_json")})),
            Write(f"/graphql?query={quote(mutation('bodiless'))}"),
            Write(CHECK),
        ],
        [Socket("/graphql", "graphql-ws", connect)],
    )


def test_a_page_of_another_origin_does_nothing_behind_the_door_and_much_without(dagster: Dagster) -> None:
    """Without the door, the same attacks execute mutations, report a check, and open a WebSocket."""
    with running_browser(*REBINDING) as browser:
        with served(Door(dagster.app, ())) as port:
            assert attack(browser, target(port)) == []
            assert dagster.traces() == set()
        with served(dagster.app) as port:
            found = attack(browser, target(port))
    assert dagster.traces() == {"by_get", "by_form", "by_json", "bodiless", "planted"}
    assert any("websocket" in each for each in found)
    assert any("/server_info: 200" in each for each in found), f"under the rebound name, answers can be read: {found}"


def test_clients_and_our_own_page_work_behind_the_door(dagster: Dagster) -> None:
    with served(Door(dagster.app, ())) as port:
        url = f"http://{ADDRESS}:{port}"
        client = DagsterGraphQLClient(ADDRESS, port_number=port)
        assert client._execute("{version}")["version"] == dg.__version__
        assert httpx.post(f"{url}/graphql", json={"query": mutation("own")}, headers={"origin": url}).status_code == 200
        assert httpx.get(f"{url}/server_info").json()["dagster_version"] == dg.__version__
        with running_browser() as browser:
            page = browser.new_page()
            page.goto(url)
            page.wait_for_selector("text=Dagster", state="attached")
            assert page.evaluate(ASKED) == 200
            assert page.evaluate(OPENED)
    assert dagster.traces() == {"own"}


def test_the_ui_does_not_listen_beyond_loopback_without_a_password(tmp_path: Path) -> None:
    environment = os.environ | {"DAGSTER_HOST": "0.0.0.0", "UI_PASSWORD": "", "DAGSTER_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "orchestration.webserver"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert "UI_PASSWORD" in sentence


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StackSettings, Login]]:
    """Run the other servers of a stack, with the commands of the stack; the broker is missing."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = StackSettings(_env_file=None, var_dir=tmp_path, **own_ports())
    write_configs(settings)
    (tmp_path / "mlflow").mkdir()
    kafka = {"bootstrap.servers": settings.local_kafka}
    wanted = ("mlflow", "api", "forecaster", "exporter", "prometheus", "alertmanager")
    parts = [part for part in (*stack_parts(settings, kafka), *observer_parts(settings)[0]) if part.name in wanted]
    compiled = {"PYTHONPYCACHEPREFIX": str(CHECKOUT / "var" / "pycache")}  # a new folder would cost half a minute
    environment = child_environment(settings) | compiled
    processes = []
    try:
        for part in parts:
            with (tmp_path / f"{part.name}.log").open("w") as log:
                own = environment | dict(part.environment)
                processes.append(subprocess.Popen(part.command, env=own, cwd=CHECKOUT, stdout=log, stderr=log))
        for part in parts:
            is_up = listens(next(iter(part.ports.values())))
            wait_until(is_up, f"{part.name} listens", 300)
        yield settings, observer_login(settings)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_other_servers_of_a_stack_tell_no_page_anything(stack: tuple[StackSettings, Login]) -> None:
    """MLflow's own guard alone would admit a page on another port of this machine to move an alias."""
    settings, login = stack
    url = f"{settings.local_mlflow}/api/2.0/mlflow"
    for path, body in (
        ("registered-models/create", {"name": "m"}),
        ("model-versions/create", {"name": "m", "source": "s3://bucket/m"}),
        ("registered-models/alias", {"name": "m", "alias": "champion", "version": "1"}),
    ):
        assert httpx.post(f"{url}/{path}", json=body, timeout=60).status_code == 200
    planted = Write(
        "/api/2.0/mlflow/registered-models/alias", json.dumps({"name": "m", "alias": "bad", "version": "1"})
    )
    drop = Write("/api/2.0/mlflow/registered-models/alias?name=m&alias=champion", method="DELETE")
    silence = {"matchers": [{"name": "a", "value": ".+", "isRegex": True}], "startsAt": "2020-01-01T00:00:00Z",
               "endsAt": "2099-01-01T00:00:00Z", "createdBy": "x", "comment": "x"}  # fmt: skip
    targets = [
        Target("MLflow", settings.mlflow_port, ["/", "/api/2.0/mlflow/registered-models/get?name=m"], [planted, drop]),
        Target("API", settings.api_port, ["/", "/version", "/metrics", "/live/events"], [Write("/")]),
        Target("forecaster", settings.forecaster_port, ["/metrics"], [Write("/metrics")]),
        Target("exporter", settings.exporter_port, ["/metrics"], [Write("/metrics")]),
    ]
    behind_login = [
        Target("Prometheus", settings.prometheus_port, ["/metrics", "/api/v1/query?query=up"], [Write("/-/quit")]),
        Target(
            "Alertmanager",
            settings.alertmanager_port,
            ["/metrics", "/api/v2/alerts"],
            [Write("/api/v2/silences", json.dumps(silence))],
        ),
    ]
    with running_browser(*REBINDING) as browser:
        assert [each for target in (*targets, *behind_login) for each in attack(browser, target)] == []
        visitor = {"username": login.user, "password": login.password}
        assert [each for target in behind_login for each in attack(browser, target, visitor)] == []
    model = httpx.get(f"{url}/registered-models/get?name=m", timeout=60).json()["registered_model"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    silences = login.in_url(f"http://127.0.0.1:{settings.alertmanager_port}/api/v2/silences")
    assert httpx.get(silences).json() == []
