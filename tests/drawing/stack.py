"""Run a whole stack in which each event that the dashboards show happens once."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Producer

from data.files import CHECKOUT
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.simulator.state import MarketShift
from data.stream.records import TRADES
from orchestration.local.dagster import client as dagster
from tests.faults.stacks import STACK, settings_of
from tests.pipeline import wait_until

DAY, NOON_S = dt.date(2025, 1, 8), 12 * 3_600
TRAINED = dt.date(2010, 1, 8)
"""A day of the first model's training: its forecasts are in sample, and its rows are in the lake."""
PRODUCTS = ("BTC-USD", "ETH-USD")
"""The market of the first product turns wild at noon."""
UP_S, FIRST_ML_S, JOB_S = 400.0, 900.0, 400.0
"""Limits for the first forecast, the first model and a job of Dagster, on a busy machine."""
ASKED_S = 0.1
"""Seconds between two requests of the client."""
CRONS = {"SINK_CRON": "* * * * *", "DRIFT_CRON": "*/2 * * * *"}
WHY = "the dashboards show a promotion and a rollback"


@dataclass
class EventfulStack:
    """A running stack, its addresses, and its events.

    Attributes:
        began: seconds since 1970 of the stack's start.
    """

    folder: Path
    settings: dict[str, str]
    speed: float
    began: float

    def url(self, name: str) -> str:
        """Return the address of a part, as `prometheus`."""
        return f"http://127.0.0.1:{self.settings[f'{name.upper()}_PORT']}"

    def live(self, seconds: float) -> None:
        """Make each event happen, with a promotion after a third of the time, and a rollback after two thirds."""
        begin = time.monotonic()
        self._launch("replay", _op("replay_trades", recordings=[self._recording(PRODUCTS[1], DAY)], speed=self._speed))
        trained = self._recording(PRODUCTS[0], TRAINED, hours=(0, 4))
        source = {"replay_id": "trained", "purpose": "drill", "speed": "max"}
        self._finish(self._launch("replay", _op("replay_trades", recordings=[trained], **source)))
        self._finish(self._check_parity())
        self._finish(self._launch("retrain", _op("models", last_day=str(TRAINED + dt.timedelta(1)))))
        self._send_malformed()
        _sleep_until(begin + seconds / 3)
        self._finish(self._launch("promote", _op("promote_model", why=WHY, force=True)))
        _sleep_until(begin + seconds * 2 / 3)
        self._finish(self._launch("rollback", _op("roll_back_model", why=WHY)))
        _sleep_until(begin + seconds)

    @property
    def _speed(self) -> str:
        return f"{self.speed:g}"

    def _recording(self, product_id: str, day: dt.date, hours: tuple[int, int] = (0, 24)) -> str:
        return str(_recorded(self.folder, product_id, day, hours, is_harmed=False))

    def _launch(self, job: str, config: dict[str, Any]) -> str:
        return dagster.launch(self.url("dagster"), job, config)

    def _finish(self, run_id: str) -> None:
        url = self.url("dagster")
        ended = wait_until(lambda: (now := dagster.status(url, run_id)) in dagster.ENDED and now, "a run ends", JOB_S)
        assert ended == "SUCCESS", dagster.failure_of(url, run_id)

    def _check_parity(self) -> str:
        """Compare the rows of the replayed day of training with the lake's, as a person does in Dagster's page."""
        query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
            ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
        selector = {
            "repositoryLocationName": dagster.LOCATION,
            "repositoryName": dagster.REPOSITORY,
            "jobName": "__ASSET_JOB",
            "assetSelection": [],
            "assetCheckSelection": [{"assetKey": {"path": ["feature_rows"]}, "name": "parity"}],
        }
        config = _op("feature_rows_parity", product_id=PRODUCTS[0], day=str(TRAINED), source_id="trained")
        found = dagster.ask(self.url("dagster"), query, params={"selector": selector, "runConfigData": config})
        assert found["launchRun"]["__typename"] == "LaunchRunSuccess", found
        return str(found["launchRun"]["run"]["runId"])

    def _send_malformed(self) -> None:
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{self.settings['KAFKA_PORT']}"})
        producer.produce(TRADES, b"{", partition=0)
        assert producer.flush(30) == 0


@contextmanager
def eventful_stack(folder: Path, speed: float) -> Iterator[EventfulStack]:
    """Yield a stack whose first `volatility-ml` answers a client, while a day is replayed.

    Args:
        folder: an empty folder for all state.
        speed: event time per wall time of the replays.
    """
    settings = settings_of(folder / "var") | CRONS
    recording = _recorded(folder, PRODUCTS[0], DAY, (0, 24), is_harmed=True)
    settings |= {"RECORDING": str(recording), "REPLAY_SPEED": f"{speed:g}", "SINK_FEEDS_TRADES": "false"}
    log = folder / "stack.log"
    with log.open("w") as output:
        process = psutil.Popen(STACK, cwd=CHECKOUT, env=os.environ | settings, stdout=output, stderr=output)

    def said(text: str) -> bool:
        assert process.poll() is None and "first_ml ended" not in log.read_text(), log.read_text()
        return text in log.read_text()

    stack = EventfulStack(folder, settings, speed, time.time())
    try:
        wait_until(lambda: said("first forecast"), "a first forecast", UP_S)
        with _client(stack.url("api")):
            wait_until(lambda: said("first_ml: volatility-ml version 1 answers now"), "a first model", FIRST_ML_S)
            yield stack
    finally:
        _end(process)


def _recorded(folder: Path, product_id: str, day: dt.date, hours: tuple[int, int], *, is_harmed: bool) -> Path:
    """Return a recording of simulated hours, with rows that are no trades."""
    path = folder / f"{product_id}-{day}.csv"
    write_csv(path, [simulate_day(product_id, day, hours=hours, shift=MarketShift(NOON_S) if is_harmed else None)])
    if day == DAY:
        rows = path.read_text().splitlines(keepends=True)
        for at in range(len(rows) - 1, 0, -20_000):
            rows.insert(at, "this row is no trade\n")
        path.write_text("".join(rows))
    return path


@contextmanager
def _client(api: str) -> Iterator[None]:
    """Ask for forecasts of both kinds, all the time."""
    closing = threading.Event()
    rows = json.dumps({"rows": [{"n": 50, "ret_mean": 1e-5, "ret_std": 2e-4}]}).encode()
    posted = urllib.request.Request(f"{api}/predict", rows, {"content-type": "application/json"})
    requests = cycle([posted, *(urllib.request.Request(f"{api}/predict/{product_id}") for product_id in PRODUCTS)])

    def ask() -> None:
        for request in requests:
            if closing.wait(ASKED_S):
                return
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=5.0).close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()


def _end(process: psutil.Popen) -> None:
    """End a stack as an operator would; kill what is left."""
    family = [process, *process.children(recursive=True)] if process.is_running() else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(90)
    for each in family:
        if each.is_running():
            each.kill()


def _op(name: str, **config: Any) -> dict[str, Any]:
    return {"ops": {name: {"config": config}}}


def _sleep_until(monotonic: float) -> None:
    time.sleep(max(0.0, monotonic - time.monotonic()))
