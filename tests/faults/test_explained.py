"""Forecasts are computed again after any change of services and models, and for a source of any length."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.registry import Registry
from data.models.served import ServedModel
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.clients import idempotent_config
from data.stream.codec import Forecasts, encode, encode_features, encode_predictions, encode_trades
from data.stream.origin import write_origin
from data.stream.records import PREDICTIONS, TRADES, End, Forecaster, partition_of
from data.times import NS, to_ns
from data.trades import StreamKey, Trades
from data.truth.adaptation import Adaptations, RawForecasts, teaching
from offline.explain.findings import EQUAL, NOT_FOUND
from offline.explain.remake import Explainer
from online.replay.lease import SourceLease
from online.replay.progress import find_progress
from tests.broker import Broker
from tests.faults.drill import Drill
from tests.mlflow_server import running_mlflow
from tests.models import baseline, forced, model_bytes, put_version, roll_back_here
from tests.pipeline import running
from tests.proofs import Proof

SPEC = FeatureSpec()
PRODUCTS = ("BTC-USD", "ETH-USD")
FORECASTS = 1_000
ROWS = 20_000
"""Of each product."""

LONG = 5_000_000
"""Trades of a long source, ten a second: six days."""
PIECE = 100_000
"""Trades of the long source between two trades of the neighbour source."""
EXPLAINED_S = 5.0
"""Limit for the median time to explain a forecast of a long source: a single forecast may wait for other processes."""


def recorded(folder: Path) -> Path:
    """Record 6 hours of two products in a file, by time, thinned to `ROWS` each: windows reach their limit of four."""
    parts = []
    for product_id in PRODUCTS:
        trades = simulate_day(product_id, dt.date(2025, 3, 7), hours=(9, 15))
        parts.append(trades.take(slice(0, None, len(trades) // ROWS)).take(slice(0, ROWS)))
    trades = Trades.join(parts)
    path = folder / "recording.csv"
    write_csv(path, [trades.take(np.argsort(trades.event_time, kind="stable"))])
    return path


@pytest.mark.acceptance
def test_1000_random_forecasts_are_made_again_exactly_after_promotions_rollbacks_and_kills(
    own_broker: Broker, tmp_path: Path, proof: Proof
) -> None:
    recording = recorded(tmp_path)
    (tmp_path / "mlflow").mkdir()
    with running_mlflow(tmp_path / "mlflow") as server:
        uri, registry = server.uri, Registry(server.uri)
        put_version(uri, "volatility-baseline", model_bytes())
        for scale in (2.0, 8.0):
            put_version(uri, "volatility-ml", model_bytes(baseline(scale=scale), variant="ml"))

        forced(registry, "volatility-baseline", "1")
        drill = Drill(own_broker, tmp_path / "models", tmp_path, MLFLOW_TRACKING_URI=uri, MODEL_VARIANT="ml")
        scale_8 = partial(forced, registry, "volatility-ml", "2")
        scale_2 = partial(forced, registry, "volatility-ml", "1")
        back = partial(roll_back_here, registry, "volatility-ml")
        turn: list[Callable[[], object]] = [
            scale_8,
            back,
            scale_8,
            drill.forecaster.kill,
            scale_2,
            back,
            back,
        ]
        moves: Iterator[Callable[[], object]] = chain([scale_2], cycle(turn))
        with drill.services(), running(drill.replay("explained", recording, REPLAY_SPEED="400")):
            rows = done = 0
            while drill.predictions.ends("explained") < len(PRODUCTS):
                drill.read()
                rows = len(drill.predictions.records["explained"])
                if rows >= (done + 1) * 2_000 and rows < 1.8 * ROWS:
                    next(moves)()
                    done += 1
                    if drill.forecaster.process.poll() is not None:
                        drill.forecaster.start()
            records = drill.predictions.rows("explained")
        assert len(records) == len(PRODUCTS) * ROWS
        versions = Counter(f"{record['model_variant']} {record['version']}" for record in records)
        proof.disturbs(f"{done} promotions, rollbacks, kills of the forecaster while it ran")
        chosen = np.random.default_rng(6).choice(len(records), FORECASTS, replace=False)
        kafka = KafkaSettings(kafka_bootstrap_servers=own_broker.bootstrap_servers)
        explainer = Explainer(kafka, registry, tmp_path / "no models", SPEC)
        found = []
        for product_id in PRODUCTS:
            ids = [records[i]["trade_id"] for i in chosen if records[i]["product_id"] == product_id]
            found += explainer.explain(StreamKey("explained", product_id), ids)
        second = next(each for each in found if each.prediction.version == "2")
        registry.call("DELETE", "model-versions/delete", {"name": "volatility-ml", "version": "2"}, dict)
        explainer = Explainer(kafka, registry, tmp_path / "no models", SPEC)
        (without,) = explainer.explain(
            StreamKey("explained", second.prediction.product_id), [second.prediction.trade_id]
        )
    proof.saw(rows=len(records), explained=len(found), versions=len(versions))
    proof.saw(rarest_version=min(versions.values()), in_window=max(len(each.window or ()) for each in found))
    proof.equal([each.findings for each in found if each.exit_code], [], "parts that differ or are gone")
    assert len(found) == FORECASTS
    assert versions.keys() == {"baseline 1", "ml 1", "ml 2"}
    assert {finding.part for finding in without.findings if finding.outcome == "expired"} == {"model", "score"}
    assert {finding.outcome for finding in without.findings} == {"expired", "equal"}, "a model that was deleted"


def walk(source_id: str, n: int, seed: int) -> Trades:
    """Return a random walk of BTC-USD, ingested within the last hours at 50,000 trades a second."""
    rng = np.random.default_rng(seed)
    return Trades(
        (StreamKey(source_id, "BTC-USD"),),
        np.zeros(n, np.int32),
        np.arange(n) * 3 + 10_000_000,
        1_700_000_000 * NS + np.cumsum(rng.exponential(NS / 10, n).astype(np.int64)) // 1_000 * 1_000,
        time.time_ns() - 3_600 * NS + np.arange(n) * (NS // 50_000),
        np.round(50_000 * np.exp(np.cumsum(rng.normal(0, 2e-5, n))), 2),
        np.round(rng.exponential(0.05, n) + 1e-8, 8),
        rng.choice(np.array([-1, 1], np.int8), n),
    )


class Writer:
    """Writer of BTC-USD trades and their forecasts, as ingestor and services but without pace and transactions."""

    def __init__(self, servers: str, model: ServedModel) -> None:
        settings = KafkaSettings(kafka_bootstrap_servers=servers)
        self._producer = Producer(idempotent_config(settings, linger_ms=20))
        self._watcher = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
        self._partition, self._windows, self._model = partition_of("BTC-USD"), Windows(SPEC), model
        self._forecaster, self._states = Forecaster(model.variant, "1", model.digest), Adaptations(SPEC)
        self._columns = [SPEC.columns.index(column) for column in model.columns]

    def write(self, trades: Trades) -> None:
        """Write trades, none of them to be rejected, and their forecasts."""
        offset = self._watcher.get_watermark_offsets(TopicPartition(TRADES, self._partition), 10)[1]
        self._produce(TRADES, encode_trades(trades, "replay"), trades)
        rows = feature_rows(trades, self._windows)
        assert not rows.status.any()
        n, (key,) = len(trades), trades.keys
        scores = self._model.score(rows.values[:, self._columns], [key.product_id] * n)
        teaches = teaching(rows.values, rows.trades.event_time, to_ns(self._model.train_end), SPEC)
        raw = RawForecasts.of(rows.trades, scores, teaches)
        values = encode_predictions(
            encode_features(rows, SPEC, {key: "replay"}, self._partition, np.arange(offset, offset + n)),
            time.time_ns(),
            self._model.horizon_s,
            Forecasts(self._forecaster, scores.score, self._states.adapt(trades.keys, raw), np.zeros(n, np.bool_)),
            self._model.columns,
            scores.missing,
        )
        self._produce(PREDICTIONS, values, trades)

    def end(self, trades: Trades) -> None:
        """Write the end of a source behind the last trade."""
        last = trades.take(slice(-1, None))
        end = encode(End(*last.keys[0], "replay", int(last.ingest_time[0]), end=True))
        for topic in (TRADES, PREDICTIONS):
            self._produce(topic, [end], last)

    def close(self) -> None:
        self._watcher.close()

    def _produce(self, topic: str, values: list[bytes], trades: Trades) -> None:
        for value, ingest_ms in zip(values, (trades.ingest_time // 1_000_000).tolist(), strict=True):
            while True:
                try:
                    self._producer.produce(topic, value, "BTC-USD", self._partition, timestamp=ingest_ms)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(60) == 0


def write_long_source(servers: str, recording: Path) -> Trades:
    """Write `LONG` trades as a source with a recording, and other trades before and between; return the long trades."""
    trades, neighbour = walk("long", LONG, seed=2), walk("neighbour", 2 * LONG // PIECE, seed=3)
    write_csv(recording, [replace(trades, keys=(StreamKey("", "BTC-USD"),), ingest_time=np.zeros(LONG, np.int64))])
    writer = Writer(servers, ServedModel.load(model_bytes(), spec_id=SPEC.spec_id))
    writer.write(neighbour.take(slice(0, LONG // PIECE)))
    note = write_origin([recording], "BTC-USD", "max")
    settings, running = KafkaSettings(kafka_bootstrap_servers=servers), lambda: True
    with SourceLease(settings, "long", running) as lease:
        find_progress(settings, "long", running, lease, note, is_new=True)
    for piece in range(LONG // PIECE):
        writer.write(trades.take(slice(piece * PIECE, (piece + 1) * PIECE)))
        writer.write(neighbour.take(slice(LONG // PIECE + piece, LONG // PIECE + piece + 1)))
    writer.end(trades)
    writer.close()
    return trades


@pytest.mark.acceptance
def test_one_forecast_of_5_million_is_explained_in_seconds(own_broker: Broker, tmp_path: Path, proof: Proof) -> None:
    """Run the command as a person types it: the time includes the start, the registry and the recording."""
    recording = tmp_path / "recording.csv"
    (tmp_path / "mlflow").mkdir()
    with running_mlflow(tmp_path / "mlflow") as server:
        uri, name = server.uri, "volatility-baseline"
        put_version(uri, name, model_bytes())
        forced(Registry(uri), name, "1")
        trades = write_long_source(own_broker.bootstrap_servers, recording)
        environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap_servers, "MLFLOW_TRACKING_URI": uri}

        def explain(source_id: str, trade_id: int) -> tuple[int, dict[str, Any], float]:
            command = [sys.executable, "-m", "offline.explain", source_id, "BTC-USD", str(trade_id), "--json"]
            began = time.monotonic()
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
            return done.returncode, json.loads(done.stdout), time.monotonic() - began

        chosen = [0, 1, LONG - 1, *np.random.default_rng(4).choice(LONG, 5, replace=False).tolist()]
        codes, found, took = zip(*(explain("long", int(trades.trade_id[row])) for row in chosen), strict=True)
        first, last = trades.trade_id[[0, -1]].tolist()
        absent = [explain("long", trade_id) for trade_id in (1, first + 1, last + 1)]
        nobody = explain("nobody", 1)
    proof.saw(trades=LONG, explained=len(found), median_s=float(np.median(took)), longest_s=max(took))
    proof.saw(not_found_longest_s=max(took_s for _, _, took_s in [*absent, nobody]))
    wrong = [finding for each in found for finding in each["findings"] if finding["outcome"] != "equal"]
    proof.equal(wrong, [], "parts that differ or are gone")
    proof.equal(
        [(each["prediction"]["trade_id"], each["prediction"]["price"], each["place"]["recording"]) for each in found],
        [
            (int(trades.trade_id[row]), float(trades.price[row]), {"file": str(recording), "line": row + 2})
            for row in chosen
        ],
        "trades and their lines",
    )
    assert codes == (EQUAL,) * len(chosen)
    assert [code for code, _, _ in [*absent, nobody]] == [NOT_FOUND] * 4
    for _, said, _ in absent:
        assert said["said"].endswith(f"it has forecasts of it from trade {first} to {last}")
    assert np.median(took) <= EXPLAINED_S
