"""Another site's name that points at this machine gets no answer."""

from __future__ import annotations

import http.client
from typing import Any

import pytest
from fastapi.testclient import TestClient

from data.process.hosts import host_check
from data.process.metrics import serve_metrics
from online.http.routes import create_app
from online.metrics import ForecasterMetrics
from online.settings import ApiSettings, ForecasterSettings
from orchestration.settings import WebserverSettings


def settings(**more: Any) -> ApiSettings:
    return ApiSettings(_env_file=None, **more)


@pytest.mark.parametrize(
    ("header", "is_allowed"),
    [
        (b"127.0.0.1:8000", True),
        (b"localhost", True),
        (b"LOCALHOST:8000", True),
        (b"[::1]:8000", True),
        (b"192.168.0.7:8000", True),  # nobody can point an address elsewhere; Prometheus asks replicas by theirs
        (b"[fd00::7]", True),
        (b"api.example:80", True),
        (b"other.example", True),
        (b"evil.example:8000", False),
        (b"sub.api.example", False),
        (b"127.0.0.1.evil.example", False),
        (b"localhost.evil.example", False),
        (b"user@evil.example", False),
        (b"[", False),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_a_server_answers_to_addresses_and_to_its_own_names(header: bytes, is_allowed: bool) -> None:
    names = settings(allowed_hosts="API.example, other.example").host_names
    assert host_check(names)(header) == is_allowed


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "10.0.0.7"])
def test_the_address_that_a_server_listens_on_admits_no_name(host: str) -> None:
    assert not host_check(settings(host=host).host_names)(b"evil.example")


def test_the_names_of_public_urls_are_ours() -> None:
    ours = WebserverSettings(_env_file=None, dagster_public_url="https://Jobs.example:8443/dagster")
    assert ours.host_names == {"jobs.example"}
    assert ForecasterSettings(_env_file=None).host_names == frozenset()


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/health/live"), ("POST", "/predict")])
def test_a_request_for_another_host_is_misdirected(method: str, path: str) -> None:
    client = TestClient(create_app(settings()), base_url="http://evil.example")
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (421, "application/problem+json")
    assert "ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 200), ("10.0.0.7:8001", 200), ("metrics.example", 200), ("evil.example", 421)]
)
def test_metrics_are_for_the_same_hosts(host: str, status: int) -> None:
    metrics = ForecasterMetrics()
    with serve_metrics(metrics.registry, "127.0.0.1", 0, names={"metrics.example"}) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/metrics", headers={"Host": host})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
    assert answer.status == status
    assert ("cryptovol_ready" in text) == (status == 200)
