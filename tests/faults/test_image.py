"""The container images: built by the documented command, and run read-only as user 10001."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from data.files import CHECKOUT
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from tests.broker import Broker, free_ports
from tests.containers import BASE, USER, Builder, Container, Image, children_of, need_tools, run_in
from tests.pipeline import await_end, wait_until
from tests.proofs import Proof

pytestmark = pytest.mark.acceptance

LIMIT_MB = 650
STOP_S = 10.0
MISSED = "compiled code is missing"
REFUSED_TOOLS = ("pip", "pip3", "uv", "npm", "node", "cc", "gcc", "g++", "make", "java", "curl")

NO_BYTECODE = """
import importlib.util, pathlib, sys
import monitoring.exporter, online.api, online.forecaster, online.ingestor
files = [file for module in sys.modules.values() if (file := getattr(module, "__file__", None) or "").endswith(".py")]
print([file for file in files if not pathlib.Path(importlib.util.cache_from_source(file)).exists()])
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    need_tools()
    builder = Builder(tmp_path_factory.mktemp("buildah"))
    try:
        builder.make_base()
        builder.make_images()
        yield builder
    finally:
        builder.remove()


@pytest.fixture(scope="module")
def base(builder: Builder) -> Image:
    return builder.open(BASE)


@pytest.fixture(scope="module")
def version() -> str:
    found = re.search(r'^version = "(.+)"', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def online_image(builder: Builder, version: str) -> Image:
    return builder.open(f"cryptovol-online:{version}")


@pytest.fixture(scope="module")
def offline_image(builder: Builder, version: str) -> Image:
    return builder.open(f"cryptovol-offline:{version}")


@pytest.fixture
def state(tmp_path: Path, models: Path) -> Path:
    """Return a folder of state that the image's user may write, with a model."""
    folder = tmp_path / "state"
    shutil.copytree(models, folder / "models")
    write_csv(folder / "trades.csv", [simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(2_000))])
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    return folder


@contextmanager
def running(*containers: Container) -> Iterator[None]:
    try:
        for container in containers:
            container.start()
        yield
    finally:
        for container in containers:
            if container.process.poll() is None:
                container.kill()


def is_alive(image: Image, state: Path, address: str) -> bool:
    """Return what the health check of the image says about an address."""
    return run_in(image, state, "python", "-m", "data.process.alive", address).returncode == 0


def test_sizes(base: Image, online_image: Image, offline_image: Image, proof: Proof) -> None:
    sizes = {image.name: image.size_mb() for image in (base, online_image, offline_image)}
    plain, online, offline = sizes.values()
    proof.disturbs("images on a base from Debian's packages")
    proof.saw(base_mb=round(plain), online_over_base_mb=round(online - plain), offline_mb=round(offline - plain))
    assert online - plain <= LIMIT_MB


def test_the_online_processes_answer_from_a_read_only_root(
    online_image: Image, own_broker: Broker, state: Path, tmp_path: Path, proof: Proof
) -> None:
    proof.disturbs("read-only root, uid 10001, tini as process 1")
    api_port, forecaster_port, exporter_port = free_ports(3)
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap_servers,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody listens there
        "API_PORT": str(api_port),
        "FORECASTER_PORT": str(forecaster_port),
        "EXPORTER_PORT": str(exporter_port),
        "INGESTOR_PORT": "0",
        "LOG_FORMAT": "json",
    }

    def container(module: str, *arguments: str, **more: str) -> Container:
        command = ("python", "-m", module, *arguments)
        return Container(online_image, command, settings | more, state, tmp_path / f"{module}.log")

    api, forecaster, exporter = map(container, ("online.api", "online.forecaster", "monitoring.exporter"))
    replay = container(
        "online.ingestor", "/var/lib/cryptovol/trades.csv", REPLAY_ID="image", REPLAY_SPEED="max", PURPOSE="replay"
    )
    started = time.monotonic()
    with running(api, forecaster, exporter), httpx.Client(base_url=f"http://127.0.0.1:{api_port}") as client:

        def is_healthy() -> bool:
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_healthy, f"the API answers: {api.log.read_text()}")
        proof.saw(healthy_after_s=round(time.monotonic() - started, 1))
        with running(replay):
            assert replay.process.wait(60) == 0, replay.log.read_text()
        forecasts = await_end(own_broker.bootstrap_servers, "image")
        assert len(forecasts) == 2_000
        answer = client.post("/predict", json={"rows": [{"n": 50, "ret_mean": 1e-5, "ret_std": 2e-4}]})
        assert answer.status_code == 200, answer.text
        for page in ("/", "/static/uplot.js", "/static/uplot.css", "/docs"):
            assert client.get(page).status_code == 200, page
        for each in (api, forecaster, exporter):
            status = Path(f"/proc/{each.first_pid}/status").read_text()
            assert re.search(rf"^Name:\s+tini$.*^Uid:\s+{USER}\s+{USER}", status, re.MULTILINE | re.DOTALL), status
        addresses = [f"http://127.0.0.1:{api_port}/health/live"]
        addresses += [f"http://127.0.0.1:{port}/metrics" for port in (forecaster_port, exporter_port)]
        assert all(is_alive(online_image, state, address) for address in addresses)
        for each in (api, forecaster, exporter):
            began = time.monotonic()
            assert each.stop(STOP_S) == 0, each.log.read_text()
            proof.saw(**{f"{each.command[-1].rpartition('.')[2]}_stop_s": round(time.monotonic() - began, 1)})
        assert not any(is_alive(online_image, state, address) for address in addresses)
    logs = {each.log.name: each.log.read_text() for each in (api, forecaster, exporter, replay)}
    assert [name for name, text in logs.items() if MISSED in text or "Read-only file system" in text] == []


def test_a_process_ends_at_once_while_it_imports(online_image: Image, state: Path, tmp_path: Path) -> None:
    """Python has no handler yet, and the kernel spares a process 1 without handlers: tini is process 1."""
    starting = Container(online_image, (), {}, state, tmp_path / "starting.log")
    with running(starting):
        wait_until(lambda: any(map(children_of, starting.first_pids("tini"))), "tini has started Python")
        began = time.monotonic()
        assert starting.stop(STOP_S) in (0, 143)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("image", ["online_image", "offline_image"])
def test_nothing_of_the_build_is_left(image: str, state: Path, request: pytest.FixtureRequest) -> None:
    """No compiler, no installer, no secret of the build, no file that the user may write."""
    built: Image = request.getfixturevalue(image)
    left = run_in(built, state, "sh", "-c", f"for tool in {' '.join(REFUSED_TOOLS)}; do command -v $tool; done")
    assert left.stdout == ""
    for module in ("pip", "ensurepip", "setuptools"):
        assert run_in(built, state, "python", "-c", f"import {module}").returncode != 0, module
    assert not any((built.root / name).exists() for name in ("build", "run/secrets/ca"))
    mine = run_in(built, state, "find", "/app", "-writable", "-o", "-user", str(USER), "-o", "!", "-perm", "/o=r")
    assert (mine.returncode, mine.stdout) == (0, "")
    assert run_in(built, state, "touch", "/app/x").returncode != 0
    assert built.config["User"] == f"{USER}:{USER}"
    assert built.config["Healthcheck"]["Test"][0] == "CMD"
    names = {entry.partition("=")[0] for entry in built.config["Env"]}
    assert names <= {"PATH", "PYTHONDONTWRITEBYTECODE", "NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "VAR_DIR"}


def test_bytecode_is_in_the_image(online_image: Image, state: Path) -> None:
    """A start without bytecode compiles each import again: Python is asked which module it would compile."""
    done = run_in(online_image, state, "python", "-c", NO_BYTECODE)
    assert (done.returncode, done.stdout.strip()) == (0, "[]")


def test_the_offline_image_has_what_dagster_and_trainings_need(offline_image: Image, state: Path) -> None:
    imports = "import orchestration.definitions, dagster_postgres, psycopg2, dagster_webserver, sklearn, evidently"
    done = run_in(offline_image, state, "python", "-c", imports)
    assert done.returncode == 0, done.stdout
    command = ("--out", "/tmp/rows.parquet", "/var/lib/cryptovol/trades.csv")
    done = run_in(offline_image, state, "python", "-m", "offline.backfill", *command)
    assert done.returncode == 0, done.stdout
    assert "2,000 feature rows" in done.stdout
    assert MISSED not in done.stdout
    for program in ("dagster", "dagster-webserver", "dagster-daemon", "mlflow"):
        done = run_in(offline_image, state, program, "--version")
        assert done.returncode == 0, done.stdout
