"""Hold the Prometheus metrics that the online processes share."""

from __future__ import annotations

import json
import time

from prometheus_client import Counter, Gauge

from data.process.metrics import BatchHistogram, process_registry
from data.times import NS
from data.trades import Int64s

PACING_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 10.0)


class Metrics:
    """Hold the metrics that online processes share, in a registry of their own."""

    def __init__(self) -> None:
        one = self.registry = process_registry()
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
