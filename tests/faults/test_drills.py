"""Each drill of the job `drill`, launched through the Dagster UI of a whole stack that replays a source of its own."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from data.models.kept import save_last_good
from data.stream.records import FEATURES, PREDICTIONS, TRADES
from orchestration.drills.disturbances import DRILLS
from orchestration.local.dagster import client as dagster
from tests.faults.stacks import running_stack
from tests.faults.test_offline_stack import op
from tests.models import model_file
from tests.pipeline import read_topic, wait_until
from tests.proofs import Proof

UP_S = 900.0  # on two busy processors


def newest_result(ui: str, drill: str) -> dict[str, Any]:
    """Return the metadata of the newest materialization of a drill."""
    query = """query($key: AssetKeyInput!, $of: [String!]) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations(partitions: $of, limit: 1) { metadataEntries { label ... on IntMetadataEntry { intValue }
        ... on FloatMetadataEntry { floatValue } ... on TextMetadataEntry { text } } } } } }"""
    key = {"path": ["drill_results"]}
    (made,) = dagster.ask(ui, query, key=key, of=[drill])["assetOrError"]["assetMaterializations"]
    return {
        entry["label"]: next(entry[name] for name in ("intValue", "floatValue", "text") if name in entry)
        for entry in made["metadataEntries"]
    }


@pytest.mark.acceptance
def test_each_drill_on_a_running_stack_ends_in_equal_rows(tmp_path: Path, jars: list[Path], proof: Proof) -> None:
    """The stack's own replay goes through all of them: nothing of that source is lost, doubled or out of order."""
    var, log = tmp_path / "var", tmp_path / "stack.log"
    save_last_good(var / "models", model_file(version="1"))
    proof.disturbs(f"the job drill: {', '.join(DRILLS)}, one after the other")
    with running_stack(var, log) as (stack, settings):
        wait_until(lambda: "this process" in log.read_text(), f"all parts are up: {log.read_text()}", UP_S)
        (own,) = set(re.findall(r"replay (replay-\S+) at speed", log.read_text()))
        ui = f"http://127.0.0.1:{settings['DAGSTER_PORT']}"
        for seed, name in enumerate(DRILLS):
            run = dagster.launch(ui, "drill", op("run_drill", seed=seed, trades=2_000, replay_s=20.0), name)
            ended = dagster.wait(ui, run, UP_S)
            assert ended == "SUCCESS", f"{name}: {dagster.failure_of(ui, run)}"
            found = newest_result(ui, name)
            assert (found["lost"], found["twice"], found["different"], found["rows compared"]) == (0, 0, 0, 6_000)
            assert found["verdict"].startswith("equal")
            proof.saw(**{f"{name}_s": float(found["recovery seconds"])})
        servers = f"127.0.0.1:{settings['KAFKA_PORT']}"
        predicted, rows, trades = (read_topic(servers, topic, own) for topic in (PREDICTIONS, FEATURES, TRADES))
        ids = [record["trade_id"] for record in trades if "end" not in record]
        for name, records in ((FEATURES, rows), (PREDICTIONS, predicted)):
            found_ids = [record["trade_id"] for record in records if "end" not in record]
            assert len(found_ids) > 100
            proof.equal(found_ids, ids[: len(found_ids)], f"{name} of the stack's own replay")
        stack.send_signal(signal.SIGINT)
        assert stack.wait(90) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
