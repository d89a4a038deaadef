"""Make the state of the page once a second, while a browser is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import structlog

from data.trades import StreamKey
from online.live import states
from online.live.facts import PASS_S, SlowFacts
from online.live.versions import Versions
from online.live.view import LiveView

log = structlog.get_logger()

BEAT_S = 1.0
STOP_S = 3.0
SHOWN_S = 5.0
"""How long a source counts as shown after its last state for a browser."""


class Beat(NamedTuple):
    """Hold one state of the page.

    Attributes:
        number: rising from beat to beat; 0: none yet.
    """

    number: int
    common: dict[str, Any]
    broken: states.Said | None
    streams: list[dict[str, Any]]


class Checks(NamedTuple):
    """Hold the checks of a beat.

    Attributes:
        broker: asks the broker; `ok`, and `answered_ms` or `problem`.
        reader: the problem of the reader of the topic, None if none.
        model: the model that serves, None before the first.
    """

    broker: Callable[[], dict[str, Any]]
    reader: Callable[[], str | None]
    model: Callable[[], dict[str, Any] | None]


class Pulse:
    """Beat in a thread while a browser is open. The slower facts have another thread, so no beat waits for a fact.

    Args:
        limit_s: age of the newest forecast from which on an open stream is stale.
    """

    def __init__(self, view: LiveView, versions: Versions, facts: SlowFacts, checks: Checks, limit_s: float) -> None:
        self._view, self._versions, self._facts, self._checks, self._limit_s = view, versions, facts, checks, limit_s
        self._watchers = 0
        self._watched, self._stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._silent: dict[str, float] = {}  # time of the last state for a browser, by stale source
        self.newest = Beat(0, {}, None, [])
        self._threads = [
            threading.Thread(target=self._run, args=(self._beat, BEAT_S), name="pulse", daemon=True),
            threading.Thread(target=self._run, args=(facts.ask, PASS_S), name="facts", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def begin_stop(self) -> None:
        self._stop.set()
        self._facts.stop()
        self._watched.set()

    def stop(self) -> None:
        self.begin_stop()
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._facts.close()

    def watch(self, change: int) -> int:
        """Count one browser more, or one less; return the number of browsers."""
        with self._lock:
            self._watchers += change
            if self._watchers:
                self._watched.set()
            else:
                self._watched.clear()
                self.newest = self.newest._replace(number=0)  # the next browser must not see an old state
            return self._watchers

    def state_for(self, wanted: StreamKey | None) -> bytes:
        """Return the newest beat as JSON, with the state of a stream; None: of the newest stream."""
        beat = self.newest
        chosen = next((each for each in beat.streams if (each["source_id"], each["product_id"]) == wanted), None)
        chosen = chosen or (beat.streams[0] if beat.streams else None)
        if beat.broken is not None:
            said = beat.broken
        elif chosen is None:
            said = states.empty(has_model=beat.common["model"] is not None)
        else:
            source = str(chosen["source_id"])
            if not chosen["has_ended"] and chosen["age_s"] > self._limit_s:
                with self._lock:
                    self._silent[source] = time.monotonic()
            written = self._facts.writers.get(source)
            said = states.of_stream(chosen, self._limit_s, written, beat.common["trades_behind"])
        return msgspec.json.encode(beat.common | {"streams": beat.streams, "state": said._asdict()})

    def silent(self) -> list[str]:
        """Return the stale open sources that browsers show."""
        since = time.monotonic() - SHOWN_S
        with self._lock:
            self._silent = {source: at for source, at in self._silent.items() if at >= since}
            return list(self._silent)

    def _run(self, work: Callable[[], None], every_s: float) -> None:
        told = ""
        while not self._stop.is_set():
            if not self._watched.wait(BEAT_S):
                continue
            try:
                work()
                told = ""
            except Exception as error:  # of any kind: a page that never beats again would be worse
                if repr(error) != told:
                    log.error("the live page", exc_info=error)
                told = repr(error)
            self._stop.wait(every_s)

    def _beat(self) -> None:
        broker = self._checks.broker()
        reader = self._checks.reader()
        is_away = not broker["ok"]
        common = {
            "now": time.time_ns() / 1e6,
            "broker": broker,
            "model": self._checks.model(),
            "versions": self._versions.known(),
            "latency": self._view.latency(),
            "trades_behind": None if is_away else self._facts.trades_behind,
            "drift": self._facts.drift(),
            "moves": self._facts.moves(),
            "shares": self._facts.shares,
            "reachable": self._facts.reachable,
        }
        said = states.broken(broker.get("problem"), reader)
        self.newest = Beat(self.newest.number + 1, common, said, self._view.summary())
