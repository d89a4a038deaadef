"""A disk that is full in the middle of a replay, and free again later."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.files import CHECKOUT
from data.models.registry import Registry
from data.stream.records import TRADES
from data.stream.topics.creation import create_topics
from offline.lake.store import Lake
from offline.promotion.ledger import history
from tests.broker import Broker, running_broker
from tests.faults.drill import Drill
from tests.faults.equality import same_records
from tests.faults.test_sink import Arrivals, sink_process
from tests.faults.test_sink import check as same_in_lake
from tests.mlflow_server import running_mlflow
from tests.models import forced, model_bytes, put_version
from tests.pipeline import read_topic, running, wait_until
from tests.proofs import Proof

DISK_MB = 128


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "cryptovol-test", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=10)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no filesystem can be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


def fill(path: Path) -> None:
    """Fill the rest of a disk."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


@pytest.mark.acceptance
def test_a_full_disk_loses_nothing_and_is_said(
    small_disk: Path, jars: list[Path], models: Path, recording: Path, proof: Proof
) -> None:
    """The broker's data and the logs of all processes are on the disk.

    Kafka ends when it cannot write, and is started again once the disk has room. The other processes live on.
    """
    proof.disturbs(f"disk of {DISK_MB} MB filled in a paced replay: broker's data and all logs; then freed")
    with running_broker(small_disk / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        drill = Drill(broker, models, small_disk)
        drill.supervised = True
        with drill.services():
            rows = drill.undisturbed(recording)
            with running(disturbed := drill.replay("disturbed", recording, REPLAY_SPEED="20")):
                drill.await_rows("disturbed", rows // 10)
                fill(small_disk / "ballast")

                def broker_ended() -> bool:
                    drill.read()
                    assert disturbed.process.poll() is None
                    fill(small_disk / "ballast")  # what Kafka itself frees meanwhile
                    return broker.has_ended

                wait_until(broker_ended, "Kafka gives up", within_s=120)
                (small_disk / "ballast").unlink()
                said = broker.log_path.read_text(errors="replace")
                broker.kill()
                broker.start()
                drill.await_ends("disturbed", within_s=120)
                assert disturbed.process.wait(10) == 0
            drill.same(proof)
            trades = read_topic(broker.bootstrap_servers, TRADES, "disturbed")
    ids = [trade["trade_id"] for trade in trades if "end" not in trade]
    assert len(ids) == len(set(ids)) == rows
    assert "No space left on device" in said
    proof.saw(restarts=drill.restarts)


@pytest.mark.acceptance
def test_a_full_disk_under_the_lake_is_said_and_the_next_sink_goes_on(
    small_disk: Path, own_broker: Broker, tmp_path: Path, proof: Proof
) -> None:
    """The lake holds what its manifest names, before and after."""
    proof.disturbs(f"disk of {DISK_MB} MB with the lake filled between two readings; then freed")
    uri, arrivals = str(small_disk / "lake"), Arrivals(own_broker.bootstrap_servers)
    lake = Lake.open(uri)
    arrivals.write(10)
    assert sink_process(own_broker.bootstrap_servers, uri, tmp_path / "first.log").process.wait(60) == 0
    arrivals.write(10)
    fill(small_disk / "ballast")
    for number in range(2):
        full = sink_process(own_broker.bootstrap_servers, uri, tmp_path / f"full-{number}.log")
        assert full.process.wait(120) == 2
        said = full.log.read_text()
        assert "No space left on device" in said
        assert "Traceback" not in said
    (small_disk / "ballast").unlink()
    last = sink_process(own_broker.bootstrap_servers, uri, tmp_path / "last.log")
    assert last.process.wait(120) == 0, last.log.read_text()
    same_in_lake(own_broker.bootstrap_servers, lake, proof)
    proof.saw(records_of_each_topic=arrivals.written)


@pytest.mark.acceptance
def test_a_full_disk_under_the_registry_costs_no_forecast_and_no_entry_of_the_ledger(
    small_disk: Path, own_broker: Broker, tmp_path: Path, recording: Path, proof: Proof
) -> None:
    """A promotion fails in a sentence; the old champion serves on. With room again, the same promotion goes through."""
    proof.disturbs(f"disk of {DISK_MB} MB with the registry filled in a paced replay, with a promotion; then freed")
    name = "volatility-baseline"
    (small_disk / "mlflow").mkdir()
    with running_mlflow(small_disk / "mlflow") as server:
        for _ in "12":
            put_version(server.uri, name, model_bytes())
        registry = Registry(server.uri)
        forced(registry, name, "1")
        environ = {"MLFLOW_TRACKING_URI": server.uri, "LAKE_URI": str(tmp_path / "lake")}
        drill = Drill(own_broker, tmp_path / "models", tmp_path, **environ)

        def promote() -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "offline.promotion", "promote", name, "2", "--force", "--why", "a drill"]
            return subprocess.run(
                command, env=drill.environ, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120
            )

        with drill.services():
            rows = drill.undisturbed(recording)
            with running(disturbed := drill.replay("disturbed", recording, REPLAY_SPEED="10")):
                drill.await_rows("disturbed", rows // 4)
                fill(small_disk / "ballast")
                refused = promote()
                assert refused.returncode == 1
                assert "Traceback" not in refused.stderr
                seen = len(drill.predictions.rows("disturbed"))
                drill.await_rows("disturbed", seen + 100)
                assert disturbed.process.poll() is None, "the replay ended before the disk was free"
                drill.await_ends("disturbed", within_s=180)
                (small_disk / "ballast").unlink()
        assert promote().returncode == 0
        entries = [entry for entry in history(registry, name) if entry.state == "done"]
        proof.equal([(entry.action, entry.to_version) for entry in entries],
                    [("promote", "1"), ("promote", "2")], "ledger")  # fmt: skip
        assert {entry.state for entry in history(registry, name)} <= {"done", "failed"}
        assert registry.champion(name).version == "2"  # type: ignore[union-attr]
    same_records(own_broker.bootstrap_servers, proof)
    proof.saw(said=refused.stderr.strip().splitlines()[-1][:100])
