"""Records of one stream, from topics, from the lake, or from both as one: the lake before the oldest record of a topic.

The lake holds each record under its partition and offset, so a reader cannot tell the three apart, but for `place_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from data.stream.codec import encode, mark_of
from data.stream.reader import RecordBlock, TopicReader
from data.stream.records import PREDICTIONS, TIMES, TRADES
from data.trades import Int64s, StreamKey
from offline.lake.store import Lake
from offline.served.columns import OTHERS, OTHERS_ROWS
from offline.served.files import row_batches
from offline.served.kept.begins import Begin, read_begin
from offline.served.manifest import Manifest, ServedFile, read_manifest

Place = Literal["topic", "lake"]

_OTHERS = pa.schema([OTHERS.field(name) for name in ("record_offset", "value")])
BLOCK = 2_000
"""Offsets of one block that is read from the lake."""
GROUPS_KEPT = 4
"""Row groups in memory, each of some tens of MB."""


class Records(Protocol):
    """Committed records by topic, partition and offset; the methods are those of `TopicReader`."""

    def partitions(self, topic: str) -> list[int]: ...

    def span(self, topic: str, partition: int) -> tuple[int, int]: ...

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int: ...

    def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, tuple[int, str]]: ...

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[RecordBlock]: ...


class _Group(NamedTuple):
    """Rows of the stream in one row group of a file, in the order of their offsets.

    Attributes:
        offsets: shape (n,).
        rows: n rows with the fields of the records.
    """

    offsets: Int64s
    rows: pa.Table


class KeptTopic:
    """A stream's records of one topic in the lake, of one generation of the topic."""

    def __init__(self, lake: Lake, manifest: Manifest, generation: int, key: StreamKey) -> None:
        self._lake, self._manifest, self._generation, self._key = lake, manifest, generation, key
        mine = [file for file in manifest.files if file.generation == generation]
        self._files = [file for file in mine if _is_of(file, key)]
        self._other_files = [file for file in mine if file.day is None]
        self._others: dict[int, dict[int, bytes]] = {}
        self._groups: dict[tuple[str, int], _Group] = {}
        self._bounds: dict[str, list[tuple[int, int]]] = {}

    @property
    def partitions(self) -> list[int]:
        """The partitions with records of the stream."""
        return sorted({file.partition for file in self._files})

    def span(self, partition: int) -> tuple[int, int] | None:
        """Return the first offset from which on the lake has all records of the stream, and the offset after the last.

        None if the lake has no record of the stream, or does not tell which records are missing.
        """
        files = [file for file in self._files if file.partition == partition]
        if not files or sum(each.rows for each in self._manifest.gone) < self._manifest.removed:
            return None
        place = self._generation, partition
        missing = [hole.last for hole in self._manifest.holes if (hole.generation, hole.partition) == place]
        missing += [
            gone.last
            for gone in self._manifest.gone
            if (gone.generation, gone.partition, gone.product_id) == (*place, self._key.product_id)
        ]
        is_newest = self._generation == self._manifest.generation
        last = max(file.last for file in files) + 1
        return max(missing, default=-1) + 1, self._manifest.next.get(partition, last) if is_newest else last

    def first(self, partition: int) -> int:
        """Return an offset before which the stream has no record."""
        files = (file.first for file in self._files if file.partition == partition)
        return min([*files, *self._others_of(partition)])

    def read(self, partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        """Read the stream's records in a range of offsets.

        Raises:
            FileNotFoundError: a merge of days, or the removal of old days, has taken a file away meanwhile.
        """
        others = self._others_of(partition)
        places = [(file.first, file.last, file) for file in self._files if file.partition == partition]
        at = start
        while at < end:
            following = [max(first, at) for first, last, _ in places if last >= at]
            following += [offset for offset in others if offset >= at]
            if not following or min(following) >= end:
                return
            at = min(following)
            until = min(end, at + BLOCK)
            found = {offset: value for offset, value in others.items() if at <= offset < until}
            for first, last, file in places:
                if last >= at and first < until:
                    found.update(self._read_file(file.path, at, until))
            if found:
                offsets = sorted(found)
                yield RecordBlock(offsets, [found[offset] for offset in offsets])
            at = until

    def _read_file(self, path: str, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for number, (first, last) in enumerate(self._bounds_of(path)):
            if last >= start and first < end:
                group = self._group(path, number)
                begin, stop = np.searchsorted(group.offsets, [start, end]).tolist()
                values = map(encode, group.rows.slice(begin, stop - begin).to_pylist())
                yield from zip(group.offsets[begin:stop].tolist(), values, strict=True)

    def _bounds_of(self, path: str) -> list[tuple[int, int]]:
        """Return the first and the last offset of each row group of a file."""
        if path not in self._bounds:
            with self._lake.objects.opened(path) as opened:
                metadata = pa.parquet.ParquetFile(opened).metadata
            column = metadata.schema.to_arrow_schema().get_field_index("record_offset")
            groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
            statistics = (group.column(column).statistics for group in groups)
            self._bounds[path] = [(each.min, each.max) for each in statistics]
        return self._bounds[path]

    def _group(self, path: str, number: int) -> _Group:
        """Return the stream's rows in a row group."""
        if (group := self._groups.get((path, number))) is None:
            with self._lake.objects.opened(path) as opened:
                rows = pa.parquet.ParquetFile(opened).read_row_group(number)
            rows = rows.filter(pa.compute.equal(rows["source_id"].cast(pa.string()), self._key.source_id))
            for name in set(TIMES) & set(rows.schema.names):
                rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(pa.int64()))
            offsets = rows["record_offset"].to_numpy()
            group = _Group(offsets, rows.drop_columns(["generation", "record_partition", "record_offset"]))
            while len(self._groups) >= GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]
            self._groups[path, number] = group
        return group

    def _others_of(self, partition: int) -> dict[int, bytes]:
        """Return the end records of the source and its unreadable records, by offset."""
        if partition not in self._others:
            mark = mark_of(self._key.source_id)
            files = [file for file in self._other_files if file.partition == partition]
            parts = (row_batches(self._lake.objects, file.path, _OTHERS, OTHERS_ROWS) for file in files)
            rows = (row for batches in parts for batch in batches for row in batch.to_pylist())
            self._others[partition] = {row["record_offset"]: row["value"] for row in rows if mark in row["value"]}
        return self._others[partition]


class KeptRecords:
    """A stream in the lake alone, as if topics held it: see `Records`."""

    def __init__(self, topics: dict[str, KeptTopic], begin: Begin) -> None:
        self.topics, self.begin = topics, begin

    def partitions(self, topic: str) -> list[int]:
        return self.topics[topic].partitions if topic in self.topics else []

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the range of offsets that has the stream; without a record, an empty range."""
        kept = self.topics.get(topic)
        if kept is None or (span := kept.span(partition)) is None:
            return 0, 0
        first = kept.first(partition)
        if topic == TRADES:  # the source's begin may lie before its first trade in the partition
            first = min(first, self.begin.offsets.get(partition, first))
        return max(span[0], first), span[1]

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:  # noqa: ARG002 - the span is the stream's
        return self.span(topic, partition)[0]

    def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:  # noqa: ARG002
        return {partition: (self.begin.offsets[partition], self.begin.note)
                for partition in partitions if partition in self.begin.offsets}  # fmt: skip

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        if topic in self.topics:
            yield from self.topics[topic].read(partition, start, end)

    def place_of(self, topic: str, partition: int, offset: int) -> Place:  # noqa: ARG002
        return "lake"


class JoinedRecords:
    """Topics, and before the oldest record of a topic the same topic's records in the lake: see `Records`.

    Args:
        kept: the records in the lake; None: the topics alone.
    """

    def __init__(self, topics: TopicReader, kept: KeptRecords | None) -> None:
        self._topics, self._kept = topics, kept
        self._lows: dict[tuple[str, int], int] = {}

    def partitions(self, topic: str) -> list[int]:
        return self._topics.partitions(topic)

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        low, end = self._topics.span(topic, partition)
        low = self._lows.setdefault((topic, partition), low)
        if self._kept is not None:
            first, following = self._kept.span(topic, partition)
            if first < low <= following:
                return first, end
        return low, end

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        found, first = self._topics.offset_at(topic, partition, time_ms), self.span(topic, partition)[0]
        # The topic's answer is the oldest kept record where the wanted record has gone.
        return first if found <= self._low(topic, partition) else found

    def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        wanted = list(partitions)
        found = self._topics.committed(topic, wanted)
        return found or (self._kept.committed(topic, wanted) if self._kept is not None else {})

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        low = self._low(topic, partition)
        if start < low and self._kept is not None:
            yield from self._kept.read(topic, partition, start, min(end, low))
        if end > low:
            yield from self._topics.read(topic, partition, max(start, low), end)

    def place_of(self, topic: str, partition: int, offset: int) -> Place:
        return "lake" if offset < self._low(topic, partition) else "topic"

    def _low(self, topic: str, partition: int) -> int:
        if (topic, partition) not in self._lows:
            self.span(topic, partition)
        return self._lows[topic, partition]


def kept_records(lake: Lake, key: StreamKey, topic_ids: dict[str, str] | None = None) -> KeptRecords:
    """Return the records of a stream in the lake.

    Args:
        topic_ids: id of each topic on the broker: only records of these very topics are returned, whose offsets are
            those of the topics. None: of each topic the newest generation with the stream.

    Raises:
        ValueError: a manifest, or the note on the source's begin, is damaged.
        OSError: the lake does not answer.
    """
    topics: dict[str, KeptTopic] = {}
    for topic in (TRADES, PREDICTIONS):
        manifest = read_manifest(lake, topic)
        having = {file.generation for file in manifest.files if _is_of(file, key)}
        generation = max(having, default=0)
        if topic_ids is not None:
            if generation != manifest.generation or topic_ids.get(topic) != manifest.topic_id:
                continue
        elif not having:
            continue
        topics[topic] = KeptTopic(lake, manifest, generation, key)
    return KeptRecords(topics, read_begin(lake, key.source_id))


def _is_of(file: ServedFile, key: StreamKey) -> bool:
    return file.product_id == key.product_id and key.source_id in file.sources
