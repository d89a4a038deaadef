"""Every process of the system is killed at random, again and again, within one replay: nothing is lost or doubled."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from data.process.running import AGAIN
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import PREDICTIONS
from data.trades import Trades
from offline.lake.store import Lake
from tests.broker import Broker
from tests.faults.bench import API, EXPORTER, FORECASTERS, INGESTOR, KAFKA, MLFLOW, SINK, Bench
from tests.faults.equality import same_records, trades_on
from tests.faults.test_sink import check as same_in_lake
from tests.pipeline import wait_until
from tests.proofs import Proof

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
VICTIMS = (KAFKA, MLFLOW, *FORECASTERS, INGESTOR, SINK, API, EXPORTER)
KNOWN_ENDS = {
    **{name: {AGAIN} for name in FORECASTERS},
    INGESTOR: {0, 1, AGAIN},
    SINK: {0, 2},  # 2: the broker is away, or a killed sink's lock is waited out
}
"""Exit codes of processes that nobody killed; no other process may end by itself."""


def market(path: Path, trades: int) -> float:
    """Record so many trades of three products in the order of their times; return the seconds from first to last."""
    parts = [simulate_day(product_id, dt.date(2025, 3, 5), hours=(13, 16)) for product_id in PRODUCTS]
    joined = Trades.join(parts)
    joined = joined.take(np.argsort(joined.event_time, kind="stable")).take(slice(0, trades))
    assert len(joined) == trades
    write_csv(path, [joined])
    return float(joined.event_time[-1] - joined.event_time[0]) / 1e9


def turns(kills: int, rng: random.Random) -> Iterator[str]:
    """Yield the processes to kill: each one once in a random order, and again, until there are enough."""
    for _ in range(0, kills, len(VICTIMS)):
        yield from rng.sample(VICTIMS, len(VICTIMS))[:kills]
        kills -= len(VICTIMS)


@pytest.mark.parametrize(
    ("kills", "trades", "replay_s", "seed"),
    [(8, 12_000, 30.0, 1), pytest.param(100, 210_000, 420.0, 2, marks=pytest.mark.acceptance)],
)
def test_random_kills_of_every_process_cost_nothing(
    own_broker: Broker, tmp_path: Path, proof: Proof, kills: int, trades: int, replay_s: float, seed: int
) -> None:
    """Each killed process is started again at once, also one that was still starting.

    Topics are compared with those of an undisturbed replay, the lake with the topics.
    """
    recording = tmp_path / "recording.csv"
    speed = str(market(recording, trades) / replay_s)
    bench, rng = Bench(own_broker, tmp_path), random.Random(seed)
    with bench.running():
        bench.replay("undisturbed", recording, "max")
        bench.await_end("undisturbed", len(PRODUCTS), within_s=300)
        replayed = bench.replay("disturbed", recording, speed)
        for name in turns(kills, rng):
            turn = time.monotonic() + rng.uniform(0.0, 1.6 * replay_s / kills)

            def is_due(turn: float = turn) -> bool:
                bench.look()
                return time.monotonic() > turn

            wait_until(is_due, "the next kill", within_s=60)
            assert not replayed.is_over, f"the replay ended before kill {bench.killed.total() + 1} of {kills}"
            bench.kill(name)
        killed_at = time.monotonic()
        bench.await_end("disturbed", len(PRODUCTS), within_s=3 * replay_s + 120)
        proof.disturbs(", ".join(f"{name} killed {times} times" for name, times in sorted(bench.killed.items())))
        proof.saw(kills=bench.killed.total(), from_last_kill_to_end_s=time.monotonic() - killed_at)
        wait_until(bench.is_well, "all is well again", within_s=120)
        bench.await_lake(within_s=300)
        differences = same_records(own_broker.bootstrap_servers, proof)
        same_in_lake(own_broker.bootstrap_servers, Lake.open(bench.lake), proof)
        newest_is_served(bench)
    assert differences.rows[PREDICTIONS] == trades + len(PRODUCTS)
    assert trades_on(own_broker.bootstrap_servers, "disturbed").total() == trades
    ended = {name: set(part.ends) - KNOWN_ENDS.get(name, set()) for name, part in bench.parts.items()}
    assert not any(ended.values()), ended
    proof.saw(ended_by_themselves=sum(part.failures for name, part in bench.parts.items() if name != SINK))
    for name in VICTIMS:
        if name not in (KAFKA, MLFLOW, INGESTOR):
            assert "Traceback" not in bench.log(name).read_text(), name


def newest_is_served(bench: Bench) -> None:
    """Check that the API answers with the last forecast of each product of both sources."""
    for product_id in PRODUCTS:
        found = [
            httpx.get(f"{bench.api}/predict/{product_id}", params={"source_id": source_id}, timeout=10.0).json()
            for source_id in ("disturbed", "undisturbed")
        ]
        assert [each["state"] for each in found] == ["ended", "ended"], found
        assert found[0]["trade_id"] == found[1]["trade_id"]
        assert found[0]["score"] == found[1]["score"]
