"""The process that holds a lock, and whether the process still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple


class Owner(NamedTuple):
    """A process.

    Attributes:
        host: name of the machine, for people.
        machine: host, start of the kernel, and space of process ids: equal if process ids can be compared.
        pid: id of the process.
        started: a process that gets the same id later has another value; empty where the kernel does not tell.
    """

    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"

    def is_gone(self) -> bool:
        """Return whether the process is known to have ended; False for a process of another machine."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _started(self.pid) != self.started


def this_process() -> Owner:
    """Return the process that calls."""
    return Owner(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()))


def _machine() -> str:
    kernel, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return f"{socket.gethostname()} {kernel.read_text().strip()} {space.readlink()}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """Return the start of a process in ticks since the kernel's start; `zombie` for a process that has ended."""
    try:
        # The name in brackets may hold spaces: the fields are counted behind the name.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if state == "Z" else fields[18]
