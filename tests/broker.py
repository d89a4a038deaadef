"""A real Kafka broker under control: stop, kill, pause and restart it on the same ports and data."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from orchestration.local.kafka.broker import BrokerConfig, format_storage, is_ready, java_command, java_environment
from orchestration.local.lifeline import bound_to_parent
from tests.pipeline import wait_until

# Below the ports that Linux gives to clients (from 32768): a client cannot take a port before its server starts. A
# process never gives a port twice, and starts at a place of its own, so processes of one test run rarely meet.
_first = random.Random(os.getpid()).randrange(10_000, 32_768)
_candidates = itertools.cycle([*range(_first, 32_768), *range(10_000, _first)])


def free_ports(count: int) -> list[int]:
    """Return loopback ports that no process holds at this moment, none of them given before by this process."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_candidates)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


B = TypeVar("B", bound="Broker")


class Broker:
    """A Kafka process under control.

    Ports and data stay the same over any number of `stop`, `kill` and `start`. The log is `kafka.log` in the broker's
    folder. Start the broker from the main thread: the kernel ends the broker with the thread that started it.
    """

    def __init__(self, folder: Path, jars: Sequence[Path], port: int = 0, controller_port: int = 0) -> None:
        free = iter(free_ports(2))
        self.config = BrokerConfig(folder, port or next(free), controller_port or next(free))
        self._jars = list(jars)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return self.config.bootstrap_servers

    @property
    def log_path(self) -> Path:
        return self.config.folder / "kafka.log"

    @property
    def pid(self) -> int | None:
        """The process id while the broker runs."""
        return self._process.pid if self._process else None

    @property
    def has_ended(self) -> bool:
        """Whether the broker was started and ended by itself; `kill` clears its remains."""
        return self._process is not None and self._process.poll() is not None

    def launch(self) -> None:
        """Start the broker, and do not wait for its first answer."""
        if self._process is not None:
            raise RuntimeError(f"the broker on {self.bootstrap_servers} is running already")
        properties = format_storage(self.config, self._jars)
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                bound_to_parent(java_command("kafka.Kafka", properties)),
                cwd=self.config.folder,
                env=java_environment(self._jars, self.config.folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the broker, and return when the broker answers.

        Raises:
            RuntimeError: the broker ended, or did not answer in time; the end of its log is in the message.
        """
        self.launch()
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            returncode = self._process.poll()
            if returncode is not None or time.monotonic() > deadline:
                self.kill()
                lines = self.log_path.read_text(errors="replace").splitlines()
                said = "\n".join([line for line in lines if not line.startswith("\tat ")][-15:])
                what = (
                    f"ended with exit code {returncode}" if returncode is not None else f"was silent for {timeout_s} s"
                )
                raise RuntimeError(
                    f"the broker on {self.bootstrap_servers} {what}; the end of {self.log_path}:\n{said}"
                )

    def is_ready(self) -> bool:
        """Return whether this broker, and no other on the same port, answers."""
        return is_ready(self.bootstrap_servers, self.config.cluster_id)

    def stop(self, timeout_s: float = 20.0) -> None:
        """End the broker in good order, by SIGTERM."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the broker as a power cut would, by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze the broker: connections stay open without an answer. Return when all its threads stand."""
        self._signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        wait_until(lambda: all(_stands(task) for task in tasks.iterdir()), "the broker stands")

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError(f"the broker on {self.bootstrap_servers} is not running")
        self._process.send_signal(number)


def _stands(task: Path) -> bool:
    """Return whether a signal has stopped a thread; its name in /proc may hold any character."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def started(broker: B) -> Iterator[B]:
    """Start a broker, yield the broker when it answers, and stop the broker at the end of the block."""
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextlib.contextmanager
def running_broker(folder: Path, jars: Sequence[Path], port: int = 0, controller_port: int = 0) -> Iterator[Broker]:
    """Yield a broker that answers, and stop the broker at the end of the block."""
    with started(Broker(folder, jars, port, controller_port)) as broker:
        yield broker
