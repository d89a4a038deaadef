"""Measure how far a process is behind the end of its topic."""

from __future__ import annotations

import json
from collections.abc import Mapping

from prometheus_client import Gauge


class ConsumerLag:
    """Set the lag of each partition that this process reads: end of the topic less the next offset to take.

    The client's statistics hold the end; the reader alone knows the next offset. Two counts of the client are of no
    use: `consumer_lag` stays unknown where transactions commit the offsets, and `fetchq_cnt` counts one queue of all
    partitions.

    Args:
        gauge: labels topic and partition.

    Attributes:
        positions: the next offset to take, by partition that the reader has now. The reader changes the mapping.
    """

    def __init__(self, gauge: Gauge, topic: str) -> None:
        self.positions: Mapping[int, int] = {}
        self._gauge, self._topic = gauge, topic
        self._shown: set[int] = set()

    def read_statistics(self, statistics: str) -> None:
        """Set the lag of the reader's partitions, and remove the partitions that the reader has no more.

        The last offsets of a topic can be markers of transactions: the client reads a marker and hands out nothing. So
        a partition has no lag when its end was fetched and the client's queue is empty.

        Args:
            statistics: JSON of librdkafka.
        """
        for partition in self._shown - self.positions.keys():
            self._gauge.remove(self._topic, str(partition))
            self._shown.remove(partition)
        partitions = json.loads(statistics)["topics"].get(self._topic, {}).get("partitions", {})
        for partition, position in self.positions.items():
            facts = partitions.get(str(partition))
            if facts is None or facts["fetch_state"] != "active" or facts["ls_offset"] < 0:
                continue
            is_read = facts["next_offset"] >= facts["ls_offset"] and not facts["fetchq_cnt"]
            self._gauge.labels(self._topic, partition).set(0 if is_read else max(0, facts["ls_offset"] - position))
            self._shown.add(partition)
