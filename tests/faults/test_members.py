"""Forecasters with the same environment share the work, in any number, through joins and leaves."""

from __future__ import annotations

import datetime as dt
import json
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import PREDICTIONS, partition_of
from data.times import NS
from data.trades import Trades
from tests.broker import Broker
from tests.faults.drill import Drill
from tests.faults.test_recovery import PRODUCTS
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

MARKET_S = 480
SPEED = 6
EVERY_S = 10.0
STOPPED_S, KILLED_S = 5.0, 15.0
"""Limits until a reader sees the next row of a partition whose forecaster was stopped in good order, or killed."""


@pytest.fixture
def twelve_products(tmp_path: Path) -> Path:
    """Record eight minutes of twelve products, in the order of their times."""
    parts = [simulate_day(product_id, dt.date(2025, 3, 5), hours=(14, 15)) for product_id in PRODUCTS]
    trades = Trades.join(parts)
    trades = trades.take(np.argsort(trades.event_time, kind="stable"))
    path = tmp_path / "recording.csv"
    write_csv(path, [trades.take(trades.event_time < trades.event_time[0] + MARKET_S * NS)])
    return path


class Members:
    """Forecasters without a slot: all have the same environment."""

    def __init__(self, drill: Drill) -> None:
        self._drill, self._numbers = drill, count()
        config = {"bootstrap.servers": drill.broker.bootstrap_servers, "group.id": "unused"}
        levels = ("read_committed", "read_uncommitted")
        self._readers = [Consumer(config | {"log_level": 0, "isolation.level": level}) for level in levels]
        self.alive: list[Process] = []
        self._all: list[Process] = []

    def join(self) -> Process:
        log = self._drill.folder / f"member-{next(self._numbers)}.log"
        member = Process("online.forecaster", self._drill.environ, log)
        member.start()
        self.alive.append(member)
        self._all.append(member)
        return member

    def close(self) -> None:
        """End all remaining forecasters."""
        for member in self._all:
            if member.process.poll() is None:
                member.kill()
        for reader in self._readers:
            reader.close()

    def owned(self, member: Process) -> set[int]:
        """Return the partitions in the last log entry of a member."""
        lines = [json.loads(line) for line in member.log.read_text().splitlines()]
        named = [line["partitions"] if line["event"] == "assigned" else line["left"]
                 for line in lines if line["event"] in ("assigned", "revoked")]  # fmt: skip
        return set(named[-1]) if named else set()

    def is_shared(self) -> bool:
        """Return whether each partition has one owner, and each member a part."""
        parts = [self.owned(member) for member in self.alive]
        return sum(map(len, parts)) == 12 == len(set().union(*parts)) and min(map(len, parts)) >= 12 // len(parts)

    def end(self, member: Process, number: signal.Signals, partitions: set[int]) -> None:
        """End a member; a killed member leaves an open transaction behind, and readers wait for its end."""
        if number == signal.SIGKILL:
            wait_until(lambda: self._is_frozen_within_transaction(member, partitions), "it is within a transaction")
        self.alive.remove(member)
        member.process.send_signal(number)

    def _is_frozen_within_transaction(self, member: Process, partitions: set[int]) -> bool:
        """Freeze a member; let the member go on if no transaction is open."""
        member.process.send_signal(signal.SIGSTOP)
        if any(self._is_open(partition) for partition in partitions):
            return True
        member.process.send_signal(signal.SIGCONT)
        return False

    def _is_open(self, partition: int) -> bool:
        """Return whether `predictions` has records behind the last record of a `read_committed` reader."""
        place = TopicPartition(PREDICTIONS, partition)
        return len({each.get_watermark_offsets(place, timeout=10)[1] for each in self._readers}) > 1


@pytest.fixture
def members(own_broker: Broker, models: Path, tmp_path: Path) -> Iterator[tuple[Drill, Members]]:
    drill = Drill(own_broker, models, tmp_path, SLOT="")
    members = Members(drill)
    try:
        yield drill, members
    finally:
        members.close()


def next_rows_s(drill: Drill, partitions: set[int], since_ns: int) -> float:
    """Wait for a row of each partition scored after a moment; return the seconds from the moment to the last row."""
    missing = set(partitions)

    def seen() -> bool:
        before = len(drill.predictions.records["disturbed"])
        drill.read()
        for record in drill.predictions.records["disturbed"][before:]:
            if "ts" in record and record["ts"] > since_ns:
                missing.discard(record["kafka_partition"])
        return not missing

    wait_until(seen, f"a row of each of {sorted(partitions)}", within_s=60)
    return (time.time_ns() - since_ns) / NS


@pytest.mark.acceptance
def test_forecasters_that_come_and_go_cost_nothing(
    members: tuple[Drill, Members], twelve_products: Path, proof: Proof
) -> None:
    """Three forecasters on 12 products; every 10 s a forecaster is stopped or killed, and another joins."""
    drill, group = members
    for _ in range(3):
        group.join()
    wait_until(group.is_shared, "12 partitions are shared by three")
    busy = {partition_of(product_id) for product_id in PRODUCTS}
    took: dict[signal.Signals, list[float]] = {signal.SIGTERM: [], signal.SIGKILL: []}
    with running(ingestor := drill.replay("disturbed", twelve_products, REPLAY_SPEED=str(SPEED))):
        drill.await_rows("disturbed", 100)
        for how in [signal.SIGTERM, signal.SIGKILL] * 3:
            assert ingestor.process.poll() is None, "the replay ended before the last fault"
            turn_ends = time.monotonic() + EVERY_S
            member = max(group.alive, key=lambda each: len(group.owned(each) & busy))
            partitions = group.owned(member) & busy
            since_ns = time.time_ns()
            group.end(member, how, partitions)
            took[how].append(next_rows_s(drill, partitions, since_ns))
            group.join()

            def turn_is_over(until: float = turn_ends) -> bool:
                drill.read()
                return time.monotonic() > until and group.is_shared()

            wait_until(turn_is_over, "the next turn", within_s=60)
        assert ingestor.process.wait(120) == 0
    drill.await_ends("disturbed", products=len(PRODUCTS))
    proof.disturbs(
        f"three forecasters without a slot, {len(took) * 3} times one stopped or killed and another one joins"
    )
    proof.saw(stopped_s=max(took[signal.SIGTERM]), killed_s=max(took[signal.SIGKILL]))
    with running(whole := drill.replay("undisturbed", twelve_products)):
        assert whole.process.wait(60) == 0
    drill.await_ends("undisturbed", products=len(PRODUCTS))
    drill.same(proof)
    assert max(took[signal.SIGTERM]) <= STOPPED_S
    assert max(took[signal.SIGKILL]) <= KILLED_S
