"""Hold the streams of the live page: one thread writes, requests read."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import structlog

from data.features.spec import FeatureSpec
from data.stream.records import End
from data.times import NS
from data.trades import StreamKey
from online.live.arrival import Heard
from online.live.points import Cursor, LiveStream, ModelName

log = structlog.get_logger()

MAX_STREAMS = 12
"""Most streams in memory, about 2 MB each after a day; an ended stream goes first, then that heard of longest ago."""
MAX_MODELS = 200
"""Most models of a stream; a stream with more of them starts anew."""
FLUSH_S = 0.1
"""How long records may wait to be added: a batch costs less than its rows one by one."""
FLUSH_RECORDS = 500
"""How many records may wait: each keeps its whole row in memory."""
LATENCIES = 20_000
"""Newest rows whose latency is known."""
LATENCY_S = 60.0
"""How old a latency may be."""


class LiveView:
    """Keep the newest streams, as records arrive.

    `add`, `end`, `remember` and `flush` are called by the thread that reads the topic; all other methods by any thread.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._streams: dict[StreamKey, LiveStream] = {}
        self._made = 0
        self._pending: list[tuple[Any, Heard]] = []
        self._arrived: list[int] = []  # wall time of each pending record, ns
        self._latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES)
        self._flushed = 0.0

    def add(self, record: Any, heard: Heard) -> None:
        """Take the next record of the topic: a forecast, or an end.

        Args:
            heard: place of the record on the topic.
        """
        self._pending.append((record, heard))
        self._arrived.append(time.time_ns())

    def flush(self, *, is_live: bool) -> None:
        """Add the waiting records, if they have waited long enough.

        Args:
            is_live: the reader has reached the end of the topic; before, no record tells a latency or a pace.
        """
        now = time.monotonic()
        if not self._pending or (len(self._pending) < FLUSH_RECORDS and now < self._flushed + FLUSH_S):
            return
        pending, arrived, self._pending, self._arrived, self._flushed = self._pending, self._arrived, [], [], now
        by_stream: dict[StreamKey, list[Any]] = {}
        places: dict[StreamKey, Heard] = {}
        for record, heard in pending:
            key = StreamKey(record.source_id, record.product_id)
            by_stream.setdefault(key, []).append(record)
            if not isinstance(record, End):
                places[key] = heard
        if is_live:
            took = ((now, (at - record.ingest_time) / NS) for at, (record, _) in zip(arrived, pending, strict=True))
            with self._lock:
                self._latencies.extend(took)
        for key, records in by_stream.items():
            ends = isinstance(records[-1], End)
            rows = [record for record in records if not isinstance(record, End)]
            with self._lock:
                try:
                    if rows:
                        self._take(key, rows, places[key], now, is_live=is_live)
                    if ends and key in self._streams:
                        self._streams[key].end()
                except Exception as error:  # of any kind: the page is not worth a forecast of the API
                    log.error("the live page starts a stream anew", source_id=key.source_id, exc_info=error)
                    self._streams.pop(key, None)

    def _take(self, key: StreamKey, rows: list[Any], heard: Heard, now: float, *, is_live: bool) -> None:
        if key in self._streams and len(self._streams[key].models) > MAX_MODELS:
            del self._streams[key]  # each frame names all models
        stream = self._stream(key)
        stream.take(rows)
        stream.heard, stream.seen = heard, now
        if is_live:
            stream.pace.mark(now, stream.rows, rows[-1].event_time)

    def remember(self, record: Any, heard: Heard) -> None:
        """Take the newest forecast of an open stream that was found in older records."""
        key = StreamKey(record.source_id, record.product_id)
        with self._lock:
            if key not in self._streams:
                self._take(key, [record], heard, time.monotonic(), is_live=False)

    def _stream(self, key: StreamKey) -> LiveStream:
        if key not in self._streams:
            if len(self._streams) >= MAX_STREAMS:
                del self._streams[min(self._streams, key=self._worth)]
            self._made += 1
            self._streams[key] = LiveStream(self._made, self._spec)
        return self._streams[key]

    def _worth(self, key: StreamKey) -> tuple[bool, Heard]:
        """Return a key that is the least for the stream to forget first, and the greatest for the stream to show."""
        return not self._streams[key].has_ended, self._streams[key].heard

    def frame(
        self, wanted: StreamKey | None, cursor: Cursor | None, floor_of: Callable[[ModelName], float | None]
    ) -> tuple[bytes | None, Cursor | None]:
        """Return as JSON what a browser does not have yet, None if nothing; and the next cursor.

        A slow browser asks later, and gets more at once: nothing waits for it in memory.

        Args:
            wanted: None, and a stream that is not here: the open stream that was heard of last.
            cursor: as returned before; None at first.
        """
        with self._lock:
            key = wanted if wanted in self._streams else self._newest()
            if key is None:
                return None, cursor
            stream = self._streams[key]
            has_loss = stream.has_loss(floor_of)
            if cursor is not None and has_loss and not cursor.has_loss:
                cursor = None  # an ended or paused source has no new record that would bring the losses
            frame, following = stream.since(cursor)
            following = following._replace(has_loss=has_loss)
            if frame is None:
                return None, following
            newest = stream.newest
            names = ("source_id", "product_id", "purpose", "trade_id", "digest")
            times = {name: getattr(newest, name) / 1e6 for name in ("event_time", "ingest_time")}
            frame["stream"] = {name: getattr(newest, name) for name in names} | times | {"has_ended": stream.has_ended}
            if cursor is None or following.judged != cursor.judged or frame["reset"]:
                quality = stream.quality(floor_of)
                frame["quality"] = {name: found and found._asdict() for name, found in quality.items()}
        return msgspec.json.encode(frame), following

    def _newest(self) -> StreamKey | None:
        return max(self._streams, key=self._worth, default=None)

    def models(self) -> set[ModelName]:
        """Return the models of all forecasts in memory."""
        with self._lock:
            return {name for stream in self._streams.values() for name in stream.models}

    def summary(self) -> list[dict[str, Any]]:
        """Return each stream, the stream that a page shows first at the start."""
        now, wall = time.monotonic(), time.time_ns()
        with self._lock:
            newest = self._newest()
            rows = []
            for key, stream in self._streams.items():
                pace = None if stream.has_ended else stream.pace.read(now)
                age_s = max((wall - stream.newest.ingest_time) / NS, now - stream.seen)  # no clock makes it younger
                rows.append(
                    {
                        "source_id": key.source_id,
                        "product_id": key.product_id,
                        "purpose": stream.purpose,
                        "has_ended": stream.has_ended,
                        "is_newest": key == newest,
                        "age_s": round(age_s, 1),
                        "event_time": stream.newest.event_time / 1e6,
                        "rows": stream.rows,
                        "rows_per_s": pace and round(pace[0], 1),
                        "speed": pace and round(pace[1], 2),
                    }
                )
        return sorted(rows, key=lambda row: (not row["is_newest"], row["has_ended"], row["age_s"]))

    def latency(self) -> dict[str, float] | None:
        """Return the time from `ingest_time` to the arrival here over the last minute; None without a new row."""
        since = time.monotonic() - LATENCY_S
        with self._lock:
            while self._latencies and self._latencies[0][0] < since:
                self._latencies.popleft()
            seconds = np.array([each for _, each in self._latencies])
        if not len(seconds):
            return None
        p50, p99 = np.quantile(seconds, (0.5, 0.99)).tolist()
        return {"p50_ms": round(1e3 * p50, 1), "p99_ms": round(1e3 * p99, 1), "rows": len(seconds)}
