"""What a rate of trades costs: processor and memory of each process, bytes of each topic.

Broker, forecaster, API, exporter and ingestor run as processes of their own, with 12 products and one model.
`python -m tests.benchmarks.sizing` prints the rows of docs/deploy.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from data.models.kept import save_last_good
from data.recordings.readers import write_csv
from data.stream.records import FEATURES, PREDICTIONS, TRADES
from data.times import NS
from data.trades import StreamKey, Trades
from tests.benchmarks.edge_latency import new_broker
from tests.benchmarks.market import PRODUCTS
from tests.benchmarks.measure import Row
from tests.broker import free_ports
from tests.models import model_file
from tests.pipeline import Process, environment, replay, running

RATES = (25, 250, 2_500)
"""Trades a second of all products together."""
REPLAY_S = 40.0
WARM_S = 10.0


def trades_at(rate: int, seconds: float = REPLAY_S) -> Trades:
    """Return trades of all products at random times."""
    rng, count = np.random.default_rng(rate), int(rate * seconds)
    times = 1_700_000_000 * NS + np.cumsum(rng.exponential(NS / rate, count)).astype(np.int64)
    stream = rng.integers(0, len(PRODUCTS), count).astype(np.int32)
    price = np.round(100.0 * np.exp(np.cumsum(rng.normal(0, 1e-5, count))), 2)
    unsent, unknown = np.zeros(count, np.int64), np.zeros(count, np.int8)
    keys = tuple(StreamKey("", product) for product in PRODUCTS)
    return Trades(keys, stream, np.arange(1, count + 1), times, unsent, price, np.full(count, 0.01), unknown)


def processor_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the processor time of each process so far."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: found.user + found.system for name, found in times.items()}


def topic_bytes(data: Path) -> dict[str, int]:
    """Return the size of each topic's segments on the broker's disk, as they are compressed."""
    names = (TRADES, FEATURES, PREDICTIONS)
    return {
        name: sum(path.stat().st_size for path in data.rglob("*.log") if path.parent.name.rpartition("-")[0] == name)
        for name in names
    }


def cost_of(rate: int) -> list[Row]:
    """Measure one rate, after `WARM_S`, on a broker of its own."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_last_good(folder / "models", model_file("volatility-baseline"))
        api, exporter = free_ports(2)
        recording = folder / "recording.csv"
        write_csv(recording, [trades_at(rate)])
        with new_broker(folder) as broker:
            settings = {"API_PORT": str(api), "EXPORTER_PORT": str(exporter), "MODEL_VARIANT": "baseline"}
            environ = environment(broker.bootstrap_servers, folder / "models", **settings)
            parts = [Process(f"online.{name}", environ, folder / name) for name in ("forecaster", "api")]
            parts.append(Process("monitoring.exporter", environ, folder / "exporter"))
            with running(*parts):
                parts[0].await_log('"assigned"', within_s=300)
                ingestor = replay(environ, folder, "sizing", recording, REPLAY_SPEED="1")
                with running(ingestor):
                    time.sleep(WARM_S)
                    pids = {part.module.rpartition(".")[2]: part.process.pid for part in (*parts, ingestor)}
                    pids["broker"] = broker.pid or 0
                    before, began = processor_seconds(pids), time.monotonic()
                    time.sleep(REPLAY_S - WARM_S - 3)
                    after, took = processor_seconds(pids), time.monotonic() - began
                    memory = {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in pids.items()}
                    if ingestor.process.wait(60) != 0:
                        raise RuntimeError(ingestor.log.read_text())
            sizes = topic_bytes(broker.config.folder)
    name = f"{rate} trades/s"
    return [
        *(Row(f"{name}, {part}", "processors", (after[part] - before[part]) / took) for part in pids),
        *(Row(f"{name}, {part}", "MB", memory[part]) for part in pids),
        *(Row(f"{name}, {topic}", "bytes/trade", size / int(rate * REPLAY_S)) for topic, size in sizes.items()),
    ]


def rows() -> list[Row]:
    return [row for rate in RATES for row in cost_of(rate)]


if __name__ == "__main__":
    for row in rows():
        print(f"{row.name:45} {row.value:10.3f} {row.unit}")
