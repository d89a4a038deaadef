"""Registry, Dagster, Prometheus and exporter hang, all at once: forecasts flow on, equal to the last byte."""

from __future__ import annotations

import datetime as dt
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from data.models.kept import save_last_good
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import PREDICTIONS
from tests.faults.drill import Tail
from tests.faults.equality import same_records
from tests.faults.stacks import running_stack
from tests.models import model_file
from tests.pipeline import environment, replay, running, wait_until
from tests.proofs import Proof

TRADES_REPLAYED = 4_000
REPLAY_S = 80.0
AWAY_S = 45.0
LONGEST_GAP_S = 5.0
"""Limit between two forecasts while the services hang, beyond the longest gap between two trades of the recording."""
ABSENT = {
    "registry_app": "mlflow",
    "orchestration.daemon": "dagster daemon",
    "dagster._daemon": "dagster daemon",
    "orchestration.webserver": "dagster ui",
    "orchestration.code_server": "dagster code server",
    "dagster api grpc": "dagster code server",
    "--storage.tsdb.path": "prometheus",
    "monitoring.exporter": "exporter",
}
"""Text in the command line of each process that hangs, and its name."""


@pytest.mark.acceptance
def test_forecasts_flow_on_while_registry_dagster_and_prometheus_hang(
    tmp_path: Path, jars: list[Path], proof: Proof
) -> None:
    """A hanging service is worse than a dead one: its connections stay open, and a supervisor starts nothing anew."""
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, TRADES_REPLAYED))
    span_s = (trades.event_time[-1] - trades.event_time[0]) / 1e9
    speed = span_s / REPLAY_S
    quiet_s = float(np.diff(trades.event_time).max()) / 1e9 / speed
    recording = tmp_path / "recording.csv"
    write_csv(recording, [trades])
    save_last_good(tmp_path / "models", model_file(version="1"))
    more = {"MODELS_DIR": str(tmp_path / "models"), "RECORDING": str(recording), "REPLAY_SPEED": "max"}
    more |= {"LAKE_FIRST_DAY": "2020-01-01", "MODEL_VARIANT": "baseline"}  # no training within the drill
    with running_stack(tmp_path / "var", log := tmp_path / "log", **more) as (stack, settings):
        servers = f"127.0.0.1:{settings['KAFKA_PORT']}"

        def said(pattern: str) -> re.Match[str] | None:
            assert stack.poll() is None, log.read_text()
            return re.search(pattern, log.read_text())

        wait_until(lambda: said("replay ended; the stack stays up"), "a first replay", within_s=600)
        wait_until(lambda: "dagster daemon" in found(stack).values(), "Dagster's daemon", within_s=600)
        wait_until(lambda: said("training done"), "the baseline is registered", within_s=600)
        wait_until(lambda: said("volatility-ml is not made"), "no training", within_s=600)
        environ = environment(servers, tmp_path / "models")
        with running(calm := replay(environ, tmp_path, "undisturbed", recording)):
            assert calm.process.wait(60) == 0
        tail = Tail(servers, PREDICTIONS)
        came: list[float] = []

        def rows() -> int:
            before = len(tail.rows("disturbed"))
            tail.read()
            if len(tail.rows("disturbed")) > before:
                came.append(time.monotonic())
            return len(tail.rows("disturbed"))

        with running(ingestor := replay(environ, tmp_path, "disturbed", recording, REPLAY_SPEED=str(speed))):
            wait_until(lambda: rows() > TRADES_REPLAYED // 10, "the first forecasts")
            hanging = found(stack)
            for process in hanging:
                process.send_signal(signal.SIGSTOP)
            came.clear()
            until = time.monotonic() + AWAY_S
            wait_until(lambda: rows() and time.monotonic() > until, "the end of the fault", AWAY_S + 10)
            gap_s = float(np.diff(came).max())
            api = httpx.get(f"http://127.0.0.1:{settings['API_PORT']}/predict/BTC-USD", timeout=10.0)
            for process in hanging:
                process.send_signal(signal.SIGCONT)
            assert ingestor.process.poll() is None, "the replay ended before the services came back"
            wait_until(lambda: rows() and tail.ends("disturbed"), "the end of the replay", within_s=2 * REPLAY_S)
            assert ingestor.process.wait(20) == 0
        tail.close()
        same_records(servers, proof)
    names = sorted(set(hanging.values()))
    proof.disturbs(f"frozen for {AWAY_S:g} s in a paced replay: {', '.join(names)}")
    proof.saw(longest_gap_s=gap_s, longest_gap_between_trades_s=quiet_s, processes=len(hanging))
    assert {"mlflow", "dagster daemon", "exporter"} <= set(names)
    assert api.status_code == 200
    assert api.json()["source_id"] == "disturbed"
    assert gap_s <= quiet_s + LONGEST_GAP_S


def found(stack: psutil.Process) -> dict[psutil.Process, str]:
    """Return the running processes to hang, by the names of their services."""
    processes: dict[psutil.Process, str] = {}
    for process in stack.children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            names = [name for mark, name in ABSENT.items() if mark in command]
            if names:
                processes[process] = names[0]
    return processes
