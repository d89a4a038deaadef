"""Benchmark of reading: the trades of every venue's dialect, each file in a process of its own, beside our own CSV."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from data.files import CHECKOUT
from data.recordings.readers import read_trades, write_csv
from tests.benchmarks.files import Took
from tests.benchmarks.measure import Row, held_mib
from tests.venues import PRODUCT, TEXTS, market, texts

PIECE = 10_000
"""Trades that are written at once."""


def _pieces(name: str, rows: int) -> Iterator[str]:
    """Yield the text of a file of a dialect, in pieces: a header comes once, and an array is one array."""
    first_ms = 1_735_689_601_250
    for start in range(0, rows, PIECE):
        trades = market(first_ms, min(PIECE, rows - start), start + 1)
        first_ms = int(trades.event_time[-1]) // 1_000_000
        _, text = texts(name, trades)
        if text[0] == "[":
            yield ("," if start else "[") + text[1:-1]
        else:
            has_header = text[0] == "," or text[0].isalpha()
            yield text.partition("\n")[2] if start and has_header else text
    if text[0] == "[":
        yield "]"


def write_recordings(folder: Path, rows: int) -> dict[str, Path]:
    """Write the same number of trades in every dialect, one after the other in time."""
    paths = {}
    for name in TEXTS:
        if "nicely" in name or "a page a line" in name:
            continue
        paths[name] = folder / name.replace(" ", "_").replace(",", "") / TEXTS[name][0]
        paths[name].parent.mkdir()
        with paths[name].open("w") as file:
            file.writelines(_pieces(name, rows))
    paths["own"] = folder / "own.csv"
    write_csv(paths["own"], (batch.trades for batch in read_trades(paths["Tardis"], product_id=PRODUCT)))
    return paths


def run(path: Path) -> Took:
    """Read a file in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.dialects", str(path)]
    found = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True).stdout
    return msgspec.json.decode(found.splitlines()[-1], type=Took)


def rows(folder: Path, count: int) -> list[Row]:
    """Return the speed and the most memory of reading each dialect."""
    found = []
    for name, path in write_recordings(folder, count).items():
        took = run(path)
        found.append(Row(f"reading {name}, {count / 1e6:g} M trades", "trades/s", count / took.seconds))
        found.append(Row(f"reading {name}: most memory", "MiB", took.mib))
    return found


def main(path: Path) -> None:
    began = time.perf_counter()
    for _ in read_trades(path, product_id=PRODUCT):
        pass
    print(msgspec.json.encode(Took(time.perf_counter() - began, held_mib("VmHWM"))).decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
