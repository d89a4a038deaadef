"""Reading of recordings in a process of its own: its imports and its memory."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from data.files import CHECKOUT
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.trades import Trades
from tests.unit.test_readers import GOOD, OWN, market, recording, write_all_dialects


def test_reading_imports_neither_pandas_nor_kafka(tmp_path: Path) -> None:
    """pandas costs each process 75 MB and a second; only `data.stream` uses Kafka."""
    paths = [str(path) for path in write_all_dialects(tmp_path, market().take(slice(0, 50)))]
    bad = recording(tmp_path, OWN + GOOD.format(1) + "\ns,BTC-USD,5,soon,,x,nan,BUY\n", "bad")
    program = (
        "import sys; from pathlib import Path; from data.recordings.readers import read_trades\n"
        "import data.features.kernel\n"
        "rows = [sum(len(b.trades) for b in read_trades(Path(path))) for path in sys.argv[1:]]\n"
        "print(rows, [m for m in ('pandas', 'confluent_kafka') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, *paths, str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == f"{[50] * 9 + [1]} []"


@pytest.mark.acceptance
def test_ten_million_rows_are_read_in_300_mb(tmp_path: Path) -> None:
    path, rows = tmp_path / "ten_million.csv", 10_000_000
    days = (simulate_day("BTC-USD", dt.date(2025, 1, 1) + dt.timedelta(day)) for day in count())

    def first() -> Iterator[Trades]:
        left = rows
        for day in days:
            yield day.take(slice(0, left))
            left -= min(left, len(day))
            if not left:
                return

    write_csv(path, first())
    program = (
        "import sys; from pathlib import Path; from data.recordings.readers import read_trades\n"
        "print(sum(len(batch.trades) for batch in read_trades(Path(sys.argv[1]))))"
    )
    # A process inherits the peak of its parent, and this one has simulated days: a small one stands between.
    between = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", between, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    found, peak_kib = map(int, done.stdout.split())
    assert found == rows
    print(f"peak {peak_kib / 1024:.0f} MiB of {path.stat().st_size / 1e6:,.0f} MB")
    assert peak_kib * 1024 < 300e6
