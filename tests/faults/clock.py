"""A wall clock of the test's own, for all processes that the test starts, the broker's Java too."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.times import NS

SOURCE = Path(__file__).with_name("stepped_clock.c")
HOUR_NS = 3_600 * NS


class SteppedClock:
    """Wall clock of all processes that are started while this clock is in the environment.

    The test's own process keeps the real clock.
    """

    def __init__(self, step: mmap.mmap) -> None:
        self._step = step

    def step(self, hours: float) -> None:
        """Set the clock forward, or back."""
        self._step[:8] = struct.pack("q", self.offset_ns + int(hours * HOUR_NS))

    @property
    def offset_ns(self) -> int:
        """How far the clock is ahead of the real clock."""
        return int(struct.unpack("q", self._step[:8])[0])

    def now_ns(self) -> int:
        """Return the time of this clock, ns since 1970."""
        return time.time_ns() + self.offset_ns


@contextmanager
def stepped_clock(folder: Path) -> Iterator[SteppedClock]:
    """Put a clock into the environment while the block runs; skip the test where no clock can be made."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no clock of its own can be made here: it needs Linux and a C compiler (apt-get install gcc)")
    library, file = folder / "stepped_clock.so", folder / "step"
    flags = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC")
    made = [compiler, *flags, "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(made, check=True)
    file.write_bytes(bytes(8))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as step, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOCK_STEP_FILE", str(file))
        patch.setenv("LD_PRELOAD", " ".join(filter(None, (str(library), os.environ.get("LD_PRELOAD")))))
        yield SteppedClock(step)
