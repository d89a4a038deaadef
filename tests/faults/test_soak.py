"""Half an hour of 1,000 trades a second through a whole stack: nothing grows that should not.

`SOAK_S` and `SOAK_RATE` in the environment make the proof shorter or lighter.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from data.models.kept import save_last_good
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.reader import TopicReader
from data.stream.records import PARTITIONS, TRADES
from data.times import NS, start_ns
from data.trades import Trades
from online.exactly_once.offset_note import GROUP
from orchestration.local.supervisor import without_numbers
from tests.faults.stacks import running_stack, says
from tests.models import model_file
from tests.pipeline import wait_until
from tests.proofs import Proof

LENGTH_S = float(os.environ.get("SOAK_S", "1800"))
RATE = int(os.environ.get("SOAK_RATE", "1000"))
"""Trades a second, of all products together."""
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
DAY = dt.date(2025, 3, 5)
WARM_UP = 1 / 3
"""Share of the length after which processes are compared with themselves: windows are full, and models are trained."""
LOOK_S = 5.0
GROWTH = 1.05
"""Most growth of a process's memory after warm-up: its median in the last tenth, against that in the first tenth."""
FILLS = "prometheus "
"""Process whose memory is not judged: Prometheus keeps the samples of two hours in memory before the first block."""
OF_POOLS = 2
"""Open files more than before: a pool of connections opens one when two requests meet."""
UP_S = 600.0
A_WARNING = re.compile(
    r"\[(?:warning|error|critical)\s*\]|\"level\": ?\"(?:warning|error|critical)\"|level=(?:warn|error)"
    r"|\b(?:WARN|WARNING|ERROR|CRITICAL|FATAL)\b|Traceback"
)
"""Levels as our logs, Kafka, Prometheus, Dagster and uvicorn write them."""


class Look(NamedTuple):
    """One look at all processes.

    Attributes:
        memory, fds: own memory, bytes, and open files but the topics', by name of each process.
        lag: trades that the forecaster has not committed.
    """

    at: float
    memory: dict[str, int]
    fds: dict[str, int]
    lag: int


def even_trades(rate: int, seconds: float, day: dt.date) -> Iterator[Trades]:
    """Yield the simulated prices of all products at an even pace, in batches of one second.

    The products take turns. Their times are those of a market that trades `rate` times a second.
    """
    each = int(rate * seconds) // len(PRODUCTS) + 1
    products = [list(_prices(product_id, each, day)) for product_id in PRODUCTS]
    joined = [Trades.join(parts).take(slice(0, each)) for parts in products]
    step = NS // rate
    for begin in range(0, each, rate):
        parts = []
        for turn, trades in enumerate(joined):
            rows = trades.take(slice(begin, begin + rate))
            order = np.arange(begin, begin + len(rows))
            times = start_ns(day) + (order * len(PRODUCTS) + turn) * step
            parts.append(replace(rows, trade_id=order + 1, event_time=times))
        together = Trades.join(parts)
        yield together.take(np.argsort(together.event_time, kind="stable"))


def _prices(product_id: str, count: int, day: dt.date) -> Iterator[Trades]:
    while count > 0:
        trades = simulate_day(product_id, day)
        yield trades
        count -= len(trades)
        day += dt.timedelta(days=1)


def names_of(stack: psutil.Process) -> dict[str, psutil.Process]:
    """Return each process of a stack by its module or program, and its number."""
    found = {}
    for process in [stack, *stack.children(recursive=True)]:
        with suppress(psutil.Error):
            words = process.cmdline()
            marks = (
                word for word in words[1:] if re.fullmatch(r"(online|monitoring|orchestration|kafka)\.[\w.:]+", word)
            )
            found[f"{next(marks, Path(words[0]).name if words else '?')} {process.pid}"] = process
    return found


def own_memory(pid: int) -> int:
    """Return the bytes of a process that no file backs.

    A library that several processes map counts for none: its share in a process changes as others start and end.
    """
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def open_files(pid: int, topics: Path) -> int:
    """Return the number of open files without those of topics: a topic that grows has more of them."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += not entry.readlink().is_relative_to(topics)
    return found


def look(stack: psutil.Process, group: TopicReader, topics: Path) -> Look:
    memory, fds = {}, {}
    for name, process in names_of(stack).items():
        with suppress(psutil.Error, FileNotFoundError):
            memory[name], fds[name] = own_memory(process.pid), open_files(process.pid, topics)
    committed = group.committed(TRADES, range(PARTITIONS))
    ends = {partition: group.span(TRADES, partition)[1] for partition in range(PARTITIONS)}
    lag = sum(max(0, end - committed.get(partition, (0, ""))[0]) for partition, end in ends.items())
    return Look(time.monotonic(), memory, fds, lag)


class Warnings:
    """Read what is new in the logs of a folder, and count the warnings of each minute, numbers left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: defaultdict[Path, int] = defaultdict(int)
        self.minutes: Counter[tuple[int, str, str]] = Counter()

    def read(self, minute: int) -> None:
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read[path])
                whole = file.read().rpartition(b"\n")[0]
            self._read[path] += len(whole) + bool(whole)
            for line in whole.decode(errors="replace").splitlines():
                if A_WARNING.search(line):
                    self.minutes[minute, path.stem, without_numbers(line)] += 1


def growth(looks: Sequence[Look], column: str, of: Callable[[Iterable[int]], float]) -> dict[str, tuple[float, float]]:
    """Return for each process that was there all the time a figure of the first and of the last tenth."""
    tenth = max(1, len(looks) // 10)
    lasting = set.intersection(*({*getattr(each, column)} for each in looks))
    first, last = ([getattr(each, column) for each in part] for part in (looks[:tenth], looks[-tenth:]))
    return {name: (of(each[name] for each in first), of(each[name] for each in last)) for name in sorted(lasting)}


@pytest.mark.acceptance
def test_half_an_hour_of_1000_trades_a_second_lets_nothing_grow(tmp_path: Path, jars: list[Path], proof: Proof) -> None:
    """Lag, memory and open files of each process, and warnings; the stack's Dagster trains its models meanwhile."""
    var, log, recording = tmp_path / "var", tmp_path / "stack.log", tmp_path / "even.csv"
    write_csv(recording, even_trades(RATE, LENGTH_S + UP_S, DAY))
    proof.disturbs(f"{RATE:,} trades a second for {LENGTH_S / 60:g} min, {len(PRODUCTS)} products, a whole stack")
    save_last_good(var / "models", model_file(version="1"))
    more = {"RECORDING": str(recording), "REPLAY_SPEED": "1"}
    with running_stack(var, log, **more) as (stack, settings):
        for part in ("first forecast", "dagster_daemon ready"):  # the first training may go on
            wait_until(functools.partial(says, log, part), part, UP_S)
        kafka = KafkaSettings(kafka_bootstrap_servers=f"127.0.0.1:{settings['KAFKA_PORT']}")
        warnings, looks, began = Warnings(var / "logs"), list[Look](), time.monotonic()
        warnings.read(-1)  # of the start, which are not judged
        warnings.minutes.clear()
        with TopicReader(kafka, GROUP) as group:
            while (now := time.monotonic() - began) < LENGTH_S:
                looks.append(look(stack, group, var / "broker" / "kafka"))
                warnings.read(int(now // 60))
                with suppress(psutil.TimeoutExpired):
                    stack.wait(LOOK_S)
                    pytest.fail(log.read_text())
        text = log.read_text()
    judged = [each for each in looks if each.at - began >= WARM_UP * LENGTH_S]
    tenth = max(1, len(judged) // 10)
    lags = [median(each.lag for each in part) for part in (judged[:tenth], judged[-tenth:])]
    # The least number of open files: a file that is open for a moment is no leak.
    memory, files = growth(judged, "memory", median), growth(judged, "fds", min)
    report = [f"lag {lags[0]:,.0f} -> {lags[1]:,.0f}, load {os.getloadavg()[0]:.1f}"]
    for name, (first, last) in memory.items():
        opened = "{:.0f} -> {:.0f}".format(*files[name])
        report.append(
            f"{name:60} {first / 2**20:7.1f} -> {last / 2**20:7.1f} MiB {last / first - 1:+7.1%}  files {opened}"
        )
    repeated = {what: count for what, count in warnings.minutes.items() if count > 1}
    report += [f"{count} times in minute {what[0]}: {what[1]}: {what[2]}" for what, count in repeated.items()]
    print("\n".join(report))  # shown with a failure, and with pytest -s
    (tmp_path / "looks.json").write_text(json.dumps([each._asdict() for each in looks]))
    ours = {name: pair for name, pair in memory.items() if not name.startswith(FILLS)}
    largest = max(ours, key=lambda name: ours[name][1] / ours[name][0])
    proof.saw(
        trades_a_second=RATE,
        minutes=LENGTH_S / 60,
        lag_first=lags[0],
        lag_last=lags[1],
        processes=len(memory),
        largest_growth=f"{ours[largest][1] / ours[largest][0] - 1:+.1%} {largest}",
        more_open_files=sum(max(0.0, last - first) for first, last in files.values()),
        repeated_warnings=len(repeated),
    )
    assert lags[1] <= max(lags[0], 2 * RATE)
    assert {name: pair for name, pair in ours.items() if pair[1] > GROWTH * pair[0]} == {}
    assert {name: pair for name, pair in files.items() if pair[1] > pair[0] + OF_POOLS} == {}
    assert repeated == {}
    assert "it starts again" not in text, "no part has ended meanwhile"
