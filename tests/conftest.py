"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from data.files import CHECKOUT
from data.models.kept import save_last_good
from data.stream.topics.creation import create_topics
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import JarsMissing, fetch_jars
from tests.broker import Broker, free_ports, running_broker
from tests.fakes import FakeRegistry
from tests.mlflow_server import running_mlflow
from tests.models import model_file
from tests.pipeline import Process, environment, running
from tests.seaweed import KEYS, Lakes, Seaweed, running_seaweed

pytest_plugins = ["tests.proofs"]

# No deadlines: on a busy machine an example is slow, not wrong. `make acceptance` loads the profile `thorough`.
settings.register_profile("quick", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=1_000)
settings.load_profile("quick")

# A shell's background job ignores SIGINT, and Dagster gives SIGTERM the handler of SIGINT when a test runs a job. A
# process that a test starts would ignore both, too; with a handler in place of "ignore" the process ignores neither.
for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Leave the environment as it was: MLflow's client, for one, notes its address there, and a stack would read it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def default_logs() -> Iterator[None]:
    """Undo the configuration of logs after each test: `create_app` sends the logs of the whole process to stderr."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def jars() -> list[Path]:
    """Return the local broker's jars, fetched by `make run` or now."""
    try:
        return fetch_jars(jars_folder(CHECKOUT / "var"))
    except JarsMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Broker]:
    """Run a real Kafka with the stack's topics, once for the session.

    Tests share the broker: use a source id, a group and a product of your own, or a topic of your own. A test that
    kills or pauses the broker leaves it running as before.
    """
    with running_broker(tmp_path_factory.mktemp("kafka"), jars) as running:
        create_topics({"bootstrap.servers": running.bootstrap_servers})
        yield running


@pytest.fixture
def own_broker(tmp_path: Path, jars: list[Path]) -> Iterator[Broker]:
    """Run a broker for one test: the shared broker has services, which a fault must not disturb."""
    with running_broker(tmp_path / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        yield broker


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a real MLflow server, once for the session, as a start takes ten seconds. Use model names of your own."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server.uri


@pytest.fixture(scope="session")
def seaweed_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with running_seaweed(tmp_path_factory.mktemp("seaweed")) as store:
        yield store


@pytest.fixture
def seaweed(seaweed_store: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    """Run an object store, once for the session, with its keys in the environment. Use a prefix of your own."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return seaweed_store


@pytest.fixture(params=["folder", "object store"])
def lakes(request: pytest.FixtureRequest, tmp_path: Path) -> Lakes:
    """Run a test on lakes in a folder, and on lakes in an object store."""
    store = request.getfixturevalue("seaweed") if request.param == "object store" else None
    return Lakes(request.param, tmp_path, store)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def nobody() -> str:
    """Return an address without a listener."""
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real recordings beside the repository; publishing is forbidden, so most people lack them."""
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not here: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small baseline as the last good model: processes start from it without a registry."""
    folder = tmp_path_factory.mktemp("models")
    save_last_good(folder, model_file(version="1"))
    return folder


@pytest.fixture(scope="session")
def online(broker: Broker, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run the forecaster, a real process on the session's broker; yield the environment for more processes."""
    logs = tmp_path_factory.mktemp("logs")
    environ = environment(broker.bootstrap_servers, models)
    forecaster = Process("online.forecaster", environ, logs / "forecaster.log")
    with running(forecaster):
        forecaster.await_log('"event": ?"assigned"')
        yield environ
