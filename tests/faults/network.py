"""A network that can fail: a TCP proxy on loopback, and a broker that sends its clients through the proxy."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from orchestration.local.kafka.broker import BrokerConfig
from tests.broker import Broker, free_ports

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a connection that is reset: what is still on the way is lost."""


class Proxy:
    """Proxy between clients and one server, for both directions of each connection.

    A byte is passed on, held back or thrown away; a held byte goes on when the proxy resumes. The port stays the same.

    Attributes:
        port: for the clients.
        cuts: how often all connections were reset.
    """

    def __init__(self, port: int, server_port: int) -> None:
        self.port, self.cuts = port, 0
        self._server_port = server_port
        self._may_ask, self._may_answer = threading.Event(), threading.Event()
        self._drops_answers = False
        self._delay_s = 0.0
        self._is_cut = self._is_closed = False
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._acceptor.start()
        self.resume()

    def cut(self) -> None:
        """Reset all connections, and each new one at once."""
        with self._lock:
            self._is_cut = True
            self.cuts += 1
            for end in self._ends:
                _reset(end)
            self._ends.clear()

    def hold(self) -> None:
        """Leave connections open, and pass no byte on in either direction: both sides wait."""
        self._may_ask.clear()
        self._may_answer.clear()

    def lose_answers(self) -> None:
        """Pass on what clients send, and throw away what the server answers: the client cannot know what was done."""
        self._drops_answers = True

    def delay(self, seconds: float) -> None:
        """Pass each piece on so much later, in both directions."""
        self._delay_s = seconds

    def resume(self) -> None:
        """Pass everything on again. A connection that has lost an answer is of no use any more: reset it by `cut`."""
        self._is_cut, self._delay_s, self._drops_answers = False, 0.0, False
        self._may_ask.set()
        self._may_answer.set()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._ends) // 2

    def close(self) -> None:
        self._is_closed = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self.cut()
        self.resume()
        self._acceptor.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5.0)
            except OSError:  # the server is away
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._ends |= {client, server}
            for source, sink, may_go, is_answer in (
                (client, server, self._may_ask, False),
                (server, client, self._may_answer, True),
            ):
                pump = threading.Thread(target=self._pump, args=(source, sink, may_go, is_answer), daemon=True)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, may_go: threading.Event, is_answer: bool) -> None:
        """Pass on one direction of a connection until either side closes it."""
        pause = threading.Event()
        with contextlib.suppress(OSError):
            while piece := source.recv(CHUNK):
                may_go.wait()
                if self._delay_s:
                    pause.wait(self._delay_s)
                if not (is_answer and self._drops_answers):
                    sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._ends -= {source, sink}


def _reset(end: socket.socket) -> None:
    """Close a connection by a reset."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
    end.close()


@dataclass(frozen=True)
class ProxiedConfig(BrokerConfig):
    """A broker with a second listener, whose clients are sent to another port: the port of a proxy."""

    behind_port: int
    proxy_port: int

    def properties(self) -> str:
        lines = []
        for line in super().properties().splitlines():
            name, _, value = line.partition("=")
            if name == "listeners":
                value += f",PROXIED://127.0.0.1:{self.behind_port}"
            if name == "advertised.listeners":
                value += f",PROXIED://127.0.0.1:{self.proxy_port}"
            lines.append(f"{name}={value}\n")
        protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT"
        return "".join(lines) + f"listener.security.protocol.map={protocols}\n"


class ProxiedBroker(Broker):
    """A broker with two addresses: `bootstrap_servers`, and `through_proxy` by way of the proxy."""

    def __init__(self, folder: Path, jars: Sequence[Path]) -> None:
        super().__init__(folder, jars)
        behind, self.proxy_port = free_ports(2)
        self.config = ProxiedConfig(folder, self.config.port, self.config.controller_port, behind, self.proxy_port)
        self.through_proxy = f"127.0.0.1:{self.proxy_port}"

    @contextlib.contextmanager
    def proxy(self) -> Iterator[Proxy]:
        assert isinstance(self.config, ProxiedConfig)
        with Proxy(self.proxy_port, self.config.behind_port) as proxy:
            yield proxy
