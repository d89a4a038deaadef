"""Ask for slow facts while a browser is open: lag, batch figures, versions, writers, other pages."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import structlog
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from data.names import NotRead, Stopped, is_loopback
from data.process.catalog import metric_of
from data.settings import KafkaSettings
from data.stream.clients import UNUSED, GroupMembers, checked, client_config, offsets_reader, refusal
from data.stream.figures import FiguresReader
from data.stream.origin import group_of
from data.stream.records import FIGURES, PARTITIONS, TRADES, Figure
from online.exactly_once.offset_note import GROUP
from online.live.versions import Versions
from online.live.view import LiveView
from online.replay.share import NOTED_AT, read_share

log = structlog.get_logger()

LAG_S, FIGURES_S, WRITER_S, SHARE_S, PAGES_S = 2.0, 5.0, 3.0, 3.0, 10.0
"""Time between two requests of each kind."""
PASS_S = 0.5
ANSWER_S = 2.0
LATEST = -1
"""Time of a partition's end, as Kafka's protocol has it."""
PROBE_S = 0.2
DRIFT = ("drift_ratio", "drift_alarm", "drift_loss_alarm", "drift_with_loss", "drift_report_timestamp_seconds")
MOVE = "ledger_move_timestamp_seconds"


class SlowFacts:
    """Keep facts for the page in a thread. The thread asks nobody while no browser is open.

    Only the thread writes, and replaces each fact whole.

    Args:
        pages: addresses of other pages by name.
        silent: returns the stale open sources that browsers show.

    Attributes:
        trades_behind: trades that the forecaster has not read; None: not known.
        writers: by silent source, whether an ingestor writes the source; absent: not known.
        shares: by open source, the share of the recordings that was sent, 0 to 1; absent: the writer notes none.
        reachable: by name of a page, whether the page answers; a page on another machine is not asked.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        view: LiveView,
        versions: Versions,
        pages: dict[str, str],
        silent: Callable[[], list[str]],
    ) -> None:
        self._settings, self._view, self._versions = settings, view, versions
        self._pages, self._silent = pages, silent
        self.trades_behind: int | None = None
        self.writers: dict[str, bool] = {}
        self.shares: dict[str, float] = {}
        self.reachable: dict[str, bool] = {}
        self._figures: dict[str, Figure] = {}
        self._reader: FiguresReader | None = None
        self._members: dict[str, GroupMembers] = {}
        self._admin: AdminClient | None = None
        self._due: dict[str, float] = {}
        self._told: set[str] = set()
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def drift(self) -> dict[str, Any] | None:
        """Return the drift figures of each product's newest report; None if no report has come."""
        figures = [figure for figure in self._figures.values() if figure.name in DRIFT]
        newest: dict[str, int] = {}
        for each in figures:
            newest[each.labels["product_id"]] = max(each.at, newest.get(each.labels["product_id"], 0))
        found = [each for each in figures if each.at == newest[each.labels["product_id"]]]
        rows = [{"name": each.name, "value": each.value, "at": each.at / 1e6, **each.labels} for each in found]
        return {"figures": rows, "at": max(each.at for each in found) / 1e6} if rows else None

    def moves(self) -> list[dict[str, Any]]:
        """Return the newest promotion and rollback of each version, times in ms since 1970."""
        found = [figure for figure in self._figures.values() if figure.name == MOVE]
        return [{"at": 1e3 * figure.value, **figure.labels} for figure in found]

    def ask(self) -> None:
        """Ask for all that is due."""
        due: tuple[tuple[str, float, Callable[[], None]], ...] = (
            ("versions", PASS_S, self._ask_versions),
            ("lag", LAG_S, self._ask_lag),
            ("figures", FIGURES_S, self._ask_figures),
            ("writers", WRITER_S, self._ask_writers),
            ("shares", SHARE_S, self._ask_shares),
            ("pages", PAGES_S, self._ask_pages),
        )
        for name, every_s, work in due:
            now = time.monotonic()
            if self._stop.is_set() or now < self._due.get(name, 0.0):
                continue
            try:
                work()
                self._told.discard(name)
            except (KafkaException, NotRead, Stopped) as error:
                # The state of the page tells that the broker is away.
                if name not in self._told:
                    self._told.add(name)
                    log.info("the live page does without a fact for now", fact=name, reason=self._reason(error))
            self._due[name] = time.monotonic() + every_s

    def _reason(self, error: Exception) -> str:
        """Return the text of an error; a client's error has the topics and groups that were asked for."""
        if not isinstance(error, KafkaException):
            return str(error)[:200]
        groups = GROUP, UNUSED, *map(group_of, self._members)
        return refusal(error.args[0], (TRADES, FIGURES), groups)[:200]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)

    def _asked_admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(client_config(self._settings))
        return self._admin

    def _ask_versions(self) -> None:
        self._versions.learn(self._view.models())

    def _ask_lag(self) -> None:
        """Compare the offsets that the forecaster has committed with the ends of the partitions of trades.

        A partition without an offset is not read yet, from its start on.

        Raises:
            KafkaException: the broker does not answer, or refuses a partition: the lag is not known.
        """
        self.trades_behind = None
        places = [TopicPartition(TRADES, partition, LATEST) for partition in range(PARTITIONS)]
        with offsets_reader(self._settings, GROUP) as consumer:
            committed = checked(consumer.committed(places, timeout=ANSWER_S))
            ends = checked(consumer.offsets_for_times(places, timeout=ANSWER_S))
        read = {found.partition: max(found.offset, 0) for found in committed}
        self.trades_behind = sum(max(0, end.offset - read[end.partition]) for end in ends)

    def _ask_figures(self) -> None:
        if self._reader is None:
            if FIGURES not in self._asked_admin().list_topics(timeout=ANSWER_S).topics:
                return
            self._reader = FiguresReader(self._settings, running=lambda: not self._stop.is_set())
        self._figures = self._figures | {each.key: each for each in self._reader.read().records if _is_declared(each)}

    def _ask_writers(self) -> None:
        """Ask for the ingestor of each silent source, one source after the other, see `GroupMembers`."""
        silent, known = self._silent(), self._members
        self._members = {each: known.get(each) or GroupMembers(self._settings, group_of(each)) for each in silent}
        self.writers = {source: written for source, written in self.writers.items() if source in silent}
        for source, group in self._members.items():
            self.writers = self.writers | {source: bool(group.members(ANSWER_S))}

    def _ask_shares(self) -> None:
        """Ask for the note of each open source, see `online.replay.share`."""
        sources = {stream["source_id"] for stream in self._view.summary() if not stream["has_ended"]}
        # Without a broker this request raises, and not one request after the other.
        self._asked_admin().list_topics(timeout=ANSWER_S)
        shares = {}
        for source in sources:
            try:
                with offsets_reader(self._settings, group_of(source)) as consumer:
                    [note] = checked(consumer.committed([TopicPartition(*NOTED_AT)], timeout=ANSWER_S))
                share = read_share(note.metadata or "")
            except KafkaException:  # of this group alone: its coordinator may be away
                share = self.shares.get(source)
            if share is not None:
                shares[source] = share
        self.shares = shares

    def _ask_pages(self) -> None:
        found = {}
        for name, address in self._pages.items():
            place = urlsplit(address)
            if is_loopback(address) and place.port is not None:
                found[name] = False
                with contextlib.suppress(OSError):
                    socket.create_connection((place.hostname or "", place.port), PROBE_S).close()
                    found[name] = True
        self.reachable = found


def _is_declared(figure: Figure) -> bool:
    """Return whether a figure is one of the catalog's; the exporter counts all others."""
    try:
        metric_of(figure)
    except ValueError:
        return False
    return True
