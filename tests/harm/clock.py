"""The event time of a source: of its newest trade, and of its newest forecast."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_right
from typing import Self

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from data.stream.records import PARTITIONS, PREDICTIONS, TRADES


class _Seen(msgspec.Struct):
    """Fields of a trade, a forecast, or an end, for a clock."""

    source_id: str
    event_time: int = 0
    end: bool = False


class EventClock:
    """Follow the trades and forecasts of a source in a thread, and commit nothing.

    Attributes:
        sent: event time of the newest trade, ns since 1970; 0 without one.
        now: event time of the newest forecast, ns since 1970; 0 without one.
        has_ended: whether the source has ended.
    """

    def __init__(self, servers: str, source_id: str) -> None:
        self.sent = self.now = 0
        self.has_ended = False
        self._source_id, self._ticks = source_id, [(0.0, 0)]
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "unused",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="event clock", daemon=True)

    def __enter__(self) -> Self:
        topics = TRADES, PREDICTIONS
        places = [TopicPartition(topic, each, OFFSET_BEGINNING) for topic in topics for each in range(PARTITIONS)]
        self._consumer.assign(places)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(5.0)
        self._consumer.close()

    def at(self, wall: float) -> int:
        """Return the event time at a wall time, in seconds since 1970: ns since 1970, 0 before the first forecast."""
        return self._ticks[bisect_right(self._ticks, wall, key=lambda tick: tick[0]) - 1][1]

    def _follow(self) -> None:
        decode = msgspec.json.Decoder(_Seen).decode
        while not self._closing.is_set():
            before = self.now
            for message in self._consumer.consume(10_000, 0.1):
                with contextlib.suppress(msgspec.MsgspecError):
                    seen = decode(message.value() or b"" if message.error() is None else b"")
                    if seen.source_id == self._source_id:
                        self._take(seen, is_trade=message.topic() == TRADES)
            if self.now > before:
                self._ticks.append((time.time(), self.now))

    def _take(self, seen: _Seen, *, is_trade: bool) -> None:
        if is_trade:
            self.sent = max(self.sent, seen.event_time)
        else:
            self.now, self.has_ended = max(self.now, seen.event_time), self.has_ended or seen.end
