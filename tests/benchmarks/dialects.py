"""Benchmark of reading: trades and candles of every dialect, each file in a process of its own, beside plain parsers.

The peers split and convert the same text, without our checks: pandas reads CSV, and Python's json reads JSON. Memory is
the peak of the process, imports included.

`python -m tests.benchmarks.dialects 10000000 ccxt "Kraken REST"` measures some dialects alone, with so many rows.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet

from data.arrow import texts_of
from data.files import CHECKOUT
from data.recordings.readers import write_csv
from tests.benchmarks.measure import Row
from tests.benchmarks.reading import Took
from tests.unit import test_candles as candles
from tests.venues import PRODUCT, TEXTS, market, texts

PIECE = 10_000
"""Rows that are written at once."""
GROUP = 1_000_000
"""Rows of a row group, about as pandas writes."""
FEW = 1_000
"""Rows that are read before the clock starts: what is compiled is loaded then."""


class Sample(NamedTuple):
    """A dialect that is measured.

    Attributes:
        kind: "trades" or "bars".
        file: name of a file.
        write: writes a number of rows.
    """

    kind: str
    file: str
    write: Callable[[Path, int], object]


def _trade_pieces(name: str, rows: int) -> Iterator[str]:
    first_ms = 1_735_689_601_250
    for start in range(0, rows, PIECE):
        trades = market(first_ms, min(PIECE, rows - start), start + 1)
        first_ms = int(trades.event_time[-1]) // 1_000_000
        yield texts(name, trades)[1]


def _candle_pieces(name: str, rows: int) -> Iterator[str]:
    starts = range(0, rows, PIECE)
    for start in reversed(starts) if "newest first" in name else starts:
        piece = candles.market(min(PIECE, rows - start))
        yield candles.TEXTS[name][1]([(c[0] + 60 * start, *c[1:]) for c in piece])


def _joined(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the text of one file from the texts of several: a header comes once, and an array is one array."""
    text = ""
    for i, text in enumerate(pieces):
        if text[0] == "[":
            yield ("," if i else "[") + text[1:-1]
        elif i and (text[0] == "," or text[0].isalpha()):
            yield text.split("\n", 2 if text.startswith("http") else 1)[-1]
        else:
            yield text
    if text[0] == "[":
        yield "]"


def _write_text(pieces: Callable[[int], Iterator[str]], path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.writelines(_joined(pieces(rows)))


def _write_own(path: Path, rows: int) -> None:
    write_csv(path, (market(1_735_689_601_250 + 900 * at, PIECE, at + 1) for at in range(0, rows, PIECE)))


def _write_parquet(batch: Callable[[int], pa.RecordBatch], path: Path, rows: int) -> None:
    with pyarrow.parquet.ParquetWriter(path, batch(0).schema) as file:
        for first in range(0, rows, GROUP):
            pieces = [batch(at) for at in range(first, min(first + GROUP, rows), PIECE)]
            file.write_table(pa.Table.from_batches(pieces))


def _batch(at: int) -> pa.RecordBatch:
    trades = market(1_735_689_601_250 + 900 * at, PIECE, at + 1)
    sides = texts_of(["sell", "", "buy"]).take(pa.array(trades.side + 1))
    return pa.RecordBatch.from_pydict(
        {
            "product_id": pa.array([PRODUCT] * PIECE),
            "trade_id": pa.array(trades.trade_id),
            "event_time": pa.array(trades.event_time).cast(pa.timestamp("ns", "UTC")),
            "price": pa.array(trades.price),
            "size": pa.array(trades.size),
            "side": sides,
        }
    )


def _batch_of_texts(at: int) -> pa.RecordBatch:
    batch = _batch(at)
    return pa.RecordBatch.from_arrays([column.cast(pa.string()) for column in batch.columns], batch.schema.names)


SAMPLES = {
    "own CSV": Sample("trades", "own.csv", _write_own),
    "own Parquet": Sample("trades", "own.parquet", partial(_write_parquet, _batch)),
    "Parquet of texts": Sample("trades", "texts.parquet", partial(_write_parquet, _batch_of_texts)),
    **{
        name: Sample("trades", TEXTS[name][0], partial(_write_text, partial(_trade_pieces, name)))
        for name in TEXTS
        if "nicely" not in name and "a page a line" not in name
    },
    **{
        f"candles, {name}": Sample("bars", file, partial(_write_text, partial(_candle_pieces, name)))
        for name, (file, _) in candles.TEXTS.items()
    },
}


def _run(*arguments: str | Path) -> Took:
    """Read a file in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.reading", *map(str, arguments)]
    found = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True).stdout
    return msgspec.json.decode(found.splitlines()[-1], type=Took)


def measured(name: str, count: int, *, with_peer: bool = True) -> list[Row]:
    """Return the speed and the most memory of reading a dialect."""
    kind, file, write = SAMPLES[name]
    with TemporaryDirectory() as folder:
        few, path = Path(folder) / "few" / file, Path(folder) / "many" / file
        for each, rows in ((few, FEW), (path, count)):
            each.parent.mkdir()
            write(each, rows)
        ours = _run("ours", kind, PRODUCT, few, path)
        peers = {_peer(path): _run("theirs", path)} if with_peer else {}
    what = f"reading {name}, {ours.rows / 1e6:g} M {kind}"
    speeds = {peer: ours.rows / took.seconds for peer, took in peers.items()}
    memory = {peer: took.mib for peer, took in peers.items()}
    return [
        Row(what, f"{kind}/s", ours.rows / ours.seconds, speeds),
        Row(f"{what}: most memory ({ours.before_mib:.0f} before)", "MiB", ours.mib, memory),
    ]


def _peer(path: Path) -> str:
    with path.open("rb") as file:
        return "json" if file.read(1) in b"[{" else "pandas"


def rows(count: int) -> list[Row]:
    """Return the speed and the most memory of reading each dialect, in processor time."""
    return [row for name in SAMPLES for row in measured(name, count)]


def main(count: str, *names: str) -> None:
    if unknown := {*names} - {*SAMPLES}:
        sys.exit(f"no dialect is called {', '.join(sorted(unknown))}; allowed: {', '.join(SAMPLES)}")
    for name in names or SAMPLES:
        for row in measured(name, int(count), with_peer=False):
            print(f"{row.name}: {row.value:,.0f} {row.unit}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
