"""The manifest of a topic in the lake: one JSON file that names all files of the topic's records.

The manifest is replaced after its files are whole, by a put with the version that the writer has read. So a reader of
the manifest sees each record once, whatever was killed, and of two writers one is refused. A file without a name in the
manifest is garbage, and is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import NamedTuple

import msgspec
from msgspec import Struct

from data.features.admission import AGREEING, LEAP_ROWS, LEAP_TIME, NEW_STREAM, REJECT_TIME, REJECTS
from data.stream.records import Purpose
from offline.lake.objects import Changed
from offline.lake.store import Lake
from offline.locks.lease import Occupied, leased

SERVED = "served"
"""Folder of the topics in the lake."""
FORMAT = 1
"""Raise this number when a manifest gets another meaning."""


class RowsKey(NamedTuple):
    """What the rows of one file have in common.

    Attributes:
        generation: how often the topic was made anew.
        partition: of the topic.
        product_id, day: None for end records and rejects, see `offline.served.columns`. The day is UTC, of the counted
            time: the largest event time of a stream since the stream's last restart.
    """

    generation: int
    partition: int
    product_id: str | None
    day: date | None


class ServedFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of records.

    Attributes:
        path: below the root of the lake.
        generation, partition, product_id, day: see `RowsKey`.
        first, last: first and last offset of the file's records.
        begin, end: smallest and largest event time, ns since 1970; 0 without event times.
        ingest_time: newest `ingest_time`, ns since 1970; 0 without.
        sources: purpose of each source.
        parts: number of files that were merged to this file; above 1, the range of offsets is compacted.
    """

    path: str
    generation: int
    partition: int
    product_id: str | None = None
    day: date | None = None
    first: int
    last: int
    rows: int
    begin: int = 0
    end: int = 0
    ingest_time: int = 0
    sources: dict[str, Purpose] = {}
    parts: int = 1

    @property
    def key(self) -> RowsKey:
        return RowsKey(self.generation, self.partition, self.product_id, self.day)


class Hole(Struct, frozen=True):
    """Offsets that the broker's retention removed before the sink read them.

    Attributes:
        first, last: first and last missing offset.
    """

    generation: int
    partition: int
    first: int
    last: int


class Gone(Struct, frozen=True):
    """Rows of a product in a partition that were removed for their age.

    Attributes:
        last: the last removed offset; older rows of the product may be there or not.
        rows: number of removed rows.
    """

    generation: int
    partition: int
    product_id: str
    last: int
    rows: int


class OpenStream(Struct, frozen=True, omit_defaults=True):
    """A product of a source without an end record so far, with the state of the judging of its trades.

    Attributes:
        last_time: counted time, ns since 1970: the largest event time since the stream's last restart.
        last_id, memory: of trades, see `StreamState`; unknown in manifests of earlier releases.
    """

    source_id: str
    product_id: str
    last_time: int
    last_id: int = NEW_STREAM.last_id
    memory: tuple[int, ...] = NEW_STREAM.memory

    @property
    def open_times(self) -> list[int]:
        """Return the times at which later trades may go on, ns since 1970: a leap or rejects may lead to a restart."""
        times = [self.last_time]
        if self.memory[LEAP_ROWS] < AGREEING:
            times.append(self.memory[LEAP_TIME])
        if self.memory[REJECTS]:
            times.append(self.memory[REJECT_TIME])
        return times


class Manifest(Struct, frozen=True, kw_only=True):
    """The records of a topic in the lake.

    Attributes:
        topic_id: id of the topic; empty if the broker knows no ids.
        generation: how often the topic was made anew since the first reading.
        next: by partition, the first offset that was not read.
        files: the files of all records below `next`, but for the removed records.
        holes: the offsets below `next` that were lost.
        open_streams: streams of the current generation.
        rejects, ends: numbers of unreadable records and of end records, of all generations.
        removed: number of records that were removed for their age, see `offline.served.retention`.
        gone: the removed records, one entry for each generation, partition and product. Manifests of earlier releases
            counted the records alone.
        cleanings: how often garbage was removed.
    """

    format: int = FORMAT
    topic: str
    topic_id: str = ""
    generation: int = 0
    next: dict[int, int] = {}
    files: list[ServedFile] = []
    holes: list[Hole] = []
    open_streams: list[OpenStream] = []
    rejects: int = 0
    ends: int = 0
    removed: int = 0
    gone: list[Gone] = []
    cleanings: int = 0

    def files_by_key(self) -> dict[RowsKey, list[ServedFile]]:
        """Return the files of each key in the order of their offsets."""
        found: dict[RowsKey, list[ServedFile]] = {}
        for file in sorted(self.files, key=lambda file: (file.generation, file.partition, file.first)):
            found.setdefault(file.key, []).append(file)
        return found


def folder_of(topic: str) -> str:
    """Return the folder of a topic below the root of the lake.

    >>> folder_of("features")
    'served/features'
    """
    return f"{SERVED}/{topic}"


def read_manifest(lake: Lake, topic: str) -> Manifest:
    """Return the manifest of a topic; an empty manifest if the lake has none.

    Raises:
        ValueError: the manifest is damaged, or of another release.
    """
    return _decoded(lake, topic)[0]


def _decoded(lake: Lake, topic: str) -> tuple[Manifest, str | None]:
    """Return the manifest of a topic, and the version of the manifest's object; None without an object."""
    path = _path_of(topic)
    held = lake.objects.get(path)
    if held is None:
        return Manifest(topic=topic), None
    try:
        manifest = msgspec.json.decode(held.content, type=Manifest)
        if manifest.format != FORMAT:
            raise ValueError(f"its format is {manifest.format}, this release reads {FORMAT}")
    except ValueError as error:  # also msgspec's errors
        raise ValueError(
            f"{path} of the lake cannot be read ({error}): move the folder {folder_of(topic)} away; the next sink then "
            "reads the topic again from its oldest record"
        ) from None
    return manifest, held.version


def _path_of(topic: str) -> str:
    return f"{folder_of(topic)}/manifest.json"


class ManifestWriter:
    """Writer of a topic's manifest.

    Attributes:
        manifest: the published manifest.
    """

    def __init__(self, lake: Lake, topic: str) -> None:
        self.lake = lake
        self._topic = topic
        self.manifest, self._version = _decoded(lake, topic)

    def publish(self, manifest: Manifest) -> None:
        """Replace the manifest, and remove the files that only the manifest before named.

        Raises:
            Occupied: another process replaced the manifest meanwhile.
            OSError: the manifest cannot be written; the manifest before stays.
        """
        path = _path_of(self._topic)
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        try:
            self._version = self.lake.objects.put(path, content, self._version)
        except Changed:
            raise Occupied(
                f"another sink has replaced {path} meanwhile: run one sink at a time, and this again"
            ) from None
        dropped = {file.path for file in self.manifest.files} - {file.path for file in manifest.files}
        self.manifest = manifest
        for each in dropped:
            self.lake.objects.delete(each)

    def remove_garbage(self) -> int:
        """Remove the files without a name in the manifest, and return their number.

        The manifest is put first: a sink that lost its lock, and has written one of the files, cannot name it any more.
        """
        named = {file.path for file in self.manifest.files}
        garbage = [
            path
            for path in self.lake.objects.paths(folder_of(self._topic))
            if path.endswith(".parquet") and path not in named
        ]
        if garbage:
            self.publish(msgspec.structs.replace(self.manifest, cleanings=self.manifest.cleanings + 1))
        for path in garbage:
            self.lake.objects.delete(path)
        return len(garbage)


@contextmanager
def writing_manifest(lake: Lake, topic: str) -> Iterator[ManifestWriter]:
    """Hold the manifest of a topic for writing, without garbage.

    Raises:
        Occupied: another sink runs.
        ValueError: see `read_manifest`.
    """
    with leased(lake.objects, f"{folder_of(topic)}/lock.json") as lease:
        writer = ManifestWriter(lake, topic)
        if not lease.is_clean:  # else there is no garbage, and no need to list all files
            writer.remove_garbage()
        yield writer
