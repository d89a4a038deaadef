"""Benchmark of forecasts from a full topic, beside other engines on the same broker.

Each engine runs as its own process on a broker of its own with the same trades. The clock runs from the first outcomes
to the last outcome as a `read_committed` reader sees them, so a start does not count. An outcome is a record for a
trade: on `predictions` for the forecaster and the pass-through, which write a record on `features` too, and on
`features` for the peers, which make the contract features alone.

`python -m tests.benchmarks.streams [--trades N] [--rounds N] [ENGINE ...]` measures some engines, each named by the
beginning of its name, or `ours`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # its types forget the second

from data.files import CHECKOUT
from data.models.kept import save_last_good
from data.settings import KafkaSettings
from data.stream.clients import idempotent_config, reader_config
from data.stream.codec import encode_trades
from data.stream.records import FEATURES, PARTITIONS, PREDICTIONS, TRADES
from data.stream.topics.creation import create_topics
from data.trades import Floats, Int64s, Trades
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import fetch_jars
from tests.benchmarks.core import simulated_trades
from tests.benchmarks.measure import Row
from tests.broker import running_broker
from tests.models import model_file
from tests.pipeline import environment

PEERS = CHECKOUT / ".venv-peers" / "bin" / "python"
BEGUN = 0.1
"""Share of the outcomes after which the clock starts: first batches wait for compilers, caches and group joins."""
LOOK_S = 0.02
QUIET_S = 3.0
"""Seconds without a new outcome before the outcomes are counted; the peers commit once a second or more often."""
LIMIT_S = 300.0


@dataclass(frozen=True)
class Engine:
    """A process from trades to outcomes.

    Attributes:
        command: command of the process.
        outcomes: the topic with a record for each trade.
    """

    command: tuple[str, ...]
    outcomes: str


def _peer(name: str) -> Engine:
    return Engine((str(PEERS), "-m", f"tests.benchmarks.peer_{name}", "{servers}", FEATURES), FEATURES)


UNADAPTED = "unadapted, the same without adaptation"

ENGINES = {
    "": Engine((sys.executable, "-m", "online.forecaster"), PREDICTIONS),
    UNADAPTED: Engine((sys.executable, "-m", "tests.benchmarks.unadapted"), PREDICTIONS),
    "passthrough, unread, two records": Engine(
        (sys.executable, "-m", "tests.benchmarks.passthrough", "{servers}"), PREDICTIONS
    ),
    "quixstreams, exactly once": _peer("quixstreams"),
    "bytewax, at least once": _peer("bytewax"),
    "pathway, no guarantee": _peer("pathway"),
    "csp, no guarantee": _peer("csp"),
}


def peer_versions() -> dict[str, str]:
    """Return the versions of the peers, where their environment is."""
    if not PEERS.exists():
        return {}
    names = ("quixstreams", "bytewax", "pathway", "csp")
    code = f"from importlib.metadata import version; print(*map(version, {names}))"
    found = subprocess.run([PEERS, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(names, found, strict=True))


def preload(servers: str, trades: Trades, *, at_once: bool = False) -> None:
    """Put trades on the topic, as the ingestor would.

    Args:
        at_once: in one transaction: a `read_committed` reader sees no trade before the return, and then all trades.
    """
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    config = idempotent_config(settings, linger_ms=20)
    if at_once:
        config |= {"transactional.id": "preload", "transaction.timeout.ms": int(1_000 * LIMIT_S)}
        config |= {"message.timeout.ms": int(1_000 * LIMIT_S)}
    producer = Producer(config)
    if at_once:
        producer.init_transactions(LIMIT_S)
        producer.begin_transaction()
    keys = [key.product_id for key in trades.keys]
    for start in range(0, len(trades), 10_000):
        some = trades.take(slice(start, start + 10_000))
        for stream, value in zip(some.stream.tolist(), encode_trades(some, "replay"), strict=True):
            producer.produce(TRADES, value, keys[stream])
        producer.flush()
    if at_once:
        producer.commit_transaction(LIMIT_S)


class Watch:
    """Notes the readable end of a topic over time, and counts the records up to each end afterwards.

    The end of a partition alone counts too much: the marker at the end of a transaction takes an offset too.
    """

    def __init__(self, servers: str, topic: str) -> None:
        self._servers, self._topic = servers, topic
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client's
        self._wanted = {TopicPartition(topic, partition): latest for partition in range(PARTITIONS)}
        self._times: list[float] = []
        self._ends: list[list[int]] = []
        self._moved_at = time.monotonic()

    def look(self) -> None:
        """Note the ends of all partitions, with one request."""
        asked = self._admin.list_offsets(self._wanted, isolation_level=IsolationLevel.READ_COMMITTED)
        ends = [asked[place].result(10).offset for place in self._wanted]
        now = time.monotonic()
        if self._ends and ends != self._ends[-1]:
            self._moved_at = now
        self._times.append(now)
        self._ends.append(ends)

    def is_worth_counting(self, expected: int) -> bool:
        """Return whether `expected` records can be present, and no record came lately."""
        return sum(self._ends[-1]) >= expected and self._times[-1] - self._moved_at > QUIET_S

    def count(self) -> tuple[Floats, Int64s]:
        """Return the time of each look, and how many records were readable then; each of shape (looks,)."""
        ends = np.array(self._ends)
        counts = sum(np.searchsorted(found, ends[:, place]) for place, found in enumerate(self._offsets()))
        self._moved_at = time.monotonic()
        return np.array(self._times), np.asarray(counts, np.int64)

    def _offsets(self) -> list[list[int]]:
        """Return the offsets of the records of each partition."""
        offsets: list[list[int]] = [[] for _ in range(PARTITIONS)]
        consumer = Consumer(reader_config(KafkaSettings(kafka_bootstrap_servers=self._servers)))
        try:
            consumer.assign([TopicPartition(self._topic, place, OFFSET_BEGINNING) for place in range(PARTITIONS)])
            at_end: set[int] = set()
            while len(at_end) < PARTITIONS:
                for message in consumer.consume(10_000, 0.1):
                    place = message.partition() or 0
                    if (error := message.error()) is None:
                        offsets[place].append(message.offset() or 0)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        at_end.add(place)
        finally:
            consumer.close()
        return offsets


@contextmanager
def running_engine(engine: Engine, servers: str, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an engine in the block; its output is in `folder / "log"`."""
    save_last_good(folder / "models", model_file(version="1"))
    settings = {"FORECASTER_PORT": "0", "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(folder)} | more
    command = [part.format(servers=servers) for part in engine.command]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=environment(servers, folder / "models", **settings), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def rate(name: str, trades: Trades, folder: Path, **settings: str) -> float:
    """Return outcomes per second of one engine.

    Raises:
        RuntimeError: the outcomes are not one for each trade, or all came at once.
    """
    engine, expected, shown = ENGINES[name], len(trades), name or "ours"
    with running_broker(folder / "kafka", fetch_jars(jars_folder(CHECKOUT / "var"))) as broker:
        servers = broker.bootstrap_servers
        create_topics({"bootstrap.servers": servers})
        preload(servers, trades)
        watch = Watch(servers, engine.outcomes)
        with running_engine(engine, servers, folder, **settings) as process:

            def is_running() -> bool:
                return process.poll() is None

            try:
                return follow(watch, expected, is_running)
            except RuntimeError as error:
                raise RuntimeError(f"{shown}: {error}; it said: {(folder / 'log').read_text()}") from None


def follow(watch: Watch, expected: int, is_running: Callable[[], bool]) -> float:
    """Wait for all outcomes; return outcomes per second.

    Raises:
        RuntimeError: the outcomes are not one for each trade, came too late, or all came at once.
    """
    deadline = time.monotonic() + LIMIT_S
    counts: Int64s = np.zeros(1, np.int64)
    while counts[-1] < expected:
        watch.look()
        if watch.is_worth_counting(expected):
            times, counts = watch.count()
        if not is_running() or time.monotonic() > deadline:
            raise RuntimeError(f"not all of {expected:,} outcomes")
        time.sleep(LOOK_S)
    if counts[-1] > expected:
        raise RuntimeError(f"{counts[-1]:,} outcomes for {expected:,} trades")
    first, last = int(np.argmax(counts >= BEGUN * expected)), int(np.argmax(counts == expected))
    if first == last:
        raise RuntimeError("all outcomes came at once: more trades are needed to measure")
    return float((expected - counts[first]) / (times[last] - times[first]))


def rates(trades: Trades, rounds: int, names: Sequence[str]) -> dict[str, list[float]]:
    """Return outcomes per second of each engine in each round; every other round has the reversed order."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[:: -1 if number % 2 else 1]:
            with TemporaryDirectory() as folder:
                found[name].append(rate(name, trades, Path(folder)))
    return found


def rows(trades: Trades, rounds: int = 3) -> list[Row]:
    """Return the medians of rounds in which all engines take turns."""
    others = (name for name in ENGINES if name != UNADAPTED)
    present = [name for name in others if Path(ENGINES[name].command[0]).exists()]
    medians = {name: statistics.median(found) for name, found in rates(trades, rounds, present).items()}
    what = (
        "trades to forecasts, exactly once "
        "(ours: full row and forecast; quixstreams, bytewax, pathway, csp: n, ret_mean, ret_std alone)"
    )
    return [Row(what, "trades/s", medians.pop(""), medians)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streams", description="Some engines, quickly.")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=", ".join(name or "ours" for name in ENGINES))
    parser.add_argument("--trades", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    begins = tuple(chosen.engines)
    names = [name for name in ENGINES if not begins or (name or "ours").startswith(begins)]
    for name, found in rates(simulated_trades(chosen.trades), chosen.rounds, names).items():
        print(f"{name or 'ours':35} median {statistics.median(found):>9,.0f}, rounds {[round(one) for one in found]}")


if __name__ == "__main__":
    main()
