"""Benchmarks of latency from trade to forecast, and of the ingestor's pacing.

Tick to score is the time from a trade's `ingest_time` until a `read_committed` consumer has the prediction: one
transaction, with broker, MLflow, forecaster, API and ingestor up, each in its own process. The first two seconds of a
source do not count.

A pacing error is how much later than due a trade got its `ingest_time`, beside the most punctual trade of the source,
on a broker without other work. `python -m tests.benchmarks.edge_latency` prints the rows.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition

from data.features.spec import FeatureSpec
from data.files import CHECKOUT
from data.models.registry import Registry
from data.models.served import ServedModel
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import PARTITIONS, PREDICTIONS, TRADES
from data.stream.topics.creation import create_topics
from data.times import NS
from data.trades import Floats, Int64s, StreamKey, Trades
from offline.models.candidate import Candidate
from offline.promotion.register import register, set_alias
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import fetch_jars
from tests.benchmarks.edge_predict import server
from tests.benchmarks.measure import Row
from tests.broker import Broker, free_ports, running_broker
from tests.mlflow_server import running_mlflow
from tests.models import model_bytes
from tests.pipeline import Process, environment, read_topic, replay, running, wait_until

RATE = 250
"""Trades a second; they come at random, as independent buyers and sellers would."""
STEADY_S = 20
WARM_S = 2
BURST_S = 20
"""Wall time of a replay of the busiest stretch of a simulated hour."""
DAY = dt.date(2025, 3, 5)


def steady_trades(seconds: int = STEADY_S) -> Trades:
    """Return trades of a wandering price, at random times."""
    rng, count = np.random.default_rng(0), RATE * seconds
    times = 1_700_000_000 * NS + np.cumsum(rng.exponential(NS / RATE, count)).astype(np.int64)
    price = np.round(100_000 * np.exp(np.cumsum(rng.normal(0, 1e-5, count))), 2)
    stream, unknown = np.zeros(count, np.int32), np.zeros(count, np.int8)
    ids, unsent = np.arange(1, count + 1), np.zeros(count, np.int64)
    return Trades((StreamKey("", "BTC-USD"),), stream, ids, times, unsent, price, np.full(count, 0.01), unknown)


def busiest_trades(seconds: int) -> Trades:
    """Return the trades around the busiest second of a simulated hour (235 trades)."""
    trades = simulate_day("BTC-USD", DAY, hours=(14, 15))
    second = trades.event_time // NS
    peak = int(np.bincount(second - second[0]).argmax()) + int(second[0])
    return trades.take((second >= peak - seconds // 2) & (second < peak + seconds - seconds // 2))


def _reader(broker: Broker, topic: str) -> Consumer:
    """Return a `read_committed` consumer at the end of a topic."""
    config = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "unused", "enable.auto.commit": False}
    consumer = Consumer(config | {"isolation.level": "read_committed", "fetch.queue.backoff.ms": 2, "log_level": 0})
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    consumer.assign([TopicPartition(topic, p.partition, consumer.get_watermark_offsets(p)[1]) for p in places])
    consumer.poll(1.0)  # it takes a moment to begin
    return consumer


def time_to_score(
    broker: Broker, environ: dict[str, str], folder: Path, name: str, trades: Trades, speed: str
) -> tuple[Floats, list[dict[str, Any]]]:
    """Replay trades, and return each trade's time to a forecast, ms, and the forecasts; without those of `WARM_S`."""
    recording = folder / f"{name}.csv"
    write_csv(recording, [trades])
    mine = f'"source_id":"{name}"'.encode()
    consumer = _reader(broker, PREDICTIONS)
    arrived: list[tuple[int, bytes]] = []
    ended = False
    deadline = time.monotonic() + 120
    with running(ingestor := replay(environ, folder, name, recording, REPLAY_SPEED=speed)):
        while not ended:
            first = consumer.poll(0.5)
            now_ns = time.time_ns()
            for message in (first, *consumer.consume(10_000, 0)) if first is not None else ():
                value = message.value() or b""
                if mine in value:
                    ended = ended or b'"end":true' in value
                    arrived.append((now_ns, value))
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(arrived)} of {len(trades)} forecasts came; {ingestor.log.read_text()}")
    consumer.close()
    records = [(now_ns, record) for now_ns, value in arrived if "end" not in (record := msgspec.json.decode(value))]
    if len(records) != len(trades):
        raise RuntimeError(f"{name}: {len(trades)} trades became {len(records)} forecasts")
    ingested = np.array([record["ingest_time"] for _, record in records])
    took = (np.array([now_ns for now_ns, _ in records]) - ingested) / 1e6
    warm = np.flatnonzero(ingested >= ingested[0] + WARM_S * NS)
    return took[warm], [records[i][1] for i in warm]


@contextmanager
def new_broker(folder: Path) -> Iterator[Broker]:
    """Run a broker in the block, ready for consumer groups."""
    with running_broker(folder / "kafka", fetch_jars(jars_folder(CHECKOUT / "var"))) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        wait_until(lambda: _knows_groups(broker), "the new broker answers for consumer groups")
        yield broker


def _knows_groups(broker: Broker) -> bool:
    """Return whether groups can be asked for offsets: the first question makes a new broker prepare for groups."""
    for group in ("ingestor-x1", "ingestor-x10", "ingestor-steady", "ingestor-bursts"):
        consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
        try:
            consumer.committed([TopicPartition(TRADES, 0)], timeout=5)
        except KafkaException:
            return False
        finally:
            consumer.close()
    return True


def _register(registry: Registry) -> None:
    content = model_bytes()
    model = ServedModel.load(content, spec_id=FeatureSpec().spec_id)
    example = np.array([[50, 1e-5, 2e-4, 2.5e-7]] * 2)
    version = register(registry, Candidate("volatility-baseline", content, model, example, {}, {}))
    set_alias(registry, "volatility-baseline", "champion", version)


def tick_to_score() -> list[Row]:
    """Measure a steady rate, and the busiest stretch of a simulated hour at ten times the pace.

    Raises:
        RuntimeError: a process did not come up, or a trade did not become one forecast.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (api_port,) = free_ports(1)
        with new_broker(folder) as broker, running_mlflow(folder) as mlflow:
            settings = {"MLFLOW_TRACKING_URI": mlflow.uri, "API_PORT": str(api_port), "MAX_WAIT_S": "60"}
            environ = environment(broker.bootstrap_servers, folder / "models", **settings)
            _register(Registry(mlflow.uri))
            forecaster = Process("online.forecaster", environ, folder / "forecaster")
            api = [sys.executable, "-m", "online.api"]
            url = f"http://127.0.0.1:{api_port}/health"
            with running(forecaster), server(api, environ, url, folder / "api.log"):
                forecaster.await_log('"assigned"')
                measure = partial(time_to_score, broker, environ, folder)
                steady, _ = measure("steady", steady_trades(), "1")
                bursts, _ = measure("bursts", busiest_trades(10 * BURST_S), "10")
    return [
        *_percentiles(f"tick to score, {RATE} trades/s", steady),
        *_percentiles("tick to score, the busiest stretch of a simulated hour at 10 x", bursts),
    ]


def pacing_errors(event_time: Int64s, ingest_time: Int64s, speed: float) -> Floats:
    """Return the delay of each trade beside the most punctual trade, shape (n,), ms.

    >>> pacing_errors(np.array([0, 10, 20]) * NS, np.array([5_000_000, NS + 2_000_000, 2 * NS + 3_000_000]), 10)
    array([3., 0., 1.])
    """
    times = np.maximum.accumulate(event_time)
    offset = ingest_time - ingest_time[0] - (times - times[0]) / speed
    errors: Floats = (offset - offset.min()) / 1e6
    return errors


def pacing() -> list[Row]:
    """Measure the busiest stretch of a simulated hour at its pace and at ten times the pace."""
    rows = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with new_broker(folder) as broker:
            environ = environment(broker.bootstrap_servers, folder, MAX_WAIT_S="60")
            for speed in (1, 10):
                recording = folder / f"{speed}.csv"
                write_csv(recording, [busiest_trades(speed * BURST_S)])
                with running(process := replay(environ, folder, f"x{speed}", recording, REPLAY_SPEED=str(speed))):
                    if process.process.wait(120) != 0:
                        raise RuntimeError(process.log.read_text())
                found: list[dict[str, Any]] = read_topic(broker.bootstrap_servers, TRADES, f"x{speed}")
                records = [record for record in found if "end" not in record]
                event_time = np.array([record["event_time"] for record in records])
                ingest_time = np.array([record["ingest_time"] for record in records])
                name = f"pacing error, the busiest stretch of a simulated hour at {speed} x"
                rows += _percentiles(name, pacing_errors(event_time, ingest_time, speed))
    return rows


def _percentiles(name: str, values: Floats) -> list[Row]:
    return [Row(f"{name}, p{percent}", "ms", float(np.percentile(values, percent))) for percent in (50, 99)]


def rows() -> list[Row]:
    return [*tick_to_score(), *pacing()]


if __name__ == "__main__":
    for row in rows():
        print(row)
