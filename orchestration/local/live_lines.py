"""Live lines of `make run`: the newest forecasts of each product."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from data.stream.records import PARTITIONS, PREDICTIONS
from data.times import time_text
from orchestration.local.parts import fetch_text

_LAG = re.compile(r"^cryptovol_consumer_lag(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class LiveForecast(msgspec.Struct):
    """Fields of a `predictions` record for a live line; the other fields are skipped unread.

    The API answers with the same record: both show the same forecast and the same features.
    """

    source_id: str
    product_id: str
    event_time: int = 0
    price: float = 0.0
    score: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    ewma_variance_60: float | None = None
    end: bool = False


_decode = msgspec.json.Decoder(LiveForecast).decode


@dataclass
class LiveLine:
    """Newest forecasts of a product and source."""

    newest: LiveForecast
    rows: int = 0
    rows_per_s: float = 0.0
    ended: bool = False

    def text(self, lag: int | None) -> str:
        """Return a line for a person, with volatilities in basis points per minute."""
        f = self.newest
        low, high = f.interval
        realized = "–" if f.ewma_variance_60 is None else f"{1e4 * math.sqrt(f.ewma_variance_60):.2f}"
        return (
            f"{f.product_id}  {time_text(f.event_time)[:19].replace('T', ' ')}  price {f.price:,.2f}  "
            f"forecast {1e4 * f.score:.2f} [{1e4 * low:.2f}, {1e4 * high:.2f}] bp/min  "
            f"realized {realized}  lag {'–' if lag is None else lag}  "
            f"{self.rows_per_s:,.0f} rows/s{'  ended' if self.ended else ''}"
        )


class LiveLines(threading.Thread):
    """Thread that reads `predictions` from the end of the topic at the start, and commits nothing.

    Args:
        kafka: configuration of a client of the broker.
        metrics_url: page with the lag of the consumer of trades.
        source_id: the replay of this stack; work left by an earlier replay may be seen too.
        on_first: called with the first forecast of this stack's replay.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        metrics_url: str,
        source_id: str,
        on_first: Callable[[LiveForecast], None],
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._kafka = {
            **kafka,
            "group.id": "unused",  # the client requires a group
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "latest",
            "log_level": 0,  # the stack reports a restarting broker, not each client
        }
        self._metrics_url = metrics_url
        self._source_id = source_id
        self._on_first = on_first
        self._closing = threading.Event()
        self._lines: dict[tuple[str, str], LiveLine] = {}
        self._lag: int | None = None
        self._seen = False

    def lines(self) -> list[str]:
        """Return a text for each product of each open source, or of the newest source if all have ended."""
        lines = list(self._lines.values())
        return [line.text(self._lag) for line in [each for each in lines if not each.ended] or lines[-1:]]

    def close(self) -> None:
        self._closing.set()
        self.join(5.0)

    def run(self) -> None:
        consumer = Consumer(dict(self._kafka))
        try:
            # The client resolves the end as soon as the broker has the topic.
            consumer.assign([TopicPartition(PREDICTIONS, each, OFFSET_END) for each in range(PARTITIONS)])
            told = time.monotonic()
            while not self._closing.is_set():
                for message in consumer.consume(10_000, 0.25):
                    if message.error() is None:
                        with contextlib.suppress(ValueError, RecursionError):  # malformed; the API counts these
                            self._take(_decode(message.value() or b""))
                now = time.monotonic()
                if now - told >= 1.0:
                    self._tick(now - told)
                    told = now
        finally:
            consumer.close()

    def _take(self, forecast: LiveForecast) -> None:
        key = (forecast.product_id, forecast.source_id)
        line = self._lines.get(key)
        if forecast.end:
            if line is not None:
                line.ended = True
            return
        if line is None:
            line = self._lines[key] = LiveLine(forecast)
            for ended in [k for k, other in self._lines.items() if other.ended]:
                del self._lines[ended]
        line.newest = forecast
        line.rows += 1
        if not self._seen and forecast.source_id == self._source_id:
            self._seen = True
            self._on_first(forecast)

    def _tick(self, elapsed_s: float) -> None:
        for line in list(self._lines.values()):
            line.rows_per_s, line.rows = line.rows / elapsed_s, 0
        lags = _LAG.findall(fetch_text(self._metrics_url, timeout_s=0.5) or "")
        self._lag = int(sum(map(float, lags))) if lags else None
