"""Child process of the job `replay`: killed, the child is started again, and the source is whole and ends once."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from data.process.running import AGAIN, REFUSED
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from online.settings import RESTARTED
from orchestration.jobs import ingestor_process
from orchestration.jobs.ingestor_process import Ended, ProgressLine, ingest_online
from tests.pipeline import read_topic, wait_until


class Cancelled(BaseException):
    """As Dagster's own interrupt, no Exception."""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some minutes of a simulated day."""
    trades = simulate_day("BTC-USD", dt.date(2010, 1, 4), 0, (0, 1))
    path = tmp_path_factory.mktemp("recording") / "recording.csv"
    write_csv(path, [trades.take(trades.event_time < trades.event_time[0] + 20 * 60 * 10**9)])
    return path


class Killer:
    """Reader of a replay's log that kills the first ingestor once a trade of the source is on the topic."""

    def __init__(self, broker: Any, source_id: str, cancels: bool) -> None:
        self.lines: list[str] = []
        self.settings = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "REPLAY_ID": source_id,
            "REPLAY_SPEED": "300",
            "REPLAY_END_ON_STOP": "true",
            "INGESTOR_PORT": "0",
        }
        self._cancels = cancels

    def records(self) -> list[dict[str, Any]]:
        return read_topic(self.settings["KAFKA_BOOTSTRAP_SERVERS"], "coinbase-trades", self.settings["REPLAY_ID"])

    def tell(self, line: ProgressLine) -> None:
        self.lines.append(line.text)
        if len(self.said("replay: ")) == 1 and line.text.startswith("replay: "):
            wait_until(self.records, "a trade on the topic")
            (ingestor,) = (p for p in psutil.Process(os.getpid()).children() if "online.ingestor" in p.cmdline())
            ingestor.kill()
        elif self._cancels and "starts again" in line.text:
            raise Cancelled

    def said(self, begin: str) -> list[str]:
        return [line for line in self.lines if line.startswith(begin)]


def test_a_killed_replay_goes_on_behind_its_last_trade(broker: Any, recording: Path) -> None:
    killer = Killer(broker, "killed-replay", cancels=False)
    ended = ingest_online([str(recording)], killer.settings, killer.tell)
    assert ended.code == 0
    assert killer.said("the ingestor") == ["the ingestor ended by SIGKILL; it starts again in 0.5 s"]
    assert "resumes_after" in killer.said("replay: ")[1]
    records = killer.records()
    ids = [record["trade_id"] for record in records if not record.get("end")]
    assert len(ids) == len(recording.read_text().splitlines()) - 1
    assert ids == sorted(set(ids))
    assert [record.get("end", False) for record in records] == [False] * len(ids) + [True]


def test_an_ingestor_that_is_killed_behind_the_end_of_its_source_has_not_failed(
    broker: Any, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a kill just before the exit. Nothing is sent again; a separate start is refused as before."""
    run, killed = ingestor_process._run_ingestor, [True]

    def run_and_kill(*arguments: Any) -> Ended:
        ended = run(*arguments)
        return ended._replace(code=-9) if killed and killed.pop() else ended

    monkeypatch.setattr(ingestor_process, "_run_ingestor", run_and_kill)
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "REPLAY_ID": "killed-behind-its-end",
        "REPLAY_SPEED": "max",
        "INGESTOR_PORT": "0",
    }
    ended = ingest_online([str(recording)], settings, lambda _: None)
    assert not killed
    rows = len(recording.read_text().splitlines()) - 1
    assert (ended.code, ended.trades) == (0, rows)
    assert len(read_topic(broker.bootstrap_servers, "coinbase-trades", "killed-behind-its-end")) == rows + 1
    again = ingest_online([str(recording)], settings, lambda _: None)
    assert (again.code, again.trades) == (REFUSED, 0)
    assert "this source has ended" in again.reason


def test_a_replay_that_is_cancelled_while_its_ingestor_is_dead_ends_its_source(
    broker: Any, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestor_process, "END_S", 60.0)  # the limit is for people: a busy machine takes longer
    killer = Killer(broker, "killed-and-cancelled-replay", cancels=True)
    with pytest.raises(Cancelled):
        ingest_online([str(recording)], killer.settings, killer.tell)
    assert len(killer.said("replay: ")) == 1
    assert [record.get("end", False) for record in killer.records()].index(True) > 0
    assert not killer.said("source")


def test_a_source_that_cannot_be_ended_is_said_to_stay_open(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    """The broker is away: the process that waits for an answer is killed in time."""
    monkeypatch.setattr(ingestor_process, "END_S", 0.1)
    monkeypatch.setattr(ingestor_process, "_run_ingestor", lambda *_: Ended(-9, 0, ""))
    lines: list[str] = []

    def tell(line: ProgressLine) -> None:
        lines.append(line.text)
        if "starts again" in line.text:
            raise Cancelled

    address = nobody.removeprefix("http://")
    settings = {"REPLAY_ID": "mine", "REPLAY_END_ON_STOP": "true", "KAFKA_BOOTSTRAP_SERVERS": address}
    with pytest.raises(Cancelled):
        ingest_online(["a.csv"], settings, tell)
    assert lines[-1] == "source mine stays open: end it by python -m online.ingestor --end mine"


@pytest.mark.parametrize(
    ("source", "ends", "code", "pauses"),
    [
        (
            {"REPLAY_ID": "mine"},
            [(1, "port 1 is taken"), (-9, ""), (1, "port 2 is taken"), (1, "port 3 is taken")],
            1,
            3,
        ),
        ({"REPLAY_ID": "mine"}, [(1, "a"), (1, "b"), (1, "a"), (1, "b"), (1, "a"), (0, "")], 0, 5),
        ({"REPLAY_ID": "mine"}, [*[(AGAIN, "the broker is away")] * 5, (0, "")], 0, 5),
        ({"REPLAY_ID": "mine"}, [(REFUSED, "no trades")], REFUSED, 0),
        ({}, [(-9, "")], -9, 0),
    ],
    ids=["equal errors", "other errors", "again", "bad recording", "no name to go on with"],
)
def test_an_ingestor_is_started_again_by_the_rule_for_parts_of_the_stack(
    monkeypatch: pytest.MonkeyPatch, source: dict[str, str], ends: list[tuple[int, str]], code: int, pauses: int
) -> None:
    """Each ingestor delivers ten trades."""
    left = [Ended(code, 10, reason) for code, reason in ends]
    paused: list[float] = []
    told: list[bool] = []

    def run(_: Any, settings: Mapping[str, str], __: Any) -> Ended:
        told.append(settings.items() >= RESTARTED.items())
        return left.pop(0)

    monkeypatch.setattr(ingestor_process, "_run_ingestor", run)
    monkeypatch.setattr(time, "sleep", paused.append)
    ended = ingest_online(["a.csv"], source, lambda _: None)
    assert (ended.code, ended.trades) == (code, 10 * len(ends))
    assert not left
    assert paused == [0.5, 1, 2, 4, 5][:pauses]
    assert told == [False, *[True] * pauses], "each start but the first knows that it is another one"
