"""The harmed day: its recording, and its replay up to an hour."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

from data.files import CHECKOUT
from data.times import NS, start_ns
from tests.harm.clock import EventClock
from tests.pipeline import replay, running, wait_until

PRODUCT, DAY, SOURCE = "BTC-USD", dt.date(2025, 1, 8), "harmed-day"
HARM_HOUR = 12
HARM_FROM = start_ns(DAY) + HARM_HOUR * 3_600 * NS
"""Event time of the first harmed trade, ns since 1970."""
WATCHED_HOURS = 4
"""Harmed hours after each of which the replay waits for what follows."""
SPEED = "600"
"""Times the recorded pace: an hour takes 6 s, and a stop comes within minutes of event time."""
JUDGED_NS = 120 * NS
"""How far behind an hour the replay must be, so that the targets of the hour are known."""
STEP_S = 300.0
"""Limit for one step of the replay."""


def simulate(path: Path, product_id: str, *options: str) -> None:
    """Write simulated hours, as the documents show the command."""
    command = [sys.executable, "-m", "data.simulator", "--product", product_id, "--day", f"{DAY}", "--out", str(path)]
    subprocess.run([*command, *options], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)


def play(environ: dict[str, str], folder: Path, recording: Path, clock: EventClock, until: int | None) -> None:
    """Replay the recording on, until the forecasts have passed an event time, or to its end.

    Args:
        environ: settings of the broker and the ports.
        folder: for the log of the ingestor.
        until: ns since 1970.
    """
    more = {"REPLAY_SPEED": "max" if until is None else SPEED, "REPLAY_END_ON_STOP": "false", "PURPOSE": "replay"}
    ingestor = replay(environ, folder, SOURCE, recording, **more)
    with running(ingestor):
        if until is None:
            wait_until(lambda: clock.has_ended, "the end of the harmed day", STEP_S)
        else:
            wait_until(lambda: clock.sent >= until + JUDGED_NS, "the next hour of the harmed day", STEP_S)
            ingestor.process.terminate()
        assert ingestor.process.wait(30) == 0, ingestor.log.read_text()
        wait_until(lambda: clock.now >= clock.sent, "a forecast for each trade", STEP_S)
