"""Run a replay as a child process and pass its log lines on: the work of the job `replay`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import dropwhile, islice
from queue import SimpleQueue
from typing import Any, NamedTuple

from data.files import CHECKOUT
from data.process.running import REFUSED
from online.settings import RESTARTED
from orchestration.local.lifeline import bound_to_parent
from orchestration.local.supervisor import QUICK_DEATH_S, RestartPolicy, RunFailure

STOP_S = 20.0
"""Limit for an ingestor to deliver all trades already read; the ingestor itself gives up after 5 s."""
END_S = 8.0
"""Limit for the end of a source: together with `STOP_S` less than the stack gives a cancelled run."""
WORDS = 200
"""How many lines outside the log format are kept, as a stack of calls."""
SHOWN_WORDS = 10
_STACK = "Traceback (most recent call last):"


class ProgressLine(NamedTuple):
    """One line of a log.

    Attributes:
        level: info, warning or error.
    """

    level: str
    text: str


class Ended(NamedTuple):
    """How an ingestor ended.

    Attributes:
        trades: count of delivered trades in the log; a killed ingestor does not log its last seconds.
        reason: the last error of the log, or the last words if the log has no error; empty if both are missing.
    """

    code: int
    trades: int
    reason: str


def ingest_online(
    recordings: Sequence[str], settings: Mapping[str, str], tell: Callable[[ProgressLine], None]
) -> Ended:
    """Run `python -m online.ingestor` until its source is whole, over kills and passing errors.

    A dead ingestor is started again by the rule for parts of the stack (`RestartPolicy`), and goes on behind the last
    trade of its source on the topic. A source needs a `REPLAY_ID` to go on: without an id the ingestor is run once.

    An exception meanwhile, as in a cancelled run, stops the ingestor as an operator would: all trades already read
    are delivered. Then the exception is raised on.

    Args:
        recordings: paths, in the order of their trades.
        settings: environment of the ingestor, besides the environment of this process.
        tell: gets each line of the ingestor's log at once.
    """
    policy, trades, died = RestartPolicy(), 0, False
    try:
        while True:
            began = time.monotonic()
            ended = _run_ingestor(recordings, settings, tell)
            trades += ended.trades
            died = ended.code not in (0, REFUSED) and "REPLAY_ID" in settings
            failure = RunFailure.of_exit(ended.code, ended.reason, is_quick=time.monotonic() - began < QUICK_DEATH_S)
            pause_s = policy.pause_after(failure) if died else None
            if pause_s is None:
                return ended._replace(trades=trades)
            settings = {**settings, **RESTARTED}
            tell(ProgressLine("warning", f"the ingestor {failure.reason}; it starts again in {pause_s:.1f} s"))
            time.sleep(pause_s)
    except BaseException:
        # A dead ingestor ends no source, nor does a new ingestor stopped before listening to signals.
        if died and settings.get("REPLAY_END_ON_STOP") == "true":
            _end_source(settings, tell)
        raise


def _end_source(settings: Mapping[str, str], tell: Callable[[ProgressLine], None]) -> None:
    """End a source, unless it has ended or has not begun."""
    source_id = settings["REPLAY_ID"]
    command = [sys.executable, "-m", "online.ingestor", "--end", source_id]
    code = None
    with _undisturbed(), contextlib.suppress(subprocess.TimeoutExpired):
        code = subprocess.run(
            bound_to_parent(command),
            env={**os.environ, **settings},
            cwd=CHECKOUT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=END_S,
            check=False,
        ).returncode
    if code not in (0, REFUSED):
        text = f"source {source_id} stays open: end it by python -m online.ingestor --end {source_id}"
        tell(ProgressLine("error", text))


def _run_ingestor(
    recordings: Sequence[str], settings: Mapping[str, str], tell: Callable[[ProgressLine], None]
) -> Ended:
    """Run one ingestor to its end, and stop the ingestor on an exception."""
    command = [sys.executable, "-m", "online.ingestor", *recordings]
    trades, reason = 0, ""
    words: deque[str] = deque(maxlen=WORDS)
    process = subprocess.Popen(
        bound_to_parent(command),
        env={**os.environ, **settings, "LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"},
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as log:
            for line in log:
                lines.put(line.rstrip())
        lines.put(None)
        lines.put(None)  # for a second call of `pass_on`: the end is the end again

    def pass_on() -> None:
        nonlocal trades, reason
        for text in iter(lines.get, None):
            if (said := _parsed(text)) is None:
                words.append(text)
                said = {"event": text}
            trades = said.get("trades", trades)
            line = ProgressLine(said.pop("level", "info"), _readable(said))
            if line.level == "error":
                reason = line.text
            tell(line)

    threading.Thread(target=read, name="replay-log", daemon=True).start()
    try:
        pass_on()
        process.wait()
    finally:
        with _undisturbed():
            process.terminate()  # does nothing after the end of the process
            killer = threading.Timer(STOP_S, process.kill)
            killer.start()
            pass_on()
            process.wait()
            killer.cancel()
    return Ended(process.returncode, trades, reason or (last_words(list(words)) if process.returncode else ""))


def last_words(lines: list[str]) -> str:
    """Return the text of an exception below its stack of calls, or the last lines if there is no exception.

    >>> last_words(["Traceback (most recent call last):", '  File "a.py", line 1', "ValueError: 2 of them:", "  a, b"])
    'ValueError: 2 of them:\\n  a, b'
    """
    stacks = [row for row, line in enumerate(lines) if line.startswith(_STACK)]
    if not stacks:
        return "\n".join(lines[-SHOWN_WORDS:])
    said = dropwhile(lambda line: line.startswith(" "), lines[stacks[-1] + 1 :])
    return "\n".join(islice(said, SHOWN_WORDS))


def _parsed(text: str) -> dict[str, Any] | None:
    """Parse a line of the JSON log; return None for any other line."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            found.pop("timestamp", None)  # Dagster notes its own timestamp
            return found
    return None


def _readable(said: dict[str, Any]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in said.items() if name != "event" and value is not None)
    return f"{said.get('event', '')}{': ' if rest else ''}{rest}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore SIGTERM and SIGINT in the block: a stop can arrive twice, from the terminal and from a parent process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
