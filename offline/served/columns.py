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
from data.features.admission import MAX_FALL_S, NEW_STREAM, RESTARTED, Admission, StreamState, is_taken
from data.features.spec import FeatureSpec
from data.stream.codec import decode_records, streams_of
from data.stream.export import schema_of
from data.stream.reader import RecordBlock
from data.stream.records import FEATURES, PREDICTIONS, TRADES, Purpose, record_types
from data.times import DAY_S, NS, to_datetime
from data.trades import StreamKey
from offline.served.manifest import OpenStream, RowsKey

SERVED_TOPICS = (TRADES, FEATURES, PREDICTIONS)
"""Topics that the lake keeps."""

_PLACE = [("generation", pa.int32()), ("record_partition", pa.int32()), ("record_offset", pa.int64())]
OTHERS = pa.schema([*_PLACE, ("reason", pa.string()), ("value", pa.binary())])
"""Columns of end records, whose reason is null, and of rejects. The first `MAX_VALUE` bytes of a record are kept."""
OTHERS_ROWS = 512
"""Rows of `OTHERS` that are read at once: up to 8 MB."""

IS_TAKEN = "is_taken"
"""Column of `coinbase-trades`: the forecaster takes the trade. Null in files of earlier releases."""


@cache
def columns_of(topic: str) -> pa.Schema:
    """Return the columns of a topic: the record's place on the topic, the record's fields, and of trades `IS_TAKEN`."""
    fields = schema_of(record_types(FeatureSpec())[topic])
    texts = (field.with_type(NAMES) if pa.types.is_string(field.type) else field for field in fields)
    return pa.schema([*_PLACE, *texts, *([(IS_TAKEN, pa.bool_())] if topic == TRADES else [])])


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


class Counted(NamedTuple):
    """Counted time of a record, ns since 1970, and whether the forecaster takes the trade; other records are taken."""

    time: int
    is_taken: bool


class OpenStreams:
    """The streams of a topic without an end record so far: counts the time of each record, and judges each trade.

    A trade that the forecaster rejects counts at the time of the last taken trade. Other records are of taken trades:
    where their time falls, the stream has started anew.
    """

    def __init__(self, topic: str, known: Sequence[OpenStream]) -> None:
        self._is_of_trades = topic == TRADES
        self._admission = Admission()
        for each in known:
            state = StreamState(each.last_id, each.last_time, each.memory)
            self._admission.states[StreamKey(each.source_id, each.product_id)] = state

    def sorted(self) -> list[OpenStream]:
        """Return the open streams, sorted by source and product."""
        states = sorted(self._admission.states.items())
        return [OpenStream(*key, state.last_time, state.last_id, state.memory) for key, state in states]

    def end(self, key: StreamKey) -> None:
        """Forget a stream that has ended."""
        self._admission.states.pop(key, None)

    def count(self, records: Sequence[Any]) -> list[Counted]:
        """Return the counted time of the next records without an end among them."""
        keys = [StreamKey(record.source_id, record.product_id) for record in records]
        if not self._is_of_trades:
            return [self._count_row(key, record.event_time) for key, record in zip(keys, records, strict=True)]
        states = self._admission.states
        last = {key: states.get(key, NEW_STREAM).last_time for key in keys}
        index = {key: i for i, key in enumerate(last)}
        stream = np.array([index[key] for key in keys], np.int32)
        ids, times = (np.array([getattr(r, name) for r in records], np.int64) for name in ("trade_id", "event_time"))
        status = self._admission.judge_columns(list(index), stream, ids, times)
        counted = []
        rows = zip(keys, times.tolist(), is_taken(status).tolist(), (status == RESTARTED).tolist(), strict=True)
        for key, time, taken, restarted in rows:
            if taken:
                last[key] = time if restarted else max(last[key], time)
            counted.append(Counted(last[key], taken))
        return counted

    def _count_row(self, key: StreamKey, time: int) -> Counted:
        state = self._admission.states.get(key, NEW_STREAM)
        if time >= state.last_time - MAX_FALL_S * NS:
            time = max(time, state.last_time)
        self._admission.states[key] = state._replace(last_time=time)
        return Counted(time, True)


def block_rows(topic: str, block: RecordBlock, generation: int, partition: int, open_streams: OpenStreams) -> BlockRows:
    """Sort the records of a block by product and day.

    Args:
        open_streams: of the topic; changed in place.
    """
    # A record with an invalid name, which could not be in a path, becomes unreadable.
    found, _ = streams_of(decode_records(block.values, _decoder(topic)))
    records, ends = dict(zip(found.places, found.records, strict=True)), dict(found.ends)
    counted: dict[int, Counted] = {}
    waiting: list[int] = []
    for place in sorted([*records, *ends]):
        if place not in ends:
            waiting.append(place)
            continue
        counted |= zip(waiting, open_streams.count([records[each] for each in waiting]), strict=True)
        waiting = []
        open_streams.end(ends[place].key)
    counted |= zip(waiting, open_streams.count([records[each] for each in waiting]), strict=True)
    places: dict[RowsKey, list[int]] = {}
    days: dict[int, date] = {}
    for place, (time, _) in counted.items():
        number = time // (DAY_S * NS)
        day = days.get(number) or days.setdefault(number, to_datetime(time).date())
        places.setdefault(RowsKey(generation, partition, records[place].product_id, day), []).append(place)
    rows = {
        key: _rows(
            topic,
            key,
            [block.offsets[place] for place in mine],
            [records[place] for place in mine],
            [counted[place].is_taken for place in mine],
        )
        for key, mine in places.items()
    }
    if others := sorted([*((place, None) for place in ends), *found.unreadable]):
        key = RowsKey(generation, partition, None, None)
        rows[key] = _others(key, block, others)
    return BlockRows(rows, len(found.unreadable), len(ends))


def _rows(topic: str, key: RowsKey, offsets: list[int], records: list[Any], taken: list[bool]) -> Rows:
    schema = columns_of(topic)
    columns = _place_columns(key, offsets)
    for field in list(schema)[len(_PLACE) :]:
        values = taken if field.name == IS_TAKEN else list(map(attrgetter(field.name), records))
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
