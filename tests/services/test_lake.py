"""A process that is killed while writing to the lake."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import time
from pathlib import Path

from offline.lake.cleaning import clean
from offline.lake.store import Lake
from tests.proofs import Proof
from tests.unit.test_lake import DAY, NOTES, SCHEMA, batch, names_below

KILLED = """
import os, signal, sys
import datetime as dt
from offline.lake.parquet import GROUP_ROWS
from offline.lake.store import Lake
from tests.unit.test_lake import DAY, NOTES, SCHEMA, batch
def rows():
    for i in range(3):
        yield batch(i * GROUP_ROWS, GROUP_ROWS)
    os.kill(os.getpid(), signal.SIGKILL)
Lake.open(sys.argv[1]).write("trades", "BTC-USD", DAY, rows(), SCHEMA, NOTES)
"""


def test_a_killed_writer_leaves_what_was_there_and_the_clean_up_removes_the_rest(tmp_path: Path, proof: Proof) -> None:
    proof.disturbs("a writer of 393,216 rows killed before their end, over a partition that was there")
    lake = Lake.open(tmp_path)
    other = lake.write("trades", "BTC-USD", dt.date(2025, 1, 7), [batch(0, 3)], SCHEMA, NOTES)
    old = lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    known = names_below(tmp_path)
    for count in (1, 2):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        assert ended.returncode == -signal.SIGKILL
        left = [name for name in names_below(tmp_path) if name not in known]
        assert len(left) == count
        assert all(name.endswith(".part") for name in left)
        assert lake.partitions("trades") == [old, other]
        assert lake.read("trades", "BTC-USD", DAY)["trade_id"].to_pylist() == [0, 1, 2, 3, 4]
    new = lake.write("trades", "BTC-USD", DAY, [batch(0, 6)], SCHEMA, NOTES)
    assert [clean(lake, 0, time.time_ns()).removed for _ in range(2)] == [0, 1]
    assert names_below(tmp_path) == sorted(["BTC-USD.json", *(Path(each.path).name for each in (new, other))])
    proof.equal(lake.partitions("trades"), [new, other], "partitions")
