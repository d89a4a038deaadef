"""Benchmark of `POST /predict`: forecasts a second, beside an empty endpoint and `mlflow models serve`.

All three servers run at once, each with one worker, and are asked in turns: a busy machine is busy for every server.
The client is wrk, with 8 connections that each ask again after each answer.
`python -m tests.benchmarks.edge_predict` prints the rows.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from fastapi import FastAPI

from data.files import CHECKOUT
from data.models.kept import save_last_good
from data.models.registry import ModelFile
from data.stream.topics.creation import create_topics
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import fetch_jars
from tests.benchmarks.measure import Row, ToolMissing
from tests.broker import free_ports, running_broker
from tests.models import BASELINE, model_bytes
from tests.pipeline import environment

CONNECTIONS = 8
ROUNDS = 5
ROUND_S = 3
READY_S = 90.0
FULL_ROW = {"n": 50, "ret_mean": 0.00001, "ret_std": 0.0002, "ewma_variance_300": 2.5e-7}

OURS, EMPTY = "/predict", "empty FastAPI endpoint"
TENSOR, RECORDS = "mlflow models serve, tensor", "mlflow models serve, named fields"
"""Two forms of the same numbers for MLflow's server: an array, its quickest form, and fields as in our API."""

SCRIPT = """
wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %f %f %f %d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""
"""Script for wrk: send a body; print requests/s, p50 and p99 in ms, and the number of answers without success."""


@dataclass(frozen=True)
class Load:
    """Figures of a round: requests/s, and median and 99th percentile of the answer time, ms."""

    per_second: float
    p50_ms: float
    p99_ms: float


def empty_app() -> FastAPI:
    """Return a FastAPI application with an empty endpoint, for uvicorn."""
    app = FastAPI()

    @app.post("/predict")
    async def nothing() -> dict[str, str]:
        return {}

    return app


@contextmanager
def server(command: list[str], environ: Mapping[str, str], url: str, log: Path) -> Iterator[None]:
    """Run a server in a process group of its own; yield when `url` answers, and end the server after the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environ, stdout=output, stderr=output, cwd=CHECKOUT, start_new_session=True
        )
    deadline = time.monotonic() + READY_S
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not answer: {log.read_text()}")
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _load(url: str, body: bytes, folder: Path) -> Load:
    """Ask for a round, as fast as answers come."""
    script = folder / "wrk.lua"
    script.write_text(SCRIPT.replace("{body}", body.decode()))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{ROUND_S}s", "--timeout", "10s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"^FOUND (\S+) (\S+) (\S+) (\d+)$", said, re.MULTILINE)
    if found is None or int(found[4]):
        raise RuntimeError(f"{url} did not answer each request: {said}")
    return Load(float(found[1]), float(found[2]), float(found[3]))


@contextmanager
def _servers(folder: Path) -> Iterator[dict[str, str]]:
    """Run the API on a broker of its own, the empty endpoint and MLflow's server, and yield the URL of each."""
    content = model_bytes()
    models = folder / "models"
    save_last_good(models, ModelFile("volatility-baseline", "1", hashlib.sha256(content).hexdigest(), content))
    logged = _saved_for_mlflow(content, folder / "logged")
    ports = free_ports(3)
    with ExitStack() as stack:
        broker = stack.enter_context(running_broker(folder / "kafka", fetch_jars(jars_folder(CHECKOUT / "var"))))
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        environ = environment(broker.bootstrap_servers, models, API_PORT=str(ports[0]))
        ours = [sys.executable, "-m", "online.api"]
        empty = [sys.executable, "-m", "uvicorn", "tests.benchmarks.edge_predict:empty_app", "--factory"]
        empty += ["--port", str(ports[1]), "--no-access-log"]
        peer = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(logged), "--env-manager", "local"]
        peer += ["--host", "127.0.0.1", "--port", str(ports[2]), "--workers", "1"]
        # MLflow starts `uvicorn` by name.
        environ = environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for port, path, command in zip(ports, ("health", "docs", "ping"), (ours, empty, peer), strict=True):
            stack.enter_context(server(command, environ, f"http://127.0.0.1:{port}/{path}", folder / f"{port}.log"))
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        peer_url = f"{addresses[2]}/invocations"
        yield {OURS: f"{addresses[0]}/predict", EMPTY: f"{addresses[1]}/predict", TENSOR: peer_url, RECORDS: peer_url}


def _saved_for_mlflow(content: bytes, folder: Path) -> Path:
    """Save the same model in MLflow's own format."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(
        onnx.load_from_string(content), str(folder), onnx_execution_providers=["CPUExecutionProvider"]
    )
    return folder


def _bodies(count: int) -> dict[str, bytes]:
    """Return the body of `count` rows for each server."""
    encode = msgspec.json.encode
    values: list[Any] = [[FULL_ROW[name] for name in BASELINE.columns]] * count
    rows = encode({"rows": [FULL_ROW] * count})
    tensor, records = encode({"inputs": {"X": values}}), encode({"dataframe_records": [FULL_ROW] * count})
    return {OURS: rows, EMPTY: rows, TENSOR: tensor, RECORDS: records}


def rows() -> list[Row]:
    """Measure 1 row and 100 rows a request.

    Raises:
        RuntimeError: a server did not come up, or did not answer a request.
        ToolMissing: wrk is missing.
    """
    if shutil.which("wrk") is None:
        raise ToolMissing("wrk is not on PATH; Debian and Ubuntu have it: apt-get install wrk")
    found: list[Row] = []
    with TemporaryDirectory() as temporary, _servers(Path(temporary)) as urls:
        for count in (1, 100):
            bodies, loads = _bodies(count), {name: list[Load]() for name in urls}
            for counts in (False, *(True,) * ROUNDS):
                for name, url in urls.items():
                    load = _load(url, bodies[name], Path(temporary))
                    if counts:
                        loads[name].append(load)
            what = f"POST /predict, {count} row{'s' * (count > 1)}, {CONNECTIONS} connections"
            for label, unit, pick in (
                ("", "requests/s", lambda load: load.per_second),
                (", p50", "ms", lambda load: load.p50_ms),
                (", p99", "ms", lambda load: load.p99_ms),
            ):
                medians = {name: statistics.median(map(pick, rounds)) for name, rounds in loads.items()}
                found.append(Row(what + label, unit, medians.pop(OURS), medians))
    return found


if __name__ == "__main__":
    for row in rows():
        print(row)
