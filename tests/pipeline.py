"""Real processes on a real broker, and the records they left on the topics."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from data.files import CHECKOUT
from data.stream.clients import PASSING
from data.stream.records import PARTITIONS, PREDICTIONS

READY_S = 60.0


def wait_until(fact: Callable[[], Any], what: str, within_s: float = READY_S) -> Any:
    """Return the first true answer of `fact`; fail with `what` if no answer is true in time."""
    deadline = time.monotonic() + within_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Process:
    """A process of the project, with its log in a file."""

    module: str
    environment: dict[str, str]
    log: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", self.module, *self.arguments]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def await_log(self, pattern: str, within_s: float = READY_S) -> re.Match[str]:
        """Wait for a line of the log with this pattern."""

        def found() -> re.Match[str] | None:
            text = self.log.read_text()
            assert self.process.poll() in (None, 0), f"{self.module} ended with {self.process.returncode}: {text}"
            return re.search(pattern, text)

        match: re.Match[str] = wait_until(found, f"{pattern!r} in the log of {self.module}", within_s)
        return match

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 10.0) -> int:
        """End the process as an operator would; the design allows 10 s."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Run processes in the block; end all processes after the block, whatever happens."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            if process.process.poll() is None:
                process.kill()


def environment(bootstrap_servers: str, models: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process: no registry, models from disk, any free port."""
    ours = {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody listens there
        "MODELS_DIR": str(models),
        "FORECASTER_PORT": "0",
        "SLOT": "0",
        "INGESTOR_PORT": "0",
        "LOG_FORMAT": "json",
        "PYTHONDONTWRITEBYTECODE": "",  # starts count: compiled once, under var/, also where the shell forbids it
        "PYTHONPYCACHEPREFIX": str(CHECKOUT / "var" / "pycache"),
    }
    return os.environ | ours | settings


def replay(environ: dict[str, str], log: Path, source_id: str, *recordings: Path, **settings: str) -> Process:
    """Return the ingestor of a source, not yet started."""
    environ = environ | {"REPLAY_ID": source_id, "REPLAY_SPEED": "max"} | settings
    return Process("online.ingestor", environ, log / f"{source_id}.log", tuple(map(str, recordings)))


def read_topic(bootstrap_servers: str, topic: str, source_id: str) -> list[dict[str, Any]]:
    """Return the records of a source visible to a `read_committed` reader now, in the order of each partition."""
    config = {"bootstrap.servers": bootstrap_servers, "group.id": "unused", "isolation.level": "read_committed"}
    consumer = Consumer(config | {"enable.partition.eof": True, "enable.auto.commit": False})
    places = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)]
    behind = {place.partition: consumer.get_watermark_offsets(place, timeout=10)[1] for place in places}
    consumer.assign(places)
    mine = f'"source_id":"{source_id}"'.encode()
    records = []
    try:
        while behind:
            first = consumer.poll(1.0)
            for message in (first, *consumer.consume(10_000, 0)) if first is not None else ():
                place = message.partition() or 0
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        behind.pop(place, None)
                    else:
                        assert error.code() in PASSING, error
                    continue
                if mine in (message.value() or b""):
                    records.append(msgspec.json.decode(message.value() or b""))
                if (message.offset() or 0) >= behind.get(place, 0) - 1:
                    behind.pop(place, None)
    finally:
        consumer.close()
    return records


def await_end(
    bootstrap_servers: str, source_id: str, products: int = 1, within_s: float = 60.0
) -> list[dict[str, Any]]:
    """Return the predictions of a source once the source has ended, without end records."""
    deadline = time.monotonic() + within_s
    while True:
        records = read_topic(bootstrap_servers, PREDICTIONS, source_id)
        if sum(record.get("end", False) for record in records) == products:
            return [record for record in records if "end" not in record]
        assert time.monotonic() < deadline, f"{source_id} has not ended after {len(records)} predictions"
