"""Requests within a machine, while the environment names a proxy and no proxy listens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from data.names import spare_loopback
from orchestration.instance.home import enter_home
from orchestration.local.settings import StackSettings
from orchestration.local.stack import child_environment

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy")


@pytest.fixture(autouse=True)
def proxied(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each proxy be a closed port, and name no host without a proxy."""
    for name in PROXIES:
        monkeypatch.setenv(name, nobody)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def port() -> Iterator[int]:
    """Run a gRPC server that echoes."""

    class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    server = grpc.server(ThreadPoolExecutor(1), handlers=(Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait(10)


def echo(host: str, port: int) -> bytes:
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        answer: bytes = channel.unary_unary("/a/b")(b"hello", timeout=5)
    return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_dagsters_processes_reach_each_other_past_a_proxy(
    host: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's UI and daemon ask the code server by gRPC, and gRPC reads the proxies."""
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        echo(host, port)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    enter_home()
    assert echo(host, port) == b"hello"


def test_each_part_of_the_stack_reaches_this_machine_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intern.example")
    found = child_environment(StackSettings())
    assert found["no_proxy"] == found["NO_PROXY"] == "intern.example,127.0.0.1,localhost,::1"
    assert found["http_proxy"] == os.environ["http_proxy"]


def test_no_part_inherits_variables_that_change_our_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = (
        "WEB_CONCURRENCY",
        "UVICORN_ROOT_PATH",
        "UVICORN_WORKERS",
        "MLFLOW_RUN_ID",
        "_MLFLOW_SERVER_ARTIFACT_ROOT",
    )
    for name in foreign:
        monkeypatch.setenv(name, "2")
    assert not set(foreign) & child_environment(StackSettings()).keys()


def test_hosts_are_spared_once() -> None:
    environment = {"no_proxy": "localhost,a.example"}
    for _ in range(2):
        spare_loopback(environment, "127.0.0.2")
    assert environment["no_proxy"] == "localhost,a.example,127.0.0.1,::1,127.0.0.2"
