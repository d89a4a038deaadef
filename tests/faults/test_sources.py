"""Many sources at once, and sources without an end."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka import Producer

from data.simulator.day import simulate_day
from data.stream.codec import encode, encode_trades
from data.stream.records import REJECTED, TRADES, End
from data.trades import StreamKey, Trades
from online.exactly_once.feature_stage import MAX_SOURCES
from orchestration.local.parts import fetch_text
from tests.faults.drill import Drill
from tests.pipeline import read_topic, running, wait_until
from tests.proofs import Proof

PRODUCTS = ("ETH-USD", "DOT-USD", "MATIC-USD", "FIL-USD")
"""All products are in one partition."""
HALF = 40


class Sources:
    """Writer of the same trades under any number of source names, without an ingestor for each."""

    def __init__(self, servers: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "log_level": 0})
        simulated = simulate_day("ETH-USD", dt.date(2025, 3, 7), hours=(14, 15)).take(slice(0, 2 * HALF))
        self._trades = replace(simulated, ingest_time=np.full(len(simulated), 1_741_356_000_000_000_000))

    def _named(self, source_id: str, product_id: str) -> Trades:
        return replace(self._trades, keys=(StreamKey(source_id, product_id),))

    def send(self, source_ids: Iterable[str], part: slice, products: Iterable[str] = PRODUCTS) -> None:
        """Write some trades of each source, in turns."""
        values = {
            (source_id, product_id): encode_trades(self._named(source_id, product_id), "drill")[part]
            for source_id in source_ids
            for product_id in products
        }
        for turn in zip(*values.values(), strict=True):
            for (_, product_id), value in zip(values, turn, strict=True):
                self._producer.produce(TRADES, value, product_id)
            self._producer.poll(0)
        assert self._producer.flush(30) == 0

    def end(self, *source_ids: str, products: Iterable[str] = PRODUCTS) -> None:
        for source_id in source_ids:
            for product_id in products:
                end = End(source_id, product_id, "drill", 1_741_356_000_000_000_000, end=True)
                self._producer.produce(TRADES, encode(end), product_id)
        assert self._producer.flush(30) == 0


def open_streams(drill: Drill) -> float:
    """Return the open streams of replays in all partitions."""
    return sum(metric(drill, f'cryptovol_open_streams{{kafka_partition="{p}",purpose="replay"}}') for p in range(12))


def metric(drill: Drill, line: str) -> float:
    """Return the value of a line in the forecaster's metrics."""
    port = re.findall(r'"metrics_port": ?(\d+)', drill.forecaster.log.read_text())[-1]
    text = fetch_text(f"http://127.0.0.1:{port}/metrics") or ""
    return sum(float(value) for value in re.findall(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE))


def test_64_sources_are_served_the_65th_is_refused_and_a_killed_service_goes_on_with_all(
    drill: Drill, proof: Proof
) -> None:
    """64 sources of 4 products in one partition, 256 windows; SIGKILL in the middle of their trades."""
    proof.disturbs("64 sources open, a 65th comes; forecaster killed with SIGKILL; one ends, a new one comes")
    sources = Sources(drill.broker.bootstrap_servers)
    sources.send(["undisturbed"], slice(0, 2 * HALF))
    sources.end("undisturbed")
    drill.await_ends("undisturbed", products=len(PRODUCTS))
    names = [f"s{number:02}" for number in range(MAX_SOURCES)]
    sources.send(names, slice(0, HALF))
    sources.send(["late"], slice(0, HALF), PRODUCTS[:1])
    for name in names:
        drill.await_rows(name, HALF * len(PRODUCTS))
    refused = 'cryptovol_rejects_total{purpose="drill",reason="too_many_sources"}'
    wait_until(lambda: metric(drill, refused) == HALF, "a refusal counted for each trade of the 65th")
    drill.forecaster.kill()
    drill.forecaster.start()
    sources.send(names, slice(HALF, 2 * HALF))
    sources.end(names[0])
    sources.send(["late-too"], slice(0, 2 * HALF))
    sources.end("late-too", *names[1:])
    drill.await_ends("late-too", *names, products=len(PRODUCTS))
    for name in (*names, "late-too"):
        drill.same(proof, name)
    rejects = read_topic(drill.broker.bootstrap_servers, REJECTED, "late")
    assert len(rejects) == HALF
    assert {reject["reason"].partition(";")[0] for reject in rejects} == {"64 sources are open in this partition"}
    assert not drill.predictions.rows("late")
    memory = psutil.Process(drill.forecaster.process.pid).memory_info().rss / 2**20
    proof.saw(sources=MAX_SOURCES + 1, windows=MAX_SOURCES * len(PRODUCTS), refused_rows=HALF, memory_mib=memory)
    assert memory < 400


@pytest.mark.acceptance
def test_a_source_that_never_ends_disturbs_nobody_and_an_operator_ends_it(
    drill: Drill, recording: Path, proof: Proof
) -> None:
    """The source's ingestor is killed for good; the source stays open over a restart of the forecaster.

    A command ends the source.
    """
    proof.disturbs("ingestor killed for good; forecaster killed; source ended with --end")
    rows = drill.undisturbed(recording)
    with running(dead := drill.replay("dead", recording, REPLAY_SPEED="20")):
        drill.await_rows("dead", 100)
        dead.kill()
    drill.forecaster.kill()
    drill.forecaster.start()
    assert drill.undisturbed(recording, "disturbed") == rows
    drill.same(proof)
    assert open_streams(drill) == 1
    delivered = [row["trade_id"] for row in read_topic(drill.broker.bootstrap_servers, TRADES, "dead")]
    assert [row["trade_id"] for row in drill.predictions.rows("dead")] == delivered, "what it sent was scored"
    end = drill.replay("dead")
    end.arguments = ("--end", "dead")
    for code, said in ((0, '"event": ?"source ended"'), (2, "nothing to end: this source has ended")):
        with running(end):
            assert end.process.wait(30) == code
        assert re.search(said, end.log.read_text())
        drill.await_ends("dead")
    wait_until(lambda: open_streams(drill) == 0, "its window is free")
    unknown = drill.replay("never-seen")
    unknown.arguments = ("--end", "never-seen")
    with running(unknown):
        assert unknown.process.wait(30) == 2
    assert "has no trade on the topic" in unknown.log.read_text()
    proof.saw(rows_of_the_dead_source=len(delivered))
