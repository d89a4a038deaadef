"""Take the new records of a topic into the lake."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute
import structlog

from data.settings import KafkaSettings
from data.stream.reader import TopicReader
from data.stream.records import Figure, Purpose
from offline.lake.parquet import GROUP_BYTES
from offline.lake.store import Lake
from offline.served.columns import OTHERS, SERVED_TOPICS, OpenStreams, Rows, block_rows, columns_of
from offline.served.files import rows_to
from offline.served.manifest import (
    Hole,
    Manifest,
    ManifestWriter,
    RowsKey,
    ServedFile,
    folder_of,
    read_manifest,
    writing_manifest,
)

FLUSH_ROWS = 131_072
"""Records in memory before files and manifest are written."""
FLUSH_BYTES = GROUP_BYTES
"""Bytes of rows in memory before files and manifest are written: about 75,000 forecasts, or 2,000 of the longest
rejects. Rows of the reader's last block come on top."""
FETCH_BYTES = 262_144
"""Bytes of one fetch. A block of records is at most as large as what the client keeps in memory, some 8 MB."""

log = structlog.get_logger()


class SinkReport(NamedTuple):
    """Counts of one reading of a topic.

    Attributes:
        rows: records of the topic's main type.
        rejects, ends: unreadable records, and end records.
        lost: offsets that retention removed before the reading.
    """

    topic: str
    rows: int
    rejects: int
    ends: int
    lost: int


def topic_reader(settings: KafkaSettings) -> TopicReader:
    """Return a reader for `sink` and `offsets_behind`."""
    return TopicReader(settings, fetch_bytes=FETCH_BYTES, skips_lost=False)


def sink(lake: Lake, reader: TopicReader, topic: str) -> SinkReport:
    """Take all committed records of a topic that the lake lacks, each once.

    A killed sink is continued by the next sink. After the topic was made anew, the offsets begin anew too: the records
    get the next generation, and the older generations stay.

    Raises:
        Occupied: another sink is at work.
        NotRead: the broker does not answer, or has no such topic.
        ValueError: the topic ends before the lake's records of the same topic: the broker has lost records.
        OSError: the lake cannot be written.
    """
    with writing_manifest(lake, topic) as writer:
        before = writer.manifest
        spans = {partition: reader.span(topic, partition) for partition in reader.partitions(topic)}
        manifest = _generation_of(before, reader.topic_id(topic))
        for partition, (_, end) in spans.items():
            if end < manifest.next.get(partition, 0):
                raise ValueError(
                    f"{topic}[{partition}] ends at offset {end}, but the lake holds records to offset "
                    f"{manifest.next[partition]}: the broker has lost records, or is another broker. If the broker "
                    f"does not find them again, move the folder {folder_of(topic)} of the lake away"
                )
        taking = _Taking(writer, manifest)
        for partition, (low, end) in spans.items():
            taking.read(reader, partition, low, end)
        done = taking.manifest
    files = {file.path for file in before.files}
    rows = sum(file.rows for file in done.files if file.product_id is not None and file.path not in files)
    lost = sum(hole.last - hole.first + 1 for hole in done.holes[len(before.holes) :])
    return SinkReport(topic, rows, done.rejects - before.rejects, done.ends - before.ends, lost)


def _generation_of(manifest: Manifest, topic_id: str) -> Manifest:
    """Return the manifest for a topic's id: of the next generation if the topic was made anew."""
    if manifest.topic_id and topic_id and manifest.topic_id != topic_id:
        log.warning("the topic was made anew", topic=manifest.topic, generation=manifest.generation + 1)
        manifest = msgspec.structs.replace(manifest, generation=manifest.generation + 1, next={}, open_streams=[])
    return msgspec.structs.replace(manifest, topic_id=topic_id or manifest.topic_id)


class _Taking:
    """A reading of a topic's partitions, one after the other.

    Attributes:
        manifest: the published manifest, or the manifest to publish next.
    """

    def __init__(self, writer: ManifestWriter, manifest: Manifest) -> None:
        self._writer, self.manifest = writer, manifest
        self._open = OpenStreams(manifest.topic, manifest.open_streams)
        self._waiting: dict[RowsKey, list[Rows]] = {}
        self._count = self._bytes = self._rejects = self._ends = 0

    def read(self, reader: TopicReader, partition: int, low: int, end: int) -> None:
        """Take the records of a partition up to, not with, offset `end`; `low` is the oldest that the broker holds."""
        topic, generation = self.manifest.topic, self.manifest.generation
        start = self.manifest.next.get(partition, 0)
        if start < low:
            log.warning("records were lost before the sink read them", topic=topic, partition=partition,
                        first=start, last=low - 1)  # fmt: skip
            hole = Hole(generation, partition, start, low - 1)
            self.manifest = msgspec.structs.replace(self.manifest, holes=[*self.manifest.holes, hole])
        start = max(start, low)
        for block in reader.read(topic, partition, start, end):
            found = block_rows(topic, block, generation, partition, self._open)
            for key, rows in found.rows.items():
                self._waiting.setdefault(key, []).append(rows)
                self._bytes += rows.batch.nbytes
            self._rejects += found.rejects
            self._ends += found.ends
            self._count += len(block.offsets)
            if self._count >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES:
                self._flush(partition, block.offsets[-1] + 1)
        # Behind the last record, there may be markers of transactions.
        if self.manifest.next.get(partition) != max(start, end):
            self._flush(partition, max(start, end))

    def _flush(self, partition: int, following: int) -> None:
        """Write the waiting rows, and publish the manifest with them."""
        files = [self._write(key, parts) for key, parts in self._waiting.items()]
        manifest = msgspec.structs.replace(
            self.manifest,
            next=self.manifest.next | {partition: following},
            files=self.manifest.files + files,
            open_streams=self._open.sorted(),
            rejects=self.manifest.rejects + self._rejects,
            ends=self.manifest.ends + self._ends,
        )
        self._writer.publish(manifest)
        self.manifest = manifest
        self._waiting = {}
        self._count = self._bytes = self._rejects = self._ends = 0

    def _write(self, key: RowsKey, parts: list[Rows]) -> ServedFile:
        """Write a file, and return the file's entry in the manifest."""
        is_rows = key.product_id is not None
        offsets = pa.chunked_array([part.batch["record_offset"] for part in parts])
        first, last = offsets[0].as_py(), offsets[-1].as_py()
        path = path_of(self.manifest.topic, key, first, last)
        schema = columns_of(self.manifest.topic) if is_rows else OTHERS
        with rows_to(self._writer.lake.objects, path, schema) as file:
            for part in parts:
                file.write(part.batch)
        times = pa.chunked_array([part.batch["event_time"].cast(pa.int64()) for part in parts]) if is_rows else None
        bounds = pa.compute.min_max(times) if times is not None else {}
        sources: dict[str, Purpose] = {}
        for part in parts:
            sources |= part.sources
        return ServedFile(
            path=path,
            **key._asdict(),
            first=first,
            last=last,
            rows=len(offsets),
            begin=bounds["min"].as_py() if bounds else 0,
            end=bounds["max"].as_py() if bounds else 0,
            ingest_time=max(part.ingest_time for part in parts),
            sources=sources,
        )


def path_of(topic: str, key: RowsKey, first: int, last: int) -> str:
    """Return the path of a file below the root of the lake.

    >>> from datetime import date
    >>> path_of("features", RowsKey(0, 9, "BTC-USD", date(2025, 1, 6)), 0, 41)
    'served/features/0/9/BTC-USD/2025-01-06/0-41.parquet'
    """
    rows = "others" if key.product_id is None or key.day is None else f"{key.product_id}/{key.day.isoformat()}"
    return f"{folder_of(topic)}/{key.generation}/{key.partition}/{rows}/{first}-{last}.parquet"


def offsets_behind(lake: Lake, reader: TopicReader, topics: Iterable[str] = SERVED_TOPICS) -> dict[str, int]:
    """Return the number of offsets of each topic that the lake has not read yet.

    Raises:
        NotRead: the broker does not answer, or lacks a topic.
        ValueError: see `read_manifest`.
    """
    behind = {}
    for topic in topics:
        ends = {partition: reader.span(topic, partition)[1] for partition in reader.partitions(topic)}
        manifest = _generation_of(read_manifest(lake, topic), reader.topic_id(topic))
        behind[topic] = sum(max(0, end - manifest.next.get(partition, 0)) for partition, end in ends.items())
    return behind


def sink_figures(behind: Mapping[str, int]) -> list[Figure]:
    """Return the figures of `offsets_behind`, found now."""
    return [
        Figure("sink_offsets_behind", {"topic": topic}, float(count), time.time_ns()) for topic, count in behind.items()
    ]
