"""The wall clock of the whole system steps an hour forward and back, within a replay and between promotions."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.files import CHECKOUT
from data.models.registry import Registry
from data.process.running import AGAIN
from data.stream.topics.creation import create_topics
from data.times import NS
from offline.promotion.ledger import history, served_at
from tests.broker import free_ports, running_broker
from tests.faults.clock import SteppedClock, stepped_clock
from tests.faults.drill import Drill, equal_columns
from tests.faults.equality import same_records
from tests.faults.parts import Part, Replayed
from tests.mlflow_server import running_mlflow
from tests.models import baseline, model_bytes, put_version
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

TRADES_REPLAYED = 6_000
FLOWS_S = 20.0
"""Limit from a step of the clock to 200 more forecasts; an ingestor that ended keeps its place for 6 to 10 s."""
STEPS_H = (1.0, -1.0, -1.0, 1.0)
NAME = "volatility-ml"


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[SteppedClock]:
    """Give all processes of the test, the broker too, a clock that the test steps."""
    with stepped_clock(tmp_path) as clock:
        yield clock


def test_a_clock_that_steps_an_hour_forward_and_back_costs_nothing(
    clock: SteppedClock, tmp_path: Path, jars: list[Path], models: Path, recording: Path, proof: Proof
) -> None:
    """A process whose clock is set back ends, as its Kafka client would sleep for an hour, and is started again."""
    proof.disturbs(f"clock of all processes stepped by {', '.join(f'{step:+g}' for step in STEPS_H)} hours")
    with running_broker(tmp_path / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        drill = Drill(broker, models, tmp_path)
        (port,) = free_ports(1)
        served = Process("online.api", drill.environ | {"API_PORT": str(port)}, tmp_path / "api.log")
        replayed = Replayed(drill, recording, speed="30")
        api, took = Part.of(served), []

        def newest() -> Any:
            """Return the last forecast in the API."""
            api.look()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/predict/ETH-USD?source_id=disturbed", timeout=5.0).json()
            except httpx.TransportError:
                return {}

        with drill.services(), running(served):
            assert drill.undisturbed(recording) == TRADES_REPLAYED
            drill.supervised = True
            with running(replayed.ingestor):
                for number, hours in enumerate(STEPS_H, start=1):
                    replayed.await_rows(number * TRADES_REPLAYED // (len(STEPS_H) + 2))
                    assert not replayed.part.is_over, "the replay ended before the last step"
                    began, seen = time.monotonic(), len(drill.predictions.rows("disturbed"))
                    clock.step(hours)
                    replayed.await_rows(seen + 200)
                    took.append(time.monotonic() - began)
                    api.look()
                replayed.await_end()
            last = drill.predictions.rows("disturbed")[-1]["trade_id"]
            wait_until(lambda: newest().get("trade_id") == last, "the last forecast in the API")
            assert drill.forecaster.stop() == 0
        same_records(broker.bootstrap_servers, proof)
    proof.saw(longest_to_200_forecasts_s=max(took), restarts=drill.restarts, api_restarts=api.ends.total())
    # A process that is just starting, when the clock is set back, need not end.
    assert all(1 <= ends <= 2 for ends in (drill.restarts, replayed.part.ends[AGAIN], api.ends[0]))
    assert "the clock was set back" in drill.forecaster.log.read_text()
    assert max(took) <= FLOWS_S


@pytest.mark.acceptance
def test_rollbacks_and_served_at_are_right_whatever_the_clock_says(
    clock: SteppedClock, tmp_path: Path, jars: list[Path], recording: Path, proof: Proof
) -> None:
    """Promoted 1; 2 with the clock an hour ahead; back to 1 after the clock's correction; 3; back with an hour behind.

    The last rollback goes to 1: version 2 was rolled back as bad. All versions have one file, so that the raw scores of
    all forecasts are those of an undisturbed replay, whichever version answered.
    """
    proof.disturbs("clock of all processes stepped an hour both ways, in a replay, with promotions and rollbacks")
    (tmp_path / "mlflow").mkdir()
    with running_mlflow(tmp_path / "mlflow") as server, running_broker(tmp_path / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        for _ in "123":
            put_version(server.uri, NAME, model_bytes(baseline(), variant="ml"))
        registry = Registry(server.uri)
        environ = {"MLFLOW_TRACKING_URI": server.uri, "LAKE_URI": str(tmp_path / "lake")}
        drill = Drill(broker, tmp_path / "models", tmp_path, **environ)
        moved_at: list[tuple[int, str]] = []

        def move(*words: str, to: str) -> None:
            """Promote or roll back as a person does; the forecasts go on with the version."""
            told(drill, *words, "--why", "a drill")
            moved_at.append((clock.now_ns(), to))
            assert registry.champion(NAME).version == to  # type: ignore[union-attr]

        def answers(version: str) -> None:
            def is_answered() -> bool:
                replayed.look()
                rows = drill.predictions.rows("disturbed")
                return bool(rows) and rows[-1]["version"] == version

            wait_until(is_answered, f"a forecast of version {version}")

        move("promote", NAME, "1", "--force", to="1")
        with drill.services():
            assert drill.undisturbed(recording) == TRADES_REPLAYED
            drill.supervised = True
            replayed = Replayed(drill, recording, speed="12")
            with running(replayed.ingestor):
                answers("1")
                for hours, words, to in (
                    (1.0, ("promote", NAME, "2", "--force"), "2"),
                    (-1.0, ("rollback", NAME), "1"),
                    (0.0, ("promote", NAME, "3", "--force"), "3"),
                    (-1.0, ("rollback", NAME), "1"),
                    (1.0, ("promote", NAME, "3", "--force"), "3"),
                ):
                    clock.step(hours)
                    replayed.look()
                    move(*words, to=to)
                    answers(to)
                assert not replayed.part.is_over, "the replay ended before the last move"
                replayed.await_end()
        rows, calm = (drill.predictions.rows(source_id) for source_id in ("disturbed", "undisturbed"))
        fields = ("trade_id", "event_time", "raw_score")
        proof.equal(
            [[row[name] for name in fields] for row in rows], [[row[name] for name in fields] for row in calm], "scores"
        )
        same_features(drill, proof)
        entries = history(registry, NAME)
        proof.equal([entry.to_version for entry in entries], [to for _, to in moved_at], "moves in the ledger")
        check_times(registry, moved_at, proof)
        said = told(drill, "history", NAME)
        assert len(re.findall("the clock went back between two moves", said)) == 2
        rollback = told(drill, "rollback", NAME, "--why", "a drill")
        assert re.search(rf"rollback +{NAME} +3 +1 ", rollback), rollback
    assert {row["version"] for row in rows} == {"1", "2", "3"}
    proof.saw(rows=len(rows), moves=len(moved_at) + 1)


def told(drill: Drill, *words: str) -> str:
    """Return what the command of promotions prints."""
    command = [sys.executable, "-m", "offline.promotion", *words]
    done = subprocess.run(command, env=drill.environ, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_features(drill: Drill, proof: Proof) -> None:
    rows, calm = (equal_columns(drill.features.rows(source_id)) for source_id in ("disturbed", "undisturbed"))
    proof.equal(rows, calm, "features")


def check_times(registry: Registry, moved_at: list[tuple[int, str]], proof: Proof) -> None:
    """Ask for the champion a moment after each move: the last move in order whose time was reached by then.

    A move's own time is a moment before `moved_at`, when its command had ended.
    """
    found, expected = [], []
    for when, _ in moved_at:
        served = served_at(registry, datetime.fromtimestamp(when / NS, UTC))[NAME]
        found.append(served.to_version)
        expected.append([to for at, to in moved_at if at <= when][-1])
    proof.equal(found, expected, "served-at")
