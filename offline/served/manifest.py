"""The manifest of a topic in the lake: one JSON file that names all files of the topic's records.

The manifest is replaced atomically, after its files are whole. So a reader of the manifest sees each record once,
whatever was killed; a file without a name in the manifest is garbage, and is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import NamedTuple

import msgspec
from msgspec import Struct

from data.stream.records import Purpose
from offline.lake.store import Lake, Occupied

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
            time: the largest event time of a stream so far.
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


class OpenStream(Struct, frozen=True):
    """A product of a source without an end record so far.

    Attributes:
        last_time: largest event time, ns since 1970.
    """

    source_id: str
    product_id: str
    last_time: int


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


def _decoded(lake: Lake, topic: str) -> tuple[Manifest, bytes | None]:
    path = f"{folder_of(topic)}/manifest.json"
    content = lake.read_bytes(path)
    if content is None:
        return Manifest(topic=topic), None
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        if manifest.format != FORMAT:
            raise ValueError(f"its format is {manifest.format}, this release reads {FORMAT}")
    except ValueError as error:  # also msgspec's errors
        raise ValueError(
            f"{path} of the lake cannot be read ({error}): move the folder {folder_of(topic)} away; the next sink then "
            "reads the topic again from its oldest record"
        ) from None
    return manifest, content


class ManifestWriter:
    """Writer of a topic's manifest.

    Attributes:
        manifest: the published manifest.
    """

    def __init__(self, lake: Lake, topic: str) -> None:
        self.lake = lake
        self._folder = folder_of(topic)
        self.manifest, self._content = _decoded(lake, topic)

    def publish(self, manifest: Manifest) -> None:
        """Replace the manifest, and remove the files that only the manifest before named.

        Raises:
            Occupied: another process replaced the manifest meanwhile. Without locks, the check leaves a moment open.
            OSError: the manifest cannot be written; the manifest before stays.
        """
        path = f"{self._folder}/manifest.json"
        if self.lake.read_bytes(path) != self._content:
            raise Occupied(f"another sink has replaced {path} meanwhile: run one sink at a time, and this again")
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        self.lake.replace_bytes(path, content)
        dropped = {file.path for file in self.manifest.files} - {file.path for file in manifest.files}
        self.manifest, self._content = manifest, content
        for each in dropped:
            self.lake.delete_file(each)

    def remove_garbage(self) -> int:
        """Remove the files without a name in the manifest, and return their number."""
        named = {file.path for file in self.manifest.files}
        garbage = {
            path for path in self.lake.paths(self._folder) if path.endswith((".parquet", ".part")) and path not in named
        }
        for path in garbage:
            self.lake.delete_file(path)
        return len(garbage)


@contextmanager
def writing_manifest(lake: Lake, topic: str) -> Iterator[ManifestWriter]:
    """Hold the manifest of a topic for writing, without garbage.

    Raises:
        Occupied: another sink runs. Only a lake in a local folder knows at once.
        ValueError: see `read_manifest`.
    """
    with lake.locked(f"{folder_of(topic)}/.lock"):
        writer = ManifestWriter(lake, topic)
        writer.remove_garbage()
        yield writer
