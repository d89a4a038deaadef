"""The registry's client against a server on loopback: proxies, logins, and answers that are not MLflow's."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data.models.registry import TIMEOUTS, Registry, Version
from data.names import ModelRefused, RegistryAway, RegistryError, VersionNotFound
from offline.promotion.register import prepare_client
from orchestration.local.parts import fetch_text
from tests.fakes import FakeRegistry
from tests.models import model_file

NAME = "volatility-baseline"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies and the login of the machine that runs the tests."""
    for name in (*PROXIES, *LOGIN):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


def wanted(registry: FakeRegistry) -> Version:
    registry.files[NAME] = model_file()
    found = Registry(registry.uri).champion(NAME)
    assert found is not None
    return found


def test_no_proxy_of_the_environment_stands_before_loopback(
    registry: FakeRegistry, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, nobody)
    assert Registry(registry.uri).fetch(wanted(registry)) == model_file()
    here = registry.uri.replace("127.0.0.1", "localhost")
    assert Registry(here).champion(NAME) is not None
    registry.broken = (200, b"cryptovol_ready 1.0")
    assert fetch_text(f"{registry.uri}/metrics") == "cryptovol_ready 1.0"


def test_another_host_is_asked_through_the_proxy_of_the_environment(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", registry.uri)
    registry.files[NAME] = model_file()
    found = Registry("http://mlflow.example:5000/").champion(NAME)
    assert found is not None
    assert found.version == "3"
    assert registry.asked[-1].startswith("http://mlflow.example:5000/api/2.0/mlflow/registered-models/alias?")


def test_the_environment_of_mlflows_own_client_has_login_and_no_proxy_before_loopback(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "intern.example")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    registry.broken = (200, b"{}")
    prepare_client(Registry(registry.uri))
    assert urllib.request.proxy_bypass("127.0.0.1:5000")
    assert urllib.request.proxy_bypass("a.intern.example")
    assert not urllib.request.proxy_bypass("elsewhere.example")


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        (("", "", ""), ""),
        (("me", "pass:w\u00f6rd", ""), "Basic " + base64.b64encode("me:pass:w\u00f6rd".encode()).decode()),
        (("", "", "t0ken"), "Bearer t0ken"),
        (("me", "word", "t0ken"), "Basic " + base64.b64encode(b"me:word").decode()),
        (("me", "", "t0ken"), "Bearer t0ken"),
    ],
)
def test_the_login_is_sent_as_by_mlflows_own_client(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], sent: str
) -> None:
    for name, value in zip(LOGIN, values, strict=True):
        monkeypatch.setenv(name, value)
    assert Registry(registry.uri).champion(NAME) is None
    assert registry.logins == [sent]


def test_a_missing_login_is_named(registry: FakeRegistry) -> None:
    registry.broken = (401, b"You are not authenticated.")
    with pytest.raises(RegistryError, match=r"answers 401 .*not authenticated.*MLFLOW_TRACKING_TOKEN") as told:
        Registry(registry.uri).champion(NAME)
    assert not isinstance(told.value, RegistryAway)


def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = wanted(registry)
    monkeypatch.setattr("data.models.registry.MAX_ANSWER_BYTES", 2**10)
    assert Registry(registry.uri).fetch(found) == model_file(), "files have a limit of their own"
    monkeypatch.setenv("MODEL_MAX_MB", "1")
    registry.broken_files = (200, b"a" * 1_000_001)
    with pytest.raises(
        ModelRefused, match=r"model\.onnx with more than the limit of 1 MB, see MODEL_MAX_MB"
    ) as refused:
        Registry(registry.uri).fetch(found)
    assert refused.value.kind == "size"
    registry.broken = (200, b"{" + b" " * 2**10 + b"}")
    with pytest.raises(RegistryError, match="alias with more than") as told:
        Registry(registry.uri).champion(NAME)
    assert not isinstance(told.value, VersionNotFound), "no reason to serve another model"


def test_a_login_page_is_named_as_no_mlflow(registry: FakeRegistry) -> None:
    """A file too: a page in place of a model must not refuse the model for good."""
    found = wanted(registry)
    registry.headers = {"Content-Type": "text/html; charset=utf-8"}
    registry.broken_files = registry.broken = (200, b"<!doctype html><title>Log in</title>")
    for ask in (lambda: Registry(registry.uri).champion(NAME), lambda: Registry(registry.uri).fetch(found)):
        with pytest.raises(RegistryAway, match=r"'<!doctype html><title>Log in</title>' .*: is it MLflow"):
            ask()
    registry.broken = (200, b"{}")
    with pytest.raises(RegistryAway, match="a page for people"):
        Registry(registry.uri).champion(NAME)


def test_a_redirect_is_an_error_that_names_its_target(registry: FakeRegistry) -> None:
    registry.headers = {"Location": "https://login.example/"}
    registry.broken = (302, b"")
    with pytest.raises(RegistryError, match=r"answers 302 .* points to https://login.example/: MLFLOW_TRACKING_URI"):
        Registry(registry.uri).champion(NAME)


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], Any]) -> Iterator[str]:
    """Run a server that hands one connection to `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


def test_an_answer_that_comes_byte_by_byte_is_given_up_on() -> None:
    """Each byte comes within the timeout."""
    timeout_s = 0.1

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1_000):
            connection.sendall(b" ")
            time.sleep(0.02)

    with answering(drip) as uri:
        began = time.monotonic()
        with pytest.raises(RegistryAway, match=f"does not answer at {uri} .the answer was not whole after 0.4 s"):
            Registry(uri, timeout_s).champion(NAME)
        assert time.monotonic() - began < 2 * TIMEOUTS * timeout_s + 1


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
    with (
        answering(lambda connection: connection.sendall(half)) as uri,
        pytest.raises(RegistryAway, match="MLflow does not answer at"),
    ):
        Registry(uri).champion(NAME)
