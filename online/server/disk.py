"""Look at the folder of all state before it is full: its size against its cap, and the room left on its disk."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

WARN_SHARE = 0.8
"""Share of the cap from which on the answer has a warning."""
WARN_FREE_BYTES = 1_000_000_000
"""Room on the disk below which the answer has a warning, whatever the cap is."""
PERIOD_S = 60.0
PAUSE_S = 0.002
"""Pause between two folders: a look at 10,000 files must not hold a request up."""


def used_bytes(folder: Path, stop: threading.Event) -> int:
    """Return the bytes of the disk under a folder; each file counts once, whatever number of names it has.

    Args:
        stop: ends the look early.
    """
    total, seen, waiting = 0, set[tuple[int, int]](), [str(folder)]
    while waiting and not stop.wait(PAUSE_S):
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # gone meanwhile
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        place = status.st_dev, status.st_ino
                        if place in seen:
                            continue
                        seen.add(place)
                    total += 512 * status.st_blocks  # not the length: the broker's indexes are long and empty
    return total


def disk_answer(used: int | None, max_bytes: int, free: int, folder: Path) -> dict[str, Any]:
    """Return the state of the disk for `/health`; a warning is no failed check.

    >>> disk_answer(8_500_000_000, 10_000_000_000, 50_000_000_000, Path("/var"))["warning"]
    '/var has 8.5 GB, 85 % of VAR_MAX_GB=10: docs/operate.md says what may go'

    Args:
        used: bytes; None before the first look.
        free: bytes of the disk.
    """
    share = None if used is None else round(used / max_bytes, 4)
    answer: dict[str, Any] = {
        "ok": True,
        "used_share": share,
        "used_mb": None if used is None else round(used / 1e6, 1),
        "max_mb": max_bytes // 10**6,
        "free_mb": free // 10**6,
    }
    if free < WARN_FREE_BYTES:
        answer["warning"] = f"the disk of {folder} has {free / 1e9:.2f} GB left: make room"
    elif used is not None and used >= WARN_SHARE * max_bytes:
        answer["warning"] = (
            f"{folder} has {used / 1e9:.1f} GB, {100 * used / max_bytes:.0f} % of VAR_MAX_GB={max_bytes / 1e9:g}: "
            "docs/operate.md says what may go"
        )
    return answer


class DiskWatch:
    """Look at a folder once a minute, in a thread.

    Args:
        max_bytes: the cap.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max = folder, max_bytes
        self._used: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def answer(self) -> dict[str, Any]:
        """Return the state of the disk, see `disk_answer`."""
        return disk_answer(self._used, self._max, _free_bytes(self._folder), self._folder)

    def share(self) -> float:
        """Return the used share: of the cap, or of the whole disk if the disk is nearly full. NaN before a look."""
        if self._used is None:
            return float("nan")
        return 1.0 if _free_bytes(self._folder) < WARN_FREE_BYTES else self._used / self._max

    def _run(self) -> None:
        while not self._stop.is_set():
            used = used_bytes(self._folder, self._stop)
            if not self._stop.is_set():
                self._used = used
            self._stop.wait(PERIOD_S)


def _free_bytes(folder: Path) -> int:
    """Return the room on the disk of a folder, or of the next folder above that exists."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0
