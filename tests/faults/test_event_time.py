"""Falling event time, in a recording and on the topic."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from data.features.admission import REASONS, STRAY_TIME
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.codec import encode, encode_trades
from data.stream.records import FEATURES, PREDICTIONS, REJECTED, TRADES, End
from data.times import NS
from data.trades import StreamKey, Trades
from tests.broker import Broker
from tests.faults.drill import equal_columns
from tests.pipeline import await_end, read_topic, replay, running
from tests.proofs import Proof

PRODUCT = "FALLS-USD"
HALF_S, TWO_S, THREE_H, A_YEAR = NS // 2, 2 * NS, 3 * 3_600 * NS, 365 * 86_400 * NS


def regular(n: int = 1_000) -> Trades:
    """Return simulated trades with room for nine ids behind each."""
    trades = simulate_day(PRODUCT, dt.date(2025, 3, 5), hours=(12, 14)).take(slice(0, n))
    return replace(trades, trade_id=np.arange(n, dtype=np.int64) * 10)


def with_rows(trades: Trades, rows: list[tuple[int, int, int]]) -> Trades:
    """Insert rows: behind trade `at`, with the id `number` after its own and the time moved by `shift_ns`."""
    places = [at for at, _, _ in rows]
    more = trades.take(np.array(places, np.intp))
    more = replace(
        more,
        trade_id=more.trade_id + np.array([number for _, number, _ in rows], np.int64),
        event_time=more.event_time + np.array([shift_ns for _, _, shift_ns in rows], np.int64),
        price=more.price * 1.001,
    )
    columns = {
        name: np.concatenate([getattr(trades, name), getattr(more, name)])
        for name in ("stream", "trade_id", "event_time", "ingest_time", "price", "size", "side")
    }
    return Trades(trades.keys, **columns).take(np.argsort(columns["trade_id"]))


TAKEN_LATE = [(300, 1, -HALF_S), (300, 2, -NS)]
REJECTED_LATE = [(500, 1, -TWO_S), (600, 1, -NS - 1), *((700 + i // 9, 1 + i % 9, -THREE_H) for i in range(45))]


def deliver(
    servers: str, online: dict[str, str], folder: Path, source_id: str, trades: Trades, by: str
) -> tuple[list[dict[str, Any]], ...]:
    """Bring trades through the pipeline, and return features, predictions and rejects."""
    if by == "recording":
        path = folder / f"{source_id}.csv"
        write_csv(path, [trades])
        with running(ingestor := replay(online, folder, source_id, path)):
            assert ingestor.process.wait(60) == 0, ingestor.log.read_text()
    else:
        now = np.full(len(trades), 1_741_183_200 * NS)
        named = replace(trades, keys=(StreamKey(source_id, PRODUCT),), ingest_time=now)
        producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "log_level": 0})
        for value in encode_trades(named, "replay"):
            producer.produce(TRADES, value, PRODUCT)
        producer.produce(
            TRADES, encode(End(source_id, PRODUCT, "replay", 1_741_183_200_000_000_000, end=True)), PRODUCT
        )
        assert producer.flush(30) == 0
    predictions = await_end(servers, source_id)
    features = [row for row in read_topic(servers, FEATURES, source_id) if "end" not in row]
    return features, predictions, read_topic(servers, REJECTED, source_id)


@pytest.mark.parametrize("by", ["recording", "topic"])
def test_time_that_falls_by_a_second_counts_as_the_time_before_and_by_more_is_rejected(
    broker: Broker, online: dict[str, str], tmp_path: Path, proof: Proof, by: str
) -> None:
    """The other source has the accepted times and none of the 47 rejected rows, of which 45 fall by hours."""
    proof.disturbs(f"event time falls by 0.5, 1, 1.000000001 and 2 s, and by 3 h for 45 rows, in the {by}")
    servers = broker.bootstrap_servers
    trades = regular()
    late = with_rows(trades, TAKEN_LATE + REJECTED_LATE)
    counted = with_rows(trades, [(at, number, 0) for at, number, _ in TAKEN_LATE])
    expected = deliver(servers, online, tmp_path, f"in-order-{by}", counted, by)
    found = deliver(servers, online, tmp_path, f"falling-{by}", late, by)
    for name, ours, theirs in zip((FEATURES, PREDICTIONS), found, expected, strict=False):
        proof.equal(equal_columns(ours), equal_columns(theirs), name)
    assert len(found[0]) == len(trades) + len(TAKEN_LATE)
    assert not expected[2]
    assert {reject["reason"] for reject in found[2]} == {"event time falls by more than 1 s"}
    assert len({reject["where"] for reject in found[2]}) == len(found[2]) == len(REJECTED_LATE)
    proof.saw(rows=len(found[0]), rejected=len(found[2]))


def test_one_time_a_year_ahead_on_the_topic_costs_20_trades(
    broker: Broker, online: dict[str, str], tmp_path: Path, proof: Proof
) -> None:
    """The trades before cannot tell which time was wrong, and the forecaster holds nothing back.

    Each rejection is visible, the 21st trade begins a segment, and the next source of the product is not affected.
    """
    proof.disturbs("one event time a year ahead, on the topic")
    servers = broker.bootstrap_servers
    trades = regular()
    expected, _, _ = deliver(servers, online, tmp_path, "without-leap", trades, "topic")
    found, _, rejects = deliver(servers, online, tmp_path, "leap", with_rows(trades, [(899, 1, A_YEAR)]), "topic")
    again, _, none = deliver(servers, online, tmp_path, "after-leap", trades, "topic")
    proof.equal(equal_columns(found[:900]), equal_columns(expected[:900]), "features before")
    proof.equal(equal_columns(again), equal_columns(expected), "features of the next source")
    assert [row["n"] for row in found[900:903]] == [0, 0, 1], "the leap, and the 21st trade after it, begin a segment"
    assert [row["trade_id"] for row in found[901:]] == [row["trade_id"] for row in expected[920:]]
    assert [reject["reason"] for reject in rejects] == ["event time falls by more than 1 s"] * 20
    assert not none
    proof.saw(rejected=len(rejects))


def test_one_time_a_year_ahead_in_a_recording_costs_its_own_row(
    broker: Broker, online: dict[str, str], tmp_path: Path, proof: Proof
) -> None:
    """The reader looks ahead: the source has all rows of a recording without the leap."""
    proof.disturbs("one event time a year ahead, in a recording")
    servers = broker.bootstrap_servers
    trades = regular()
    expected = deliver(servers, online, tmp_path, "recorded-without-leap", trades, "recording")
    found = deliver(servers, online, tmp_path, "recorded-leap", with_rows(trades, [(899, 1, A_YEAR)]), "recording")
    for name, ours, theirs in zip((FEATURES, PREDICTIONS), found, expected, strict=False):
        proof.equal(equal_columns(ours), equal_columns(theirs), name)
    assert [reject["reason"] for reject in found[2]] == [REASONS[STRAY_TIME]]
    proof.saw(rows=len(found[0]), rejected=len(found[2]))
