"""How fast the core is on this machine, beside what a user of another library would write for the same job.

`make bench` prints one table and writes `bench.json` under VAR_DIR. Speeds are medians of rounds in which all sides
take turns, so that a busy machine is busy for each of them.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from pyarrow import csv
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data.features import Windows, compile_kernel, feature_rows
from data.readers import read_trades, write_csv
from data.serving import ServedModel
from data.simulator import simulate_day
from data.spec import FeatureSpec
from data.trades import NS, Floats, Int64s, StreamKey, Trades
from tests.models import model_bytes

TRADES = 1_000_000
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD", "ADA-USD", "LTC-USD", "LINK-USD", "AVAX-USD",
            "DOT-USD", "UNI-USD", "AAVE-USD")  # fmt: skip
DAY = dt.date(2025, 1, 6)
ROUNDS = 5
CHECKED = 5_000
BATCH = 65_536
"""Rows that the kernel takes at once; the stream has no end, so nobody gives it all trades."""
TINY_STD = 1e-9
"""An error of `ret_std` is relative to the true value, or to this where that is less: a window can be flat."""

Job = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table: what ours does, and what others do with the same input."""

    name: str
    unit: str
    value: float
    peers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """n, ret_mean and ret_std of each trade, each of shape (trades,); NaN where they are missing."""

    n: Int64s | Floats
    ret_mean: Floats
    ret_std: Floats


def seconds(jobs: Mapping[str, Job], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median time of each job, over rounds in which they take turns, after one that does not count."""
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for counts in (False, *(True,) * rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            if counts:
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in took.items()}


def speeds(name: str, unit: str, amount: int, ours: Job, peers: Mapping[str, Job] | None = None) -> Row:
    """Measure a job that does `amount` of something."""
    found = {name: amount / took for name, took in seconds({"": ours, **(peers or {})}).items()}
    return Row(name, unit, found.pop(""), found)


def simulated_trades() -> Trades:
    """Return the first million trades of 12 simulated products, mixed as they happen."""
    each = [simulate_day(product, DAY, hours=(0, 12)) for product in PRODUCTS]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(trades, name) for trades in each])
        for name in ("trade_id", "event_time", "ingest_time", "price", "size", "side")
    }
    stream = np.repeat(np.arange(len(each), dtype=np.int32), [len(trades) for trades in each])
    keys = tuple(StreamKey("bench", product) for product in PRODUCTS)
    mixed = Trades(keys, stream, **columns)
    mixed = mixed.take(np.argsort(mixed.event_time, kind="stable")[:TRADES])
    assert len(mixed) == TRADES
    for product in range(len(keys)):  # pandas knows no segments: with a hole the jobs would not be the same
        assert np.diff(mixed.event_time[mixed.stream == product]).max() < FeatureSpec().gap_s * NS
    return mixed


def nearly_flat(trades: Trades) -> Trades:
    """Return the same trades in a market that moves one tick in 100 trades, and once by a tenth, early on."""
    rng = np.random.default_rng(0)
    ticks = np.where(rng.random(len(trades)) < 0.01, 1, 0)  # up, and down at the next trade
    level = np.where(np.arange(len(trades)) < len(trades) // 10, 110_000.0, 100_000.0)
    return replace(trades, price=level + 0.01 * ticks)


def in_batches(trades: Trades) -> list[Trades]:
    return [trades.take(slice(start, start + BATCH)) for start in range(0, len(trades), BATCH)]


def kernel_rows(batches: Sequence[Trades], spec: FeatureSpec) -> Floats:
    """The full row of every trade, shape (trades, columns of the spec)."""
    windows = Windows(spec)
    return np.concatenate([feature_rows(trades, windows).values for trades in batches])


def pandas_contract(trades: pd.DataFrame, window: int) -> Contract:
    """The contract features by pandas, in the order of the trades: one stable sort, so that its groups are runs."""
    order = np.argsort(trades["product"].cat.codes.to_numpy(), kind="stable")
    grouped = trades.iloc[order].groupby("product", observed=True, sort=False)
    price = grouped.obj["price"]
    before = grouped["price"].shift()
    returns = pd.DataFrame({"product": grouped.obj["product"], "r": np.log1p((price - before) / before)})
    rolling = returns.groupby("product", observed=True, sort=False)["r"].rolling(window, min_periods=1)
    n, mean, std = np.empty(len(trades), np.int64), np.empty(len(trades)), np.empty(len(trades))
    n[order] = np.minimum(grouped.cumcount().to_numpy(), window)
    mean[order] = rolling.mean().to_numpy()
    std[order] = rolling.std().to_numpy()
    return Contract(n, mean, std)


def as_frame(trades: Trades) -> pd.DataFrame:
    product = pd.Categorical.from_codes(trades.stream, categories=[key.product_id for key in trades.keys])
    return pd.DataFrame({"product": product, "price": trades.price})


def worst_errors(trades: Trades, found: Mapping[str, Contract], window: int) -> dict[str, tuple[float, float]]:
    """Return the worst errors of ret_mean and ret_std of each, against exact sums, on some rows of all products.

    That of ret_mean is in units of the largest return of its window, that of ret_std see `TINY_STD`.
    """
    rng = np.random.default_rng(1)
    worst = dict.fromkeys(found, (0.0, 0.0))
    for product in range(len(trades.keys)):
        rows = np.flatnonzero(trades.stream == product)
        price = trades.price[rows].tolist()
        for last in rng.choice(np.arange(2, len(rows)), CHECKED // len(trades.keys), replace=False).tolist():
            first = max(1, last - window + 1)
            returns = [math.log1p((price[i] - price[i - 1]) / price[i - 1]) for i in range(first, last + 1)]
            mean = math.fsum(returns) / len(returns)
            std = math.sqrt(math.fsum((r - mean) ** 2 for r in returns) / (len(returns) - 1))
            largest = max(map(abs, returns)) or 1.0
            for name, contract in found.items():
                row = rows[last]
                assert contract.n[row] == len(returns), f"{name}: n"
                of_mean = abs(float(contract.ret_mean[row]) - mean) / largest
                of_std = abs(float(contract.ret_std[row]) - std) / max(std, TINY_STD)
                worst[name] = (max(worst[name][0], of_mean), max(worst[name][1], of_std))
    return worst


def features(trades: Trades) -> list[Row]:
    """The kernel's full row beside the contract features alone by pandas, and how right both are."""
    spec = FeatureSpec()
    batches, frame = in_batches(trades), as_frame(trades)
    peer = "pandas groupby.rolling"
    rows = [
        speeds(
            "features, 12 products (ours: the full row; peer: n, ret_mean, ret_std)", "trades/s", len(trades),
            lambda: kernel_rows(batches, spec), {peer: lambda: pandas_contract(frame, spec.window_size)},
        )
    ]  # fmt: skip
    for market, prices in (("simulated market", trades), ("nearly flat market", nearly_flat(trades))):
        values = kernel_rows(in_batches(prices), spec)
        ours = Contract(values[:, 0], values[:, 1], values[:, 2])
        found = {"": ours, peer: pandas_contract(as_frame(prices), spec.window_size)}
        worst = worst_errors(prices, found, spec.window_size)
        for i, column in enumerate(("ret_mean", "ret_std")):
            rows.append(Row(f"worst error of {column}, {market}", "relative", worst[""][i], {peer: worst[peer][i]}))
    return rows


def reading(trades: Trades, folder: Path) -> Row:
    """Our reader, which checks each row, beside two that only parse it, times included."""
    path = folder / "trades.csv"
    write_csv(path, in_batches(trades))
    times = [name for name in path.open().readline().strip().split(",") if name.endswith("_time")]
    options = csv.ConvertOptions(column_types={name: pa.timestamp("ns", "UTC") for name in times})

    def ours() -> None:
        assert sum(len(batch.trades) for batch in read_trades(path)) == len(trades)

    def by_pandas() -> None:
        frame = pd.read_csv(path, parse_dates=times, date_format="ISO8601")
        assert len(frame) == len(trades) and isinstance(frame[times[0]].dtype, pd.DatetimeTZDtype)

    def by_pyarrow() -> None:
        assert csv.read_csv(path, convert_options=options).num_rows == len(trades)

    return speeds(
        "reading CSV with all trade columns", "rows/s", len(trades), ours,
        {"pandas.read_csv": by_pandas, f"pyarrow.csv ({pa.cpu_count()} threads)": by_pyarrow},
    )  # fmt: skip


def simulating() -> Row:
    made = len(simulate_day("BTC-USD", DAY))
    return speeds("simulating a day of BTC-USD", "trades/s", made, lambda: simulate_day("BTC-USD", DAY))


def scoring() -> list[Row]:
    """The loader of scorer and API, on rows that have all columns."""
    model = ServedModel.load(model_bytes(), spec_id=FeatureSpec().spec_id)
    rng = np.random.default_rng(0)
    values = rng.uniform(1e-8, 1e-6, (100_000, len(model.columns)))
    values[:, 0] = 50

    def in_batches_of(rows: int, calls: int) -> Job:
        def job() -> None:
            for start in range(0, rows * calls, rows):
                model.score(values[start : start + rows])

        return job

    return [
        speeds(f"scoring in batches of {rows:,}", "rows/s", rows * calls, in_batches_of(rows, calls))
        for rows, calls in ((1, 2_000), (1_000, 100))
    ]


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def result_table(rows: Sequence[Row]) -> Table:
    table = Table("what", "unit", title="cryptovol bench", title_justify="left")
    table.add_column("ours", justify="right")
    table.add_column("others (ours is so many times as fast)")
    for row in rows:
        if row.unit == "relative":
            ours, peers = f"{row.value:.1e}", [f"{name} {value:.1e}" for name, value in row.peers.items()]
        else:
            ours = f"{row.value:,.0f}"
            peers = [f"{name} {value:,.0f} ({row.value / value:.1f} x)" for name, value in row.peers.items()]
        table.add_row(row.name, row.unit, ours, "\n".join(peers) or "–")
    return table


def main() -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    load = os.getloadavg()[0]
    compile_kernel(FeatureSpec())
    trades = simulated_trades()
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        work: tuple[Callable[[], Sequence[Row]], ...] = (
            lambda: features(trades),
            lambda: [reading(trades, Path(folder))],
            lambda: [simulating()],
            scoring,
        )
        for measure in track(work, "measuring", console=console, transient=True):
            rows.extend(measure())
    machine = {
        "processor": processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "load_before": round(load, 2),
    }
    packages = ("numpy", "numba", "pandas", "pyarrow", "onnxruntime")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    console.print(result_table(rows))
    console.print(f"{machine['processor']}, {machine['processors']} processors, load before: {load:.1f}")
    path = Path(os.environ.get("VAR_DIR") or "var") / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = msgspec.json.encode({"machine": machine, "versions": versions, "rows": rows})
    path.write_bytes(msgspec.json.format(found, indent=2) + b"\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
