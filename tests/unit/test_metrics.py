"""What Prometheus is told."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from data.process import catalog
from data.process.catalog import LABELS, METRICS, PROCESSES, PURPOSES, metrics_of
from data.process.declarations import CounterMetric, Process
from data.process.metrics import ProcessMetrics, serve_metrics
from data.stream.codec import encode_trades
from data.stream.records import partition_of
from online.http.routes import create_app
from online.metrics import ApiMetrics, ForecasterMetrics, IngestorMetrics
from online.replay.meter import ReplayMeter
from online.settings import ApiSettings
from tests.exported import exported, names_in, series_of
from tests.unit.test_feature_stage import FakeTopic, source
from tests.unit.test_forecasting import Pipeline


def test_a_batch_counts_as_its_values_would_one_by_one() -> None:
    """0.5 ms, 1 ms (a bound counts to its own bucket), 40 ms and 20 s."""
    metrics = ForecasterMetrics()
    metrics.latency.observe(np.array([0.0005, 0.001]), "live")
    metrics.latency.observe(np.array([0.04, 20.0]), "live")
    value = metrics.registry.get_sample_value
    name, live = "cryptovol_latency_seconds", {"purpose": "live"}
    assert value(f"{name}_bucket", live | {"le": "0.001"}) == 2
    assert value(f"{name}_bucket", live | {"le": "0.03"}) == 2
    assert value(f"{name}_bucket", live | {"le": "0.05"}) == 3
    assert value(f"{name}_bucket", live | {"le": "10.0"}) == 3
    assert value(f"{name}_bucket", live | {"le": "+Inf"}) == 4
    assert value(f"{name}_count", live) == 4
    assert value(f"{name}_sum", live) == pytest.approx(20.0415)
    assert value(f"{name}_count", {"purpose": "drill"}) == 0, "each purpose is counted apart"


def statistics(partitions: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the client's statistics of `coinbase-trades`; the queue of fetched records is one for all partitions."""
    return json.dumps(
        {"topics": {"coinbase-trades": {"partitions": {str(p): facts for p, facts in partitions.items()}}}}
    )


def test_the_lag_of_a_partition_is_its_end_less_the_next_offset_to_take() -> None:
    """Partition 3 is 10 behind, 4 is 6 behind; the queue that both share holds 16. Partition 5 is not fetched yet."""
    metrics = ForecasterMetrics()
    metrics.lag.positions = {3: 90, 4: 44, 5: 0}
    shared = {"fetch_state": "active", "fetchq_cnt": 16}
    unknown = {"fetch_state": "offset-query", "ls_offset": -1001, "next_offset": 0, "fetchq_cnt": 16}
    metrics.lag.read_statistics(
        statistics(
            {3: shared | {"ls_offset": 100, "next_offset": 100}, 4: shared | {"ls_offset": 50, "next_offset": 50}}
            | {5: unknown, 6: shared | {"ls_offset": 1_000, "next_offset": 0}}
        )
    )
    assert lags(metrics) == {"3": 10, "4": 6}


def test_markers_of_transactions_at_the_end_of_a_partition_are_no_lag() -> None:
    metrics = ForecasterMetrics()
    metrics.lag.positions = {0: 99}
    facts = {"fetch_state": "active", "ls_offset": 100, "next_offset": 100, "fetchq_cnt": 0}
    metrics.lag.read_statistics(statistics({0: facts}))
    assert lags(metrics) == {"0": 0}


def test_a_partition_that_was_taken_away_has_no_lag_any_more() -> None:
    metrics = ForecasterMetrics()
    positions = {0: 10, 1: 10}
    metrics.lag.positions = positions
    facts = {"fetch_state": "active", "ls_offset": 30, "next_offset": 30, "fetchq_cnt": 40}
    metrics.lag.read_statistics(statistics({0: facts, 1: facts}))
    assert lags(metrics) == {"0": 20, "1": 20}
    del positions[0]
    metrics.lag.read_statistics(statistics({0: facts, 1: facts}))
    assert lags(metrics) == {"1": 20}


def lags(metrics: ForecasterMetrics) -> dict[str, float]:
    """Return the lag of `coinbase-trades` by partition."""
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    found = [sample for sample in samples if sample.name == "cryptovol_consumer_lag"]
    assert {sample.labels["topic"] for sample in found} <= {"coinbase-trades"}
    return {sample.labels["kafka_partition"]: sample.value for sample in found}


def test_metrics_are_served_and_a_taken_port_is_said() -> None:
    metrics = ForecasterMetrics()
    metrics.ready.set(1)
    with serve_metrics(metrics.registry, "127.0.0.1", 0) as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert "cryptovol_ready 1.0" in text.splitlines()
        with (
            pytest.raises(OSError, match="in use"),
            serve_metrics(ForecasterMetrics().registry, "127.0.0.1", port),
        ):
            pass


ONLINE: dict[Process, type[ApiMetrics | ForecasterMetrics | IngestorMetrics]] = {
    "api": ApiMetrics,
    "forecaster": ForecasterMetrics,
    "ingestor": IngestorMetrics,
}


@pytest.mark.parametrize("process", ONLINE)
def test_a_process_makes_the_metrics_that_are_declared_for_it(process: Process) -> None:
    assert exported(ONLINE[process]().registry) == {metric.exported_name for metric in metrics_of(process)}


@pytest.mark.parametrize("process", ONLINE)
def test_each_counter_is_at_0_from_the_start(process: Process) -> None:
    registry = ONLINE[process]().registry
    samples = {(s.name, *s.labels.values()): s.value for family in registry.collect() for s in family.samples}
    for metric in metrics_of(process):
        if isinstance(metric, CounterMetric):
            for labels in metric.known.get(process, ()) if metric.labels else [()]:
                assert samples[metric.exported_name, *labels] == 0
    assert not [name for name, *_ in samples if name.endswith("_created")]


def test_a_process_cannot_make_a_metric_of_another_process() -> None:
    with pytest.raises(ValueError, match="cryptovol_transaction_seconds is exported by forecaster, not by api"):
        ProcessMetrics("api").batch_histogram(catalog.TRANSACTION)


def test_declarations_are_whole() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"cryptovol_[a-z_]+", name) and not name.endswith("_total") for name in names)
    assert {label for metric in METRICS for label in metric.labels} == set(LABELS)
    assert {process for metric in METRICS for process in metric.processes} == set(PROCESSES)
    assert not [metric.name for metric in METRICS if ("seconds" in metric.unit) != metric.name.endswith("_seconds")]
    for metric in METRICS:
        assert metric.meaning and not metric.meaning.endswith("."), metric.name


def test_known_labels_fit_the_declaration() -> None:
    for metric in METRICS:
        if isinstance(metric, CounterMetric):
            assert metric.known.keys() <= set(metric.processes), metric.name
            assert {len(each) for found in metric.known.values() for each in found} <= {len(metric.labels)}, metric.name


def test_a_replay_exports_its_speed_and_how_far_it_has_come() -> None:
    """Within 5 s of wall time, 50 s of event time: ten times the recorded pace."""
    metrics = IngestorMetrics()
    meter = ReplayMeter(metrics, 10.0, now=100.0)
    value = metrics.registry.get_sample_value
    assert value("cryptovol_replay_progress_ratio") == 0
    assert value("cryptovol_replay_speed", {"kind": "asked"}) == 10
    assert np.isnan(value("cryptovol_replay_speed", {"kind": "reached"}) or 0.0)
    meter.writes(["BTC-USD"])
    assert value("cryptovol_replay_partition_speed", {"kafka_partition": str(partition_of("BTC-USD"))}) == 10
    second = 1_000_000_000
    meter.has_sent(0.25)
    meter.saw(np.array([1_000, 1_050, 1_049]) * second)
    meter.measure(105.0)
    assert value("cryptovol_replay_progress_ratio") == 0.25
    assert value("cryptovol_replay_speed", {"kind": "reached"}) == pytest.approx(10)
    meter.measure(110.0)
    assert value("cryptovol_replay_speed", {"kind": "reached"}) == 0, "a wait"


MOST_SERIES = 2_000


def test_300_streams_of_64_sources_keep_the_forecasters_series_few() -> None:
    topic = FakeTopic()
    for stream in range(300):
        trades = source(f"source-{stream % 64}", 2, f"P{stream // 64}-USD")
        topic.add(*encode_trades(trades, "live" if stream % 2 else "replay"))
    pipeline = Pipeline(topic)
    _, count = pipeline.stage.process(topic.records)
    count()
    pipeline.metrics.lag.positions = dict.fromkeys(range(12), 0)
    facts = {"fetch_state": "active", "ls_offset": 30, "next_offset": 30, "fetchq_cnt": 40}
    pipeline.metrics.lag.read_statistics(statistics(dict.fromkeys(range(12), facts)))
    value = pipeline.metrics.registry.get_sample_value
    assert value("cryptovol_latency_seconds_count", {"purpose": "live"}) == 300
    open_streams = {
        purpose: [value("cryptovol_open_streams", {"purpose": purpose, "kafka_partition": str(p)}) for p in range(12)]
        for purpose in PURPOSES
    }
    assert [sum(each or 0 for each in open_streams[purpose]) for purpose in PURPOSES] == [150, 150, 0]
    assert series_of(pipeline.metrics.registry) <= MOST_SERIES


def test_the_api_counts_each_answer_of_a_route_from_0() -> None:
    page = TestClient(create_app(ApiSettings()), base_url="http://localhost").get("/metrics").text
    for status in (200, 408, 413, 422, 500, 503):
        assert f'cryptovol_request_seconds_count{{purpose="none",route="/predict",status="{status}"}} 0.0' in page
    of_a_drill = 'purpose="drill",route="/predict/{product_id}",status="503"'
    assert f"cryptovol_request_seconds_count{{{of_a_drill}}} 0.0" in page
    assert names_in(page) == {metric.exported_name for metric in metrics_of("api")}
    assert len([line for line in page.splitlines() if not line.startswith("#")]) <= MOST_SERIES
