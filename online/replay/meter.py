"""Export how far a replay has come, and how fast event time runs."""

from __future__ import annotations

import math
from collections.abc import Iterable

from data.stream.records import partition_of
from data.times import NS
from data.trades import Int64s
from online.metrics import IngestorMetrics


class ReplayMeter:
    """Set the metrics of a replay's progress and speed.

    Args:
        asked: event time per wall time; infinity for `max`.
        now: monotonic time, seconds.
    """

    def __init__(self, metrics: IngestorMetrics, asked: float, now: float) -> None:
        self._share = 0.0
        self._newest = self._newest_before = 0  # event times, ns since 1970; 0 before the first trade
        self._measured = now
        metrics.speed.labels("asked").set(asked)
        self._asked, self._partition_speed = asked, metrics.partition_speed
        self._reached = metrics.speed.labels("reached")
        self._reached.set(math.nan)
        metrics.progress.set_function(lambda: self._share)

    def has_sent(self, share: float) -> None:
        """Note the share of the recordings that was sent, 0 to 1."""
        self._share = share

    def writes(self, product_ids: Iterable[str]) -> None:
        """Note the products of trades that are about to be sent."""
        for partition in {partition_of(product_id) for product_id in product_ids}:
            self._partition_speed.labels(partition).set(self._asked)

    def saw(self, event_time: Int64s) -> None:
        """Note the event times of sent trades.

        Args:
            event_time: shape (n,), ns since 1970.
        """
        if len(event_time):
            newest = int(event_time.max())
            self._newest_before = self._newest_before or int(event_time[0])
            self._newest = max(self._newest, newest)

    def measure(self, now: float) -> None:
        """Set the speed since the measurement before.

        Args:
            now: monotonic time, seconds.
        """
        if self._newest and now > self._measured:
            self._reached.set((self._newest - self._newest_before) / NS / (now - self._measured))
            self._newest_before = self._newest
        self._measured = now
