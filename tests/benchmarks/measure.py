"""Rows of the benchmark table, and timing: medians of rounds with all sides in turns.

A busy machine is then busy for every side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Job = Callable[[], object]


class ToolMissing(RuntimeError):
    """A program for a measurement is missing on this machine."""


@dataclass(frozen=True)
class Row:
    """Line of the table: our figure, and the peers' figures for the same input."""

    name: str
    unit: str
    value: float
    peers: dict[str, float] = field(default_factory=dict)


def seconds(jobs: Mapping[str, Job], rounds: int = 5) -> dict[str, float]:
    """Return the median time of each job, over rounds with the jobs in turns, after a round that does not count."""
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for counts in (False, *(True,) * rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            if counts:
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in took.items()}


def speeds(name: str, unit: str, amount: int, ours: Job, peers: Mapping[str, Job] | None = None) -> Row:
    """Measure a job with `amount` units of work."""
    found = {name: amount / took for name, took in seconds({"": ours, **(peers or {})}).items()}
    return Row(name, unit, found.pop(""), found)


def held_mib(what: Literal["VmRSS", "VmHWM"]) -> float:
    """Return the memory of this process, now or at the peak, without the parent's memory."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def peak_mib(job: Job) -> float:
    """Return the memory added by a job at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = held_mib("VmRSS")
    job()
    return held_mib("VmHWM") - before
