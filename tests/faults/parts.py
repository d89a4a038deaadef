"""Processes that are started again whenever they end, as the supervisor of `make run` does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from online.settings import RESTARTED
from tests.faults.drill import Drill
from tests.pipeline import READY_S, Process, wait_until

PAUSE_S = 0.5
"""Pause before a process that ended by itself is started again: the supervisor's first pause."""


@dataclass
class Part:
    """A process that is started again whenever it has ended.

    Attributes:
        exit_code: None while the process runs.
        once: exit code 0 is the end for good, as of a replay.
        next_start: earliest start after an end, of `time.monotonic`; None while the process runs.
        ends: how often the process ended by itself with each exit code.
        is_over: whether the process ended for good.
    """

    start: Callable[[], object]
    kill: Callable[[], object]
    exit_code: Callable[[], int | None]
    pause_s: float = PAUSE_S
    once: bool = False
    next_start: float | None = None
    ends: Counter[int] = field(default_factory=Counter)
    is_over: bool = False

    @classmethod
    def of(cls, process: Process, pause_s: float = PAUSE_S, *, once: bool = False) -> Part:
        """Return a part of one process of the project."""
        return cls(process.start, process.kill, lambda: process.process.poll(), pause_s, once)

    def look(self) -> None:
        """Start the process again if it has ended, after the pause."""
        if self.is_over:
            return
        if self.next_start is None and (code := self.exit_code()) is not None:
            self.ends[code] += 1
            self.is_over = self.once and code == 0
            self.next_start = time.monotonic() + self.pause_s
        if not self.is_over and self.next_start is not None and time.monotonic() >= self.next_start:
            self.next_start = None
            self.kill()  # clears what is left of a broker
            self.start()

    @property
    def failures(self) -> int:
        """How often the process ended by itself with another code than 0."""
        return sum(count for code, count in self.ends.items() if code)

    @property
    def is_running(self) -> bool:
        return not self.is_over and self.next_start is None


class Replayed:
    """A paced replay of the source `disturbed`, started again whenever its process fails; the drill is looked after."""

    def __init__(self, drill: Drill, recording: Path, speed: str = "60", **settings: str) -> None:
        self._drill = drill
        self.ingestor = drill.replay("disturbed", recording, REPLAY_SPEED=speed, **RESTARTED, **settings)
        self.part = Part.of(self.ingestor, once=True)

    def look(self) -> None:
        self._drill.read()
        self.part.look()

    def rows(self) -> int:
        """Return the number of forecasts by now."""
        self.look()
        return len(self._drill.predictions.rows("disturbed"))

    def look_for(self, seconds: float) -> None:
        """Let time pass, and look after all."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()

    def await_rows(self, rows: int, within_s: float = READY_S) -> None:
        wait_until(lambda: self.rows() >= rows, f"{rows} forecasts", within_s)

    def await_end(self, within_s: float = 120.0) -> None:
        def is_over() -> bool:
            self.look()
            return self.part.is_over and self._drill.predictions.ends("disturbed") > 0

        wait_until(is_over, "the end", within_s)

    def await_failure(self, process: Process, within_s: float = 90.0) -> int:
        """Return the exit code of a process that must fail."""

        def has_ended() -> bool:
            self._drill.predictions.read()
            return process.process.poll() is not None

        wait_until(has_ended, f"{process.module} ends", within_s)
        code = process.process.poll()
        assert code is not None
        return code
