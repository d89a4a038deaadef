"""Records of a topic as rows of a table.

Rows have the fields of the topic's main records. End records and rejects, which lack these fields, are kept as they
came, in files of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from data.arrow import NAMES, column_of
from data.features.spec import FeatureSpec
from data.stream.codec import decode_records, streams_of
from data.stream.export import schema_of
from data.stream.reader import RecordBlock
from data.stream.records import FEATURES, PREDICTIONS, TRADES, Purpose, record_types
from data.times import DAY_S, NS, to_datetime
from data.trades import StreamKey
from offline.served.manifest import RowsKey

SERVED_TOPICS = (TRADES, FEATURES, PREDICTIONS)
"""Topics that the lake keeps."""

_PLACE = [("generation", pa.int32()), ("record_partition", pa.int32()), ("record_offset", pa.int64())]
OTHERS = pa.schema([*_PLACE, ("reason", pa.string()), ("value", pa.binary())])
"""Columns of end records, whose reason is null, and of rejects. The first `MAX_VALUE` bytes of a record are kept."""


@cache
def columns_of(topic: str) -> pa.Schema:
    """Return the columns of a topic: the place of the record on the topic, then the fields of the record."""
    fields = schema_of(record_types(FeatureSpec())[topic])
    texts = (field.with_type(NAMES) if pa.types.is_string(field.type) else field for field in fields)
    return pa.schema([*_PLACE, *texts])


@cache
def _decoder(topic: str) -> Any:
    return msgspec.json.Decoder(record_types(FeatureSpec())[topic]).decode


class Rows(NamedTuple):
    """Rows of one key, in the order of their offsets.

    Attributes:
        ingest_time: the newest, ns since 1970.
    """

    batch: pa.RecordBatch
    sources: dict[str, Purpose]
    ingest_time: int


class BlockRows(NamedTuple):
    """The records of a block, sorted by key; each record is in one of the rows.

    Attributes:
        rejects, ends: numbers of records.
    """

    rows: dict[RowsKey, Rows]
    rejects: int
    ends: int


def block_rows(
    topic: str, block: RecordBlock, generation: int, partition: int, open_streams: dict[StreamKey, int]
) -> BlockRows:
    """Sort the records of a block by product and day.

    Args:
        open_streams: largest event time of each stream without an end; changed in place.
    """
    # A record with an invalid name, which could not be in a path, becomes unreadable.
    found, _ = streams_of(decode_records(block.values, _decoder(topic)))
    records, ends = dict(zip(found.places, found.records, strict=True)), dict(found.ends)
    places: dict[RowsKey, list[int]] = {}
    days: dict[int, date] = {}
    for place in sorted([*records, *ends]):
        if place in ends:
            open_streams.pop(ends[place].key, None)
            continue
        record = records[place]
        stream = StreamKey(record.source_id, record.product_id)
        counted = open_streams[stream] = max(open_streams.get(stream, 0), record.event_time)
        number = counted // (DAY_S * NS)
        day = days.get(number) or days.setdefault(number, to_datetime(counted).date())
        places.setdefault(RowsKey(generation, partition, stream.product_id, day), []).append(place)
    rows = {
        key: _rows(topic, key, [block.offsets[place] for place in mine], [records[place] for place in mine])
        for key, mine in places.items()
    }
    if others := sorted([*((place, None) for place in ends), *found.unreadable]):
        key = RowsKey(generation, partition, None, None)
        rows[key] = _others(key, block, others)
    return BlockRows(rows, len(found.unreadable), len(ends))


def _rows(topic: str, key: RowsKey, offsets: list[int], records: list[Any]) -> Rows:
    schema = columns_of(topic)
    columns = _place_columns(key, offsets)
    for field in list(schema)[len(_PLACE) :]:
        values = list(map(attrgetter(field.name), records))
        if field.name == "shadow":
            values = msgspec.to_builtins(values)
        if field.type == NAMES:
            columns.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            columns.append(pa.array(values, field.type))
    sources = {record.source_id: record.purpose for record in records}
    return Rows(
        pa.RecordBatch.from_arrays(columns, schema=schema),
        sources,
        max(record.ingest_time for record in records),
    )


def _others(key: RowsKey, block: RecordBlock, found: Sequence[tuple[int, str | None]]) -> Rows:
    places = [place for place, _ in found]
    columns = [
        *_place_columns(key, [block.offsets[place] for place in places]),
        pa.array([reason for _, reason in found], pa.string()),
        pa.array([block.values[place] for place in places], pa.binary()),
    ]
    return Rows(pa.RecordBatch.from_arrays(columns, schema=OTHERS), {}, 0)


def _place_columns(key: RowsKey, offsets: list[int]) -> list[pa.Array]:
    n = len(offsets)
    return [
        column_of(np.full(n, key.generation, np.int32), pa.int32()),
        column_of(np.full(n, key.partition, np.int32), pa.int32()),
        column_of(np.array(offsets, np.int64), pa.int64()),
    ]
