"""`make run` under random kills: each part comes back, and nothing is lost or doubled."""

from __future__ import annotations

import datetime as dt
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from data.files import CHECKOUT
from data.models.kept import save_last_good
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import FEATURES, PREDICTIONS, TRADES
from tests.faults.stacks import STACK, settings_of
from tests.models import model_file
from tests.pipeline import read_topic, wait_until
from tests.proofs import Proof

TRADES_REPLAYED = 4_337
REPLAY_S = 30
KILLS = ("forecaster", "ingestor", "kafka") * 3 + ("api", "api", "mlflow")
"""Twelve kills, in a random order."""
DONE_S = 40.0
"""Limit for all forecasts after the replay's end."""
KILLED = {
    "kafka.Kafka": "kafka",
    "online.forecaster": "forecaster",
    "online.ingestor": "ingestor",
    "online.api": "api",
    "registry_app": "mlflow",
}
"""Text in the command line of each part, and the part's name."""


def parts_of(stack: psutil.Process) -> dict[str, psutil.Process]:
    """Return the running parts."""
    found: dict[str, psutil.Process] = {}
    for process in stack.children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        found |= {name: process for mark, name in KILLED.items() if mark in command}
    return found


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", [1, 2])
def test_twelve_random_kills_cost_nothing(tmp_path: Path, jars: list[Path], proof: Proof, seed: int) -> None:
    settings = settings_of(tmp_path / "var")
    save_last_good(tmp_path / "var" / "models", model_file(version="1"))  # a warm start: the kills come sooner
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, TRADES_REPLAYED))
    span_s = (trades.event_time[-1] - trades.event_time[0]) / 1e9
    recording = tmp_path / "recording.csv"
    write_csv(recording, [trades])
    settings |= {"RECORDING": str(recording), "REPLAY_SPEED": str(span_s / REPLAY_S)}
    servers = f"127.0.0.1:{settings['KAFKA_PORT']}"
    log = tmp_path / "stack.log"
    killed: Counter[str] = Counter()
    rng = random.Random(seed)
    with log.open("w") as output:
        stack = psutil.Popen(STACK, cwd=CHECKOUT, env=os.environ | settings, stdout=output, stderr=output)
    family: set[psutil.Process] = {stack}

    def said(pattern: str) -> re.Match[str] | None:
        family.update(stack.children(recursive=True))
        assert stack.poll() is None, log.read_text()
        return re.search(pattern, log.read_text())

    try:
        wait_until(lambda: said(r"first forecast (\S+) s after start"), "a first forecast", within_s=120)
        source_id = re.findall(r"replay (replay-\S+) at speed", log.read_text())[-1]
        for name in rng.sample(KILLS, len(KILLS)):
            turn = time.monotonic() + rng.uniform(0.5, 2 * REPLAY_S / len(KILLS) - 0.5)

            def can_be_killed(turn: float = turn, name: str = name) -> bool:
                return time.monotonic() > turn and name in parts_of(stack)

            wait_until(can_be_killed, f"the next turn of {name}")
            parts_of(stack)[name].kill()
            killed[name] += 1
        wait_until(lambda: said("replay ended; the stack stays up"), "the replay's end", within_s=180)
        ended = time.monotonic()

        def is_whole() -> bool:
            said("")
            found = {topic: read_topic(servers, topic, source_id) for topic in (TRADES, FEATURES, PREDICTIONS)}
            return all(sum("end" not in record for record in records) >= TRADES_REPLAYED for records in found.values())

        wait_until(is_whole, f"{TRADES_REPLAYED} forecasts; {log.read_text()}", within_s=DONE_S)
        proof.saw(whole_after_s=time.monotonic() - ended)
        for topic in (TRADES, FEATURES, PREDICTIONS):
            records = [record for record in read_topic(servers, topic, source_id) if "end" not in record]
            proof.equal([record["trade_id"] for record in records], trades.trade_id.tolist(), topic)
        stack.send_signal(signal.SIGINT)
        assert stack.wait(60) == 0, log.read_text()
    finally:
        proof.disturbs(", ".join(f"{name} killed {times} times" for name, times in sorted(killed.items())))
        for each in family:
            if each.is_running():
                each.kill()
