"""Read rejects from `trades-rejected`, with the receipts of their replays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from data.stream.clients import MAX_VALUE
from data.stream.codec import decode_records
from data.stream.reader import TopicReader
from data.stream.records import REJECTED, Rejected

REPLAY_PREFIX = "rejects-"
"""Begin of the name of each source that a replay of rejects sends."""

_decode = msgspec.json.Decoder(Rejected).decode


class Kept(NamedTuple):
    """A reject on the topic.

    Attributes:
        partition, offset: of the reject on `trades-rejected`.
        time_ms: when the refused record was published, or the refused row reported; ms since 1970.
        replayed_as: source of the replay; None: not replayed.
    """

    partition: int
    offset: int
    time_ms: int
    reject: Rejected
    replayed_as: str | None

    @property
    def id(self) -> str:
        """The place on `trades-rejected`, for commands: `PARTITION@OFFSET`."""
        return f"{self.partition}@{self.offset}"

    @property
    def is_of_replay(self) -> bool:
        """Whether a replay of rejects had sent the record."""
        return (self.reject.source_id or "").startswith(REPLAY_PREFIX)

    @property
    def is_cut(self) -> bool:
        """Whether the refused record may be longer than the kept bytes."""
        return len(self.reject.original or b"") >= MAX_VALUE


@dataclass
class RejectsReader:
    """Reads the whole topic, from its oldest record to its end.

    Attributes:
        unreadable: records of the topic that are no rejects, so far.
    """

    _reader: TopicReader
    unreadable: int = 0

    def read(self) -> Iterator[Kept]:
        """Yield each reject, partition by partition, the oldest first.

        Raises:
            NotRead: the broker does not answer, or lacks the topic.
        """
        for partition in self._reader.partitions(REJECTED):
            end = self._reader.span(REJECTED, partition)[1]
            # A receipt comes after its reject, so the partition is read twice.
            records = (reject for _, _, reject in self._records(partition, end))
            receipts = {found.reject_offset: found.replayed_as for found in records if found.reject_offset is not None}
            for offset, time_ms, reject in self._records(partition, end, counts=True):
                if reject.reject_offset is None:
                    yield Kept(partition, offset, time_ms, reject, receipts.get(offset))

    def _records(self, partition: int, end: int, *, counts: bool = False) -> Iterator[tuple[int, int, Rejected]]:
        """Yield offset, time in ms and record."""
        for block in self._reader.read(REJECTED, partition, end=end):
            found = decode_records(block.values, _decode)
            if counts:
                self.unreadable += len(found.unreadable) + len(found.ends)
            for place, reject in zip(found.places, found.records, strict=True):
                yield block.offsets[place], block.times_ms[place], reject
