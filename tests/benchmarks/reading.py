"""Read one recording in this process, by our reader or by a plain parser, and print processor time and memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgspec

from tests.benchmarks.measure import held_mib


class Took(msgspec.Struct):
    """Time and memory of a process.

    Attributes:
        rows: trades or candles.
        before_mib: memory before the reading.
    """

    rows: int
    seconds: float
    mib: float
    before_mib: float


def _ours(kind: str, product: str, few: Path, path: Path) -> Took:
    from data.recordings.readers import read_bars, read_trades

    def read(recording: Path) -> int:
        if kind == "bars":
            return sum(len(batch.bars) for batch in read_bars(recording, product_id=product))
        return sum(len(batch.trades) for batch in read_trades(recording, product_id=product))

    before = held_mib("VmHWM")
    read(few)  # loads what is compiled
    began = time.process_time()
    rows = read(path)
    return Took(rows, time.process_time() - began, held_mib("VmHWM"), before)


def _theirs(path: Path) -> Took:
    import pandas as pd

    before = held_mib("VmHWM")
    with path.open("rb") as file:
        start = file.read(4)
    began = time.process_time()
    if start == b"PAR1":
        rows = len(pd.read_parquet(path))
    elif start[:1] == b"[":
        rows = len(json.loads(path.read_bytes()))
    elif start[:1] == b"{":
        with path.open("rb") as file:
            rows = sum(1 for _ in map(json.loads, file))
    else:
        rows = len(pd.read_csv(path, skiprows=int(start == b"http")))
    return Took(rows, time.process_time() - began, held_mib("VmHWM"), before)


def main(reader: str, *arguments: str) -> None:
    if reader == "ours":
        kind, product, few, path = arguments
        took = _ours(kind, product, Path(few), Path(path))
    else:
        took = _theirs(Path(arguments[0]))
    print(msgspec.json.encode(took).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
