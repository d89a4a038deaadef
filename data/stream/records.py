"""Define the records of the topics: JSON records and their schemas.

`python -m data.stream.records` prints the JSON Schema of each topic.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Final, Literal, NamedTuple, get_type_hints

import msgspec
from msgspec import Meta, Struct

from data.features.spec import FeatureSpec
from data.files import may_lose_its_reader
from data.names import PRODUCT_PATTERN, SOURCE_PATTERN
from data.times import END_NS, time_text
from data.trades import MAX_PRICE, MAX_SIZE, MIN_PRICE, StreamKey

TRADES, FEATURES, PREDICTIONS, REJECTED = "coinbase-trades", "features", "predictions", "trades-rejected"
TOPICS = (TRADES, FEATURES, PREDICTIONS, REJECTED)
PARTITIONS = 12
"""Partitions of each of `TOPICS`: records of a product stay in one partition from trade to prediction."""
FIGURES = "figures"
"""The compacted topic of batch figures, with one partition: the newest figure of each key stays."""


FIGURE_PATTERN = "^[a-z][a-z_]{0,79}$"


def _text(description: str, **schema: Any) -> Meta:
    """Describe a text in the schema, without a check by the decoder: names are checked once a stream."""
    return Meta(description=description, extra_json_schema=schema)


SourceId = Annotated[str, _text("one pass over recordings, or the live feed", pattern=SOURCE_PATTERN)]
ProductId = Annotated[str, _text("base and quote currency", pattern=PRODUCT_PATTERN, examples=["BTC-USD"])]
Time = Annotated[int, Meta(ge=0, lt=END_NS, description="nanoseconds since 1970, UTC")]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Partition = Annotated[int, Meta(ge=0, lt=2**31, description="of the trade on coinbase-trades")]
_Offset = Annotated[int, Meta(ge=0, le=2**63 - 1, description="of the trade on coinbase-trades")]
Purpose = Literal["live", "replay", "drill"]
TakerSide = Literal["buy", "sell"]

_RawScore = Annotated[float, Meta(gt=0, description="the model's own forecast, before its adaptation")]
_WeightedSum = Annotated[float, Meta(description="over `weight`: the scale of the model's variance")]
_Weight = Annotated[float, Meta(description="of past forecasts in the scale, in horizons")]
_OffsetLow = Annotated[float, Meta(description="logarithm of the factor on the lower end")]
_OffsetHigh = Annotated[float, Meta(description="logarithm of the factor on the upper end")]
_JudgedHorizons = Annotated[float, Meta(ge=0, description="forecasts judged so far, twelve in a horizon")]
_ModelName = Annotated[str, Meta(max_length=100)]
_Digest = Annotated[str, Meta(max_length=100, description="SHA-256 of the model")]
_InSample = Annotated[bool, Meta(description="the model was trained on data as late as this row")]


class TradeStart(Struct, frozen=True, gc=False):
    """The first fields of a trade's record, and of the records that are made from the trade."""

    source_id: SourceId
    product_id: ProductId
    purpose: Purpose
    trade_id: Int64
    event_time: Time
    ingest_time: Time
    price: Annotated[float, Meta(ge=MIN_PRICE, le=MAX_PRICE)]


class Trade(TradeStart, frozen=True, gc=False):
    """A trade, on `coinbase-trades`."""

    size: Annotated[float, Meta(ge=0, le=MAX_SIZE)] | None = None
    side: TakerSide | None = None


class End(Struct, frozen=True, gc=False, omit_defaults=True):
    """End of a product of a source, on `coinbase-trades`, `features` and `predictions`.

    Ends on `features` and `predictions` have partition and offset of the end on `coinbase-trades`.
    """

    source_id: SourceId
    product_id: ProductId
    purpose: Purpose
    ingest_time: Time
    end: Annotated[bool, Meta(description="always true", extra_json_schema={"const": True})]
    kafka_partition: int | None = None
    kafka_offset: int | None = None

    @property
    def key(self) -> StreamKey:
        return StreamKey(self.source_id, self.product_id)


class Rejected(Struct, frozen=True, gc=False):
    """A record or row that a stage rejected, on `trades-rejected`.

    A refused record has its bytes and its place; rows of a recording, and rejects of earlier releases, have neither. A
    replay writes a receipt for each replayed reject: the reject again, without its bytes, with the last two fields.
    """

    stage: Literal["ingestor", "forecaster"]
    where: Annotated[str, Meta(description="file:line, or topic[partition]@offset")]
    reason: str
    text: Annotated[str, Meta(description="what stood there, cut to 200 characters")]
    source_id: str | None = None
    product_id: str | None = None
    original: Annotated[bytes, Meta(description="the refused record's first 16,384 bytes, base64")] | None = None
    topic: Annotated[str, Meta(description="that held the record")] | None = None
    kafka_partition: Annotated[int, Meta(description="of the record on its topic")] | None = None
    kafka_offset: Annotated[int, Meta(description="of the record on its topic")] | None = None
    replayed_as: Annotated[str, Meta(description="in a receipt: the source of the replay")] | None = None
    reject_offset: Annotated[int, Meta(description="in a receipt: of the reject in the same partition")] | None = None


class Shadow(Struct, frozen=True, gc=False):
    """A forecast by a model that does not serve. Shadows of earlier releases have a score alone."""

    model_variant: _ModelName
    version: _ModelName
    score: Annotated[float, Meta(gt=0, description="forecast volatility per horizon, adapted, not annualized")]
    interval: Annotated[tuple[float, float], Meta(description="nominal coverage 90 %")] | None = None
    raw_score: _RawScore | None = None
    weighted_sum: _WeightedSum | None = None
    weight: _Weight | None = None
    offset_low: _OffsetLow | None = None
    offset_high: _OffsetHigh | None = None
    judged_horizons: _JudgedHorizons | None = None
    digest: _Digest | None = None
    in_sample: _InSample | None = None


class Figure(Struct, frozen=True, gc=False):
    """A figure that a batch job found, on `figures`."""

    name: Annotated[str, _text("of the figure; its metric is `cryptovol_` and the name", pattern=FIGURE_PATTERN)]
    labels: dict[str, str]
    value: float
    at: Annotated[int, Meta(ge=0, lt=END_NS, description="when the figure was found, nanoseconds since 1970, UTC")]

    @property
    def key(self) -> str:
        """Return the key of the figure's record: a newer figure with the same name and labels replaces the figure.

        >>> Figure("drift_alarm", {"view": "change", "product_id": "BTC-USD"}, 0.0, 0).key
        'drift_alarm{product_id=BTC-USD,view=change}'
        """
        labels = ",".join(f"{name}={value}" for name, value in sorted(self.labels.items()))
        return f"{self.name}{{{labels}}}"


class RowStart(TradeStart, frozen=True, gc=False):
    """The fields of a feature row before the columns of its spec."""

    kafka_partition: _Partition
    kafka_offset: _Offset
    spec_id: Annotated[str, Meta(max_length=100, description="of the feature spec that the columns follow")]


class ScoredAt(Struct, frozen=True, gc=False):
    """The first fields that a forecast adds to its feature row, equal in a batch."""

    ts: Annotated[Time, Meta(description="when it was scored, nanoseconds since 1970, UTC")]
    horizon_s: Annotated[int, Meta(gt=0, lt=2**31)]


class Figures(Struct, frozen=True, gc=False):
    """The fields that a forecast adds to its feature row: the figures, other ones in each row. A shadow has them too.

    They hold no text, so records of them can be told apart by their braces.
    """

    score: Annotated[float, Meta(gt=0, description="forecast volatility per horizon, not annualized")]
    interval: Annotated[tuple[float, float], Meta(description="nominal coverage 90 %")]
    raw_score: _RawScore | None


class AdaptedBy(Struct, frozen=True, gc=False):
    """The fields that a forecast adds to its feature row: the state of the adaptation. Few rows differ in them."""

    weighted_sum: _WeightedSum | None
    weight: _Weight | None
    offset_low: _OffsetLow | None
    offset_high: _OffsetHigh | None
    judged_horizons: _JudgedHorizons | None


class ScoredBy(Struct, frozen=True, gc=False):
    """The fields that a forecast adds to its feature row: the model, after the figures. Few rows differ in them."""

    model_variant: _ModelName
    version: _ModelName
    digest: _Digest
    in_sample: _InSample
    missing: Annotated[list[str], Meta(description="columns of the model that this score did without")]
    shadow: Annotated[list[Shadow], Meta(description="forecasts by models that do not serve")]


ADAPTATION_FIELDS: Final = ("raw_score", *AdaptedBy.__struct_fields__)
"""Names of the fields that forecasts of earlier releases lack."""


def _forecast_fields() -> list[tuple[Any, ...]]:
    parts = (get_type_hints(part, include_extras=True) for part in (ScoredAt, Figures, AdaptedBy, ScoredBy))
    return [(name, hint, *[None][: name in ADAPTATION_FIELDS]) for part in parts for name, hint in part.items()]


FORECAST_FIELDS: Final = _forecast_fields()
"""The fields that a forecast adds to its feature row, in order: name, type, and None where a field is optional."""


def _columns(spec: FeatureSpec) -> list[tuple[str, Any]]:
    return [(name, Annotated[int, Meta(ge=0, le=2**53)] if name == "n" else float | None) for name in spec.columns]


@cache
def feature_type(spec: FeatureSpec) -> type[Any]:
    """Return the type of a feature row's record under a spec, on `features`."""
    return msgspec.defstruct("Features", _columns(spec), bases=(RowStart,), frozen=True, gc=False)


@cache
def prediction_type(spec: FeatureSpec) -> type[Any]:
    """Return the type of a forecast's record, with the scored feature row, on `predictions`."""
    fields = _columns(spec) + FORECAST_FIELDS
    # Fields with a default stand between others, as in the record.
    return msgspec.defstruct("Prediction", fields, bases=(RowStart,), frozen=True, gc=False, kw_only=True)


TIMES = ("event_time", "ingest_time", "ts")
"""Fields of a record that are times."""


def with_time_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a record for people: times as RFC 3339 texts."""
    return fields | {name: time_text(fields[name]) for name in TIMES if name in fields}


def record_types(spec: FeatureSpec) -> dict[str, type[Any]]:
    """Return the type of the main records of each of `TOPICS`, keyed by topic."""
    return {TRADES: Trade, FEATURES: feature_type(spec), PREDICTIONS: prediction_type(spec), REJECTED: Rejected}


def schemas(spec: FeatureSpec) -> dict[str, Any]:
    """Return the JSON Schema of each topic's records, keyed by topic."""
    topics = {}
    for topic, main in (record_types(spec) | {FIGURES: Figure}).items():
        types = (main,) if topic in (REJECTED, FIGURES) else (main, End)
        refs, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
        topics[topic] = {"anyOf": list(refs), "$defs": components}
    return topics


def partition_of(product_id: str, partitions: int = PARTITIONS) -> int:
    """Return the partition of a product: every Java client, and our ingestor, chooses the same partition for the key.

    Args:
        partitions: number of partitions of the topic.

    Source: `murmur2` of org.apache.kafka.common.utils.Utils, Apache Kafka 4.

    >>> partition_of("BTC-USD"), partition_of("ETH-USD")
    (9, 8)
    """
    key, m, mask = product_id.encode(), 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little") * m & mask
        h = (h * m ^ (k ^ k >> 24) * m) & mask
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


class Forecaster(NamedTuple):
    """A model, as named in predictions."""

    model_variant: str
    version: str
    digest: str


if __name__ == "__main__":
    with may_lose_its_reader():
        print(json.dumps(schemas(FeatureSpec()), indent=2))
