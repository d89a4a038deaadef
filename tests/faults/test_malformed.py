"""Malformed records on every topic are rejected or passed over, and nothing stops. None of our programs writes them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from confluent_kafka import Producer

from data.recordings.readers import read_trades
from data.stream.codec import encode, encode_trades
from data.stream.records import FEATURES, PREDICTIONS, REJECTED, TOPICS, TRADES, End
from data.trades import StreamKey
from tests.faults.drill import Drill, Tail
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

TRADE: dict[str, Any] = {
    "source_id": "hostile",
    "product_id": "ETH-USD",
    "purpose": "drill",
    "trade_id": 1,
    "event_time": 1_741_183_200_000_000_000,
    "ingest_time": 1_741_183_200_000_000_000,
    "price": 1.0,
}


EVERY = 100
"""Trades between two malformed records on each topic."""


def with_(**fields: Any) -> bytes:
    return json.dumps(TRADE | fields).encode()


def raw(field: str, text: str) -> bytes:
    """Return a trade with a field that no JSON library would write."""
    return with_(**{field: "@"}).replace(b'"@"', text.encode())


NO_TRADES: list[bytes | None] = [
    *(random.Random(seed).randbytes(100) for seed in range(5)),
    b"",
    None,
    b"null",
    b"0",
    b"[]",
    b"{}",
    with_(price="1.0"),
    with_(price=None),
    with_(price=-1.0),
    with_(price=0.0),
    raw("price", "1e400"),
    raw("price", "NaN"),
    raw("price", "-Infinity"),
    raw("size", "-1e400"),
    with_(trade_id=2**63),
    with_(trade_id=-(2**63) - 1),
    with_(trade_id=10**400),
    with_(trade_id=1.5),
    with_(purpose="A" * 900_000),
    with_(source_id="A" * 900_000),
    with_(source_id=""),
    with_(source_id="a\nb"),
    with_(source_id="a/b"),
    raw("source_id", r'"\ud800"'),
    with_(product_id="btcusd"),
    with_(product_id=""),
    with_(event_time=-1),
    with_(event_time=7_258_118_400_000_000_000),
    with_(event_time=2**63),
    with_(event_time=-(2**63) - 1),
    with_(event_time=1741183200.5),
    with_(event_time=None),
    with_(event_time="2025-03-05T14:00:00Z"),
    with_(event_time="1741183200000000000"),
    raw("event_time", "1" + "0" * 900_000),
    with_(ingest_time="yesterday"),
    b"[" * 900_000,
    raw("size", "[" * 5_000 + "]" * 5_000),
    with_()[:-1],
    with_() + b"{}",
    b"\xef\xbb\xbf" + with_(),
    json.dumps({"where": "a:1", "reason": "of another schema", "text": "", "stage": "ingestor"}).encode(),
    json.dumps(TRADE | {"end": False}).replace('"price": 1.0', '"price": -1').encode(),
    b'{"source_id":"hostile","product_id":"ETH-USD","purpose":"drill","ingest_time":1741183200000000000,"end":1}',
]
"""Values on `coinbase-trades` that are neither a trade nor an end."""


def bad_rows(good: dict[str, Any]) -> list[bytes | None]:
    """Return values that are no `features` row and no forecast: good rows with a wrong field, and `NO_TRADES`."""
    mended = good | {"source_id": "hostile"}
    wrong: dict[str, Any] = {
        "source_id": 1,
        "product_id": None,
        "trade_id": 2**63,
        "n": -1,
        "ret_std": "0",
        "ingest_time": "A" * 900_000,
        "purpose": "A" * 900_000,
    }
    return [*(json.dumps(mended | {name: value}).encode() for name, value in wrong.items()), *NO_TRADES]


def test_malformed_records_on_every_topic_stop_nothing_and_change_no_row(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof
) -> None:
    """Write malformed records between the trades of a source; forecaster and API live, and reject with a reason."""
    servers = drill.broker.bootstrap_servers
    rows = drill.undisturbed(recording)
    [batch] = read_trades(recording)
    trades = replace(
        batch.trades,
        keys=(StreamKey("disturbed", "ETH-USD"),),
        ingest_time=np.full(rows, 1_741_183_200_000_000_000),
    )
    good = encode_trades(trades, "replay")
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "log_level": 0})
    bad = {
        TRADES: NO_TRADES,
        FEATURES: bad_rows(drill.features.rows("undisturbed")[0]),
        PREDICTIONS: bad_rows(drill.predictions.rows("undisturbed")[0]),
        REJECTED: NO_TRADES,
    }
    written = len(good) // EVERY
    assert max(map(len, bad.values())) <= written
    proof.disturbs(f"{written} malformed records on each of {len(bad)} topics, among the trades of a source")
    api = Process("online.api", drill.environ | {"API_PORT": "0"}, tmp_path / "api.log")
    queues = {topic: iter(records) for topic, records in bad.items()}
    with running(api):
        url = api.await_log(r"running on (http://\S+)").group(1)
        for place, value in enumerate(good, 1):
            producer.produce(TRADES, value, "ETH-USD")
            if place % EVERY == 0:
                for topic in TOPICS:
                    # Every second one without a key: it may go to any partition.
                    producer.produce(topic, next(queues[topic], b"no more"), "ETH-USD" if place % (2 * EVERY) else None)
                producer.poll(0)
        for source_id in ("never-seen", "disturbed"):
            producer.produce(
                TRADES, encode(End(source_id, "ETH-USD", "drill", TRADE["ingest_time"], end=True)), "ETH-USD"
            )
        assert producer.flush(30) == 0
        drill.await_ends("disturbed", "never-seen")
        drill.same(proof)
        rejects = Tail(servers, REJECTED)

        def all_are_said() -> bool:
            rejects.read()
            return sum(len(found) for found in rejects.records.values()) >= written

        wait_until(all_are_said, f"a reject for each of {written} records")
        said = [record for found in rejects.records.values() for record in found if "stage" in record]
        rejects.close()
        assert len({record["where"] for record in said if record["stage"] == "forecaster"}) == written
        assert all(record["reason"] for record in said)
        unreadable = 'cryptovol_rejects_total{purpose="unknown",reason="unreadable"} '

        def counted() -> list[float]:
            lines = httpx.get(f"{url}/metrics").text.splitlines()
            return [float(line.removeprefix(unreadable)) for line in lines if line.startswith(unreadable)]

        # The API reads `predictions` by itself, and may be behind the readers above.
        wait_until(lambda: sum(counted()) >= written, f"the API has rejected {written} records")
        assert counted() == [written]
        wanted = {"trade_id": drill.predictions.rows("disturbed")[-1]["trade_id"]}

        def is_newest() -> bool:
            answer = httpx.get(f"{url}/predict/ETH-USD", params={"source_id": "disturbed"})
            return answer.status_code == 200 and wanted.items() <= answer.json().items()

        wait_until(is_newest, f"the API answers with {wanted}")
        assert httpx.get(f"{url}/predict/ETH-USD", params={"source_id": "hostile"}).status_code == 404
        health = httpx.get(f"{url}/health").json()
        assert health["checks"]["stream"]["ok"], health
        assert [each.process.poll() for each in (api, drill.forecaster)] == [None] * 2
    proof.saw(malformed=len(bad) * written, rejects_said=len(said))
