"""Live lines of `make run`: the newest forecasts of each product."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from data.times import NS, time_text
from orchestration.local.parts import fetch_text

GRID_STEPS = 60  # a minute of whole seconds
GAP_S = 300  # no return spans a longer hole
_LAG = re.compile(r"^cryptovol_consumer_lag(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class LiveForecast(msgspec.Struct):
    """Fields of a `predictions` record for a live line; the other fields are skipped unread."""

    source_id: str
    product_id: str
    event_time: int = 0
    price: float = 0.0
    score: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    end: bool = False


_decode = msgspec.json.Decoder(LiveForecast).decode


class MinuteVolatility:
    """Realized volatility of the last minute of event time, from prices at whole seconds.

    P(s) is the price of the last trade at or before the second s. The value is the square root of the sum of squared
    log returns over the last 60 steps, None until there are as many.
    """

    def __init__(self) -> None:
        self._grid: deque[float] = deque(maxlen=GRID_STEPS + 1)
        self._price: float | None = None
        self._known = 0  # the last second whose P is in the grid

    def add(self, second: int, has_fraction: bool, price: float) -> None:
        """Add the next trade; a trade earlier than the trade before counts at the time of the trade before."""
        # All seconds before this trade now have their price; its own second may still see another trade.
        complete = second if has_fraction else second - 1
        if self._price is None or complete - self._known > GAP_S:
            self._grid.clear()
            self._known = complete
        else:
            self._grid.extend([self._price] * min(complete - self._known, self._grid.maxlen or 0))
            self._known = max(self._known, complete)
        self._price = price

    @property
    def value(self) -> float | None:
        if len(self._grid) <= GRID_STEPS:
            return None
        prices = list(self._grid)
        return math.sqrt(math.fsum(math.log1p((b - a) / a) ** 2 for a, b in pairwise(prices)))


@dataclass
class LiveLine:
    """Newest forecasts of a product and source."""

    newest: LiveForecast
    volatility: MinuteVolatility = field(default_factory=MinuteVolatility)
    rows: int = 0
    rows_per_s: float = 0.0
    ended: bool = False

    def text(self, lag: int | None) -> str:
        """Return a line for a person, with volatilities in basis points per minute."""
        f = self.newest
        low, high = f.interval
        realized = self.volatility.value
        return (
            f"{f.product_id}  {time_text(f.event_time)[:19].replace('T', ' ')}  price {f.price:,.2f}  "
            f"forecast {1e4 * f.score:.2f} [{1e4 * low:.2f}, {1e4 * high:.2f}] bp/min  "
            f"realized {'–' if realized is None else f'{1e4 * realized:.2f}'}  "
            f"lag {'–' if lag is None else lag}  {self.rows_per_s:,.0f} rows/s{'  ended' if self.ended else ''}"
        )


class LiveLines(threading.Thread):
    """Thread that reads `predictions` from the end of the topic at the start, and commits nothing.

    Args:
        kafka: configuration of a client of the broker.
        metrics_urls: metrics pages with the lag of each consumer.
        source_id: the replay of this stack; work left by an earlier replay may be seen too.
        on_first: called with the first forecast of this stack's replay.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        metrics_urls: Sequence[str],
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
        self._metrics_urls = metrics_urls
        self._source_id = source_id
        self._on_first = on_first
        self._closing = threading.Event()
        self._lines: dict[tuple[str, str], LiveLine] = {}
        self._lag: int | None = None
        self._seen = False

    def lines(self) -> list[str]:
        """Return a text for each product of each open source, or of the newest source if all have ended."""
        lines = list(self._lines.values())
        shown = [line for line in lines if not line.ended] or lines[-1:]
        return [line.text(self._lag) for line in shown]

    def close(self) -> None:
        self._closing.set()
        self.join(5.0)

    def run(self) -> None:
        consumer = Consumer(dict(self._kafka))
        try:
            self._assign(consumer)
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

    def _assign(self, consumer: Consumer) -> None:
        while not self._closing.is_set():
            try:
                partitions = consumer.list_topics("predictions", timeout=1.0).topics["predictions"].partitions
                ends = [
                    TopicPartition(
                        "predictions", p, consumer.get_watermark_offsets(TopicPartition("predictions", p))[1]
                    )
                    for p in partitions
                ]
            except KafkaException:
                ends = []  # no broker yet
            if ends:
                consumer.assign(ends)
                return
            self._closing.wait(0.2)

    def _take(self, forecast: LiveForecast) -> None:
        key = (forecast.product_id, forecast.source_id)
        if forecast.end:
            if key in self._lines:
                self._lines[key].ended = True
            return
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = LiveLine(forecast)
            for ended in [k for k, other in self._lines.items() if other.ended]:
                del self._lines[ended]
        line.newest = forecast
        line.rows += 1
        line.volatility.add(forecast.event_time // NS, forecast.event_time % NS > 0, forecast.price)
        if not self._seen and forecast.source_id == self._source_id:
            self._seen = True
            self._on_first(forecast)

    def _tick(self, elapsed_s: float) -> None:
        for line in list(self._lines.values()):
            line.rows_per_s, line.rows = line.rows / elapsed_s, 0
        lags = [_LAG.findall(fetch_text(url, timeout_s=0.5) or "") for url in self._metrics_urls]
        self._lag = int(sum(float(lag) for found in lags for lag in found)) if any(lags) else None
