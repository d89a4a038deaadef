"""Whatever is killed, a `read_committed` reader sees what it would have seen."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from data.readers import write_csv
from data.simulator import simulate_day
from data.topics import FEATURES, PREDICTIONS
from orchestration.local.broker import Broker
from tests.pipeline import Process, await_end, environment, read_topic, replay, running
from tests.proofs import Proof

DIFFERS = {"source_id", "ingest_time", "ts", "kafka_partition", "kafka_offset"}
"""What may differ between two runs of the same trades."""


def equal_columns(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in DIFFERS} for record in records]


@pytest.mark.parametrize(
    ("kills", "trades", "speed"), [(1, 6_000, "100"), pytest.param(5, 20_000, "50", marks=pytest.mark.acceptance)]
)
def test_killed_services_leave_the_topics_of_an_undisturbed_run(
    own_broker: Broker, models: Path, tmp_path: Path, kills: int, trades: int, speed: str, proof: Proof
) -> None:
    """Feature service and scorer, each killed with SIGKILL and started again, in turn, during one paced replay."""
    proof.disturbs(f"feature service and scorer killed with SIGKILL, {kills} times each, in a paced replay")
    recording = tmp_path / "recording.csv"
    write_csv(recording, [simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 16)).take(slice(0, trades))])
    servers = own_broker.bootstrap_servers
    environ = environment(servers, models)
    services = [Process(f"online.{name}", environ, tmp_path / f"{name}.log") for name in ("feature_service", "scorer")]
    undisturbed, disturbed = (
        replay(environ, tmp_path, "undisturbed", recording),
        replay(environ, tmp_path, "disturbed", recording, REPLAY_SPEED=speed),
    )
    with running(*services):
        with running(undisturbed):
            expected = await_end(servers, "undisturbed")
        assert len(expected) == trades
        with running(disturbed):
            for kill in range(kills):
                for service in services:
                    seen = len(read_topic(servers, PREDICTIONS, "disturbed"))
                    while len(read_topic(servers, PREDICTIONS, "disturbed")) < seen + trades // (4 * kills):
                        assert disturbed.process.poll() is None, f"the replay ended before kill {kill}"
                    service.kill()
                    service.start()
            found = await_end(servers, "disturbed")
    proof.saw(rows=len(found))
    proof.equal(equal_columns(found), equal_columns(expected), PREDICTIONS)
    features = {source: read_topic(servers, FEATURES, source) for source in ("undisturbed", "disturbed")}
    proof.equal(equal_columns(features["disturbed"]), equal_columns(features["undisturbed"]), FEATURES)
