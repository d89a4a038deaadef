"""The life of a model through the Dagster of a whole stack: a person's work in the UI, done over GraphQL."""

from __future__ import annotations

import functools
import json
import signal
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestration.local.dagster import client as dagster
from orchestration.local.dagster.first_model import PRODUCTS
from orchestration.local.supervisor import tree_memory
from tests.faults.stacks import MEMORY_WITH_RETRAIN_MIB, running_stack
from tests.harm.asking import runs_of
from tests.pipeline import wait_until
from tests.proofs import Proof

FIRST_ML_S = 900.0  # on two busy processors; 1 to 2 minutes on idle ones
TWO_PRODUCTS_A_WEEK = 14
LAUNCH_TO_ANSWER_S = {"promote": 90.0, "rollback": 8.0}  # the gate fits the recipe again, a rollback does not


class Served(threading.Thread):
    """Client that asks for predictions all the time, and notes the answering models, their times and all errors."""

    def __init__(self, api: str) -> None:
        super().__init__(daemon=True)
        self.api = api
        self.answers: list[tuple[float, str]] = []
        self.failed: list[str] = []
        self.closing = threading.Event()

    def run(self) -> None:
        body = json.dumps({"rows": [{"n": 50, "ret_mean": 1e-5, "ret_std": 2e-4}]}).encode()
        while not self.closing.wait(0.02):
            request = urllib.request.Request(f"{self.api}/predict", body, {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=5.0) as answer:
                    found = json.load(answer)
            except OSError as error:
                self.failed.append(str(error))
                continue
            self.answers.append((time.monotonic(), f"{found['model_variant']} {found['version']}"))

    def first_after(self, when: float, wanted: str) -> float | None:
        return next((at - when for at, model in self.answers if at > when and model == wanted), None)


@pytest.mark.acceptance
def test_a_model_lives_its_life_through_dagster_while_forecasts_flow(  # noqa: PLR0915 - one life, step by step
    tmp_path: Path, jars: list[Path], proof: Proof
) -> None:
    """Wait for `volatility-ml` without any action; then launch each job as from the launchpad."""
    proof.disturbs("replay cancelled; models trained, promoted, refused, rolled back; stack stopped in a replay")
    var, log = tmp_path / "var", tmp_path / "log"
    with running_stack(var, log) as (process, ports):
        url, api = f"http://127.0.0.1:{ports['DAGSTER_PORT']}", f"http://127.0.0.1:{ports['API_PORT']}"

        def said(text: str) -> bool:
            assert process.poll() is None, log.read_text()
            assert "first_ml ended" not in log.read_text(), log.read_text()
            return text in log.read_text()

        wait_until(lambda: said("first forecast"), "a first forecast", FIRST_ML_S)
        wait_until(lambda: said("first_ml: volatility-ml version 1 answers now"), "a first model", FIRST_ML_S)

        replay = dagster.launch(url, "replay", op("replay_trades", speed="5"))
        wait_until(lambda: "replaying" in " ".join(messages(url, replay)), "a replay that goes on", 120)
        asked = time.monotonic()
        cancel(url, replay)
        assert dagster.wait(url, replay) == "CANCELED"
        proof.saw(replay_cancelled_s=time.monotonic() - asked)
        assert any(text.startswith("replay stopped") for text in messages(url, replay))

        # Other days than those of the first model: all that follows from them is left to the backfill.
        others = op("simulate_days", first_day="2010-02-01", days=7, hours=[0, 2], then_backfill=False)
        simulated = dagster.launch(url, "simulate", others)
        assert dagster.wait(url, simulated) == "SUCCESS", dagster.failure_of(url, simulated)
        assert partitions_of(url, "training_set") == TWO_PRODUCTS_A_WEEK
        asked = time.monotonic()
        backfill = dagster.launch(url, "backfill")
        assert dagster.wait(url, backfill) == "SUCCESS", dagster.failure_of(url, backfill)
        proof.saw(backfill_s=time.monotonic() - asked)
        assert "2 product-months are to be made" in messages(url, backfill)
        months = runs_of(url, cryptovol__kind="product_month")
        told = " ".join(text for month in months for text in messages(url, month.run_id))
        for table in ("trades", "feature_rows", "training_set"):
            for product in PRODUCTS:
                assert f"{table} of {product} in 2010-02: 7 of 7 days were made" in told
            assert partitions_of(url, table) == 2 * TWO_PRODUCTS_A_WEEK

        heaviest = 0
        first_week = {"ops": {"models": {"config": {"last_day": "2010-01-10"}}}}  # the first model's rows: its equal
        retrain = dagster.launch(url, "retrain", first_week)
        while dagster.status(url, retrain) not in dagster.ENDED:
            heaviest = max(heaviest, tree_memory(process.pid) or 0)
            time.sleep(0.5)
        assert dagster.status(url, retrain) == "SUCCESS", dagster.failure_of(url, retrain)
        proof.saw(mib_with_retrain=heaviest / 2**20)
        assert heaviest / 2**20 <= MEMORY_WITH_RETRAIN_MIB

        refused = dagster.launch(url, "promote", op("promote_model", version="1"))
        assert dagster.wait(url, refused) == "FAILURE"
        assert "is not champion: found version 1" in dagster.failure_of(url, refused)

        client = Served(api)
        client.start()
        try:
            for job, wanted in (
                ("promote", "ml 2"),
                ("rollback", "ml 1"),
            ):
                asked = time.monotonic()
                run = dagster.launch(url, job)
                assert dagster.wait(url, run) == "SUCCESS", dagster.failure_of(url, run)
                answered: float = wait_until(
                    functools.partial(client.first_after, asked, wanted), f"an answer of {wanted}", 30
                )
                proof.saw(**{f"{job}_launch_to_answer_s": answered})
                assert answered <= LAUNCH_TO_ANSWER_S[job]
        finally:
            client.closing.set()
            client.join()
        proof.saw(answers=len(client.answers), failed_requests=len(client.failed))
        assert not client.failed

        dagster.launch(url, "replay", op("replay_trades", speed="5"))
        wait_until(lambda: len(dagster.active_runs(url)) == 1, "a replay to stop", 60)
        family = [process, *process.children(recursive=True)]
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        proof.saw(stop_s=time.monotonic() - asked)
        left = [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert not left
        assert "cancelling 1 Dagster run" in log.read_text()
        assert "Traceback" not in log.read_text()


def op(name: str, **config: Any) -> dict[str, Any]:
    return {"ops": {name: {"config": config}}}


def messages(url: str, run_id: str) -> list[str]:
    query = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
        ... on LogMessageEvent { message } } } } }"""
    events = dagster.ask(url, query, id=run_id)["logsForRun"]["events"]
    return [event["message"] for event in events if event]


def partitions_of(url: str, asset: str) -> int:
    query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
        partitionStats { numMaterialized } } } }"""
    found = dagster.ask(url, query, key={"path": [asset]})["assetNodeOrError"]
    return int(found["partitionStats"]["numMaterialized"])


def cancel(url: str, run_id: str) -> None:
    query = """mutation($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) { __typename } }"""
    dagster.ask(url, query, id=run_id)
