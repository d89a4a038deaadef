"""Two ingestors with the same REPLAY_ID: a single writer at any time, and no trade twice."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from data.stream.records import TRADES
from online.replay.lease import PATIENCE_S, SESSION_S
from tests.faults.drill import Drill
from tests.pipeline import Process, read_topic, running, wait_until
from tests.proofs import Proof


def second(ingestor: Process, folder: Path) -> Process:
    """Return another ingestor with the same recording and the same id."""
    return replace(ingestor, log=folder / "second.log")


def written_ids(drill: Drill) -> list[int]:
    trades = read_topic(drill.broker.bootstrap_servers, TRADES, "disturbed")
    return [trade["trade_id"] for trade in trades if "end" not in trade]


def test_a_second_ingestor_of_a_living_one_is_refused_in_words(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof
) -> None:
    proof.disturbs("a second ingestor with the same REPLAY_ID, while the first one replays")
    rows = drill.undisturbed(recording)
    first = drill.replay("disturbed", recording, REPLAY_SPEED="40")
    other = second(first, tmp_path)
    with running(first):
        drill.await_rows("disturbed", 100)
        with running(other):
            assert other.process.wait(PATIENCE_S + 10) == 1
            assert first.process.poll() is None, "the first one goes on"
        drill.await_ends("disturbed")
        assert first.process.wait(10) == 0
    last_words = msgspec.json.decode(other.log.read_text().splitlines()[-1])
    assert last_words["level"] == "error"
    assert "another ingestor writes it" in last_words["event"]
    assert len(written_ids(drill)) == rows
    drill.same(proof)


@pytest.mark.parametrize("round_", [0, *(pytest.param(number, marks=pytest.mark.acceptance) for number in (1, 2))])
def test_two_that_start_at_the_same_moment_write_each_trade_once(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof, round_: int
) -> None:
    proof.disturbs(f"two ingestors with one REPLAY_ID, started {round_ * 50} ms apart")
    rows = drill.undisturbed(recording)
    first = drill.replay("disturbed", recording, REPLAY_SPEED="400")
    other = second(first, tmp_path)
    with running(first):
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + round_ * 0.05, "the other one's turn")
        with running(other):
            drill.await_ends("disturbed")
            codes = [process.process.wait(30) for process in (first, other)]
    assert 0 in codes
    assert set(codes) <= {0, 1, 2}, "1: another one writes; 2: looked again, and the source had ended"
    assert len(written_ids(drill)) == rows
    drill.same(proof)


def test_an_ingestor_that_was_frozen_past_its_session_writes_nothing_after_its_successor(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof
) -> None:
    """The second ingestor finishes the source meanwhile; the first wakes, and logs why it ends."""
    proof.disturbs("ingestor frozen, its successor finishes the source, then it wakes")
    drill.undisturbed(recording)
    first = drill.replay("disturbed", recording, REPLAY_SPEED="40")
    other = second(first, tmp_path)
    with running(first):
        drill.await_rows("disturbed", 1_000)
        first.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        other.environment = other.environment | {"REPLAY_SPEED": "max"}
        with running(other):
            drill.await_ends("disturbed")
            assert other.process.wait(10) == 0, other.log.read_text()
        proof.saw(taken_over_after_s=time.monotonic() - began)
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait(2 * PATIENCE_S) in (1, 2)
    said = first.log.read_text()
    assert "taken this one for dead" in said
    assert "this source has ended" in said
    drill.read()
    drill.same(proof)


@pytest.mark.acceptance
def test_an_ingestor_that_wakes_beside_its_successor_ends_in_words(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof
) -> None:
    proof.disturbs("ingestor frozen; it wakes while its successor replays")
    drill.undisturbed(recording)
    first = drill.replay("disturbed", recording, REPLAY_SPEED="40")
    other = second(first, tmp_path)
    with running(first):
        drill.await_rows("disturbed", 500)
        first.process.send_signal(signal.SIGSTOP)
        with running(other):
            other.await_log('"event": "replay"')
            first.process.send_signal(signal.SIGCONT)
            assert first.process.wait(2 * PATIENCE_S) == 1
            assert "another ingestor writes it" in first.log.read_text().splitlines()[-1]
            drill.await_ends("disturbed", within_s=120)
            assert other.process.wait(10) == 0
    drill.same(proof)


@pytest.mark.acceptance
def test_a_killed_ingestor_goes_on_when_its_session_is_over(drill: Drill, recording: Path, proof: Proof) -> None:
    proof.disturbs("ingestor killed with SIGKILL, started again")
    rows = drill.undisturbed(recording)
    ingestor = drill.replay("disturbed", recording, REPLAY_SPEED="40")
    with running(ingestor):
        drill.await_rows("disturbed", 1_000)
        ingestor.kill()
        began, seen = time.monotonic(), len(written_ids(drill))
        ingestor.start()
        wait_until(lambda: len(written_ids(drill)) > seen, "it goes on", SESSION_S + 10)
        proof.saw(next_trade_after_s=time.monotonic() - began)
        drill.await_ends("disturbed")
    assert len(written_ids(drill)) == rows
    drill.same(proof)
