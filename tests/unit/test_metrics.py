"""What Prometheus is told."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest

from data.process.metrics import serve_metrics
from online.metrics import Metrics


def test_a_batch_counts_as_its_values_would_one_by_one() -> None:
    """0.5 ms, 1 ms (a bound counts to its own bucket), 40 ms and 20 s."""
    metrics = Metrics()
    metrics.latency.observe(np.array([0.0005, 0.001]))
    metrics.latency.observe(np.array([0.04, 20.0]))
    value = metrics.registry.get_sample_value
    name = "cryptovol_latency_seconds"
    assert value(f"{name}_bucket", {"le": "0.001"}) == 2
    assert value(f"{name}_bucket", {"le": "0.03"}) == 2
    assert value(f"{name}_bucket", {"le": "0.05"}) == 3
    assert value(f"{name}_bucket", {"le": "10.0"}) == 3
    assert value(f"{name}_bucket", {"le": "+Inf"}) == 4
    assert value(f"{name}_count") == 4
    assert value(f"{name}_sum") == pytest.approx(20.0415)


def test_lag_is_what_is_to_fetch_and_what_is_fetched_but_not_read() -> None:
    active = {"fetch_state": "active", "ls_offset": 100, "next_offset": 90, "fetchq_cnt": 7}
    idle = {"fetch_state": "none", "ls_offset": -1001, "next_offset": 0, "fetchq_cnt": 0}
    metrics = Metrics()
    metrics.read_statistics(json.dumps({"topics": {"features": {"partitions": {"3": active, "4": idle}}}}))
    labels = {"topic": "features", "kafka_partition": "3"}
    assert metrics.registry.get_sample_value("cryptovol_consumer_lag", labels) == 17
    assert metrics.registry.get_sample_value("cryptovol_consumer_lag", labels | {"kafka_partition": "4"}) is None


def test_metrics_are_served_and_a_taken_port_is_said() -> None:
    metrics = Metrics()
    metrics.ready.set(1)
    with serve_metrics(metrics.registry, "127.0.0.1", 0) as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert "cryptovol_ready 1.0" in text.splitlines()
        with pytest.raises(OSError, match="in use"), serve_metrics(Metrics().registry, "127.0.0.1", port):
            pass
