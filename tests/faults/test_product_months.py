"""A backfill by several run processes: a killed process makes only its own months again."""

from __future__ import annotations

import os
import re
import signal
from datetime import date
from pathlib import Path

import psutil
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


def log_of(url: str, run_id: str) -> str:
    """Return the messages in a run's log, one a line."""
    query = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
        ... on MessageEvent { message } } } } }"""
    events = client.ask(url, query, id=run_id)["logsForRun"]["events"]
    return "\n".join(event["message"] for event in events if event)


def pid_of(url: str, run_id: str) -> int:
    """Return the process of a run, as the run's log names it."""
    found = re.search(r"Started process for run \(pid: (\d+)\)", log_of(url, run_id))
    assert found
    return int(found[1])


def has_ended(pid: int) -> bool:
    """Return whether a process writes no more; its parent may not know yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def days_with_trades(lake: Path, product_id: str) -> set[date]:
    return {each.day for each in Lake.open(lake).partitions(TRADES, product_id)}


def days_made(url: str, run_id: str) -> int | None:
    """Return of how many days a run has made the trades, as the run's log says; None if the run did not come so far."""
    found = re.search(rf"{TRADES} of \S+ in \S+: (\d+) of {DAYS} days were made", log_of(url, run_id))
    return int(found[1]) if found else None


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
        wait_until(lambda: days_with_trades(lake, victim), "the trades of the victim", 600)
        (killed,) = (run.run_id for run in runs_of(stack.url, cryptovol__product=victim))
        pid = pid_of(stack.url, killed)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), "the killed process has ended", 60)
        before = days_with_trades(lake, victim)  # the run that begins again needs seconds until its first day
        assert client.wait(stack.url, run_id) == "SUCCESS", client.failure_of(stack.url, run_id)
        again, first = runs_of(stack.url, cryptovol__product=victim)
        runs = runs_of(stack.url, cryptovol__kind="product_month")
        made = {(run.tags["cryptovol/product"], run.status): days_made(stack.url, run.run_id) for run in runs}
    assert (first.run_id, first.status, again.status) == (killed, "FAILURE", "SUCCESS")
    assert len(runs) == len(MADE) + 1, "no other month began again"
    made.pop((victim, "FAILURE"))  # the put of the trades is seen before the run says so
    expected = {(product_id, "SUCCESS"): DAYS for product_id in MADE} | {(victim, "SUCCESS"): DAYS - len(before)}
    assert made == expected, "no day of the trades is made twice"
    proof.equal(sorted(hashes_of(lake).items()), sorted(clean.items()), "content hashes after the kill and a clean run")
    proof.saw(runs=len(runs), partitions=len(clean))
