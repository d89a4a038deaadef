"""Time until a killed forecaster writes the next row, with windows rebuilt from the topic."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka import Producer

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.codec import encode_trades
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PARTITIONS, TRADES
from data.trades import StreamKey, Trades
from online.exactly_once.offset_note import GROUP
from tests.broker import Broker
from tests.faults.drill import Tail
from tests.pipeline import Process, environment, running, wait_until
from tests.proofs import Proof

SPEC = FeatureSpec()
NAMES = ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "AVAX", "LINK", "LTC", "DOT", "BCH", "UNI")
PRODUCTS = tuple(f"{name}-USD" for name in NAMES)


SPEED = 10
"""Replay speed of `make run`."""


def busy(hours: tuple[int, int], products: Sequence[str] = PRODUCTS) -> Trades:
    """Return hours of a simulated day of all products, in the order of time, as a replay that ends now writes them."""
    day = dt.date(2025, 3, 5)
    each = [replace(simulate_day(name, day, hours=hours), keys=(StreamKey("busy", name),)) for name in products]
    together = Trades.join(each)
    trades = together.take(np.argsort(together.event_time, kind="stable"))
    left_ns = (trades.event_time[-1] - trades.event_time) // SPEED
    return replace(trades, ingest_time=time.time_ns() - left_ns)


def batches(trades: Trades, rows: int = 50_000) -> Iterator[Trades]:
    return (trades.take(slice(start, start + rows)) for start in range(0, len(trades), rows))


@pytest.mark.parametrize(
    ("slot", "kills", "hours", "count", "limit_s"),
    [
        ("0", 1, (13, 14), 12, 5.0),
        pytest.param("0", 20, (10, 15), 3, 3.0, marks=pytest.mark.acceptance),
        pytest.param("0", 20, (10, 15), 12, 10.0, marks=pytest.mark.acceptance),
        pytest.param("", 20, (10, 15), 12, 15.0, marks=pytest.mark.acceptance),
    ],
)
def test_a_killed_forecaster_with_full_windows_writes_its_next_row_in_seconds(
    own_broker: Broker,
    models: Path,
    tmp_path: Path,
    proof: Proof,
    slot: str,
    kills: int,
    hours: tuple[int, int],
    count: int,
    limit_s: float,
) -> None:
    """After each kill comes a trade, and the trade's row has the bytes of the kernel over all trades.

    `make run` gives its forecaster SLOT=0. Without a slot, a killed member blocks its group until its session is over.
    The limit holds from the start of the process to the next row, in 95 of 100 cases. A start reads four hours of
    trades of all products again, so 12 busy products take longer than three.
    """
    to_rebuild = f"windows of {count} products to rebuild"
    proof.disturbs(f"forecaster with SLOT={slot!r} killed with SIGKILL {kills} times, {to_rebuild}")
    servers = own_broker.bootstrap_servers
    service = Process("online.forecaster", environment(servers, models, SLOT=slot), tmp_path / "forecaster.log")
    producer = Producer(
        {"bootstrap.servers": servers, "partitioner": "murmur2_random", "compression.type": "lz4", "log_level": 0}
    )

    def write(trades: Trades) -> None:
        names = [trades.keys[stream].product_id for stream in trades.stream.tolist()]
        times_ms = (trades.ingest_time // 1_000_000).tolist()
        for value, name, time_ms in zip(encode_trades(trades, "drill"), names, times_ms, strict=True):
            while True:
                try:
                    producer.produce(TRADES, value, name, timestamp=time_ms)
                    break
                except BufferError:
                    producer.poll(0.1)

    trades = busy(hours, PRODUCTS[:count])
    coming = np.flatnonzero(trades.stream == trades.keys.index(StreamKey("busy", "BTC-USD")))[-kills:].tolist()
    before = np.setdiff1d(np.arange(len(trades)), coming)
    for batch in batches(trades.take(before)):
        write(batch)
    assert producer.flush(60) == 0
    windows = Windows(SPEC)
    last = trades.take(np.array(coming))
    ordered = Trades.join([trades.take(before), last])
    made = [feature_rows(batch, windows).values for batch in batches(ordered)]
    expected = np.concatenate(made)[-kills:]
    took, worked, rows = [], [], []
    with running(service):
        await_caught_up(servers)
        tail = Tail(servers, FEATURES, from_now=True)
        for i in range(kills):
            service.kill()
            write(last.take(slice(i, i + 1)))
            assert producer.flush(10) == 0
            began = time.monotonic()
            service.start()

            def seen(trade_id: int = int(last.trade_id[i])) -> bool:
                tail.read()
                return any(row["trade_id"] == trade_id for row in tail.rows("busy"))

            wait_until(seen, "the next row", within_s=60)
            took.append(time.monotonic() - began)
            used = psutil.Process(service.process.pid).cpu_times()
            worked.append(used.user + used.system)
        rows = tail.rows("busy")
        tail.close()
    p95 = float(np.quantile(took, 0.95, method="higher"))
    proof.saw(trades_on_the_topic=len(trades), kills=kills)
    proof.saw(median_s=float(np.median(took)), p95_s=p95, longest_s=max(took))
    proof.saw(median_of_its_processor_s=float(np.median(worked)), load=os.getloadavg()[0])
    found = np.array([[row[name] for name in SPEC.columns] for row in rows], np.float64)
    proof.equal([row.tobytes() for row in found], [row.tobytes() for row in expected], FEATURES)
    assert p95 <= limit_s


def await_caught_up(servers: str) -> None:
    """Wait until the forecaster has committed the whole topic."""
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=servers), GROUP) as reader:
        ends = {partition: reader.span(TRADES, partition)[1] for partition in range(PARTITIONS)}

        def caught_up() -> bool:
            # The last offset before the end of a partition that was written without transactions is its last record.
            committed = reader.committed(TRADES, ends)
            return all(committed.get(partition, (0, ""))[0] == end for partition, end in ends.items())

        wait_until(caught_up, "all trades are processed", within_s=120)
