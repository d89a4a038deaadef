"""Another site's name that points at this machine gets no answer."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from online.http.hosts import host_check
from online.http.routes import create_app
from online.settings import ApiSettings


def settings(**more: Any) -> ApiSettings:
    return ApiSettings(_env_file=None, **more)


@pytest.mark.parametrize(
    ("header", "is_allowed"),
    [
        (b"127.0.0.1:8000", True),
        (b"localhost", True),
        (b"LOCALHOST:8000", True),
        (b"[::1]:8000", True),
        (b"api.example:80", True),
        (b"other.example", True),
        (b"evil.example:8000", False),
        (b"127.0.0.1.evil.example", False),
        (b"192.168.0.7:8000", False),
        (b"user@evil.example", False),
        (b"[", False),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_an_api_on_loopback_answers_to_its_own_names(header: bytes, is_allowed: bool) -> None:
    assert host_check(settings(allowed_hosts="API.example, other.example"))(header) == is_allowed


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7"])
def test_an_api_on_another_address_answers_to_all_names(host: str) -> None:
    assert host_check(settings(host=host))(b"api.example")


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_each_address_of_loopback_is_guarded(host: str) -> None:
    assert not host_check(settings(host=host))(b"evil.example")


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/health/live"), ("POST", "/predict")])
def test_a_request_for_another_host_is_misdirected(method: str, path: str) -> None:
    client = TestClient(create_app(settings()), base_url="http://evil.example")
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (421, "application/problem+json")
    assert "ALLOWED_HOSTS" in answer.json()["detail"]
