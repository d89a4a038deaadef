"""Follow the forecasts of a drill's source, disturb in the middle, and measure the time until all is well again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from data.settings import KafkaSettings
from data.stream.clients import reader_config
from data.stream.codec import mark_of
from data.stream.records import PREDICTIONS, partition_of
from data.trades import StreamKey

POLL_S = 0.05
BATCH = 500


class Follower:
    """Count the forecasts of one stream in a thread, and disturb once enough have come.

    Args:
        start: offset on `predictions` before the stream's first forecast.
        after: number of forecasts before the disturbance.
        disturb: called once, by the thread.

    Attributes:
        forecasts: number of forecasts so far.
        longest_wait_s: longest time without a forecast since the disturbance.
        failure: error of the disturbance, or of the reading; None: none.
    """

    def __init__(
        self, settings: KafkaSettings, key: StreamKey, start: int, after: int, disturb: Callable[[], None]
    ) -> None:
        self._settings, self._start, self._after, self._disturb = settings, start, after, disturb
        self._mine = mark_of(key.source_id)
        self._place = TopicPartition(PREDICTIONS, partition_of(key.product_id), start)
        self.forecasts = 0
        self.longest_wait_s = 0.0
        self.failure: Exception | None = None
        self._last = 0.0  # time of the newest forecast, or of the disturbance; 0: not yet
        self._ended, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="drill", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_end(self, within_s: float) -> bool:
        """Wait until the end of the stream has come through; return whether it has."""
        return self._ended.wait(within_s)

    def _run(self) -> None:
        try:
            with Consumer(reader_config(self._settings) | {"reconnect.backoff.max.ms": 500}) as consumer:
                consumer.assign([self._place])
                while not self._stop.is_set():
                    self._read(consumer)
        except Exception as error:  # of any kind: the drill fails with it
            self.failure = error
            self._ended.set()

    def _read(self, consumer: Consumer) -> None:
        came, has_ended = 0, False
        for message in consumer.consume(BATCH, POLL_S):
            if (error := message.error()) is not None:
                if error.fatal():
                    raise KafkaException(error)
                continue  # the end of the partition, or a broker that is away
            value = message.value() or b""
            if self._mine not in value:
                continue
            if b'"end":true' in value:
                has_ended = True
            else:
                came += 1
        if came:
            self._note(came)
        if has_ended:
            self._ended.set()

    def _note(self, came: int) -> None:
        """Count new forecasts, and disturb or measure."""
        self.forecasts += came
        now = time.monotonic()
        if self._last:
            self.longest_wait_s = max(self.longest_wait_s, now - self._last)
            self._last = now
        elif self.forecasts >= self._after:
            self._last = now
            self._disturb()
