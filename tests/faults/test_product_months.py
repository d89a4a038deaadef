"""A backfill by several run processes: a killed process makes only its own months again."""

from __future__ import annotations

import os
import re
import signal
from datetime import date
from pathlib import Path

import pytest

from offline.days.steps import TRADES
from offline.lake.store import Lake
from orchestration.local.dagster import client
from tests.benchmarks.months import PRODUCTS, backfilled, environment_of, hashes_of, simulated_lake
from tests.dagster_stack import DagsterStack
from tests.harm.asking import runs_of
from tests.pipeline import wait_until
from tests.proofs import Proof

MADE, DAYS, RUNS = PRODUCTS[:3], 8, 3


def pid_of(url: str, run_id: str) -> int:
    """Return the process of a run, as the run's log names it."""
    query = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
        ... on MessageEvent { message } } } } }"""
    events = client.ask(url, query, id=run_id)["logsForRun"]["events"]
    found = re.search(r"Started process for run \(pid: (\d+)\)", "\n".join(event["message"] for event in events))
    assert found
    return int(found[1])


def written(lake: Path, product_id: str) -> dict[date, int]:
    """Return when the trades of each day were written."""
    return {each.day: Path(each.path).stat().st_mtime_ns for each in Lake.open(lake).partitions(TRADES, product_id)}


@pytest.mark.acceptance
def test_a_killed_run_process_makes_only_its_months_again(tmp_path: Path, proof: Proof) -> None:
    """Three products, three processes; the process of the second product is killed when its trades are put."""
    proof.disturbs("a run process of three killed while making a month")
    lake, victim = tmp_path / "lake", MADE[1]
    simulated_lake(lake, MADE, DAYS, (0, 6))
    clean = backfilled(lake, 1).hashes
    stack = DagsterStack(environment_of(tmp_path, RUNS), tmp_path)
    with stack.running():
        run_id = client.launch(stack.url, "backfill")
        before = wait_until(lambda: written(lake, victim), "the trades of the victim", 600)
        (killed,) = (run.run_id for run in runs_of(stack.url, cryptovol__product=victim))
        os.kill(pid_of(stack.url, killed), signal.SIGKILL)
        assert client.wait(stack.url, run_id) == "SUCCESS", client.failure_of(stack.url, run_id)
        again, first = runs_of(stack.url, cryptovol__product=victim)
        runs = runs_of(stack.url, cryptovol__kind="product_month")
    assert (first.run_id, first.status, again.status) == (killed, "FAILURE", "SUCCESS")
    assert len(runs) == len(MADE) + 1, "no other month began again"
    assert {day: at for day, at in written(lake, victim).items() if day in before} == before, (
        "no day of the trades is made twice"
    )
    proof.equal(sorted(hashes_of(lake).items()), sorted(clean.items()), "content hashes after the kill and a clean run")
    proof.saw(runs=len(runs), partitions=len(clean))
