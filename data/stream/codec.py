"""Encode records to bytes and decode bytes to records, whole batches at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureRows, FeatureSpec
from data.names import check_names
from data.stream.records import End, Forecaster, Head, Purpose, TakerSide, Trade, feature_type
from data.stream.wire import Field, Kind, Layout
from data.trades import Floats, Int64s, Side, StreamKey, Trades, parse_times


@cache
def _feature_decoder(spec: FeatureSpec) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(feature_type(spec)).decode


class Unreadable(NamedTuple):
    """A record that its topic may not hold.

    Attributes:
        place: index in the batch.
    """

    place: int
    reason: str


_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""Encode any record of `data.stream.records` as JSON."""

_decode_head = msgspec.json.Decoder(Head).decode
_decode_trade = msgspec.json.Decoder(Trade).decode
_decode_end = msgspec.json.Decoder(End).decode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of a decoder; RecursionError for a record nested a thousand deep."""

_SIDES: dict[TakerSide | None, Side] = {"sell": Side.SELL, None: Side.UNKNOWN, "buy": Side.BUY}

_ROW_START = (
    Field.named("trade_id", Kind.INTEGER),
    Field.named("event_time", Kind.TIME),
    Field.named("ingest_time", Kind.TIME),
    Field.named("price", Kind.NUMBER),
)
_TRADE_LAYOUT = Layout(
    [*_ROW_START, Field.named("size", Kind.NUMBER), Field.named("side", Kind.CHOICE)],
    [b'"sell"', b"null", b'"buy"'],  # at Side - Side.SELL
)


@cache
def _feature_layout(spec: FeatureSpec) -> Layout:
    place = (Field.named("kafka_partition", Kind.INTEGER), Field.named("kafka_offset", Kind.INTEGER))
    columns = (Field.named(name, Kind.INTEGER if name == "n" else Kind.NUMBER) for name in spec.columns)
    return Layout([*_ROW_START, *place, Field.named("spec_id", Kind.CHOICE), *columns], [encode(spec.spec_id)])


@lru_cache(maxsize=64)
def _forecast_layout(by_model: bytes, missing: tuple[bytes, ...]) -> Layout:
    """Return the layout of the fields that a forecast adds to a row.

    The layout's choices are two texts for `in_sample`, the model's fields, an empty list, and the lists of `missing`.
    """
    fields = (
        Field.named("ts", Kind.TIME),
        Field.named("horizon_s", Kind.INTEGER),
        Field.named("score", Kind.NUMBER),
        Field(b',"interval":[', Kind.NUMBER),
        Field(b",", Kind.NUMBER),
        Field(b"],", Kind.CHOICE),
        Field.named("in_sample", Kind.CHOICE),
        Field.named("missing", Kind.CHOICE),
        Field.named("shadow", Kind.CHOICE),
    )
    return Layout(fields, [b"false", b"true", by_model, b"[]", *missing])


class Records(NamedTuple):
    """The records of a batch, sorted by kind. A place is an index in the batch.

    Attributes:
        records: records of the topic's main type.
        places: place of each of `records`.
        ends: end records, each with its place.
        unreadable: all other records, with the reason.
    """

    records: list[Any]
    places: list[int]
    ends: list[tuple[int, End]]
    unreadable: list[Unreadable]


def decode_records(values: Sequence[bytes | None], decode: Any) -> Records:
    """Sort values into records that `decode` reads, ends, and unreadable records."""
    found = Records([], [], [], [])
    for place, value in enumerate(values):
        try:
            found.records.append(decode(value or b""))
            found.places.append(place)
        except _UNREADABLE as error:
            try:
                end = _decode_end(value or b"")
            except _UNREADABLE:
                found.unreadable.append(Unreadable(place, str(error)))
            else:
                if end.end:
                    found.ends.append((place, end))
                else:
                    found.unreadable.append(Unreadable(place, "`end` must be true where it stands"))
    return found


class TradeRecords(NamedTuple):
    """The trades of a batch in columns, and the batch's other records, see `Records`.

    Attributes:
        places: shape (n,), place of each trade.
        purposes: purpose of each stream.
    """

    trades: Trades
    places: Int64s
    purposes: dict[StreamKey, Purpose]
    ends: list[tuple[int, End]]
    unreadable: list[Unreadable]


class _LayoutRecords(NamedTuple):
    """Records in our layout, and their streams.

    Attributes:
        places: shape (n,), place of each record.
        keys: the streams, by first appearance.
        stream: shape (n,), index into `keys`.
        purposes: purpose of each stream, from the stream's first record.
        integers, numbers: shape (n, fields), see `data.stream.wire.Found`.
    """

    places: Int64s
    keys: tuple[StreamKey, ...]
    stream: NDArray[np.int32]
    purposes: dict[StreamKey, Purpose]
    integers: Int64s
    numbers: Floats


def _read_layout(
    layout: Layout, texts: Sequence[bytes], allowed: Callable[[Int64s, Floats], NDArray[np.bool_]]
) -> _LayoutRecords:
    """Read the records in our layout with allowed values; the general parser reads all other records."""
    found = layout.read(texts)
    heads = [_read_head(head) for head in found.heads]
    has_head = np.array([*(head is not None for head in heads), False])[found.head]
    places = np.flatnonzero(has_head & allowed(found.integers, found.numbers))
    rows = slice(None) if len(places) == len(texts) else places
    streams: dict[StreamKey, int] = {}
    purposes: dict[StreamKey, Purpose] = {}
    stream = np.zeros(len(heads) + 1, np.int32)
    for i, head in enumerate(heads):
        if head is not None:
            stream[i] = streams.setdefault(head.key, len(streams))
            purposes.setdefault(head.key, head.purpose)
    integers, numbers = found.integers[rows], found.numbers[rows]
    return _LayoutRecords(places, tuple(streams), stream[found.head[rows]], purposes, integers, numbers)


def decode_trades(values: Sequence[bytes | None]) -> TradeRecords:
    """Decode records of `coinbase-trades`."""
    texts = [value or b"" for value in values]
    plain = _read_layout(_TRADE_LAYOUT, texts, lambda _, numbers: (numbers[:, 0] > 0) & ~(numbers[:, 1] < 0))
    trade_id, event_time, ingest_time, side = plain.integers.T.copy()
    price, size = plain.numbers.T.copy()
    trades = Trades(
        plain.keys, plain.stream, trade_id, event_time, ingest_time, price, size, (side + Side.SELL).astype(np.int8)
    )
    if len(plain.places) == len(texts):
        return TradeRecords(trades, plain.places, plain.purposes, [], [])
    return _add_other_trades(trades, plain.places, plain.purposes, texts)


def _add_other_trades(
    trades: Trades, places: Int64s, purposes: dict[StreamKey, Purpose], texts: Sequence[bytes]
) -> TradeRecords:
    """Add the records of a batch that are not in our layout: other trades, ends, unreadable records."""
    others = np.setdiff1d(np.arange(len(texts)), places)
    found = decode_records([texts[place] for place in others], _decode_trade)
    more = _trade_columns(found.records, found.places, found.unreadable)
    purposes = {StreamKey(r.source_id, r.product_id): r.purpose for r in found.records} | purposes
    order = np.argsort(places := np.concatenate([places, others[np.array(found.places, np.int64)]]))
    return TradeRecords(
        Trades.join([trades, more]).take(order),
        places[order],
        purposes,
        [(int(others[place]), end) for place, end in found.ends],
        [Unreadable(int(others[place]), reason) for place, reason in found.unreadable],
    )


def _read_head(head: bytes) -> Head | None:
    """Decode the part of a record before the fields; None leaves records with this head to the general parser."""
    try:
        found = _decode_head(head + b"}")
        check_names(found.key)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None
    return found


def _trade_columns(records: list[Trade], places: list[int], unreadable: list[Unreadable]) -> Trades:
    """Turn records into columns, and move records with a bad name or time (month 13) to `unreadable`."""
    streams: dict[StreamKey, int] = {}
    stream = [streams.setdefault(StreamKey(r.source_id, r.product_id), len(streams)) for r in records]
    try:
        for key in streams:
            check_names(key)
        event_time = parse_times([record.event_time for record in records])
        ingest_time = parse_times([record.ingest_time for record in records])
    except ValueError:
        for row in range(len(records) - 1, -1, -1):
            record = records[row]
            try:
                check_names(StreamKey(record.source_id, record.product_id))
                _times(record)
            except ValueError as error:
                unreadable.append(Unreadable(places.pop(row), str(error)))
                del records[row]
        return _trade_columns(records, places, unreadable)
    return Trades(
        tuple(streams),
        np.array(stream, np.int32),
        np.array([r.trade_id for r in records], np.int64),
        event_time,
        ingest_time,
        np.array([r.price for r in records], np.float64),
        np.array([r.size for r in records], np.float64),
        np.array([_SIDES[r.side] for r in records], np.int8),
    )


class FeatureRecords(NamedTuple):
    """The feature rows of a batch in columns, and the batch's other records, see `Records`.

    Attributes:
        texts: JSON text of each row.
        places: shape (n,), place of each row.
        keys, purposes: stream and purpose of each row.
        trade_id, event_time, ingest_time: shape (n,); times in ns since 1970.
        price: shape (n,).
        values: shape (n, columns of the spec), NaN where null.
        other_spec: rows of another feature spec, each with its place.
    """

    texts: list[bytes]
    places: list[int]
    keys: list[StreamKey]
    purposes: list[Purpose]
    trade_id: Int64s
    event_time: Int64s
    ingest_time: Int64s
    price: Floats
    values: Floats
    ends: list[tuple[int, End]]
    other_spec: list[tuple[int, Any]]
    unreadable: list[Unreadable]


def decode_features(values: Sequence[bytes | None], spec: FeatureSpec) -> FeatureRecords:
    """Decode records of `features`."""
    texts = [value or b"" for value in values]
    plain = _read_layout(
        _feature_layout(spec), texts, lambda integers, numbers: (integers[:, -1] <= 2**53) & ~np.isnan(numbers[:, 0])
    )
    keys = [plain.keys[stream] for stream in plain.stream.tolist()]
    trade_id, event_time, ingest_time = plain.integers[:, :3].T.copy()
    n = plain.integers[:, -1]  # the only integer column of the spec comes after the key's integers
    columns: Floats = np.column_stack((n.astype(np.float64), plain.numbers[:, 1:]))
    rows = FeatureRecords(
        [texts[place] for place in plain.places.tolist()], plain.places.tolist(), keys,
        [plain.purposes[key] for key in keys], trade_id, event_time, ingest_time, plain.numbers[:, 0].copy(),
        columns, [], [], [],
    )  # fmt: skip
    others = np.setdiff1d(np.arange(len(texts)), plain.places).tolist() if len(keys) < len(texts) else []
    return _add_other_rows(rows, others, texts, spec) if others else rows


def _add_other_rows(
    rows: FeatureRecords, others: list[int], texts: Sequence[bytes], spec: FeatureSpec
) -> FeatureRecords:
    """Add the records of a batch that are not in our layout: other rows, ends, unreadable records."""
    found = decode_records([texts[place] for place in others], _feature_decoder(spec))
    unreadable = [Unreadable(others[place], reason) for place, reason in found.unreadable]
    other_spec, more = [], []
    for place, row in zip((others[place] for place in found.places), found.records, strict=True):
        if row.spec_id != spec.spec_id:
            other_spec.append((place, row))
            continue
        try:
            check_names(key := StreamKey(row.source_id, row.product_id))
            times = _times(row)
        except ValueError as error:
            unreadable.append(Unreadable(place, str(error)))
        else:
            values = _column_values(row, spec)
            more.append((place, encode(row), key, row.purpose, row.trade_id, *times, row.price, values))
    known = zip(
        rows.places, rows.texts, rows.keys, rows.purposes, rows.trade_id.tolist(), rows.event_time.tolist(),
        rows.ingest_time.tolist(), rows.price.tolist(), rows.values.tolist(), strict=True,
    )  # fmt: skip
    table = sorted([*known, *more], key=itemgetter(0))
    places, row_texts, keys, purposes, trade_id, event_time, ingest_time, price, columns = (
        map(list, zip(*table, strict=True)) if table else ([] for _ in range(9))
    )
    return FeatureRecords(
        row_texts, places, keys, purposes, np.array(trade_id, np.int64), np.array(event_time, np.int64),
        np.array(ingest_time, np.int64), np.array(price, np.float64),
        np.array(columns, np.float64).reshape(-1, len(spec.columns)),
        [(others[place], end) for place, end in found.ends], other_spec, unreadable,
    )  # fmt: skip


def _times(record: Any) -> list[int]:
    """Return event and ingest time, ns since 1970.

    Raises:
        ValueError: a text is no time; the message begins with the field's name.
    """
    found = []
    for name in ("event_time", "ingest_time"):
        try:
            found.append(int(parse_times([getattr(record, name)])[0]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def _column_values(row: Any, spec: FeatureSpec) -> list[float]:
    return [math.nan if (value := getattr(row, name)) is None else float(value) for name in spec.columns]


def encode_predictions(
    rows: Sequence[bytes],
    ts: int,
    horizon_s: int,
    score: Floats,
    interval: Floats,
    forecaster: Forecaster,
    in_sample: NDArray[np.bool_],
    missing: Sequence[bytes],
) -> list[bytes]:
    """Encode forecasts as records of `predictions`.

    Args:
        rows: n feature rows as JSON.
        ts: time of scoring, ns since 1970.
        horizon_s: seconds of the forecast.
        score: shape (n,). interval: shape (n, 2). in_sample: shape (n,).
        missing: for each forecast, the list of columns that the model did not use, as JSON.
    """
    by_model = ",".join(f'"{name}":{encode(value).decode()}' for name, value in forecaster._asdict().items())
    lists = {text: 4 + i for i, text in enumerate(dict.fromkeys(missing))}
    layout = _forecast_layout(by_model.encode(), tuple(lists))
    integers = np.empty((len(rows), 6), np.int64)
    integers[:, :3], integers[:, 3] = (ts, horizon_s, 2), in_sample
    integers[:, 4], integers[:, 5] = [lists[text] for text in missing], 3
    numbers = np.column_stack((score, interval))
    return layout.write([row[:-1] for row in rows], np.arange(len(rows)), integers, numbers)


def _heads(keys: Sequence[StreamKey], purpose: Callable[[StreamKey], Purpose]) -> list[bytes]:
    return [encode(Head(*key, purpose(key)))[:-1] for key in keys]


def encode_trades(trades: Trades, purpose: Purpose) -> list[bytes]:
    """Encode trades as records of `coinbase-trades`."""
    integers = (trades.trade_id, trades.event_time, trades.ingest_time, trades.side.astype(np.int64) - Side.SELL)
    numbers = np.column_stack((trades.price, trades.size))
    heads = _heads(trades.keys, lambda _: purpose)
    return _TRADE_LAYOUT.write(heads, trades.stream, np.column_stack(integers), numbers)


def encode_features(
    rows: FeatureRows, spec: FeatureSpec, purposes: dict[StreamKey, Purpose], partition: Int64s, offset: Int64s
) -> list[bytes]:
    """Encode feature rows as records of `features`.

    Args:
        purposes: purpose of each stream.
        partition, offset: shape (rows,), of each trade on `coinbase-trades`.
    """
    trades, n = rows.trades, rows.values[:, 0].astype(np.int64)
    spec_id = np.zeros(len(n), np.int64)
    integers = (trades.trade_id, trades.event_time, trades.ingest_time, partition, offset, spec_id, n)
    numbers = np.column_stack((trades.price, rows.values[:, 1:]))
    heads = _heads(trades.keys, purposes.__getitem__)
    return _feature_layout(spec).write(heads, trades.stream, np.column_stack(integers), numbers)
