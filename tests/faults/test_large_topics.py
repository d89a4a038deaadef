"""Start time does not depend on the size of a topic."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from data.settings import KafkaSettings
from data.stream.clients import Incoming, idempotent_config
from data.stream.codec import encode_trades
from data.stream.records import PARTITIONS, PREDICTIONS, TRADES, partition_of
from data.trades import StreamKey
from online.exactly_once.feature_stage import FeatureStage
from online.exactly_once.offset_note import GROUP, write_note
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from tests.broker import Broker
from tests.faults.test_recovery import busy
from tests.models import model_bytes
from tests.pipeline import Process, environment, running, wait_until
from tests.proofs import Proof

SPEC = FeatureSpec()
RECORDS = 10_000_000
DISTINCT = 20_000
QUIET = StreamKey("quiet", "BTC-USD")
STARTS = 5
READY_S = 3.0


def forecasts_of(key: StreamKey, count: int) -> list[bytes]:
    """Return the forecasts of the first trades of two simulated hours."""
    trades = busy((14, 16), [key.product_id]).take(slice(0, count))
    texts = encode_trades(replace(trades, keys=(key,)), "replay")
    incoming = [Incoming(TRADES, 0, offset, text, 0) for offset, text in enumerate(texts)]
    made = FeatureStage(SPEC, lambda *_: (), ForecasterMetrics()).process(incoming)
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    served = ModelVersion(model, "volatility-baseline", "1", "disk")
    stage = ScoreStage(SPEC, lambda: served, lambda *_: (), ForecasterMetrics())
    return [value for *_, value, _ in stage.process(made.parts)]


def fill(servers: str) -> None:
    """Write `RECORDS` forecasts of a source to all partitions, and halfway a forecast of a quiet source."""
    producer = Producer(idempotent_config(KafkaSettings(kafka_bootstrap_servers=servers), linger_ms=50))
    values, now_ms = forecasts_of(StreamKey("loud", "ETH-USD"), DISTINCT), time.time_ns() // 1_000_000
    (quiet,) = forecasts_of(QUIET, 1)
    for number in range(RECORDS // len(values)):
        if number == RECORDS // len(values) // 2:
            producer.produce(PREDICTIONS, quiet, "BTC-USD", partition_of("BTC-USD"), timestamp=now_ms)
        for place, value in enumerate(values):
            while True:
                try:
                    producer.produce(PREDICTIONS, value, "ETH-USD", place % PARTITIONS, timestamp=now_ms)
                    break
                except BufferError:
                    producer.poll(0.1)
    assert producer.flush(60) == 0


def note_open_stream(servers: str) -> None:
    """Commit a note with the quiet stream, as the forecaster does."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": GROUP, "enable.auto.commit": False})
    notes = dict.fromkeys(range(PARTITIONS), "") | {partition_of("BTC-USD"): write_note([(QUIET, 1)], [])}
    places = [TopicPartition(TRADES, partition, 0, note) for partition, note in notes.items()]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


@pytest.mark.acceptance
def test_the_api_is_ready_in_3_s_on_10_million_records_and_finds_an_open_stream_among_them(
    own_broker: Broker, models: Path, tmp_path: Path, proof: Proof
) -> None:
    servers = own_broker.bootstrap_servers
    proof.disturbs(f"{RECORDS:,} forecasts on the topic, all of the last minutes")
    fill(servers)
    note_open_stream(servers)
    ready, found = [], []
    for start in range(STARTS):
        api = Process("online.api", environment(servers, models, API_PORT="0"), tmp_path / f"api-{start}.log")
        began = time.monotonic()
        with running(api):
            url = api.await_log(r"running on (http://\S+)").group(1)
            wait_until(lambda url=url: httpx.get(f"{url}/health").status_code == 200, "ready")  # type: ignore[misc]
            ready.append(time.monotonic() - began)
            path = f"{url}/predict/BTC-USD?source_id=quiet"

            def is_found(path: str = path) -> bool:
                answer = httpx.get(path)
                assert answer.status_code in (200, 503), "503 while older records are looked through, or stale"
                return answer.status_code == 200 or "features are" in answer.json()["detail"]

            wait_until(is_found, "the open stream", within_s=120)
            found.append(time.monotonic() - began)
    proof.saw(ready_median_s=float(np.median(ready)), ready_longest_s=max(ready), found_after_s=max(found))
    assert np.median(ready) <= READY_S
