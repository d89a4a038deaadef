"""Benchmarks of the core: feature rows, reading, simulating and scoring, beside other libraries doing the same job."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pyarrow import csv

from data.arrow import NAMES, UTC
from data.features.spec import FeatureSpec
from data.features.windows import Windows, compile_kernel, feature_rows
from data.files import CHECKOUT
from data.models.served import ServedModel
from data.recordings.dialects.base import OWN_COLUMNS, RowColumns
from data.recordings.dialects.tables.text import CsvDialect
from data.recordings.fields import FIELDS, products
from data.recordings.lines import Lines, chunks_of, data_lines
from data.recordings.readers import read_trades, write_csv
from data.recordings.recognition import recognize
from data.simulator.day import simulate_day
from data.times import NS
from data.trades import Floats, Int64s, Trades
from tests.benchmarks.market import mixed_day
from tests.benchmarks.measure import Job, Row, peak_mib, seconds, speeds
from tests.models import model_bytes

SPEC = FeatureSpec()
WINDOW = SPEC.window_size
TRADES = 5_000_000
READ = 1_000_000
DAY = dt.date(2025, 1, 6)
CHECKED = 5_000
BATCH = 16_384
"""Rows in a call of the kernel; the stream has no end, so no caller has all trades."""
TINY_STD = 1e-9
"""Smallest base of an error of `ret_std`, otherwise relative to the true value: a window can be flat."""
USUAL_RATE = 7.0
"""Trades a second of market time, as in the recordings: how many rows share a grid point decides the speed."""


@dataclass(frozen=True)
class Contract:
    """n, ret_mean and ret_std of each trade, each of shape (trades,); NaN where they are missing."""

    n: Int64s | Floats
    ret_mean: Floats
    ret_std: Floats


def simulated_trades(count: int) -> Trades:
    """Return the first trades of 12 simulated products, mixed as they happen."""
    parts: list[Trades] = []
    day = DAY
    while sum(map(len, parts)) < count:
        parts.append(mixed_day(day))
        day += dt.timedelta(days=1)
    mixed = Trades.join(parts).take(slice(0, count))
    for product in range(len(mixed.keys)):  # the peers know no segments: with a hole the jobs would not be the same
        assert np.diff(mixed.event_time[mixed.stream == product]).max() < SPEC.gap_s * NS
    return mixed


def nearly_flat(trades: Trades) -> Trades:
    """Return the same trades in a market that moves a tick in 100 trades, and once by a tenth, early on."""
    rng = np.random.default_rng(0)
    ticks = np.where(rng.random(len(trades)) < 0.01, 1, 0)  # up, and down at the next trade
    level = np.where(np.arange(len(trades)) < len(trades) // 10, 110_000.0, 100_000.0)
    return replace(trades, price=level + 0.01 * ticks)


def in_batches(trades: Trades) -> list[Trades]:
    return [trades.take(slice(start, start + BATCH)) for start in range(0, len(trades), BATCH)]


def kernel_rows(batches: Sequence[Trades], *, contract_only: bool) -> Floats:
    """Return the rows of every trade, shape (trades, columns)."""
    windows, at = Windows(SPEC), 0
    values = np.empty((sum(map(len, batches)), 3 if contract_only else len(SPEC.columns)))
    for trades in batches:
        made = feature_rows(trades, windows, contract_only=contract_only).values
        values[at : at + len(made)] = made
        at += len(made)
    return values


def pandas_contract(trades: pd.DataFrame) -> Contract:
    """Compute the contract features with pandas, in the order of the trades."""
    products = trades.groupby("product", observed=True, sort=False)
    before = products["price"].shift()
    returns = trades.assign(r=np.log1p((trades["price"] - before) / before))
    rolling = returns.groupby("product", observed=True, sort=False)["r"].rolling(WINDOW, min_periods=1)
    mean, std = rolling.mean().droplevel(0), rolling.std().droplevel(0)
    n = np.minimum(products.cumcount().to_numpy(), WINDOW)
    return Contract(n, mean.sort_index().to_numpy(), std.sort_index().to_numpy())


def polars_contract(trades: pl.DataFrame) -> Contract:
    """Compute the contract features with polars, in the order of the trades."""
    price, product, r = pl.col("price"), "product", pl.col("r")
    before = price.shift(1)
    found = trades.with_columns(r=((price - before) / before).log1p().over(product)).select(
        n=pl.int_range(pl.len()).clip(upper_bound=WINDOW).over(product),
        mean=r.rolling_mean(WINDOW, min_samples=1).over(product),
        std=r.rolling_std(WINDOW, min_samples=2).over(product),
    )
    return Contract(*(found[name].to_numpy() for name in ("n", "mean", "std")))


def as_pandas(trades: Trades) -> pd.DataFrame:
    product = pd.Categorical.from_codes(trades.stream, categories=[key.product_id for key in trades.keys])
    return pd.DataFrame({"product": product, "price": trades.price})


def as_polars(trades: Trades) -> pl.DataFrame:
    return pl.DataFrame({"product": trades.stream, "price": trades.price})


def kernel_contract(batches: Sequence[Trades]) -> Contract:
    values = kernel_rows(batches, contract_only=True)
    return Contract(values[:, 0], values[:, 1], values[:, 2])


def contract_jobs(trades: Trades) -> dict[str, Callable[[], Contract]]:
    """Return a job for each library, with the input in the library's form."""
    batches, in_polars, in_pandas = in_batches(trades), as_polars(trades), as_pandas(trades)
    return {
        "": lambda: kernel_contract(batches),
        "polars": lambda: polars_contract(in_polars),
        "pandas": lambda: pandas_contract(in_pandas),
    }


def worst_errors(trades: Trades, found: Mapping[str, Contract]) -> dict[str, tuple[float, float]]:
    """Return each library's worst errors of ret_mean and ret_std against 80-bit floats, on some rows of all products.

    The error of ret_mean is in units of the window's largest return; the error of ret_std: see `TINY_STD`.
    """
    rng = np.random.default_rng(1)
    worst = dict.fromkeys(found, (0.0, 0.0))
    for product in range(len(trades.keys)):
        rows = np.flatnonzero(trades.stream == product)
        price = trades.price[rows].astype(np.longdouble)
        returns = np.log1p(np.diff(price) / price[:-1])
        for last in rng.choice(np.arange(2, len(rows)), CHECKED // len(trades.keys), replace=False).tolist():
            held = returns[max(0, last - WINDOW) : last]
            mean = held.mean()
            std = np.sqrt(((held - mean) ** 2).sum() / (len(held) - 1))
            for name, contract in found.items():
                row = rows[last]
                assert contract.n[row] == len(held), f"{name}: n"
                of_mean = abs(contract.ret_mean[row] - mean) / (abs(held).max() or 1.0)
                of_std = abs(contract.ret_std[row] - std) / max(std, TINY_STD)
                worst[name] = (max(worst[name][0], float(of_mean)), max(worst[name][1], float(of_std)))
    return worst


def features(trades: Trades) -> list[Row]:
    """Measure speed, memory and worst errors of the contract features, and the kernel's full row beside them."""
    jobs, batches = contract_jobs(trades), in_batches(trades)
    what = f"contract features, {len(trades) / 1e6:g} M trades, {len(trades.keys)} products"
    full = "kernel, full row"
    took = seconds({**jobs, full: lambda: kernel_rows(batches, contract_only=False)})
    speed = {name: len(trades) / s for name, s in took.items()}
    rows = [Row(what, "trades/s", speed.pop(""), speed)]
    memory = {name: memory_mib(name) for name in jobs}
    rows.append(Row(f"{what}: memory beside the trades", "MiB", memory.pop(""), memory))
    for market, prices in (("lively market", trades), ("nearly flat market", nearly_flat(trades))):
        worst = worst_errors(prices, {name: job() for name, job in contract_jobs(prices).items()})
        for i, column in enumerate(("ret_mean", "ret_std")):
            errors = {name: found[i] for name, found in worst.items()}
            rows.append(Row(f"worst error of {column}, {market}", "relative", errors.pop(""), errors))
    return rows


def full_row() -> Row:
    """Measure the full row of one product at the rate of the recordings."""
    trades = simulate_day("BTC-USD", DAY)
    first, last = int(trades.event_time[0]), int(trades.event_time[-1])
    stretch = len(trades) / (last - first) * NS / USUAL_RATE
    trades = replace(trades, event_time=first + ((trades.event_time - first) * stretch).astype(np.int64))
    batches = in_batches(trades)
    took = seconds({"": lambda: kernel_rows(batches, contract_only=False)})[""]
    return Row(f"full feature row, {USUAL_RATE:g} trades/s of market time", "ns", took / len(trades) * 1e9)


def memory_mib(name: str) -> float:
    """Return the memory of a library beside the input, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.core", name]
    return float(subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout)


def reading(trades: Trades, folder: Path) -> Row:
    """Measure our reader, which checks each row, beside two readers that only parse a row, times included."""
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


def parsing(trades: Trades, folder: Path) -> Row:
    """Measure the parser of CSV blocks, by type and line by line, beside pyarrow with the same types alone."""
    path = folder / "blocks.csv"
    write_csv(path, in_batches(trades))
    dialect = recognize(path)
    assert isinstance(dialect, CsvDialect)
    texts = [lines.data for lines in data_lines(chunks_of(path), dialect.header_lines)]
    numbers = dict.fromkeys(("price", "size"), pa.float64())
    types = {"product_id": NAMES, "trade_id": pa.int64(), "event_time": UTC, **numbers, "side": NAMES}
    convert = csv.ConvertOptions(include_columns=list(types), column_types=types)

    def parse(rows_of: Callable[[Lines], RowColumns | None]) -> None:
        for text in texts:
            rows = rows_of(Lines.of(text, 2)[0])
            assert rows is not None and products(rows.columns["product_id"]).good.all()
            assert all(field.parse(rows.columns[name])[1].all() for name, field in FIELDS.items())

    def by_pyarrow() -> None:
        for text in texts:
            read = csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=OWN_COLUMNS)
            csv.read_csv(pa.BufferReader(text), read, convert_options=convert)

    took = seconds(
        {"": lambda: parse(dialect.typed_rows), "line by line": lambda: parse(dialect.rows), "pyarrow": by_pyarrow}
    )
    found = {name: s / len(trades) * 1e9 for name, s in took.items()}
    return Row("parsing blocks of plain CSV, one thread", "ns/row", found.pop(""), found)


def simulating() -> Row:
    made = len(simulate_day("BTC-USD", DAY))
    return speeds("simulating a day of BTC-USD", "trades/s", made, lambda: simulate_day("BTC-USD", DAY))


def scoring() -> list[Row]:
    """Measure the loader of forecaster and API, on rows with all columns."""
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


def rows() -> list[Row]:
    compile_kernel(SPEC)
    found = [*features(simulated_trades(TRADES)), full_row()]
    with TemporaryDirectory() as folder:
        trades = simulated_trades(READ)
        found += [reading(trades, Path(folder)), parsing(trades, Path(folder))]
    return [*found, simulating(), *scoring()]


if __name__ == "__main__":
    compile_kernel(SPEC)
    print(peak_mib(contract_jobs(simulated_trades(TRADES))[sys.argv[1]]))
