"""Forecasters without a slot: any number of processes with the same environment."""

from __future__ import annotations

import json
import signal
from itertools import count
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from data.stream.records import PARTITIONS, PREDICTIONS
from tests.pipeline import Process, wait_until


class Members:
    """Start, freeze and end members of the forecaster's group.

    Args:
        environ: of each process, with an empty `SLOT`.
        folder: gets a log for each process.

    Attributes:
        alive: processes that were neither stopped nor killed nor frozen.
    """

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        self._environ, self._folder, self._numbers = environ, folder, count()
        config = {"bootstrap.servers": environ["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "unused", "log_level": 0}
        levels = ("read_committed", "read_uncommitted")
        self._readers = [Consumer(config | {"isolation.level": level}) for level in levels]
        self.alive: list[Process] = []
        self._all: list[Process] = []

    def join(self) -> Process:
        """Start a process."""
        log = self._folder / f"member-{next(self._numbers)}.log"
        member = Process("online.forecaster", self._environ, log)
        member.start()
        self.alive.append(member)
        self._all.append(member)
        return member

    def close(self) -> None:
        """End all remaining processes."""
        for member in self._all:
            if member.process.poll() is None:
                member.kill()
        for reader in self._readers:
            reader.close()

    def owned(self, member: Process) -> set[int]:
        """Return the partitions in the last log entry of a member."""
        lines = [json.loads(line) for line in member.log.read_text().splitlines() if line.startswith("{")]
        named = [line["partitions"] if line["event"] == "assigned" else line["left"]
                 for line in lines if line["event"] in ("assigned", "revoked")]  # fmt: skip
        return set(named[-1]) if named else set()

    def is_shared(self) -> bool:
        """Return whether each partition has one owner, and each member a part."""
        parts = [self.owned(member) for member in self.alive]
        owned = sum(map(len, parts)), len(set().union(*parts))
        return owned == (PARTITIONS, PARTITIONS) and min(map(len, parts)) >= PARTITIONS // len(parts)

    def stop(self, member: Process) -> None:
        """Let a member leave in good order."""
        self.alive.remove(member)
        member.process.send_signal(signal.SIGTERM)

    def freeze(self, member: Process, partitions: set[int]) -> None:
        """Freeze a member at a moment with an open transaction in one of some partitions: readers wait for its end."""
        wait_until(lambda: self._is_frozen_within_transaction(member, partitions), "it is within a transaction")
        self.alive.remove(member)

    def _is_frozen_within_transaction(self, member: Process, partitions: set[int]) -> bool:
        """Freeze a member; let the member go on if no transaction is open."""
        member.process.send_signal(signal.SIGSTOP)
        if any(self._is_open(partition) for partition in partitions):
            return True
        member.process.send_signal(signal.SIGCONT)
        return False

    def _is_open(self, partition: int) -> bool:
        """Return whether `predictions` has records behind the last record of a `read_committed` reader."""
        place = TopicPartition(PREDICTIONS, partition)
        return len({each.get_watermark_offsets(place, timeout=10)[1] for each in self._readers}) > 1
