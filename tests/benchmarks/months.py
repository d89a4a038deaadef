"""A backfill of simulated product-days by several run processes: seconds, memory, and bytes of Dagster's log.

`python -m tests.benchmarks.months` prints the rows of docs/scaling.md; `--help` names its options.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from data.files import CHECKOUT
from offline.days.staging import simulate
from offline.days.staleness import STEPS
from offline.lake.store import Lake
from tests.benchmarks.measure import Row
from tests.broker import free_ports
from tests.dagster_stack import DagsterStack
from tests.secured import PG_USER, Postgres, running_postgres

PRODUCTS = tuple(f"{letter}{letter}-USD" for letter in "ABCDEFGH")
FIRST_DAY = dt.date(2023, 1, 1)
DAYS = 25
"""Of each product: 200 product-days, and 8 product-months."""
PASSWORD, DATABASE = "sesame", "dagster"
SAMPLE_S = 0.25

Hashes = dict[tuple[str, str, dt.date], str]


@dataclass
class Memory:
    """Largest memory of run processes, in bytes: of all together, and of one. A shared page counts in parts."""

    together: int = 0
    one: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self, parent: psutil.Process) -> Iterator[None]:
        """Watch the children of the code server in the block."""
        thread = threading.Thread(target=self._watch, args=(parent,))
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self, parent: psutil.Process) -> None:
        while not self._over.wait(SAMPLE_S):
            held = []
            for child in parent.children(recursive=True):
                try:
                    held.append(child.memory_full_info().pss)
                except psutil.Error:  # it has ended
                    continue
            self.together, self.one = max(self.together, sum(held)), max(self.one, *held, 0)


@dataclass(frozen=True)
class Backfilled:
    """A backfill by some run processes.

    Attributes:
        hashes: content hash of each partition.
        log_bytes: of Dagster's database, run records included.
    """

    seconds: float
    memory: Memory
    log_bytes: int
    hashes: Hashes


def simulated_lake(folder: Path, products: Sequence[str], days: int, hours: tuple[int, int]) -> None:
    """Fill the lake `folder` with simulated recordings, without any table made from them."""
    lake = Lake.open(folder)
    for product_id in products:
        for number in range(days):
            simulate(lake, product_id, FIRST_DAY + dt.timedelta(days=number), hours=hours)


def environment_of(folder: Path, runs: int, postgres: Postgres | None = None) -> dict[str, str]:
    """Return the environment of Dagster's processes, with all state in a folder."""
    ui, code = free_ports(2)
    found = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "LAKE"))}
    found |= {
        "VAR_DIR": str(folder),
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR") or str(CHECKOUT / "var" / "numba"),
        "BACKFILL_RUNS": str(runs),
        "DAGSTER_PORT": str(ui),
        "DAGSTER_CODE_PORT": str(code),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",  # nobody listens there
        "CLEAN_CRON": "0 0 1 1 *",
        "SINK_CRON": "0 0 1 1 *",
        "DRIFT_CRON": "0 0 1 1 *",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(CHECKOUT / "var" / "pycache"),
    }
    if postgres:
        found |= {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(postgres.port),
            "DAGSTER_PG_USER": PG_USER,
            "DAGSTER_PG_PASSWORD": postgres.password,
        }
    return found


def backfilled(lake: Path, runs: int, on_postgres: bool = False) -> Backfilled:
    """Make a copy of a lake's tables by a backfill, on a Dagster of its own."""
    with (
        TemporaryDirectory() as name,
        running_postgres(PASSWORD, [DATABASE]) if on_postgres else nullcontext() as server,
    ):
        folder, memory = Path(name), Memory()
        shutil.copytree(lake, folder / "lake")
        stack = DagsterStack(environment_of(folder, runs, server), folder)
        with stack.running() as processes:
            before = _log_bytes(folder, server)
            with memory.watching(processes["code_server"]):
                began = time.monotonic()
                stack.launch("backfill")
                seconds = time.monotonic() - began
            return Backfilled(seconds, memory, _log_bytes(folder, server) - before, hashes_of(folder / "lake"))


def hashes_of(folder: Path) -> Hashes:
    """Return the content hash of each partition of a lake but the recordings."""
    lake = Lake.open(folder)
    return {
        (each.table, each.product_id, each.day): each.content_hash
        for step in STEPS
        for each in lake.partitions(step.table)
    }


def _log_bytes(folder: Path, postgres: Postgres | None) -> int:
    """Return the size of Dagster's database; SQLite first writes its journal into its file."""
    if postgres:
        import psycopg2

        with psycopg2.connect(postgres.url(DATABASE)) as connection, connection.cursor() as cursor:
            cursor.execute("select pg_database_size(current_database())")
            return int(cursor.fetchone()[0])
    files = list((folder / "dagster" / "history").rglob("*.db"))
    for path in files:
        with sqlite3.connect(path) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
    return sum(path.stat().st_size for path in files)


def rows(products: Sequence[str], days: int, hours: tuple[int, int], counts: Sequence[int]) -> Iterator[Row]:
    """Measure a backfill by each number of run processes, and the log on PostgreSQL; all rows must be the same."""
    with TemporaryDirectory() as name:
        lake, product_days = Path(name) / "lake", len(products) * days
        simulated_lake(lake, products, days, hours)
        first: Hashes | None = None
        for runs, on_postgres in (*((runs, False) for runs in counts), (counts[-1], True)):
            made = backfilled(lake, runs, on_postgres)
            if len(made.hashes) != product_days * len(STEPS) or made.hashes != (first := first or made.hashes):
                raise RuntimeError(f"{runs} run processes made other rows: {len(made.hashes)} partitions")
            by = f"{product_days} product-days by {runs} runs, {'PostgreSQL' if on_postgres else 'SQLite'}"
            yield Row(f"{by}, time", "s", made.seconds)
            yield Row(f"{by}, memory of all runs", "MB", made.memory.together / 1e6)
            yield Row(f"{by}, memory of the largest run", "MB", made.memory.one / 1e6)
            yield Row(f"{by}, log", "KB/product-day", made.log_bytes / 1e3 / product_days)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.months", description=main.__doc__)
    parser.add_argument("--products", type=int, default=len(PRODUCTS), help=f"at most {len(PRODUCTS)}")
    parser.add_argument("--days", type=int, default=DAYS, help="of each product")
    parser.add_argument("--hours", type=int, default=24, help="of each day")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4], help="numbers of run processes")
    given = parser.parse_args()
    for row in rows(PRODUCTS[: given.products], given.days, (0, given.hours), given.runs):
        print(f"{row.name:70} {row.value:12.2f} {row.unit}", flush=True)


if __name__ == "__main__":
    main()
