"""Benchmark from a CSV of trades to feature rows in Parquet, each library in a process of its own.

Our program makes the full row and checks each trade; the peers make the contract features alone. The clock starts after
all imports; memory is the peak of the process.
"""

from __future__ import annotations

import datetime as dt
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from data.files import CHECKOUT
from tests.benchmarks.market import mixed_day
from tests.benchmarks.measure import Row, held_mib

WINDOW = 50
PEERS = ("polars", "pandas")
FIRST_DAY = dt.date(2025, 1, 6)


class Took(msgspec.Struct):
    """Time and memory of a run."""

    seconds: float
    mib: float


def write_recordings(folder: Path, sizes: tuple[int, ...]) -> list[Path]:
    """Write CSVs of 12 mixed products; a smaller CSV is the beginning of the largest."""
    from data.recordings.readers import write_csv
    from data.trades import Trades

    def batches(rows: int) -> list[Trades]:
        found: list[Trades] = []
        left, day = rows, FIRST_DAY
        while left:
            trades = mixed_day(day)
            trades = trades.take(slice(0, left))
            found += [trades.take(slice(at, at + 100_000)) for at in range(0, len(trades), 100_000)]
            left -= len(trades)
            day += dt.timedelta(days=1)
        return found

    paths = [folder / f"{rows}.csv" for rows in sizes]
    for path, rows in zip(paths, sizes, strict=True):
        write_csv(path, batches(rows))
    return paths


def ours(source: Path, out: Path) -> float:
    from data.features.spec import FeatureSpec
    from offline.backfill import backfill_files

    head = out.with_name("head.csv")  # what is compiled is loaded before the clock starts
    with source.open("rb") as file:
        head.write_bytes(b"".join(file.readline() for _ in range(100)))
    backfill_files([head], out, FeatureSpec())
    began = time.perf_counter()
    backfill_files([source], out, FeatureSpec())
    return time.perf_counter() - began


def polars(source: Path, out: Path) -> float:
    import polars as pl

    began = time.perf_counter()
    price, product = pl.col("price"), "product_id"
    before = price.shift(1)
    times = [pl.col("event_time").str.to_datetime(time_unit="ns", time_zone="UTC")]
    (
        pl.scan_csv(source)
        .select(product, "trade_id", *times, "price")
        .with_columns(r=((price - before) / before).log1p().over(product))
        .with_columns(
            n=pl.int_range(pl.len()).clip(upper_bound=WINDOW).over(product),
            ret_mean=pl.col("r").rolling_mean(WINDOW, min_samples=1).over(product),
            ret_std=pl.col("r").rolling_std(WINDOW, min_samples=2).over(product),
        )
        .drop("r")
        .collect()
        .write_parquet(out, compression="zstd", compression_level=1)
    )
    return time.perf_counter() - began


def pandas(source: Path, out: Path) -> float:
    import numpy as np
    import pandas as pd

    began = time.perf_counter()
    names = ["product_id", "trade_id", "event_time", "price"]
    trades = pd.read_csv(source, usecols=names, dtype={"product_id": "category"})
    trades["event_time"] = pd.to_datetime(trades["event_time"], format="ISO8601")
    products = trades.groupby("product_id", observed=True, sort=False)
    before = products["price"].shift()
    trades["r"] = np.log1p((trades["price"] - before) / before)
    rolling = trades.groupby("product_id", observed=True, sort=False)["r"].rolling(WINDOW, min_periods=1)
    trades["n"] = np.minimum(products.cumcount(), WINDOW)
    trades["ret_mean"] = rolling.mean().droplevel(0)
    trades["ret_std"] = rolling.std().droplevel(0)
    trades.drop(columns="r").to_parquet(out, compression="zstd")
    return time.perf_counter() - began


def run(engine: str, source: Path, out: Path) -> Took:
    """Run an engine in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.files", engine, str(source), str(out)]
    found = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True).stdout
    return msgspec.json.decode(found.splitlines()[-1], type=Took)


def rows(folder: Path, sizes: tuple[int, int], rounds: int = 3) -> list[Row]:
    """Return speed and memory of each engine for the larger recording, and our growth with the size."""
    small, large = write_recordings(folder, sizes)
    took: dict[str, list[Took]] = {}
    for _ in range(rounds):
        for engine in ("ours", *PEERS):
            took.setdefault(engine, []).append(run(engine, large, folder / "out.parquet"))
        took.setdefault("small", []).append(run("ours", small, folder / "out.parquet"))
    speed = {engine: sizes[1] / statistics.median(one.seconds for one in found) for engine, found in took.items()}
    memory = {engine: max(one.mib for one in found) for engine, found in took.items()}
    what = f"CSV to feature Parquet, {sizes[1] / 1e6:g} M trades"
    times = speed["small"] / speed["ours"]
    more = f"{sizes[1] / sizes[0]:g} times the trades"
    return [
        Row(f"{what} (ours: the full row; peers: n, ret_mean, ret_std)", "trades/s", speed["ours"],
            {peer: speed[peer] for peer in PEERS}),
        Row(f"{what}: most memory", "MiB", memory["ours"], {peer: memory[peer] for peer in PEERS}),
        Row(f"{more}: so many times the time", "times", times),
        Row(f"{more}: so much more memory", "MiB", memory["ours"] - memory["small"]),
    ]  # fmt: skip


def main(engine: str, source: str, out: str) -> None:
    took = {"ours": ours, "polars": polars, "pandas": pandas}[engine](Path(source), Path(out))
    print(msgspec.json.encode(Took(took, held_mib("VmHWM"))).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
