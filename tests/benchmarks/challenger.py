"""Benchmark from trades in the lake to challengers in the registry, by the product's own road, in a process of its own.

Steps: feature rows and training sets of each product-day, the sample, then both models trained, checked by the leak
sentinels, evaluated and registered. The clock starts after all imports; memory is the peak of the process.
`python -m tests.benchmarks.challenger [--trades N]` prints the figures, with the seconds of each step.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from data.files import CHECKOUT
from tests.benchmarks.measure import Row, held_mib

TRADES = 5_000_000
PRODUCTS = ("BTC-USD", "ETH-USD")
FIRST_DAY = dt.date(2025, 1, 6)
TEST_DAYS = 1
UNBOUNDED_MB = 1_000_000


class Took(msgspec.Struct):
    """Seconds of each step, processor time of all steps, and memory."""

    feature_rows: float
    training_sets: float
    sample: float
    training: float
    processor: float
    mib: float
    rows: int

    @property
    def seconds(self) -> float:
        return self.feature_rows + self.training_sets + self.sample + self.training


def fill(folder: Path, least: int) -> int:
    """Put whole simulated days into a lake, until the lake has `least` trades; return their number."""
    from offline.days.staging import simulate
    from offline.days.trades import make_trades
    from offline.lake.store import Lake

    lake, day, count = Lake.open(folder), FIRST_DAY, 0
    while count < least:
        for product in PRODUCTS:
            count += sum(staged.rows for staged in simulate(lake, product, day).days)
            make_trades(lake, product, day)
        day += dt.timedelta(days=1)
    return count


def train_challengers(folder: Path, registry_uri: str) -> Took:
    """Train and register challengers on all days of a lake."""
    from data.features.spec import FeatureSpec
    from data.features.windows import compile_kernel
    from data.models.registry import Registry
    from data.times import start_ns, to_datetime
    from offline.days.feature_rows import make_feature_rows
    from offline.days.steps import TRADES as TRADES_TABLE
    from offline.days.training_set import make_training_set
    from offline.lake.store import Lake
    from offline.training import Challenger, lake_training, train
    from orchestration.assets.models import choose_days
    from orchestration.assets.partitions import DaysConfig

    lake, spec = Lake.open(folder), FeatureSpec()
    compile_kernel(spec)
    clock, processor = [time.perf_counter()], time.process_time()
    places = lake.partition_keys(TRADES_TABLE)
    for place in places:
        make_feature_rows(lake, place.product_id, place.day, spec)
    clock.append(time.perf_counter())
    for place in places:
        make_training_set(lake, place.product_id, place.day, spec)
    clock.append(time.perf_counter())
    days = choose_days(lake, DaysConfig().range())
    test_day = days.first_test_day(TEST_DAYS)
    rows, made_from, spans, test = lake_training(lake, spec, days.partitions, test_day, UNBOUNDED_MB)
    clock.append(time.perf_counter())
    train_end = to_datetime(start_ns(test_day))
    results = list(train(Registry(registry_uri), rows, spec, train_end, made_from, spans=spans, test=test))
    clock.append(time.perf_counter())
    if sum(isinstance(each, Challenger) for each in results) != 2:
        raise RuntimeError("two challengers were expected")
    feature_rows, training_sets, sample, training = (end - begin for begin, end in pairwise(clock))
    processor = time.process_time() - processor
    return Took(feature_rows, training_sets, sample, training, processor, held_mib("VmHWM"), len(rows))


def run(trades: int) -> tuple[int, Took]:
    """Return the number of trades, and the figures of a fresh process."""
    from tests.mlflow_server import running_mlflow

    with TemporaryDirectory() as name, running_mlflow(Path(name)) as server:
        lake = Path(name, "lake")
        count = fill(lake, trades)
        command = [sys.executable, "-m", "tests.benchmarks.challenger", "--lake", str(lake), "--registry", server.uri]
        found = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout
    return count, msgspec.json.decode(found.splitlines()[-1], type=Took)


def rows(trades: int = TRADES) -> list[Row]:
    """Return seconds, processor time and memory."""
    count, took = run(trades)
    what = f"features to challengers, {count / 1e6:.2g} M trades in the lake"
    return [
        Row(what, "s", took.seconds),
        Row(f"{what}: processor time", "s", took.processor),
        Row(f"{what}: most memory of the process", "MiB", took.mib),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.challenger", description="One run.")
    parser.add_argument("--trades", type=int, default=TRADES)
    parser.add_argument("--lake", type=Path, help="a filled lake, with --registry: measure in this process")
    parser.add_argument("--registry", help="address of MLflow")
    asked = parser.parse_args()
    if asked.lake is None:
        print(*run(asked.trades), sep=" trades: ")
    else:
        print(msgspec.json.encode(train_challengers(asked.lake, asked.registry)).decode())


if __name__ == "__main__":
    main()
