"""Benchmark of a training on many product-days under a bound of memory, in a process of its own.

The product-days are two hours long, cut from simulated days. `python -m tests.benchmarks.bounded_training` fills a
lake, trains both models, and prints rows, seconds, peak memory, and the QLIKE of each model on all rows of the test.
`--max-mb` may be given more than once: the same lake, then, with each bound.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from data.files import CHECKOUT
from tests.benchmarks.measure import Row, held_mib

PRODUCTS, DAYS = 40, 50
HOURS = 2
MAX_MB = 2_000
FIRST_DAY = dt.date(2025, 1, 6)


class Trained(msgspec.Struct):
    """Figures of one training.

    Attributes:
        rows, of_rows: rows of the training, and rows that they stand for.
        product_days: that give rows.
        read_s, training_s: seconds to read the rows, and to train, check, evaluate and register.
        mb: peak memory of the process, 10 ** 6 bytes.
        qlike: of each model on the whole test.
    """

    max_mb: int
    rows: int
    of_rows: int
    product_days: int
    test_rows: int
    read_s: float
    training_s: float
    mb: float
    qlike: dict[str, float]


def fill(folder: Path, products: int, days: int) -> None:
    """Put product-days of two hours into a lake: each simulated day gives twelve."""
    from data.simulator.day import simulate_day
    from data.times import DAY_S, NS
    from offline.days.feature_rows import make_feature_rows
    from offline.days.staging import SIMULATED, TRADE_COLUMNS, StagedNotes, recording_table, staged_batch
    from offline.days.trades import make_trades
    from offline.days.training_set import make_training_set
    from offline.lake.store import Lake

    lake, parts = Lake.open(folder), 24 // HOURS
    for number in range(products):
        product = f"P{number:03}-USD"
        for first in range(0, days, parts):
            whole = simulate_day(product, FIRST_DAY + dt.timedelta(days=first), 0)
            for part in range(min(parts, days - first)):
                moved = part * DAY_S - part * HOURS * 3_600
                since = (FIRST_DAY - dt.date(1970, 1, 1)).days * DAY_S + first * DAY_S + part * HOURS * 3_600
                mine = (whole.event_time >= since * NS) & (whole.event_time < (since + HOURS * 3_600) * NS)
                trades = whole.take(mine)
                trades = replace(trades, event_time=trades.event_time + moved * NS)
                day = FIRST_DAY + dt.timedelta(days=first + part)
                notes = StagedNotes(SIMULATED, True, f"part {part}")
                rows = [staged_batch(trades, SIMULATED)]
                lake.write(recording_table(SIMULATED), product, day, rows, TRADE_COLUMNS, notes)
                for step in (make_trades, make_feature_rows, make_training_set):
                    step(lake, product, day)


def train_models(folder: Path, registry_uri: str, max_mb: int) -> Trained:
    """Train and register both models on all days of a lake but the last, by the product's own road."""
    from data.features.spec import FeatureSpec
    from data.models.registry import Registry
    from data.times import start_ns, to_datetime
    from offline.lake.store import Lake
    from offline.training import Challenger, lake_training, train
    from orchestration.assets.models import choose_days
    from orchestration.assets.partitions import DaysConfig

    lake, spec, clock = Lake.open(folder), FeatureSpec(), [time.perf_counter()]
    days = choose_days(lake, DaysConfig().range())
    test_day = days.first_test_day(1)
    rows, made_from, spans, test = lake_training(lake, spec, days.partitions, test_day, max_mb)
    clock.append(time.perf_counter())
    train_end = to_datetime(start_ns(test_day))
    trained = int((rows.event_time <= start_ns(test_day)).sum())
    results = train(Registry(registry_uri), rows, spec, train_end, made_from, spans=spans, test=test)
    found = [each.candidate for each in results if isinstance(each, Challenger)]
    clock.append(time.perf_counter())
    return Trained(
        max_mb=max_mb,
        rows=trained,
        of_rows=trained if made_from.sample is None else made_from.sample.of_rows,
        product_days=len(made_from.product_days()),
        test_rows=int(found[0].metrics["test_rows"]),
        read_s=clock[1] - clock[0],
        training_s=clock[2] - clock[1],
        mb=held_mib("VmHWM") * 2**20 / 1e6,
        qlike={each.name: each.metrics["qlike"] for each in found},
    )


def run(folder: Path, registry_uri: str, max_mb: int) -> Trained:
    """Return the figures of a training in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bounded_training", "--registry", registry_uri]
    command += ["--lake", str(folder), "--max-mb", str(max_mb)]
    found = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout
    return msgspec.json.decode(found.splitlines()[-1], type=Trained)


def measured(products: int, days: int, bounds: Sequence[int], lake: Path | None = None) -> list[Trained]:
    """Return the figures of a training with each bound on the same lake.

    Args:
        lake: a folder for the lake; a lake that is there already is not filled again.
    """
    from tests.mlflow_server import running_mlflow

    with TemporaryDirectory() as name, running_mlflow(Path(name)) as server:
        folder = lake or Path(name, "lake")
        if not folder.exists():
            fill(folder, products, days)
        return [run(folder, server.uri, max_mb) for max_mb in bounds]


def rows(products: int = PRODUCTS, days: int = DAYS) -> list[Row]:
    """Return seconds and memory."""
    (found,) = measured(products, days, [MAX_MB])
    what = f"training on {found.product_days:,} product-days of two hours, TRAIN_MAX_MB={MAX_MB}"
    return [Row(what, "s", found.read_s + found.training_s), Row(f"{what}: most memory", "MB", found.mb)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bounded_training", description="One run.")
    parser.add_argument("--products", type=int, default=PRODUCTS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--max-mb", type=int, action="append", help=f"TRAIN_MAX_MB; default {MAX_MB}")
    parser.add_argument("--lake", type=Path, help="folder of the lake, filled if absent; default a temporary folder")
    parser.add_argument("--registry", help="address of MLflow, with --lake: train in this process")
    asked = parser.parse_args()
    bounds = asked.max_mb or [MAX_MB]
    if asked.registry:
        print(msgspec.json.encode(train_models(asked.lake, asked.registry, bounds[0])).decode())
        return
    for each in measured(asked.products, asked.days, bounds, asked.lake):
        print(msgspec.json.encode(each).decode())


if __name__ == "__main__":
    main()
