"""Hold and serve the Prometheus metrics of the online processes."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from data.times import NS
from data.trades import Int64s

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SIDE_BY_SIDE = 100
"""Number of ports in which processes of one kind on one machine find a free port."""
PACING_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 10.0)


class BatchHistogram(Collector):
    """Observe a whole batch at once in a histogram: the client's own histogram costs 2 us a row, more than the row's
    features."""

    def __init__(
        self,
        name: str,
        help_text: str,
        registry: CollectorRegistry,
        bounds: tuple[float, ...] = LATENCY_BUCKETS_S,
    ) -> None:
        self._name, self._help, self._bounds = name, help_text, bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        """Count each value in its bucket.

        Args:
            seconds: shape (n,).
        """
        places = np.searchsorted(self._bounds, seconds, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(seconds.sum())

    def collect(self) -> Iterable[Metric]:
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, np.cumsum(self._counts).astype(float).tolist(), strict=True))
        yield HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=self._sum)


class Metrics:
    """Hold the metrics that online processes share, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        one = self.registry
        self.messages_in = Counter("cryptovol_messages_in", "records read", ["topic"], registry=one)
        self.messages_out = Counter("cryptovol_messages_out", "records written", ["topic"], registry=one)
        self.rejects = Counter("cryptovol_rejects", "records or rows not taken", ["reason"], registry=one)
        self.errors = Counter("cryptovol_errors", "failures that were survived", ["kind"], registry=one)
        self.latency = BatchHistogram("cryptovol_latency_seconds", "from ingest_time to written, a row", one)
        self.transaction = BatchHistogram("cryptovol_transaction_seconds", "from read to committed, a batch", one)
        self.pacing_error = BatchHistogram(
            "cryptovol_pacing_error_seconds", "from due to handed to the client, a trade", one, PACING_BUCKETS_S
        )
        self.consumer_lag = Gauge(
            "cryptovol_consumer_lag", "records from this process to the end", ["topic", "kafka_partition"], registry=one
        )
        self.feature_age = Gauge(
            "cryptovol_feature_age_seconds", "wall time minus the newest row's ingest_time", ["purpose"], registry=one
        )
        self.open_streams = Gauge("cryptovol_open_streams", "products of open sources with a window", registry=one)
        self.removed = Counter(
            "cryptovol_removed_trades", "trades that retention removed before they were read", registry=one
        )
        self.ready = Gauge("cryptovol_ready", "1 while the process does its work", registry=one)

    def saw_rows(self, purpose: str, ingest_time: Int64s) -> None:
        """Record the latency of written rows, and the age of the newest row from now on.

        Args:
            ingest_time: shape (n,), n >= 1, ns since 1970.
        """
        self.latency.observe((time.time_ns() - ingest_time) / NS)
        newest_s = float(ingest_time.max()) / NS
        self.feature_age.labels(purpose).set_function(lambda: time.time() - newest_s)

    def read_statistics(self, statistics: str) -> None:
        """Set the lag of each assigned partition from the client's statistics, which hold the broker's end of log.

        The lag counts the records to fetch, and the fetched records not read yet. The client's own `consumer_lag` stays
        unknown where transactions commit the offsets.

        Args:
            statistics: JSON of librdkafka.
        """
        for topic, known in json.loads(statistics)["topics"].items():
            for partition, facts in known["partitions"].items():
                if facts["fetch_state"] == "active" and facts["ls_offset"] >= 0:
                    to_fetch = max(0, facts["ls_offset"] - facts["next_offset"])
                    self.consumer_lag.labels(topic, partition).set(to_fetch + facts["fetchq_cnt"])


@contextmanager
def serve_metrics(metrics: Metrics, host: str, port: int, *, ports: int = 1) -> Iterator[int]:
    """Serve `/metrics` while the block runs, on the first free port; yield the port.

    Args:
        port: the first port to try.
        ports: how many ports to try, counting up from `port`.

    Raises:
        OSError: all ports are taken, or the host is not ours; names the host and the ports.
    """
    last = min(port + ports - 1, 65_535)
    for candidate in range(port, last + 1):
        try:
            server, thread = start_http_server(candidate, host, registry=metrics.registry)
            break
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate < last:
                continue
            where = f"{host}:{port}" if port == last else f"{host}:{port} to {last}"
            raise OSError(error.errno, f"metrics cannot be served on {where}: {error.strerror}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
