"""Benchmark of the online side's scale: one, two and three forecasters, and what one more of each process costs.

Forecasters without a slot share the partitions first; then the trades of 12 products become readable at once, so a
start does not count. All sides take turns. The costs come from one more run: an ingestor, a forecaster, an API and an
exporter, while a recording of the same trades is replayed at full speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from data.files import CHECKOUT
from data.models.kept import save_last_good
from data.recordings.readers import write_csv
from data.stream.records import PREDICTIONS
from data.stream.topics.creation import create_topics
from data.trades import Trades
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import fetch_jars
from tests.benchmarks.measure import Row
from tests.benchmarks.streams import Watch, follow, preload
from tests.broker import Broker, running_broker
from tests.members import Members
from tests.models import model_file
from tests.pipeline import Process, environment, replay, running, wait_until

SIDES = {1: "one", 2: "two", 3: ""}
"""Number of forecasters, and name of the side in the table."""
TRADES_REPLAYED = 500_000
LOOK_S = 0.5
BUSY_S = 0.02
"""A process that works less than this between two looks has caught up."""


@dataclass(frozen=True)
class Speed:
    """Figures of one run.

    Attributes:
        rate: forecasts per second.
        forecasters_us, broker_us: processor time of a trade, all forecasters together.
    """

    rate: float
    forecasters_us: float
    broker_us: float


def processor_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def pss_mib(pid: int) -> float:
    """Return the memory of a process; memory that processes share is divided between them."""
    return float(psutil.Process(pid).memory_full_info().pss) / 2**20


def new_broker(folder: Path, stack: ExitStack) -> Broker:
    """Run a broker with topics, and leave a model as the last good model."""
    broker = stack.enter_context(running_broker(folder / "kafka", fetch_jars(jars_folder(CHECKOUT / "var"))))
    create_topics({"bootstrap.servers": broker.bootstrap_servers})
    save_last_good(folder / "models", model_file(version="1"))
    return broker


def speed(trades: Trades, count: int, folder: Path) -> Speed:
    """Measure a number of forecasters.

    Raises:
        RuntimeError: the forecasts are not one for each trade, or a forecaster has ended.
    """
    with ExitStack() as stack:
        broker = new_broker(folder, stack)
        members = Members(environment(broker.bootstrap_servers, folder / "models", SLOT=""), folder)
        stack.callback(members.close)
        for _ in range(count):
            members.join()
        wait_until(members.is_shared, f"{count} share the partitions", within_s=120)
        preload(broker.bootstrap_servers, trades, at_once=True)
        pids = [member.process.pid for member in members.alive]
        before = sum(map(processor_s, pids)), processor_s(broker.pid or 0)
        found = follow(
            Watch(broker.bootstrap_servers, PREDICTIONS),
            len(trades),
            lambda: all(member.process.poll() is None for member in members.alive),
        )
        after = sum(map(processor_s, pids)), processor_s(broker.pid or 0)
    forecasters_us, broker_us = (1e6 * (end - start) / len(trades) for start, end in zip(before, after, strict=True))
    return Speed(found, forecasters_us, broker_us)


def speeds(trades: Trades, rounds: int) -> list[Row]:
    """Measure all numbers of forecasters in turns."""
    found: dict[int, list[Speed]] = {count: [] for count in SIDES}
    for number in range(rounds):
        for count in list(SIDES)[:: -1 if number % 2 else 1]:
            with TemporaryDirectory() as folder:
                found[count].append(speed(trades, count, Path(folder)))
    figures = {
        ("trades to forecasts, 12 products, three forecasters", "trades/s"): lambda one: one.rate,
        ("processor time of a trade, three forecasters together", "us"): lambda one: one.forecasters_us,
        ("processor time of a trade, their broker", "us"): lambda one: one.broker_us,
    }
    rows = []
    for (what, unit), pick in figures.items():
        medians = {SIDES[count]: statistics.median(map(pick, speeds)) for count, speeds in found.items()}
        rows.append(Row(what, unit, medians.pop(""), medians))
    return rows


def costs(trades: Trades, folder: Path) -> list[Row]:
    """Measure memory, processor time of a trade, and processor time without a trade, of one process of each kind.

    Raises:
        RuntimeError: the recording was not replayed.
    """
    with ExitStack() as stack:
        broker = new_broker(folder, stack)
        ports = {"API_PORT": "0", "EXPORTER_PORT": "0"}
        environ = environment(broker.bootstrap_servers, folder / "models", SLOT="", **ports)
        started = {
            "forecaster": Process("online.forecaster", environ, folder / "forecaster"),
            "API": Process("online.api", environ, folder / "api"),
            "exporter": Process("monitoring.exporter", environ, folder / "exporter"),
        }
        write_csv(folder / "recording.csv", [trades])
        stack.enter_context(running(*started.values()))
        started["forecaster"].await_log('"assigned"', within_s=120)
        pids = {name: process.process.pid for name, process in started.items()} | {"broker": broker.pid or 0}
        await_idle(pids)
        before, began = {name: processor_s(pid) for name, pid in pids.items()}, time.monotonic()
        time.sleep(10 * LOOK_S)
        idle = {name: (processor_s(pid) - before[name]) / (time.monotonic() - began) for name, pid in pids.items()}
        ingestor = replay(environ, folder, "costs", folder / "recording.csv")
        stack.enter_context(running(ingestor))
        used, held = 0.0, 0.0
        while ingestor.process.poll() is None:
            try:
                used, held = processor_s(ingestor.process.pid), pss_mib(ingestor.process.pid)
            except psutil.NoSuchProcess:
                break
            time.sleep(LOOK_S / 5)
        if ingestor.process.wait() != 0:
            raise RuntimeError(f"the recording was not replayed: {ingestor.log.read_text()}")
        watch, outcomes = Watch(broker.bootstrap_servers, PREDICTIONS), len(trades) + len(trades.keys)

        def is_forecast() -> bool:
            watch.look()
            return watch.is_worth_counting(outcomes)

        wait_until(is_forecast, "forecasts and ends", within_s=180)
        await_idle(pids)
        spent = {name: processor_s(pid) - before[name] - 10 * LOOK_S * idle[name] for name, pid in pids.items()}
        spent["ingestor"] = used
        memory = {name: pss_mib(pid) for name, pid in pids.items()} | {"ingestor": held}
    rows = [Row(f"memory of the {name}, 12 products", "MiB", held) for name, held in memory.items()]
    rows += [Row(f"processor time of a trade, {name}", "us", 1e6 * s / len(trades)) for name, s in spent.items()]
    rows += [Row(f"processor time without a trade, {name}", "ms/s", 1e3 * share) for name, share in idle.items()]
    return rows


def await_idle(pids: Mapping[str, int]) -> None:
    """Wait until each process has nothing to do."""
    last = {name: processor_s(pid) for name, pid in pids.items() if name != "broker"}
    looked = time.monotonic()

    def is_idle() -> bool:
        nonlocal last, looked
        if time.monotonic() < looked + LOOK_S:
            return False
        now = {name: processor_s(pids[name]) for name in last}
        worked = [now[name] - last[name] for name in now]
        last, looked = now, time.monotonic()
        return max(worked) <= BUSY_S

    wait_until(is_idle, "all processes are idle", within_s=180)


def rows(trades: Trades, rounds: int = 3) -> list[Row]:
    with TemporaryDirectory() as folder:
        found = costs(trades.take(slice(0, TRADES_REPLAYED)), Path(folder))
    return speeds(trades, rounds) + found
