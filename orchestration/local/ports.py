"""Find the holders of taken ports before a part starts."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Iterable

import psutil

from orchestration.local.supervisor import Part


def port_conflicts(parts: Iterable[Part]) -> list[str]:
    """Return a sentence for each taken port: the port, the holder, and advice."""
    return [
        f"port {port}, wanted by {part.name}, is taken by {_holder(port)}. "
        f"Stop that process, or choose another port: make run {setting}={port + 100}"
        for part in parts
        for setting, port in part.ports.items()
        if not _is_free(port)
    ]


def next_free_port(port: int, ports_of_others: Collection[int]) -> int:
    """Return the first free port from `port` on that is not one of other parts, which may start later."""
    return next(each for each in range(port, 65536) if each not in ports_of_others and _is_free(each))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Like servers: a port with only closing connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({' '.join(process.cmdline())[:100]})"
    return "a process of another user"
