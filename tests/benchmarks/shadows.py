"""Benchmark of what shadows cost: the time from trade to forecast, and forecasts a second from a full topic.

`volatility-ml` serves. The three shadows are the baseline's champion and both challengers; `volatility-ml` is as large
as the model of `make run`. All sides take turns. `python -m tests.benchmarks.shadows [--trades N] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import BASELINE, ML
from data.simulator.day import simulate_day
from data.trades import Trades
from offline.models.recipes import train_ml
from offline.promotion.register import set_alias
from offline.samples import sample
from tests.benchmarks.core import simulated_trades
from tests.benchmarks.edge_latency import RATE, new_broker, steady_trades, time_to_score
from tests.benchmarks.measure import Row
from tests.benchmarks.streams import rate
from tests.fakes import FakeRegistry
from tests.mlflow_server import running_mlflow
from tests.models import baseline, model_bytes, model_file, put_version
from tests.pipeline import Process, environment, running

DAY = dt.date(2025, 3, 5)
SPLIT = dt.datetime(2025, 3, 5, 16, tzinfo=dt.UTC)
SECONDS = 90
"""Seconds of trades for the latency."""
WITHOUT, ONE = "without a shadow", "with one"


def ml_files() -> tuple[bytes, bytes]:
    """Return two files of a fitted `volatility-ml`, equal but for a text in the metadata."""
    rows = sample(simulate_day("BTC-USD", DAY, hours=(6, 18)), FeatureSpec())
    first = train_ml(rows, FeatureSpec(), SPLIT).model_bytes
    other = onnx.load_from_string(first)
    for entry in other.metadata_props:
        if entry.key == "coverage":
            entry.value += "0"
    return first, other.SerializeToString()


def latency(files: tuple[bytes, bytes], seconds: int) -> list[Row]:
    """Measure the time from trade to forecast with three shadows and without, second by second in turns.

    Raises:
        RuntimeError: a trade did not become one forecast.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with new_broker(folder) as broker, running_mlflow(folder) as mlflow:
            for name, alias, content in (
                (ML, "champion", files[0]),
                (ML, "challenger", files[1]),
                (BASELINE, "champion", model_bytes()),
                (BASELINE, "challenger", model_bytes(baseline(scale=5.0))),
            ):
                set_alias(Registry(mlflow.uri), name, alias, put_version(mlflow.uri, name, content))
            environ = environment(broker.bootstrap_servers, folder / "models", MLFLOW_TRACKING_URI=mlflow.uri)
            with running(forecaster := Process("tests.benchmarks.blinking", environ, folder / "forecaster")):
                forecaster.await_log('"assigned"')
                took, records = time_to_score(broker, environ, folder, "steady", steady_trades(seconds), "1")
    shadows = np.array([len(record["shadow"]) for record in records])
    rows = []
    for percent in (50, 99):
        ours, other = (float(np.percentile(took[shadows == count], percent)) for count in (3, 0))
        rows.append(
            Row(f"tick to score, {RATE} trades/s, with three shadows, p{percent}", "ms", ours, {WITHOUT: other})
        )
    return rows


def throughput(files: tuple[bytes, bytes], trades: Trades, rounds: int) -> Row:
    """Measure forecasts a second with three shadows, with the baseline's champion alone, and without a shadow."""
    found: dict[str, list[float]] = {"": [], ONE: [], WITHOUT: []}
    registry = FakeRegistry()
    champions = {ML: model_file(ML, "1", files[0])}
    challengers = {ML: model_file(ML, "2", files[1])}
    challengers[BASELINE] = model_file(BASELINE, "2", model_bytes(baseline(scale=5.0)))
    try:
        for _ in range(rounds):
            for side, rates in found.items():
                registry.files = champions if side == WITHOUT else champions | {BASELINE: model_file(version="1")}
                registry.challengers = {} if side else challengers
                with TemporaryDirectory() as folder:
                    rates.append(rate("", trades, Path(folder), MLFLOW_TRACKING_URI=registry.uri))
    finally:
        registry.close()
    medians = {side: statistics.median(rates) for side, rates in found.items()}
    return Row("trades to forecasts, exactly once, with three shadows", "trades/s", medians.pop(""), medians)


def rows(trades: Trades, rounds: int = 3) -> Iterator[Row]:
    files = ml_files()
    yield from latency(files, SECONDS)
    yield throughput(files, trades, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shadows", description="What shadows cost.")
    parser.add_argument("--trades", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for row in rows(simulated_trades(chosen.trades), chosen.rounds):
        print(row, flush=True)
