"""Writers and clean-ups of a lake under `kill -9`, in a folder and in an object store: equal to a run without kills."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from data.features.spec import FeatureSpec
from data.files import CHECKOUT
from offline.days.staleness import stale
from offline.lake.cleaning import clean
from offline.lake.state import OBJECTS
from offline.lake.store import Lake
from tests.proofs import Proof
from tests.seaweed import Lakes
from tests.unit.test_lake import DAY, NOTES, SCHEMA, batch

KILLS = 20
MANY = 60
"""Partitions of a writer in the test of two writers."""

MAKING = """
import datetime as dt, sys
from data.features.spec import FeatureSpec
from offline.days.staging import simulate
from offline.days.staleness import STEPS
from offline.lake.store import Lake
lake, seed, batches = Lake.open(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "batches"
days = [dt.date(2025, 3, 5) + dt.timedelta(days=number) for number in range(3)]
print("ready", flush=True)
for product in ("XRP-USD", "DOGE-USD"):
    for day in days:
        simulate(lake, product, day, seed, (22, 24))
    with lake.batch() as batch:
        for step in STEPS:
            for day in days:
                step(batch if batches else lake, product, day, FeatureSpec())
"""

CLEANING = """
import sys, time
from offline.lake.cleaning import clean
from offline.lake.store import Lake
lake = Lake.open(sys.argv[1])
print("ready", flush=True)
began = time.monotonic()
clean(lake, 0, time.time_ns())
print(time.monotonic() - began)
"""

WRITING = """
import datetime as dt, sys
from offline.lake.store import Lake
from tests.unit.test_lake import DAY, NOTES, SCHEMA, batch
lake, first, count = Lake.open(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for number in range(first, first + count):
    lake.write("trades", "BTC-USD", DAY + dt.timedelta(days=number), [batch(number, 5)], SCHEMA, NOTES)
"""


@contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program; the block begins when the program is ready."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def hashes(lake: Lake) -> list[tuple[str, str, str, int, str]]:
    """Return table, product, day, rows and hash of all partitions; each partition's rows are read."""
    held, found = lake.held(), []
    for table in ("recordings", "trades", "feature_rows", "training_set"):
        for each in held.partitions(table):
            assert held.read(each.table, each.product_id, each.day).num_rows == each.rows
            found.append((each.table, each.product_id, str(each.day), each.rows, each.content_hash))
    return found


@pytest.mark.acceptance
@pytest.mark.parametrize("how", ["steps", "batches"])
def test_writers_killed_20_times_leave_the_lake_of_a_clean_run(lakes: Lakes, how: str, proof: Proof) -> None:
    """Each writer makes other days than the writer before, so that there is always work to be killed in."""
    proof.disturbs(f"writers killed {KILLS} times at random points, {how}, in {lakes.kind}")
    rng, uri, clean_uri = random.Random(0), lakes.uri(), lakes.uri()
    killed = 0
    for seed in range(KILLS):
        with running(MAKING, uri, seed, how) as writer:
            time.sleep(rng.uniform(0, 1.5))
            killed += writer.poll() is None
        lake = Lake.open(uri)
        hashes(lake)  # a reader finds whole rows after each kill
    for each in (uri, clean_uri):
        with running(MAKING, each, KILLS, how) as writer:
            assert writer.wait(120) == 0
    lake = Lake.open(uri)
    proof.saw(killed_at_work=killed)
    assert killed >= KILLS // 2
    assert stale(lake, FeatureSpec()) == []
    found = hashes(lake)
    assert len(found) == 6 * 4
    proof.equal(found, hashes(Lake.open(clean_uri)), "partitions")
    clean(lake, 0, time.time_ns())
    assert hashes(lake) == found


@pytest.mark.acceptance
def test_clean_ups_killed_20_times_remove_no_named_object(lakes: Lakes, proof: Proof) -> None:
    proof.disturbs(f"clean-ups killed {KILLS} times at random points, in {lakes.kind}")
    rng, uri = random.Random(0), lakes.uri()
    lake, killed, moved, whole_s = Lake.open(uri), 0, 0, 0.0
    for seed in range(KILLS + 2):
        with lake.batch() as changes:
            for number in range(20):
                changes.write("trades", "BTC-USD", DAY.replace(day=number + 1),
                              [batch(1_000 * seed + number, 5)], SCHEMA, NOTES)  # fmt: skip
        before = len(lake.objects.paths(OBJECTS))
        with running(CLEANING, uri) as cleaner:
            if seed <= 1:  # the first has nothing to move, the second tells how long a clean-up takes
                assert cleaner.stdout is not None
                whole_s = float(cleaner.stdout.readline())
                assert cleaner.wait(60) == 0
                continue
            time.sleep(rng.uniform(0, whole_s))
            cleaner.send_signal(signal.SIGKILL)
            killed += cleaner.wait() == -signal.SIGKILL
        moved += before - len(lake.objects.paths(OBJECTS))
        assert [len(lake.read("trades", "BTC-USD", each.day)) for each in lake.partitions("trades")] == [5] * 20
    proof.saw(killed_at_work=killed, moved_by_killed=moved)
    assert moved > 0
    clean(lake, 0, time.time_ns())
    proof.equal(
        [lake.objects.where(path) for path in lake.objects.paths(OBJECTS)],
        sorted(each.path for each in lake.partitions("trades")),
        "objects",
    )


def test_writers_of_one_product_lose_nothing(lakes: Lakes, proof: Proof) -> None:
    proof.disturbs(f"two writers of {MANY} partitions each, and a clean-up all the time, in {lakes.kind}")
    uri = lakes.uri()
    lake, cleaned = Lake.open(uri), 0
    with running(WRITING, uri, 0, MANY) as one, running(WRITING, uri, MANY, MANY) as other:
        while one.poll() is None or other.poll() is None:
            clean(lake, 3_600, time.time_ns())
            cleaned += 1
        assert (one.returncode, other.returncode) == (0, 0)
    proof.saw(partitions=2 * MANY, cleaned=cleaned)
    found = lake.partitions("trades")
    assert [(each.day - DAY).days for each in found] == list(range(2 * MANY))
    assert all(lake.read("trades", "BTC-USD", each.day).num_rows == 5 for each in found)
