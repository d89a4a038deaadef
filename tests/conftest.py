"""What tests share."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from online.registry import ModelFile, save_last_good
from orchestration.local.broker import Broker, jars_folder, running_broker
from orchestration.local.jars import JarsMissing, fetch_jars
from orchestration.local.topics import create_topics
from tests.models import model_bytes
from tests.pipeline import Process, environment, running

ROOT = Path(__file__).resolve().parents[1]

pytest_plugins = ["tests.proofs"]


@pytest.fixture(scope="session")
def jars() -> list[Path]:
    """The local broker's jars: what `make run` fetched, or fetched now."""
    try:
        return fetch_jars(jars_folder(ROOT / "var"))
    except JarsMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Broker]:
    """A real Kafka with the stack's topics, one for the session.

    Tests share it: use a source id, a group and a product of your own, or a topic of your own. A test that kills or
    pauses it leaves it running as it was.
    """
    with running_broker(tmp_path_factory.mktemp("kafka"), jars) as running:
        create_topics({"bootstrap.servers": running.bootstrap_servers})
        yield running


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, one for the session: ten seconds to start. Tests share it: use model names of your own."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "-w", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, f"MLflow is not ready: {(folder / 'log').read_text()}"
                time.sleep(0.1)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings beside the repository. They may not be published, so most people lack them."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not here: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a small baseline as the last good model: processes start from it without a registry."""
    folder = tmp_path_factory.mktemp("models")
    content = model_bytes()
    save_last_good(folder, ModelFile("volatility-baseline", "1", hashlib.sha256(content).hexdigest(), content))
    return folder


@pytest.fixture(scope="session")
def online(broker: Broker, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Feature service and scorer, real processes on the session's broker; gives the environment for more of them."""
    logs = tmp_path_factory.mktemp("logs")
    environ = environment(broker.bootstrap_servers, models)
    services = [Process(f"online.{name}", environ, logs / f"{name}.log") for name in ("feature_service", "scorer")]
    with running(*services):
        for service in services:
            service.await_log('"event": ?"assigned"')
        yield environ
