"""Order the records of a topic without trust in a clock: by offset, and between partitions by arrival."""

from __future__ import annotations

from typing import NamedTuple


class Heard(NamedTuple):
    """Place of a record among all records of the topic: of two records, the newer one is greater.

    In a partition the order is that of the offsets, always.

    Attributes:
        arrivals: number of records that had arrived since the reader reached the end of the topic, this one included;
            0: the record was on the topic before.
        time: ingest time, ns since 1970, raised or lowered until times never fall in the partition. Between partitions
            nothing else orders the records from before the start.
        offset: of the record.
    """

    arrivals: int
    time: int
    offset: int


class Arrivals:
    """Give each record its place. Called by one thread."""

    def __init__(self) -> None:
        self._count = 0
        self._first: dict[int, int] = {}  # by partition, time of the oldest known record
        self._last: dict[int, int] = {}  # by partition, time of the newest known record

    def newer(self, partition: int, offset: int, ingest_time: int, *, is_live: bool) -> Heard:
        """Return the place of the next record of a partition.

        Args:
            is_live: the reader has reached the end of all partitions.
        """
        self._count += is_live
        time = max(ingest_time, self._last.get(partition, ingest_time))
        self._first.setdefault(partition, time)
        self._last[partition] = time
        return Heard(self._count, time, offset)

    def older(self, partition: int, offset: int, ingest_time: int) -> Heard:
        """Return the place of a record before all known records of a partition."""
        time = min(ingest_time, self._first.get(partition, ingest_time))
        self._first[partition] = time
        self._last.setdefault(partition, time)
        return Heard(0, time, offset)
