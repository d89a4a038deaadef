"""A disk that is full in the middle of a replay, and free again later."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.stream.records import TRADES
from data.stream.topics.creation import create_topics
from tests.broker import running_broker
from tests.faults.drill import Drill
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
