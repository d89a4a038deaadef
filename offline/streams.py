"""One stream as it stands on the topics: forecasts that are asked for, and the trades up to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data.admission import TAKEN, Admission
from data.topic_reader import TopicReader
from data.topics import PARTITIONS, PREDICTIONS, TRADES, Purpose, decode_records, decode_trades, partition_of
from data.trades import Int64s, StreamKey, Trades

SHOWN = 20
"""Of sources and products, where a forecast is not found."""


class NotFound(LookupError):
    """There is no such forecast. The message says what there is."""


class BadRecord(ValueError):
    """A forecast that is asked for is there and cannot be read. The message says where it stands, and why."""

    def __init__(self, partition: int, offset: int, reason: object) -> None:
        super().__init__(f"{PREDICTIONS}[{partition}]@{offset} cannot be read: {reason}")


@dataclass
class Forecasts:
    """Forecasts of one stream.

    Attributes:
        records: those that were asked for, with their offsets, by trade id.
        first_trade: offset of the trade of the stream's first forecast on the topic.
        ids: trade ids of the first and the last forecast that were read.
        count: how many were read.
    """

    records: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    first_trade: int = 0
    ids: tuple[int, int] = (0, 0)
    count: int = 0


class Stream(NamedTuple):
    """A stream's trades on the topic, up to the newest that is asked for, and its forecasts.

    Attributes:
        partition: of all topics.
        forecasts: by trade id, with their offsets.
        trades: those that stand on the topic, taken or not.
        offsets: shape (n,).
        is_taken: shape (n,).
        purposes: what the records of the trades whose forecasts are asked for say, by offset.
        ends: offsets of its end records.
        oldest: the first offset that the partition still holds.
        is_whole: no trade of it has expired.
        note: what the ingestor says of its recordings; empty where it said nothing.
    """

    partition: int
    forecasts: dict[int, tuple[int, bytes]]
    trades: Trades
    offsets: Int64s
    is_taken: NDArray[np.bool_]
    purposes: dict[int, Purpose]
    ends: list[int]
    oldest: int
    is_whole: bool
    note: str


class _Glance(Struct, frozen=True, gc=False):
    """What tells which forecast a record is."""

    source_id: str
    product_id: str
    trade_id: int
    kafka_offset: int


class _Name(Struct, frozen=True, gc=False):
    """What names a forecast, where the rest of its record may be anything."""

    source_id: str
    product_id: str
    trade_id: int


def read_stream(reader: TopicReader, key: StreamKey, trade_ids: set[int]) -> Stream:
    """Read what forecasts of one stream were made from.

    Args:
        reader: of the group in which the ingestor has noted where the source begins.
        trade_ids: whose forecasts are asked for, at least one.

    Raises:
        NotFound: there is no forecast of one of these trades.
        BadRecord: one of them does not say which trade it is of.
        NotRead: the broker does not answer.
    """
    begin = reader.committed(TRADES, range(PARTITIONS))
    partition = partition_of(key.product_id)
    forecasts, is_whole = _find_forecasts(reader, key, partition, begin, trade_ids)
    if not forecasts.count:  # written by somebody who chooses partitions otherwise, or not there at all
        there = _streams(reader)
        if key not in there:
            raise NotFound(_nothing(key, there))
        partition = there[key]
        forecasts, is_whole = _find_forecasts(reader, key, partition, begin, trade_ids)
    if absent := sorted(trade_ids - set(forecasts.records)):
        first, last = forecasts.ids
        raise NotFound(
            f"source {key.source_id} has no forecast of {key.product_id} trade {', '.join(map(str, absent[:5]))}; "
            f"it has {forecasts.count:,} forecasts of it, from trade {first} to {last}"
        )
    oldest, newest = reader.span(TRADES, partition)
    decode = msgspec.json.Decoder(_Glance).decode
    wanted = {decode(value).kafka_offset for _, value in forecasts.records.values()}
    last_trade = max(wanted)
    parts, offsets, ends = [decode_trades([]).trades], [np.zeros(0, np.int64)], []
    purposes: dict[int, Purpose] = {}
    start = max(begin.get(partition, (0, ""))[0], oldest)
    for places, values in _of_source(reader, TRADES, partition, start, min(last_trade + 1, newest), key.source_id):
        found = decode_trades(values)
        ends += [places[place] for place, end in found.ends if end.key == key]
        asked = (
            (place, decode_trades([value])) for place, value in zip(places, values, strict=True) if place in wanted
        )
        purposes |= {place: one.purposes[key] for place, one in asked if key in one.purposes}
        if key in found.trades.keys:
            at = np.array(places, np.int64)[found.places]
            mine = (found.trades.stream == found.trades.keys.index(key)) & (at >= forecasts.first_trade)
            parts.append(replace(found.trades.take(mine), keys=(key,), stream=np.zeros(int(mine.sum()), np.int32)))
            offsets.append(at[mine])
    trades, offset = Trades.join(parts), np.concatenate(offsets)
    life = np.searchsorted(ends, offset)  # what comes after an end starts anew
    is_taken = np.zeros(len(trades), np.bool_)
    for each in np.unique(life):
        is_taken[life == each] = Admission().judge(trades.take(life == each)) == TAKEN
    note = next((note for _, note in begin.values() if note), "")
    return Stream(partition, forecasts.records, trades, offset, is_taken, purposes, ends, oldest, is_whole, note)


def _find_forecasts(
    reader: TopicReader, key: StreamKey, partition: int, begin: dict[int, tuple[int, str]], trade_ids: set[int]
) -> tuple[Forecasts, bool]:
    """Return forecasts of a stream, and whether the topic still has all of its trades.

    Forecasts are read from where they can begin: the records of both topics carry the ingest time of the trade.
    """
    trades_begin, _ = begin.get(partition, (0, ""))
    is_whole = trades_begin >= reader.span(TRADES, partition)[0]
    oldest = start = reader.span(PREDICTIONS, partition)[0]
    if is_whole and (first_ms := _first_ingest_ms(reader, key, partition, trades_begin)) is not None:
        start = reader.offset_at(PREDICTIONS, partition, first_ms)
    found = _read_forecasts(reader, key, partition, start, trade_ids)
    if not found.count and start > oldest:  # written by somebody whose records carry another time
        start = oldest
        found = _read_forecasts(reader, key, partition, start, trade_ids)
    if is_whole and 0 < start == oldest:  # forecasts may have expired: the first one here may not be the first
        found.first_trade = trades_begin
    return found, is_whole


def _of_source(
    reader: TopicReader, topic: str, partition: int, start: int, end: int | None, source_id: str
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Read offsets and values of the records of a source."""
    mine = f'"source_id":"{source_id}"'.encode()
    for stretch in reader.read(topic, partition, start, end):
        found = [
            (offset, value)
            for offset, value in zip(stretch.offsets, stretch.values, strict=True)
            if value is not None and mine in value
        ]
        if found:
            yield [offset for offset, _ in found], [value for _, value in found]


def _first_ingest_ms(reader: TopicReader, key: StreamKey, partition: int, start: int) -> int | None:
    """Return the ingest time of the first trade of a stream, ms since 1970, or None if it has none."""
    for _, values in _of_source(reader, TRADES, partition, start, None, key.source_id):
        trades = decode_trades(values).trades
        if key in trades.keys:
            return int(trades.ingest_time[np.argmax(trades.stream == trades.keys.index(key))]) // 1_000_000
    return None


def _read_forecasts(reader: TopicReader, key: StreamKey, partition: int, start: int, trade_ids: set[int]) -> Forecasts:
    """Read the forecasts of a stream until all that are asked for are found."""
    decode, decode_name = msgspec.json.Decoder(_Glance).decode, msgspec.json.Decoder(_Name).decode
    forecasts = Forecasts()
    for offsets, values in _of_source(reader, PREDICTIONS, partition, start, None, key.source_id):
        found = decode_records(values, decode)
        for place, reason in found.unreadable:
            for record in decode_records([values[place]], decode_name).records:
                if (record.source_id, record.product_id) == key and record.trade_id in trade_ids:
                    raise BadRecord(partition, offsets[place], reason)
        for place, record in zip(found.places, found.records, strict=True):
            if record.product_id != key.product_id or record.source_id != key.source_id:
                continue
            if not forecasts.count:
                forecasts.first_trade, forecasts.ids = record.kafka_offset, (record.trade_id, record.trade_id)
            forecasts.ids = forecasts.ids[0], record.trade_id
            forecasts.count += 1
            if record.trade_id in trade_ids:
                forecasts.records[record.trade_id] = offsets[place], values[place]
        if len(forecasts.records) == len(trade_ids):
            break
    return forecasts


def _streams(reader: TopicReader) -> dict[StreamKey, int]:
    """Return the partition of every stream that has a forecast."""
    decode = msgspec.json.Decoder(_Glance).decode
    there: dict[StreamKey, int] = {}
    for partition in reader.partitions(PREDICTIONS):
        for stretch in reader.read(PREDICTIONS, partition):
            for record in decode_records(stretch.values, decode).records:
                there.setdefault(StreamKey(record.source_id, record.product_id), partition)
    return there


def _nothing(key: StreamKey, there: dict[StreamKey, int]) -> str:
    """Say what there is instead of a stream."""
    if not there:
        return f"{PREDICTIONS} holds no forecasts at all: replay a recording first, as `make run RECORDING=trades.csv`"
    if products := sorted(other.product_id for other in there if other.source_id == key.source_id):
        return f"source {key.source_id} has no forecast of {key.product_id}; it has some of {_some(products)}"
    sources = sorted({other.source_id for other in there if other.product_id == key.product_id})
    if sources:
        return f"there is no source {key.source_id}; {key.product_id} is forecast in {_some(sources)}"
    return f"there is no forecast {'/'.join(key)}; there are some of {_some(sorted('/'.join(k) for k in there))}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
