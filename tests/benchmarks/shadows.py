"""Benchmark of what shadows cost: the time from trade to forecast, and forecasts a second from a full topic.

`volatility-ml` serves. The three shadows are the baseline's champion and both challengers; `volatility-ml` is as large
as the model of `make run`. All sides take turns. `python -m tests.benchmarks.shadows [--trades N] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
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
from data.trades import Floats, Trades
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
from tests.pipeline import Process, environment, running, wait_until

DAY = dt.date(2025, 3, 5)
SPLIT = dt.datetime(2025, 3, 5, 16, tzinfo=dt.UTC)
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


def latency(files: tuple[bytes, bytes], rounds: int) -> list[Row]:
    """Measure the time from trade to forecast with three shadows and without, in turns, in one forecaster.

    Raises:
        RuntimeError: a trade did not become one forecast.
    """
    found: dict[str, list[Floats]] = {"": [], WITHOUT: []}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with new_broker(folder) as broker, running_mlflow(folder) as mlflow:
            registry = Registry(mlflow.uri)
            versions = {
                (ML, "champion"): put_version(mlflow.uri, ML, files[0]),
                (ML, "challenger"): put_version(mlflow.uri, ML, files[1]),
                (BASELINE, "champion"): put_version(mlflow.uri, BASELINE, model_bytes()),
                (BASELINE, "challenger"): put_version(mlflow.uri, BASELINE, model_bytes(baseline(scale=5.0))),
            }
            set_alias(registry, ML, "champion", versions[ML, "champion"])
            environ = environment(broker.bootstrap_servers, folder / "models", MLFLOW_TRACKING_URI=mlflow.uri)
            with running(forecaster := Process("online.forecaster", environ, folder / "forecaster")):
                forecaster.await_log('"assigned"')
                for number in range(rounds):
                    for side in (WITHOUT, "") if number % 2 else ("", WITHOUT):
                        for (name, alias), version in versions.items():
                            if (name, alias) != (ML, "champion"):
                                set_alias(registry, name, alias, None if side == WITHOUT else version)
                        loaded = 1 if side == WITHOUT else len(versions)
                        wait_until(lambda n=loaded: _loaded(forecaster.log) == n, f"{loaded} models")  # type: ignore[misc]
                        name = f"r{number}-{'without' if side else 'with'}"
                        found[side].append(time_to_score(broker, environ, folder, name, steady_trades(), "1"))
    rows = []
    for percent in (50, 99):
        medians = {side: _median(times, percent) for side, times in found.items()}
        name = f"tick to score, {RATE} trades/s, with three shadows, p{percent}"
        rows.append(Row(name, "ms", medians.pop(""), medians))
    return rows


def _loaded(log: Path) -> int:
    """Return the number of models in the newest line about shadows."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"shadows"' in line]
    return len(lines[-1]["models"]) if lines else 0


def _median(times: list[Floats], percent: int) -> float:
    return statistics.median(float(np.percentile(each, percent)) for each in times)


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
    yield from latency(files, rounds)
    yield throughput(files, trades, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shadows", description="What shadows cost.")
    parser.add_argument("--trades", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for row in rows(simulated_trades(chosen.trades), chosen.rounds):
        print(row, flush=True)
