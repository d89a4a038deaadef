"""Forecasters with the same environment share the work, in any number, through joins, leaves, kills and freezes."""

from __future__ import annotations

import datetime as dt
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import Struct

from data.process.running import AGAIN
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PREDICTIONS, TRADES, partition_of
from data.times import NS
from data.trades import Trades
from online.exactly_once.offset_note import GROUP
from tests.benchmarks.market import mixed_day
from tests.benchmarks.streams import preload
from tests.broker import Broker
from tests.faults.drill import Drill
from tests.faults.test_recovery import PRODUCTS
from tests.members import Members
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

MARKET_S = 960
SPEED = 6
KILLS, EVERY_S = 12, 10.0
STOPPED_S, KILLED_S = 5.0, 15.0
"""Limits until a reader sees the next row of a partition whose forecaster was stopped in good order, or killed."""
LAST_S = 1.5
"""Nobody is stopped in the last seconds before a kill: its replacement would wait for the killed member's session."""
STOPPED, KILLED, FROZEN = "stopped", "killed", "frozen"
AT_HAND = 800_000
"""Trades on the topic when the zombies freeze."""
SETTLED_S = 3.0
"""How long a zombie that woke last may need to write."""
BUSY = {partition_of(product_id) for product_id in PRODUCTS}


@pytest.fixture(scope="module")
def twelve_products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record sixteen minutes of twelve products, in the order of their times."""
    parts = [simulate_day(product_id, dt.date(2025, 3, 5), hours=(14, 15)) for product_id in PRODUCTS]
    trades = Trades.join(parts)
    trades = trades.take(np.argsort(trades.event_time, kind="stable"))
    path = tmp_path_factory.mktemp("market") / "recording.csv"
    write_csv(path, [trades.take(trades.event_time < trades.event_time[0] + MARKET_S * NS)])
    return path


@pytest.fixture
def three(own_broker: Broker, models: Path, tmp_path: Path) -> Iterator[tuple[Drill, Members]]:
    """Run three forecasters that share the partitions."""
    drill = Drill(own_broker, models, tmp_path, SLOT="")
    members = Members(drill.environ, tmp_path)
    try:
        for _ in range(3):
            members.join()
        wait_until(members.is_shared, "12 partitions are shared by three", within_s=120)
        yield drill, members
    finally:
        members.close()


@dataclass
class Absence:
    """A forecaster that is gone.

    Attributes:
        since_ns: when the forecaster was told to stop, killed or frozen.
        gone_ns: when the forecaster could score no more rows; 0 while it may.
        missing: its partitions without a row that was scored after `gone_ns`.
        took_s: from `since_ns` until a reader saw a row of the last of its partitions.
    """

    how: str
    member: Process
    missing: set[int]
    since_ns: int
    gone_ns: int
    took_s: float = 0.0


class Replacements:
    """Measure how long the partitions of forecasters that are gone stay without a new row."""

    def __init__(self, drill: Drill) -> None:
        self._drill = drill
        self.absences: list[Absence] = []

    @property
    def missing(self) -> set[int]:
        """Return the partitions that wait for a row."""
        return set().union(*(absence.missing for absence in self.absences))

    def note(self, how: str, member: Process, partitions: set[int]) -> None:
        now = time.time_ns()
        gone_ns = 0 if how == STOPPED else now
        self.absences.append(Absence(how, member, set(partitions), now, gone_ns))

    def look(self) -> None:
        """Read new rows."""
        for absence in self.absences:
            if not absence.gone_ns and absence.member.process.poll() is not None:
                absence.gone_ns = time.time_ns()
        before = len(self._drill.predictions.records["disturbed"])
        self._drill.read()
        seen_ns = time.time_ns()
        for record in self._drill.predictions.records["disturbed"][before:]:
            for absence in self.absences:
                if 0 < absence.gone_ns < record.get("ts", 0) and record["kafka_partition"] in absence.missing:
                    absence.missing.remove(record["kafka_partition"])
                    absence.took_s = (seen_ns - absence.since_ns) / NS

    def look_until(self, until: float) -> None:
        """Read new rows until a time of `time.monotonic`."""
        while time.monotonic() < until:
            self.look()

    def longest_s(self, how: str) -> float:
        """Return the longest time of one kind of absence, all of them over."""
        assert not self.missing
        return max(absence.took_s for absence in self.absences if absence.how == how)


def busiest(group: Members, without: set[int]) -> tuple[Process, set[int]]:
    """Return the member with the most partitions that have a product, and these partitions.

    Args:
        without: partitions that nobody serves yet: their new owner is the last to be chosen.
    """
    parts = {member.log: group.owned(member) & BUSY for member in group.alive}
    member = max(group.alive, key=lambda each: (not parts[each.log] & without, len(parts[each.log])))
    return member, parts[member.log]


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", [1, 2])
def test_forecasters_that_come_and_go_for_two_minutes_cost_nothing(
    three: tuple[Drill, Members], twelve_products: Path, proof: Proof, seed: int
) -> None:
    """One is killed every 10 s and replaced; between two kills, another may leave, and another join."""
    drill, group = three
    rng = random.Random(seed)
    gone = Replacements(drill)
    with running(ingestor := drill.replay("disturbed", twelve_products, REPLAY_SPEED=str(SPEED))):
        drill.await_rows("disturbed", 100)
        began = time.monotonic()
        for turn in range(1, KILLS + 1):
            assert ingestor.process.poll() is None, "the replay ended before the last kill"
            member, partitions = busiest(group, gone.missing)
            group.freeze(member, partitions)
            gone.note(KILLED, member, partitions)
            member.kill()
            group.join()
            while time.monotonic() < began + turn * EVERY_S - LAST_S:
                gone.look()
                if not gone.missing and group.is_shared() and rng.random() < 0.5:
                    member, partitions = busiest(group, set())
                    gone.note(STOPPED, member, partitions)
                    group.stop(member)
                    group.join()
                    break
            gone.look_until(began + turn * EVERY_S)
        assert ingestor.process.wait(120) == 0
    drill.await_ends("disturbed", products=len(PRODUCTS))
    gone.look()
    stopped = sum(absence.how == STOPPED for absence in gone.absences)
    proof.disturbs(f"three forecasters without a slot, {KILLS} killed in two minutes, {stopped} leave, others join")
    proof.saw(stopped_s=gone.longest_s(STOPPED), killed_s=gone.longest_s(KILLED))
    undisturbed(drill, twelve_products)
    drill.same(proof)
    assert gone.longest_s(STOPPED) <= STOPPED_S
    assert gone.longest_s(KILLED) <= KILLED_S


def undisturbed(drill: Drill, recording: Path) -> None:
    """Replay the recording while nobody comes or goes."""
    with running(ingestor := drill.replay("undisturbed", recording)):
        assert ingestor.process.wait(60) == 0
    drill.await_ends("undisturbed", products=len(PRODUCTS))


@pytest.mark.acceptance
def test_a_zombie_that_wakes_within_its_transaction_is_fenced(
    three: tuple[Drill, Members], twelve_products: Path, proof: Proof
) -> None:
    """Its session and its transaction are over, and others have its partitions: it writes nothing, and ends."""
    drill, group = three
    gone = Replacements(drill)
    with running(ingestor := drill.replay("disturbed", twelve_products, REPLAY_SPEED=str(4 * SPEED))):
        drill.await_rows("disturbed", 1_000)
        zombie, partitions = busiest(group, set())
        group.freeze(zombie, partitions)
        gone.note(FROZEN, zombie, partitions)

        def is_replaced() -> bool:
            gone.look()
            return not gone.missing

        wait_until(is_replaced, "others have its partitions")
        zombie.process.send_signal(signal.SIGCONT)
        assert zombie.process.wait(20) == AGAIN
        assert ingestor.process.wait(120) == 0
    said = zombie.log.read_text().splitlines()[-1]
    assert "the broker refuses this process; the next start goes on" in said
    drill.await_ends("disturbed", products=len(PRODUCTS))
    proof.disturbs("a forecaster without a slot frozen within a transaction; it wakes when others have its partitions")
    proof.saw(replaced_s=gone.longest_s(FROZEN))
    undisturbed(drill, twelve_products)
    drill.same(proof)


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_zombies_with_much_at_hand_write_nothing(three: tuple[Drill, Members], proof: Proof, seed: int) -> None:
    """Two of three are frozen at full speed, at any moment, for about a session.

    Some wake as members, some with an open transaction, and all with thousands of trades in their client's queue.
    """
    drill, group = three
    rng = random.Random(seed)
    trades = mixed_day(dt.date(2025, 1, 6), "zombies").take(slice(0, AT_HAND))
    preload(drill.broker.bootstrap_servers, trades, at_once=True)
    pause(rng.uniform(0.2, 1.5))
    zombies, frozen_s = rng.sample(group.alive, 2), sorted(rng.uniform(5.5, 9.5) for _ in range(2))
    for zombie in zombies:
        zombie.process.send_signal(signal.SIGSTOP)
    for zombie, before_s, wakes_s in zip(zombies, (0, *frozen_s), frozen_s, strict=False):
        pause(wakes_s - before_s)
        zombie.process.send_signal(signal.SIGCONT)
    expected = offsets_of(trades)
    await_committed(drill, expected)
    pause(SETTLED_S)
    ended = [zombie.process.poll() for zombie in zombies]
    proof.disturbs(f"two of three frozen at full speed, for {frozen_s[0]:.1f} and {frozen_s[1]:.1f} s")
    proof.saw(rows=len(trades), fenced=ended.count(AGAIN), members_again=ended.count(None))
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=drill.broker.bootstrap_servers)) as reader:
        for topic in (FEATURES, PREDICTIONS):
            for partition, offsets in expected.items():
                blocks = reader.read(topic, partition)
                found = [decode_outcome(value).kafka_offset for block in blocks for value in block.values]
                proof.equal(found, offsets, f"{topic}[{partition}]")
    assert set(ended) <= {None, AGAIN}


class Outcome(Struct, frozen=True, gc=False):
    """Read from a row or a forecast the offset of its trade."""

    kafka_offset: int


decode_outcome = msgspec.json.Decoder(Outcome).decode


def offsets_of(trades: Trades) -> dict[int, range]:
    """Return the offsets of the trades by partition, on a topic without other trades."""
    counts: Counter[int] = Counter()
    for key, count in zip(trades.keys, np.bincount(trades.stream, minlength=len(trades.keys)).tolist(), strict=True):
        counts[partition_of(key.product_id)] += count
    return {partition: range(count) for partition, count in sorted(counts.items())}


def await_committed(drill: Drill, expected: dict[int, range]) -> None:
    """Wait until the group has committed all trades."""
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=drill.broker.bootstrap_servers), GROUP) as reader:

        def is_committed() -> bool:
            committed = reader.committed(TRADES, expected)
            return all(committed.get(partition, (0, ""))[0] >= len(each) for partition, each in expected.items())

        wait_until(is_committed, "all trades are processed", within_s=180)


def pause(seconds: float) -> None:
    """Let time pass."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, "its end", within_s=seconds + 1)
