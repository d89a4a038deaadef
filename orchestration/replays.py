"""One replay as a child process, with its log lines passed on: what the job `replay` does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

from orchestration.local.lifeline import bound_to_parent

ROOT = Path(__file__).resolve().parents[1]
STOP_S = 20.0
"""How long an ingestor may take to deliver what it has read; it gives up by itself after 5 s."""
WAIT_S = 0.2
WORDS = 200
"""Lines outside its log that are remembered, as a stack of calls."""
SHOWN_WORDS = 10
BAD_RECORDING = 2
"""Exit code of an ingestor whose recordings or id no restart mends."""
_STACK = "Traceback (most recent call last):"


class Line(NamedTuple):
    """One line of a log.

    Attributes:
        level: info, warning or error.
    """

    level: str
    text: str


class Ended(NamedTuple):
    """How an ingestor ended.

    Attributes:
        trades: how many it has delivered, as it says itself.
        reason: its last error, or its last words where it failed without one; empty if it said nothing.
    """

    code: int
    trades: int
    reason: str


def ingest_online(recordings: Sequence[str], settings: Mapping[str, str], tell: Callable[[Line], None]) -> Ended:
    """Run `python -m online.ingestor` to its end.

    An exception that arrives meanwhile, as a cancelled run raises one, stops the ingestor as an operator would: what
    was read is delivered first. Then it goes on its way.

    Args:
        recordings: paths, in the order of their trades.
        settings: environment of the ingestor, besides ours.
        tell: gets each line of its log as it is written.
    """
    command = [sys.executable, "-m", "online.ingestor", *recordings]
    trades, reason = 0, ""
    words: deque[str] = deque(maxlen=WORDS)
    process = subprocess.Popen(
        bound_to_parent(command),
        env={**os.environ, **settings, "LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: Queue[str | None] = Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as log:
            for line in log:
                lines.put(line.rstrip())
        lines.put(None)

    def pass_on() -> None:
        nonlocal trades, reason
        while (text := _next(lines)) is not None:
            if (said := _parsed(text)) is None:
                words.append(text)
                said = {"event": text}
            trades = said.get("trades", trades)
            line = Line(said.pop("level", "info"), _readable(said))
            if line.level == "error":
                reason = line.text
            tell(line)

    threading.Thread(target=read, name="replay-log", daemon=True).start()
    try:
        pass_on()
        process.wait()
    finally:
        with _undisturbed():
            process.terminate()  # does nothing where it has ended
            killer = threading.Timer(STOP_S, process.kill)
            killer.start()
            pass_on()
            process.wait()
            killer.cancel()
    return Ended(process.returncode, trades, reason or (last_words(list(words)) if process.returncode else ""))


def last_words(lines: list[str]) -> str:
    """Return what an exception says, below its stack of calls; without one, the last lines.

    >>> last_words(["Traceback (most recent call last):", '  File "a.py", line 1', "ValueError: 2 of them:", "  a, b"])
    'ValueError: 2 of them:\\n  a, b'
    """
    if any(line.startswith(_STACK) for line in lines):
        last = max(row for row, line in enumerate(lines) if line.startswith(_STACK))
        said = list(dropwhile(lambda line: line.startswith(" "), lines[last + 1 :]))
        return "\n".join(said[:SHOWN_WORDS])
    return "\n".join(lines[-SHOWN_WORDS:])


def _parsed(text: str) -> dict[str, Any] | None:
    """Return what a line of the log says, or None if it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return None
    found.pop("timestamp", None)  # Dagster notes its own
    return found


def _readable(said: dict[str, Any]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in said.items() if name != "event" and value is not None)
    return f"{said.get('event', '')}{': ' if rest else ''}{rest}"


def _next(lines: Queue[str | None]) -> str | None:
    """Wait for the next line, in short waits: an interrupt is raised between two of them. None: there are no more."""
    while True:
        with contextlib.suppress(Empty):
            line = lines.get(timeout=WAIT_S)
            if line is None:
                lines.put(None)  # whoever asks again is told again
            return line


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second stop cut this short: one can come from the terminal, and one from whoever passes it on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
