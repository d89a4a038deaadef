"""The gateway asks for a password, limits requests, and the pages work behind their paths."""

from __future__ import annotations

import json
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from data.models.kept import save_last_good
from tests import compose
from tests.broker import free_ports
from tests.browser import running_browser
from tests.gateway import LOGIN, NOBODY, running_gateway
from tests.mlflow_server import MlflowServer
from tests.models import model_file
from tests.pipeline import Process, environment, running, wait_until

SERVICES = compose.services()
PAGES = ("/dagster/", "/mlflow/")
ROW = {"n": 50, "ret_mean": 0.00001, "ret_std": 0.0002}
BUSY_S = 60.0
"""On a busy machine the check of a password takes seconds."""


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, timeout=BUSY_S, **options)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


class MlflowOfCompose(MlflowServer):
    """MLflow with the options and the environment of compose.yaml, but a port and a folder of its own, and SQLite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.uri += "/mlflow"

    def command(self) -> list[str]:
        words = shlex.split(compose.words(SERVICES["mlflow"])[-1])
        command = words[words.index("mlflow") :]
        here = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination": f"{self.folder}/artifacts",
        }
        for option, value in here.items():
            command[command.index(option) + 1] = value
        return command

    def environment(self) -> dict[str, str]:
        return compose.environment(SERVICES["mlflow"])


READ_BODY_S = 3
"""Limit for a request's body here: short, so a stream that outlasts the limit is no long test."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run API, MLflow and Dagster's UI with the environment of compose.yaml behind the gateway; yield its URL."""
    folder = tmp_path_factory.mktemp("gateway")
    save_last_good(folder / "models", model_file("volatility-baseline"))
    api, dagster = free_ports(2)
    environ = environment(NOBODY, folder / "models", VAR_DIR=str(folder), MODEL_VARIANT="baseline")
    nowhere = {"grpc_server": {"host": "127.0.0.1", "port": 9, "location_name": "cryptovol"}}
    (folder / "workspace.json").write_text(json.dumps({"load_from": [nowhere]}))
    (folder / "dagster").mkdir()
    webserver = {
        "DAGSTER_HOME": str(folder / "dagster"),
        "DAGSTER_HOST": "0.0.0.0",
        "DAGSTER_PORT": str(dagster),
        "UI_PASSWORD": LOGIN[1],
        "DAGSTER_PUBLIC_URL": SERVICES["dagster-webserver"]["environment"]["DAGSTER_PUBLIC_URL"],
    }
    workspace = ("--workspace", str(folder / "workspace.json"))
    mlflow = MlflowOfCompose(folder)
    upstreams = {
        "API_UPSTREAMS": f"127.0.0.1:{api}",
        "MLFLOW_UPSTREAM": f"127.0.0.1:{mlflow.port}",
        "DAGSTER_UPSTREAM": f"127.0.0.1:{dagster}",
    }
    with (
        running(
            Process("online.api", environ | {"API_PORT": str(api)}, folder / "api.log"),
            Process("orchestration.webserver", environ | webserver, folder / "dagster.log", workspace),
        ),
        running_gateway(folder, f"{READ_BODY_S}s", **upstreams) as url,
    ):
        try:
            mlflow.start()
            wait_until(lambda: answers(f"http://127.0.0.1:{api}/health/live"), "the API is alive")
            is_up = f"http://127.0.0.1:{dagster}/dagster/server_info"
            wait_until(lambda: answers(is_up), "Dagster answers", within_s=120)
            yield url
        finally:
            mlflow.stop()


def test_the_pages_ask_for_the_password(gateway: str) -> None:
    for page in PAGES:
        moved = get(f"{gateway}{page.rstrip('/')}", auth=LOGIN)
        assert (moved.status_code, moved.headers["location"]) == (302, page)
        refused = [get(f"{gateway}{page}"), get(f"{gateway}{page}", auth=("cryptovol", "wrong"))]
        assert [answer.status_code for answer in refused] == [401, 401]
        assert refused[0].headers["www-authenticate"].startswith("Basic")
        assert get(f"{gateway}{page}", auth=LOGIN).status_code == 200


def test_a_path_of_mlflow_is_under_the_password_too(gateway: str) -> None:
    """Also the registry's API: `MLFLOW_TRACKING_URI` may be the gateway's path, with a user name and a password."""
    path = f"{gateway}/mlflow/api/2.0/mlflow/experiments/search?max_results=1"
    assert get(path).status_code == 401
    assert get(path, auth=LOGIN).json()["experiments"]


def test_the_api_is_at_the_root_and_its_metrics_are_not(gateway: str) -> None:
    answer = httpx.post(f"{gateway}/predict", json={"rows": [ROW]}, timeout=BUSY_S)
    assert answer.status_code == 200
    assert "server" not in answer.headers or "Caddy" not in answer.headers["server"]
    assert get(f"{gateway}/version").status_code == 200
    assert get(f"{gateway}/metrics").status_code == 404


def test_other_host_names_get_no_page(gateway: str) -> None:
    """A name of another site that points here."""
    assert get(f"{gateway}/version", headers={"host": "evil.example"}).status_code == 421


def longer_than(limit: int, *, declared: bool) -> bytes | Iterator[bytes]:
    """Return a body above a limit, with a declared length or in chunks without."""
    return b"x" * (limit + 1) if declared else iter([b"x" * 500_000] * (limit // 500_000 + 1))


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_the_limit_of_the_api_is_refused(gateway: str, declared: bool) -> None:
    """The API gives the answer while the gateway still sends: 20 times, since an early answer can be lost."""
    headers = {"content-type": "application/json"}
    bodies = (longer_than(4_000_000, declared=declared) for _ in range(20))
    answers = [httpx.post(f"{gateway}/predict", content=each, headers=headers, timeout=BUSY_S) for each in bodies]
    assert {answer.status_code for answer in answers} == {413}
    assert answers[0].json()["detail"] == "the body must be at most 4000000 bytes"


@pytest.mark.parametrize(("page", "limit"), [("/dagster/graphql", 4_000_000), ("/mlflow/api", 256_000_000)])
def test_a_body_above_the_limit_of_a_page_is_refused(gateway: str, page: str, limit: int) -> None:
    answer = httpx.post(f"{gateway}{page}", content=longer_than(limit, declared=True), auth=LOGIN, timeout=BUSY_S)
    assert (answer.status_code, answer.text) == (413, f"the body must be at most {limit // 1_000_000} MB")


def test_slow_headers_are_cut(gateway: str) -> None:
    """The limit is 10 s: a client cannot hold a connection without a request."""
    place = urlsplit(gateway)
    with socket.create_connection((place.hostname or "", place.port or 0), 5) as client:
        client.sendall(b"GET /version HTTP/1.1\r\nHost: local")
        client.settimeout(20)
        started = time.monotonic()
        answer = client.recv(1_000)
        assert answer == b"" or b" 4" in answer.splitlines()[0]
        assert 5 < time.monotonic() - started < 15


@pytest.mark.parametrize(("page", "title"), [("/dagster/", "Dagster"), ("/mlflow/", "MLflow")])
def test_a_page_and_its_scripts_load_in_a_browser(gateway: str, page: str, title: str) -> None:
    with running_browser() as browser:
        context = browser.new_context(http_credentials={"username": LOGIN[0], "password": LOGIN[1]})
        tab = context.new_page()
        scripts: list[tuple[str, int]] = []
        tab.on("response", lambda answer: _note(answer, scripts))
        tab.goto(f"{gateway}{page}", wait_until="load", timeout=60_000)
        tab.locator("#root > *").first.wait_for(state="attached", timeout=60_000)
        assert title in tab.title()
        assert scripts
        assert {status for _, status in scripts} <= {200, 304}
        assert all(url.startswith(f"{gateway}{page.rstrip('/')}/") for url, _ in scripts), scripts
        context.close()


def _note(answer: Any, scripts: list[tuple[str, int]]) -> None:
    if answer.request.resource_type == "script":
        scripts.append((answer.url, answer.status))


def test_the_live_page_streams_longer_than_the_limit_of_a_body(gateway: str) -> None:
    """The gateway limits the time of a request's body; an answer may go on, as events of the live page do."""
    with httpx.stream("GET", f"{gateway}/live/events", timeout=30.0) as answer:
        assert answer.status_code == 200
        started = time.monotonic()
        for _ in answer.iter_raw():
            if time.monotonic() - started > 2 * READ_BODY_S:
                return
    pytest.fail("the stream ended")
