"""Rows of the table, and how times are taken: medians of rounds in which all sides take turns, so that a busy machine
is busy for each of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Job = Callable[[], object]


class ToolMissing(RuntimeError):
    """A program that a measurement needs is not on this machine."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what ours does, and what others do with the same input."""

    name: str
    unit: str
    value: float
    peers: dict[str, float] = field(default_factory=dict)


def seconds(jobs: Mapping[str, Job], rounds: int = 5) -> dict[str, float]:
    """Return the median time of each job, over rounds in which they take turns, after one that does not count."""
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for counts in (False, *(True,) * rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            if counts:
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in took.items()}


def speeds(name: str, unit: str, amount: int, ours: Job, peers: Mapping[str, Job] | None = None) -> Row:
    """Measure a job that does `amount` of something."""
    found = {name: amount / took for name, took in seconds({"": ours, **(peers or {})}).items()}
    return Row(name, unit, found.pop(""), found)


def held_mib(what: Literal["VmRSS", "VmHWM"]) -> float:
    """Return what this process holds, or the most that it ever held, without what its parent did."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def peak_mib(job: Job) -> float:
    """Return how much more memory the process holds during a job than before it."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = held_mib("VmRSS")
    job()
    return held_mib("VmHWM") - before
