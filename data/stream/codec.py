"""Encode columns to records and decode records to columns, whole batches at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import repeat, starmap
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureRows, FeatureSpec
from data.names import check_names, is_model_name
from data.stream.records import (
    AdaptedBy,
    End,
    Figures,
    Forecaster,
    Purpose,
    ScoredAt,
    ScoredBy,
    TakerSide,
    Trade,
    feature_type,
)
from data.trades import Floats, Int64s, Side, StreamKey, Trades
from data.truth.adaptation import Adapted

encode = msgspec.json.Encoder().encode
"""Encode any record of `data.stream.records` as JSON; NaN becomes null."""

_decode_trade = msgspec.json.Decoder(Trade).decode
_decode_end = msgspec.json.Decoder(End).decode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of a decoder; RecursionError for a record nested a thousand deep."""

MAX_VOLATILITY = 1e6
"""Limit of a volatility per horizon; no market moves by a millionth of this."""

_COLUMN_BITS = 32
"""More bits than a model has columns."""

_SIDES: dict[TakerSide | None, Side] = {"sell": Side.SELL, None: Side.UNKNOWN, "buy": Side.BUY}
_SIDE_TEXTS: dict[int, TakerSide | None] = {int(side): text for text, side in _SIDES.items()}


def mark_of(source_id: str) -> bytes:
    """Return the bytes present in every record of a source, for a fast filter."""
    return f'"source_id":"{source_id}"'.encode()


class Unreadable(NamedTuple):
    """A record that its topic may not hold.

    Attributes:
        place: index in the batch.
    """

    place: int
    reason: str


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

    def reject(self, reasons: dict[int, str]) -> Records:
        """Return the same batch with some of `records` unreadable, by index in `records`."""
        if not reasons:
            return self
        kept = [i for i in range(len(self.records)) if i not in reasons]
        unreadable = self.unreadable + [Unreadable(self.places[i], reason) for i, reason in reasons.items()]
        return Records([self.records[i] for i in kept], [self.places[i] for i in kept], self.ends, sorted(unreadable))


def decode_records(values: Sequence[bytes], decode: Any) -> Records:
    """Sort values into records that `decode` reads, ends, and unreadable records."""
    try:
        return Records(list(map(decode, values)), list(range(len(values))), [], [])
    except _UNREADABLE:
        return _decode_one_by_one(values, decode)


def _decode_one_by_one(values: Sequence[bytes], decode: Any) -> Records:
    found = Records([], [], [], [])
    for place, value in enumerate(values):
        try:
            found.records.append(decode(value))
            found.places.append(place)
        except _UNREADABLE as error:
            try:
                end = _decode_end(value)
            except _UNREADABLE:
                found.unreadable.append(Unreadable(place, str(error)))
            else:
                if end.end:
                    found.ends.append((place, end))
                else:
                    found.unreadable.append(Unreadable(place, "`end` must be true where it stands"))
    return found


class Streams(NamedTuple):
    """The streams of n records.

    Attributes:
        keys: by first appearance.
        stream: shape (n,), index into `keys`.
        purposes: purpose of each stream, from the stream's first record.
    """

    keys: tuple[StreamKey, ...]
    stream: NDArray[np.int32]
    purposes: dict[StreamKey, Purpose]


_names = attrgetter("source_id", "product_id")


def _with_named_ends(found: Records) -> Records:
    """Return the same batch; an end with a bad name becomes unreadable."""
    bad: dict[int, str] = {}
    for place, end in found.ends:
        try:
            check_names(end.key)
        except ValueError as error:
            bad[place] = str(error)
    if not bad:
        return found
    ends = [(place, end) for place, end in found.ends if place not in bad]
    return found._replace(ends=ends, unreadable=sorted([*found.unreadable, *starmap(Unreadable, bad.items())]))


def streams_of(found: Records) -> tuple[Records, Streams]:
    """Return the streams of a batch's records; a record or an end with a bad name becomes unreadable."""
    found = _with_named_ends(found)
    index: dict[tuple[str, str], int] = {}
    stream = [index.setdefault(names, len(index)) for names in map(_names, found.records)]
    keys = tuple(StreamKey(*names) for names in index)
    bad: dict[int, str] = {}
    for i, key in enumerate(keys):
        try:
            check_names(key)
        except ValueError as error:
            bad[i] = str(error)
    if bad:
        return streams_of(found.reject({row: bad[i] for row, i in enumerate(stream) if i in bad}))
    at = np.array(stream, np.int32)
    purposes = {key: found.records[stream.index(i)].purpose for i, key in enumerate(keys)}
    return found, Streams(keys, at, purposes)


def field_values(records: Sequence[Any], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    """Return one field of n records, shape (n,); null becomes NaN."""
    return np.array([getattr(record, name) for record in records], dtype)


def check_forecast(record: Any) -> None:
    """Check what the type of a forecast leaves open: names of models and volatilities, of shadows too.

    Names become labels and paths, and one absurd volatility would spoil all sums that count it.

    Args:
        record: of `prediction_type`.

    Raises:
        ValueError: a name or a volatility is not allowed.
    """
    for each in (record, *record.shadow):
        if not is_model_name(each.model_variant, each.version):
            raise ValueError(f"a model must be named like ml 7, was {each.model_variant!r} {each.version!r}")
        lower, upper = each.interval or (each.score, each.score)
        if not (each.score < MAX_VOLATILITY and 0 < lower <= upper < MAX_VOLATILITY):
            raise ValueError(
                f"score and interval must be above 0, below {MAX_VOLATILITY:g} and in order, were {each.score:g}, "
                f"{lower:g} to {upper:g}"
            )


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


def decode_trades(values: Sequence[bytes]) -> TradeRecords:
    """Decode records of `coinbase-trades`."""
    found, streams = streams_of(decode_records(values, _decode_trade))
    records = found.records
    trades = Trades(
        streams.keys,
        streams.stream,
        np.array([record.trade_id for record in records], np.int64),
        np.array([record.event_time for record in records], np.int64),
        np.array([record.ingest_time for record in records], np.int64),
        np.array([record.price for record in records], np.float64),
        np.array([record.size for record in records], np.float64),
        side_numbers(record.side for record in records),
    )
    return TradeRecords(trades, np.array(found.places, np.int64), streams.purposes, found.ends, found.unreadable)


def side_numbers(sides: Iterable[TakerSide | None]) -> NDArray[np.int8]:
    """Return the sides of n trades as in `Trades.side`, shape (n,)."""
    return np.array([_SIDES[side] for side in sides], np.int8)


class FeatureRecords(NamedTuple):
    """The feature rows of a batch in columns, and the batch's other records, see `Records`.

    Attributes:
        keys: stream of each row.
        trade_id, event_time: shape (n,); times in ns since 1970.
        price: shape (n,).
        values: shape (n, columns of the spec), NaN where null.
        other_specs: feature specs of further rows.
    """

    keys: list[StreamKey]
    trade_id: Int64s
    event_time: Int64s
    price: Floats
    values: Floats
    ends: list[tuple[int, End]]
    other_specs: set[str]


def decode_features(values: Sequence[bytes], spec: FeatureSpec) -> FeatureRecords:
    """Decode records of `features`; unreadable records are left out."""
    found, streams = streams_of(decode_records(values, _feature_decoder(spec)))
    mine = [row for row, record in enumerate(found.records) if record.spec_id == spec.spec_id]
    records = [found.records[row] for row in mine]
    return FeatureRecords(
        [streams.keys[stream] for stream in streams.stream[mine].tolist()],
        field_values(records, "trade_id", np.int64),
        field_values(records, "event_time", np.int64),
        field_values(records, "price", np.float64),
        np.column_stack([field_values(records, name, np.float64) for name in spec.columns]),
        found.ends,
        {record.spec_id for record in found.records} - {spec.spec_id},
    )


@cache
def _feature_decoder(spec: FeatureSpec) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(feature_type(spec)).decode


def encode_trades(trades: Trades, purpose: Purpose) -> list[bytes]:
    """Encode trades as records of `coinbase-trades`."""
    records = map(
        Trade,
        *_names_of(trades),
        repeat(purpose),
        trades.trade_id.tolist(),
        trades.event_time.tolist(),
        trades.ingest_time.tolist(),
        trades.price.tolist(),
        trades.size.tolist(),
        map(_SIDE_TEXTS.__getitem__, trades.side.tolist()),
    )
    return list(map(encode, records))


def encode_features(
    rows: FeatureRows, spec: FeatureSpec, purposes: dict[StreamKey, Purpose], partition: int, offset: Int64s
) -> list[bytes]:
    """Encode feature rows as records of `features`.

    Args:
        purposes: purpose of each stream.
        partition: of the trades on `coinbase-trades`.
        offset: shape (rows,), of each trade on `coinbase-trades`.
    """
    trades = rows.trades
    by_stream = [purposes[key] for key in trades.keys]
    n, *others = rows.values.T
    records = map(
        feature_type(spec),
        *_names_of(trades),
        [by_stream[stream] for stream in trades.stream.tolist()],
        trades.trade_id.tolist(),
        trades.event_time.tolist(),
        trades.ingest_time.tolist(),
        trades.price.tolist(),
        repeat(partition),
        offset.tolist(),
        repeat(spec.spec_id),
        n.astype(np.int64).tolist(),
        *(column.tolist() for column in others),
    )
    return list(map(encode, records))


def _names_of(trades: Trades) -> tuple[Iterable[str], Iterable[str]]:
    """Return source and product of each trade."""
    streams = trades.stream.tolist()
    sources, products = [key.source_id for key in trades.keys], [key.product_id for key in trades.keys]
    return map(sources.__getitem__, streams), map(products.__getitem__, streams)


class Forecasts(NamedTuple):
    """Forecasts of one model for n rows.

    Attributes:
        raw_score: shape (n,), as the model forecasts.
        in_sample: shape (n,).
    """

    forecaster: Forecaster
    raw_score: Floats
    adapted: Adapted
    in_sample: NDArray[np.bool_]


def encode_predictions(
    rows: Sequence[bytes],
    ts: int,
    horizon_s: int,
    served: Forecasts,
    columns: tuple[str, ...],
    missing: NDArray[np.bool_],
    shadows: Sequence[Forecasts] = (),
) -> list[bytes]:
    """Encode forecasts as records of `predictions`: the JSON of each row, continued by the fields of its forecast.

    Args:
        rows: n feature rows as JSON.
        ts: time of scoring, ns since 1970.
        horizon_s: seconds of the forecast.
        served: by the model that serves.
        columns: k names, the columns of the model that serves.
        missing: shape (n, k), the columns that this model did not use for a forecast.
        shadows: by models that do not serve.
    """
    absent_bits = missing @ (1 << np.arange(len(columns)))
    first, *others = [*(_encode_name(each.forecaster) for each in shadows), b""]

    def end_of_served(row: int, in_sample: bool, absent: int) -> bytes:
        names = [name for bit, name in enumerate(columns) if absent >> bit & 1]
        scored_by = encode(ScoredBy(*served.forecaster, in_sample, names, []))
        return _encode_state(served.adapted, row) + scored_by[1 : -len(_END)] + (first or _END)

    def end_of_shadow(shadow: Forecasts, following: bytes, row: int, in_sample: bool, _: int) -> bytes:
        scored_by = encode({"digest": shadow.forecaster.digest, "in_sample": in_sample})
        return _encode_state(shadow.adapted, row) + scored_by[1:] + (b"," + following if following else _END)

    start = b"," + encode(ScoredAt(ts, horizon_s))[1:-1] + b","
    parts: list[Iterable[bytes]] = [(row[:-1] for row in rows), repeat(start)]
    parts += _figures_and_ends(served, absent_bits, end_of_served)
    for shadow, following in zip(shadows, others, strict=True):
        parts += _figures_and_ends(shadow, 0, partial(end_of_shadow, shadow, following))
    return list(map(b"".join, zip(*parts, strict=False)))


_END = b"]}"
"""End of a record: of the list of shadows, and of the record."""


def _encode_name(forecaster: Forecaster) -> bytes:
    """Return the start of a shadow, up to the figures."""
    return encode({"model_variant": forecaster.model_variant, "version": forecaster.version})[:-1] + b","


def _encode_state(adapted: Adapted, row: int) -> bytes:
    """Return the fields of the adaptation behind the figures of a row, up to the model."""
    state = AdaptedBy(*(float(getattr(adapted, name)[row]) for name in AdaptedBy.__struct_fields__))
    return b"," + encode(state)[1:-1] + b","


def _figures_and_ends(
    given: Forecasts, absent: Int64s | int, end: Callable[[int, bool, int], bytes]
) -> tuple[list[bytes], Iterable[bytes]]:
    """Return for each row the JSON of the figures, and the JSON behind them, in which few rows differ.

    Args:
        absent: shape (n,), a bit for each column that a forecast did without.
        end: called with (a row with the same state, `in_sample`, `absent`), returns the JSON behind the figures.
    """
    adapted = given.adapted
    intervals = zip(adapted.lower.tolist(), adapted.upper.tolist(), strict=True)
    records = list(map(Figures, adapted.score.tolist(), intervals, given.raw_score.tolist()))
    # One call for all rows, as a call costs a third of a row; the figures hold no text, so no text is cut.
    figures = encode(records)[len(b"[{") : -len(b"}]")].split(b"},{")
    kinds = (((adapted.alike << 1) + given.in_sample << _COLUMN_BITS) + absent).tolist()
    ends = {}
    for kind in set(kinds):
        row, in_sample = divmod(kind >> _COLUMN_BITS, 2)
        ends[kind] = end(row, bool(in_sample), kind & (1 << _COLUMN_BITS) - 1)
    return figures, map(ends.__getitem__, kinds)
