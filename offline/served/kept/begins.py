"""Keep in the lake where each source begins, and the ingestor's note on the recordings.

The broker keeps both with the offsets of the source's group, and forgets them with the group. The lake keeps both as
long as its records of the source.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from data.settings import KafkaSettings
from data.stream.origin import group_of
from data.stream.reader import TopicReader
from data.stream.records import PARTITIONS, TRADES
from offline.lake.objects import ANY
from offline.lake.store import Lake
from offline.served.manifest import SERVED, read_manifest

BEGINS = f"{SERVED}/begins"
"""Folder of the beginnings below the root of a lake; a file for each source."""


class Begin(Struct, frozen=True):
    """Begin of a source on `coinbase-trades`.

    Attributes:
        offsets: first offset by partition; empty if the broker knew none.
        note: the ingestor's note, see `data.stream.origin`; empty if the broker had none.
    """

    source_id: str
    offsets: dict[int, int]
    note: str


def keep_begins(lake: Lake, settings: KafkaSettings) -> None:
    """Write the beginnings of new and of open sources into the lake.

    An open source is asked for again, as a resumed replay may have written another note.

    Raises:
        NotRead: the broker does not answer.
        OSError: the lake cannot be written.
    """
    manifest = read_manifest(lake, TRADES)
    now = {source for file in manifest.files if file.generation == manifest.generation for source in file.sources}
    are_open = {each.source_id for each in manifest.open_streams}
    kept = set(lake.objects.paths(BEGINS))
    for source_id in sorted(source for source in now if source in are_open or _path_of(source) not in kept):
        with TopicReader(settings, group_of(source_id)) as reader:
            found = reader.committed(TRADES, range(PARTITIONS))
        note = next((note for _, note in found.values() if note), "")
        begin = Begin(source_id, {partition: offset for partition, (offset, _) in found.items()}, note)
        if begin != read_begin(lake, source_id) and (begin.offsets or _path_of(source_id) not in kept):
            lake.objects.put(_path_of(source_id), msgspec.json.encode(begin), ANY)


def read_begin(lake: Lake, source_id: str) -> Begin:
    """Return the begin of a source; without offsets and note if the lake has none.

    Raises:
        ValueError: the file is damaged.
    """
    held = lake.objects.get(_path_of(source_id))
    if held is None:
        return Begin(source_id, {}, "")
    try:
        return msgspec.json.decode(held.content, type=Begin)
    except msgspec.DecodeError as error:
        raise ValueError(f"{lake.objects.where(_path_of(source_id))} cannot be read ({error}): remove it") from None


def _path_of(source_id: str) -> str:
    return f"{BEGINS}/{source_id}.json"
