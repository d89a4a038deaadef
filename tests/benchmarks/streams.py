"""Feature rows from a topic that is full already, beside other engines on the same broker.

Each engine runs as its own process on a broker of its own, which holds the same trades. The clock runs from the first
outcome to the last as a reader sees them, so it counts no start. The peers make the contract features alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Consumer, Producer, TopicPartition

from data.topics import FEATURES, PARTITIONS, TRADES, encode_trades
from data.trades import Trades
from online.kafka import idempotent_config
from online.settings import KafkaSettings
from orchestration.local.broker import jars_folder, running_broker
from orchestration.local.jars import fetch_jars
from orchestration.local.topics import create_topics
from tests.benchmarks.measure import Row

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
BEGUN = 0.1
"""Share of the outcomes after which the clock starts: first batches wait for compilers, caches and group joins."""
LIMIT_S = 300.0

ENGINES: dict[str, tuple[str, ...]] = {
    "": (sys.executable, "-m", "online.feature_service"),
    "passthrough, unread": (sys.executable, "-m", "tests.benchmarks.passthrough"),
    "quixstreams, exactly once": (str(PEERS), "-m", "tests.benchmarks.peer_quixstreams"),
    "bytewax, at least once": (str(PEERS), "-m", "tests.benchmarks.peer_bytewax"),
}


def peer_versions() -> dict[str, str]:
    """Return the versions of the peers, where their environment is."""
    if not PEERS.exists():
        return {}
    names = ("quixstreams", "bytewax")
    code = f"from importlib.metadata import version; print(*map(version, {names}))"
    found = subprocess.run([PEERS, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(names, found, strict=True))


def preload(servers: str, trades: Trades) -> None:
    """Put trades on the topic, as the ingestor would."""
    producer = Producer(idempotent_config(KafkaSettings(kafka_bootstrap_servers=servers), linger_ms=20))
    keys = [key.product_id for key in trades.keys]
    for start in range(0, len(trades), 10_000):
        some = trades.take(slice(start, start + 10_000))
        for stream, value in zip(some.stream.tolist(), encode_trades(some, "replay"), strict=True):
            producer.produce(TRADES, value, keys[stream])
        producer.flush()


@contextmanager
def engine(command: tuple[str, ...], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run an engine; it does not outlive the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def rate(name: str, trades: Trades, folder: Path) -> float:
    """Return outcomes per second of one engine."""
    with running_broker(folder / "kafka", fetch_jars(jars_folder(ROOT / "var"))) as broker:
        servers = broker.bootstrap_servers
        create_topics({"bootstrap.servers": servers})
        preload(servers, trades)
        command = ENGINES[name] + ((servers, FEATURES) if name else ())
        settings = {"KAFKA_BOOTSTRAP_SERVERS": servers, "FEATURE_SERVICE_PORT": "0", "PYTHONPATH": str(ROOT)}
        places = [TopicPartition(FEATURES, partition) for partition in range(PARTITIONS)]
        watcher = Consumer({"bootstrap.servers": servers, "group.id": "watcher", "isolation.level": "read_committed"})
        first: tuple[float, int] | None = None
        deadline = time.monotonic() + LIMIT_S
        log = folder / "log"
        with engine(command, log, settings) as process:
            while True:
                seen, now = sum(watcher.get_watermark_offsets(place, 10)[1] for place in places), time.monotonic()
                if first is None and seen >= BEGUN * len(trades):
                    first = now, seen
                if seen >= len(trades):
                    break
                if process.poll() is not None or now > deadline:
                    raise RuntimeError(f"{name}: {seen:,} of {len(trades):,} outcomes; it said: {log.read_text()}")
                time.sleep(0.02)
        watcher.close()
    if first is None or now == first[0]:
        raise RuntimeError(f"{name}: all at once; more trades are needed to measure")
    return (seen - first[1]) / (now - first[0])


def rows(trades: Trades, rounds: int = 3) -> list[Row]:
    """Return the medians of rounds in which all engines take turns."""
    engines = [name for name, command in ENGINES.items() if Path(command[0]).exists()]
    found: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in engines:
            with TemporaryDirectory() as folder:
                found[name].append(rate(name, trades, Path(folder)))
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    what = "feature service, exactly once (ours: the full row; quixstreams, bytewax: n, ret_mean, ret_std)"
    return [Row(what, "trades/s", medians.pop(""), medians)]
