"""The job `drill` on real processes: a part is killed and started again, and all rows are those computed offline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from orchestration.drills.job import drill
from orchestration.local.stack import only_stack
from tests.broker import Broker
from tests.pipeline import Process, environment, running

SMALL = {"trades": 1_500, "replay_s": 6.0}


@pytest.fixture
def environ(broker: Broker, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Point the job at the session's broker, without a registry, and at a state folder of its own.

    Returns:
        The environment of a forecaster beside, which finds the compiled code of all tests.
    """
    environ = environment(broker.bootstrap_servers, models)
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "MLFLOW_TRACKING_URI", "MODELS_DIR"):
        monkeypatch.setenv(name, environ[name])
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    return environ


@contextmanager
def supervised(process: Process, var_dir: Path) -> Iterator[list[int]]:
    """Run a process as `make run` does: hold the lock, start it again after each death. Yield its exit codes."""
    exits: list[int] = []
    closing = threading.Event()

    def keep() -> None:
        while True:
            code = process.process.wait()
            if closing.is_set():
                return
            exits.append(code)
            process.start()

    with only_stack(var_dir), running(process):
        process.await_log('"event": ?"assigned"')
        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            yield exits
        finally:
            closing.set()
            process.process.kill()
            keeper.join()


def report_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Return the metadata of the only materialization, with its partition."""
    (made,) = (
        event.materialization for event in result.all_events if event.event_type_value == "ASSET_MATERIALIZATION"
    )
    assert made.asset_key.path == ["drill_results"]
    return {"partition": made.partition} | {name: each.value for name, each in made.metadata.items()}


def test_a_killed_ingestor_and_a_killed_forecaster_cost_a_drill_nothing(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Both drills launched as from the UI: the partition names the drill, and the launchpad the size."""
    forecaster = Process("online.forecaster", environ, tmp_path / "forecaster.log")
    with supervised(forecaster, tmp_path) as exits:
        for name, seed in (("kill_ingestor", 1), ("kill_forecaster", 2)):
            config = {"ops": {"run_drill": {"config": {"seed": seed, **SMALL}}}}
            result = drill.execute_in_process(config, partition_key=name)
            found = report_of(result)
            assert found["partition"] == found["drill"] == name
            assert (found["lost"], found["twice"], found["different"]) == (0, 0, 0)
            assert (found["rows compared"], found["seed"]) == (4_500, seed)
            assert found["verdict"].startswith("equal")
            assert found["recovery seconds"] > 0
            assert found["source"].startswith("drill-")
        assert exits == [-9], "the forecaster was killed once, and the ingestor left it alone"
        alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
        assert not [each for each in alive if "online.ingestor" in each.cmdline()]
