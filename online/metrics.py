"""Hold the Prometheus metrics of the online processes, one class for each process."""

from __future__ import annotations

import time

from data.process import catalog
from data.process.declarations import Process
from data.process.metrics import ProcessMetrics
from data.stream.records import PREDICTIONS, TRADES
from data.times import NS
from data.trades import Int64s
from online.consumer_lag import ConsumerLag


class ServingMetrics(ProcessMetrics):
    """Hold the metrics of a process that reads a topic and serves a model."""

    def __init__(self, process: Process, topic: str) -> None:
        super().__init__(process)
        self.messages_in = self.counter(catalog.MESSAGES_IN)
        self.rejects = self.counter(catalog.REJECTS)
        self.errors = self.counter(catalog.ERRORS)
        self.lag = ConsumerLag(self.gauge(catalog.CONSUMER_LAG), topic)
        self.model = self.gauge(catalog.MODEL)
        self.model_since = self.gauge(catalog.MODEL_SINCE)
        self.model_train_end = self.gauge(catalog.MODEL_TRAIN_END)
        self.model_swaps = self.counter(catalog.MODEL_SWAPS)
        self.model_refused = self.gauge(catalog.MODEL_REFUSED)
        self.registry_age = self.gauge(catalog.REGISTRY_AGE)


class ForecasterMetrics(ServingMetrics):
    """Hold the metrics of the forecaster."""

    def __init__(self) -> None:
        super().__init__("forecaster", TRADES)
        self.messages_out = self.counter(catalog.MESSAGES_OUT)
        self.latency = self.batch_histogram(catalog.LATENCY)
        self.transaction = self.batch_histogram(catalog.TRANSACTION)
        self.feature_age = self.gauge(catalog.FEATURE_AGE)
        self.open_streams = self.gauge(catalog.OPEN_STREAMS)
        self.removed = self.counter(catalog.REMOVED_TRADES)
        self.shadow_failures = self.counter(catalog.SHADOW_FAILURES)

    def saw_rows(self, purpose: str, ingest_time: Int64s) -> None:
        """Record the latency of written rows, and the age of the newest row from now on.

        Args:
            ingest_time: shape (n,), n >= 1, ns since 1970.
        """
        self.latency.observe((time.time_ns() - ingest_time) / NS, purpose)
        newest_s = float(ingest_time.max()) / NS
        self.feature_age.labels(purpose).set_function(lambda: time.time() - newest_s)


class ApiMetrics(ServingMetrics):
    """Hold the metrics of the API."""

    def __init__(self) -> None:
        super().__init__("api", PREDICTIONS)
        self.requests = self.histogram(catalog.REQUEST)
        self.rows_scored = self.counter(catalog.ROWS_SCORED)
        self.disk_used = self.gauge(catalog.DISK_USED)


class IngestorMetrics(ProcessMetrics):
    """Hold the metrics of the ingestor."""

    def __init__(self) -> None:
        super().__init__("ingestor")
        self.messages_out = self.counter(catalog.MESSAGES_OUT)
        self.rejects = self.counter(catalog.REJECTS)
        self.pacing_error = self.batch_histogram(catalog.PACING_ERROR)
        self.progress = self.gauge(catalog.REPLAY_PROGRESS)
        self.speed = self.gauge(catalog.REPLAY_SPEED)
        self.partition_speed = self.gauge(catalog.REPLAY_PARTITION_SPEED)
