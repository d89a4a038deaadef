"""What stands on the topics: JSON records and their schemas, to and from columns.

`python -m data.topics` prints the JSON Schema of each topic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct

from data.spec import FeatureRows, FeatureSpec
from data.trades import Int64s, Side, StreamKey, Trades, iso_times, parse_times

TRADES, FEATURES, PREDICTIONS, REJECTED = "coinbase-trades", "features", "predictions", "trades-rejected"
TOPICS = (TRADES, FEATURES, PREDICTIONS, REJECTED)
PARTITIONS = 12
"""Of every topic: what is keyed by a product stays in one partition from trade to prediction."""

PRODUCT_PATTERN = "^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$"
SOURCE_PATTERN = "^[A-Za-z0-9._:-]{1,100}$"


def _text(description: str, **schema: Any) -> Meta:
    """Say what a text is in the schema alone. Checking each of a million records costs more than reading it, so that
    names are checked once a stream and times when they become numbers."""
    return Meta(description=description, extra_json_schema=schema)


SourceId = Annotated[str, _text("one pass over recordings, or the live feed", pattern=SOURCE_PATTERN)]
ProductId = Annotated[str, _text("base and quote currency", pattern=PRODUCT_PATTERN, examples=["BTC-USD"])]
Time = Annotated[str, _text("RFC 3339 in UTC, up to nanoseconds", format="date-time")]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Purpose = Literal["live", "replay", "drill"]
TakerSide = Literal["buy", "sell"]


class Trade(Struct, frozen=True, gc=False):
    """A trade, on `coinbase-trades`."""

    source_id: SourceId
    product_id: ProductId
    purpose: Purpose
    trade_id: Int64
    event_time: Time
    ingest_time: Time
    price: Annotated[float, Meta(gt=0)]
    size: Annotated[float, Meta(ge=0)] | None = None
    side: TakerSide | None = None


class End(Struct, frozen=True, gc=False):
    """A source says nothing more of a product: on `coinbase-trades`, `features` and `predictions`."""

    source_id: SourceId
    product_id: ProductId
    purpose: Purpose
    ingest_time: Time
    end: Annotated[bool, Meta(description="always true", extra_json_schema={"const": True})]

    @property
    def key(self) -> StreamKey:
        return StreamKey(self.source_id, self.product_id)


class Rejected(Struct, frozen=True, gc=False):
    """What a stage did not take, on `trades-rejected`."""

    stage: Literal["ingestor", "feature_service", "scorer"]
    where: Annotated[str, Meta(description="file:line, or topic[partition]@offset")]
    reason: str
    text: Annotated[str, Meta(description="what stood there, cut to 200 characters")]
    source_id: str | None = None
    product_id: str | None = None


class Shadow(Struct, frozen=True, gc=False):
    """A score by a model that does not answer."""

    model_variant: str
    version: str
    score: float


_ROW_KEY: list[tuple[str, Any]] = [
    ("source_id", SourceId),
    ("product_id", ProductId),
    ("purpose", Purpose),
    ("trade_id", Int64),
    ("event_time", Time),
    ("ingest_time", Time),
    ("price", float),
    ("kafka_partition", Annotated[int, Meta(description="of the trade on coinbase-trades")]),
    ("kafka_offset", Annotated[int, Meta(description="of the trade on coinbase-trades")]),
    ("spec_id", Annotated[str, Meta(description="of the feature spec that the columns follow")]),
]
_FORECAST: list[tuple[str, Any]] = [
    ("ts", Annotated[Time, Meta(description="when it was scored")]),
    ("horizon_s", int),
    ("score", Annotated[float, Meta(gt=0, description="forecast volatility per horizon, not annualized")]),
    ("interval", Annotated[tuple[float, float], Meta(description="nominal coverage 90 %")]),
    ("model_variant", str),
    ("version", str),
    ("digest", Annotated[str, Meta(description="SHA-256 of the model")]),
    ("in_sample", Annotated[bool, Meta(description="the model was trained on data as late as this row")]),
    ("missing", Annotated[list[str], Meta(description="columns of the model that this score did without")]),
    ("shadow", Annotated[list[Shadow], Meta(description="scores by models that do not answer")]),
]


def _columns(spec: FeatureSpec) -> list[tuple[str, Any]]:
    return [(name, Annotated[int, Meta(ge=0, le=2**53)] if name == "n" else float | None) for name in spec.columns]


@cache
def feature_type(spec: FeatureSpec) -> type[Any]:
    """Return the record of a feature row under a spec, on `features`."""
    return msgspec.defstruct("Features", [*_ROW_KEY, *_columns(spec)], frozen=True, gc=False)


@cache
def prediction_type(spec: FeatureSpec) -> type[Any]:
    """Return the record of a forecast with the feature row that it was made from, on `predictions`."""
    return msgspec.defstruct("Prediction", [*_ROW_KEY, *_columns(spec), *_FORECAST], frozen=True, gc=False)


def schemas(spec: FeatureSpec) -> dict[str, Any]:
    """Return the JSON Schema of each topic's records, keyed by topic."""
    records = {
        TRADES: (Trade, End),
        FEATURES: (feature_type(spec), End),
        PREDICTIONS: (prediction_type(spec), End),
        REJECTED: (Rejected,),
    }
    topics = {}
    for topic, types in records.items():
        refs, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
        topics[topic] = {"anyOf": list(refs), "$defs": components}
    return topics


def check_names(key: StreamKey) -> None:
    """Check the names of a stream.

    Raises:
        ValueError: a name is none; says which, and what is allowed.
    """
    for what, name, pattern in zip(StreamKey._fields, key, (SOURCE_PATTERN, PRODUCT_PATTERN), strict=True):
        if not re.match(pattern, name):
            raise ValueError(f"{what} must match {pattern}, was {name[:100]!r}")


class Unreadable(NamedTuple):
    """A record that is none of those its topic may hold."""

    place: int
    reason: str


_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""Write any record of this module as JSON."""

_decode_trade = msgspec.json.Decoder(Trade).decode
_decode_end = msgspec.json.Decoder(End).decode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises; the last one for a record nested a thousand deep."""

_SIDES: dict[TakerSide | None, Side] = {"sell": Side.SELL, None: Side.UNKNOWN, "buy": Side.BUY}
_SIDE_NAMES: dict[int, TakerSide | None] = {side: name for name, side in _SIDES.items()}


class Records(NamedTuple):
    """The records of a batch, sorted by what they are; places count from 0 in the batch.

    Attributes:
        records: those that the topic is for.
        places: of them.
        ends: with their places.
        unreadable: neither, with the reason.
    """

    records: list[Any]
    places: list[int]
    ends: list[tuple[int, End]]
    unreadable: list[Unreadable]


def decode_records(values: Sequence[bytes | None], decode: Any) -> Records:
    """Sort records into those that `decode` reads, ends, and the rest."""
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
    """The trades of a batch in columns, and what else was in it, see `Records`.

    Attributes:
        places: shape (n,), of the trades.
        purposes: of the streams.
    """

    trades: Trades
    places: Int64s
    purposes: dict[StreamKey, Purpose]
    ends: list[tuple[int, End]]
    unreadable: list[Unreadable]


def decode_trades(values: Sequence[bytes | None]) -> TradeRecords:
    """Read records of `coinbase-trades`."""
    found = decode_records(values, _decode_trade)
    trades = _trade_columns(found.records, found.places, found.unreadable)
    purposes = {StreamKey(r.source_id, r.product_id): r.purpose for r in found.records}
    return TradeRecords(trades, np.array(found.places, np.int64), purposes, found.ends, found.unreadable)


def _trade_columns(records: list[Trade], places: list[int], unreadable: list[Unreadable]) -> Trades:
    """Turn records into columns, moving those with a bad name or time (month 13) to `unreadable`."""
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
                parse_times([record.event_time, record.ingest_time])
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


def encode_trades(trades: Trades, purpose: Purpose) -> list[bytes]:
    """Write trades as records of `coinbase-trades`."""
    columns = zip(
        trades.stream.tolist(),
        trades.trade_id.tolist(),
        iso_times(trades.event_time),
        iso_times(trades.ingest_time),
        trades.price.tolist(),
        trades.size.tolist(),
        trades.side.tolist(),
        strict=True,
    )
    return [
        encode(Trade(key.source_id, key.product_id, purpose, trade_id, event, ingest, price, size, _SIDE_NAMES[side]))
        for stream, trade_id, event, ingest, price, size, side in columns
        for key in (trades.keys[stream],)
    ]


def encode_features(
    rows: FeatureRows, spec: FeatureSpec, purposes: dict[StreamKey, Purpose], partition: Int64s, offset: Int64s
) -> list[bytes]:
    """Write feature rows as records of `features`.

    Args:
        purposes: of each stream.
        partition, offset: shape (rows,), where each trade stands on `coinbase-trades`.
    """
    record, spec_id = feature_type(spec), spec.spec_id
    trades = rows.trades
    columns = zip(
        trades.stream.tolist(),
        trades.trade_id.tolist(),
        iso_times(trades.event_time),
        iso_times(trades.ingest_time),
        trades.price.tolist(),
        partition.tolist(),
        offset.tolist(),
        rows.values.tolist(),
        strict=True,
    )
    keys = [(*key, purposes[key]) for key in trades.keys]
    return [
        encode(record(*keys[stream], trade_id, event, ingest, price, part, place, spec_id, int(values[0]), *values[1:]))
        for stream, trade_id, event, ingest, price, part, place, values in columns
    ]


if __name__ == "__main__":
    print(json.dumps(schemas(FeatureSpec()), indent=2))
