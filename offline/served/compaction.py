"""Merge the files of a closed day of a product to one file."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from data.stream.records import Purpose
from data.times import NS, to_datetime
from offline.lake.parquet import READ_ROWS
from offline.lake.store import Lake
from offline.served.columns import OTHERS, OTHERS_ROWS, columns_of
from offline.served.files import row_batches, rows_to
from offline.served.manifest import Manifest, ManifestWriter, RowsKey, ServedFile, read_manifest, writing_manifest
from offline.served.sink import path_of

QUIET_S = 3_600
"""A day is closed when the day has ended, and for as many seconds no record of the day was published."""
MANY_OTHERS = 32
"""Files of end records and rejects of one partition before they are merged, too."""


def compact(lake: Lake, topic: str, now_ns: int) -> int:
    """Merge the files of each closed product-day of a topic, sorted by offset; return the number of merged days.

    A day that gets records again, as by a second replay, is merged again later.

    Args:
        now_ns: wall time, ns since 1970.

    Raises:
        Occupied, ValueError, OSError: see `offline.served.sink.sink`.
    """
    if not mergeable(read_manifest(lake, topic), now_ns):
        return 0
    with writing_manifest(lake, topic) as writer:
        todo = mergeable(writer.manifest, now_ns)
        for files in todo:
            _merge(writer, topic, files)
    return len(todo)


def mergeable(manifest: Manifest, now_ns: int) -> list[list[ServedFile]]:
    """Return the files of each key that can be merged, in the order of their offsets."""
    return [files for key, files in manifest.files_by_key().items() if _is_mergeable(key, files, now_ns)]


def _is_mergeable(key: RowsKey, files: Sequence[ServedFile], now_ns: int) -> bool:
    if key.day is None:
        return len(files) >= MANY_OTHERS
    is_over = key.day < to_datetime(now_ns).date()
    newest = max(file.ingest_time for file in files)
    return len(files) > 1 and is_over and now_ns - newest > QUIET_S * NS


def _merge(writer: ManifestWriter, topic: str, files: Sequence[ServedFile]) -> None:
    """Write one file for several, and publish the manifest with it."""
    key, first, last = files[0].key, files[0].first, files[-1].last
    path = path_of(topic, key, first, last)
    objects = writer.lake.objects
    schema, rows = (OTHERS, OTHERS_ROWS) if key.day is None else (columns_of(topic), READ_ROWS)
    with rows_to(objects, path, schema) as merged:
        for file in files:
            for batch in row_batches(objects, file.path, schema, rows):
                merged.write(batch)
    sources: dict[str, Purpose] = {}
    for file in files:
        sources |= file.sources
    one = ServedFile(
        path=path,
        **key._asdict(),
        first=first,
        last=last,
        rows=sum(file.rows for file in files),
        begin=min(file.begin for file in files),
        end=max(file.end for file in files),
        ingest_time=max(file.ingest_time for file in files),
        sources=sources,
        parts=sum(file.parts for file in files),
    )
    gone = {file.path for file in files}
    kept = [file for file in writer.manifest.files if file.path not in gone]
    writer.publish(msgspec.structs.replace(writer.manifest, files=[*kept, one]))
