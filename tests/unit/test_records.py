"""Records to columns and back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.simulator.day import simulate_day
from data.stream.codec import decode_records, decode_trades, encode_features, encode_trades
from data.stream.records import FEATURES, FIGURES, TOPICS, End, Trade, feature_type, schemas
from data.trades import StreamKey, Trades

SPEC = FeatureSpec()


def some_trades() -> Trades:
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 7), hours=(0, 1)).take(slice(0, 500))
    size, side = trades.size.copy(), trades.side.copy()
    size[::7], side[::5] = np.nan, 0
    return Trades(
        (StreamKey("s", "BTC-USD"),),
        trades.stream,
        trades.trade_id,
        trades.event_time,
        trades.event_time + 1,
        trades.price,
        size,
        side,
    )


def test_trades_come_back_byte_for_byte() -> None:
    trades = some_trades()
    found = decode_trades(encode_trades(trades, "replay"))
    assert found.trades.keys == trades.keys
    for name in ("stream", "trade_id", "event_time", "ingest_time", "price", "size", "side"):
        assert getattr(found.trades, name).tobytes() == getattr(trades, name).tobytes(), name
    assert found.purposes == {trades.keys[0]: "replay"}


def test_feature_rows_come_back_byte_for_byte_with_null_for_missing() -> None:
    rows = feature_rows(some_trades(), Windows(SPEC))
    place = np.arange(len(rows.values))
    records = encode_features(rows, SPEC, {rows.trades.keys[0]: "replay"}, 4, place)
    decoded = [msgspec.json.decode(record, type=feature_type(SPEC)) for record in records]
    values = np.array([[getattr(record, name) for name in SPEC.columns] for record in decoded], np.float64)
    assert values.tobytes() == rows.values.tobytes()
    assert b'"n":0,"ret_mean":null,"ret_std":null' in records[0]


def test_a_decoded_record_is_encoded_to_the_same_bytes() -> None:
    trades = some_trades()
    written = encode_trades(trades, "replay")
    assert [msgspec.json.encode(msgspec.json.decode(record, type=Trade)) for record in written] == written
    rows = feature_rows(trades, Windows(SPEC))
    place = np.arange(len(rows.values))
    written = encode_features(rows, SPEC, {trades.keys[0]: "drill"}, 4, place)
    assert [msgspec.json.encode(msgspec.json.decode(record, type=feature_type(SPEC))) for record in written] == written


RECORD = encode_trades(some_trades().take(slice(0, 1)), "live")[0]
END = msgspec.json.encode(End("s", "BTC-USD", "live", 1_735_689_600_000_000_000, True))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One of our records with a few bytes changed, removed or added; sometimes whole, sometimes another record."""
    record = bytearray(draw(st.sampled_from([RECORD, RECORD, END, b"", b"{}", b"null"])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(record)))
        piece = draw(
            st.sampled_from([b"", *(bytes([c]) for c in b'0123456789.eE+-"{}[],: nulZT\\\xff'), b"null", b"18"])
        )
        record[at : at + draw(st.integers(0, 2))] = piece
    return bytes(record)


@given(st.lists(damaged(), min_size=1, max_size=6))
def test_whatever_stands_on_the_topic_is_read_as_the_general_parser_reads_it(values: list[bytes]) -> None:
    """A blank before each key is the same JSON in another layout: the general parser reads the record."""
    ours, general = decode_trades(values), decode_trades([value.replace(b',"', b', "') for value in values])
    assert ours.places.tolist() == general.places.tolist()
    assert [place for place, _ in ours.ends] == [place for place, _ in general.ends]
    assert sorted(bad.place for bad in ours.unreadable) == sorted(bad.place for bad in general.unreadable)
    for name in ("trade_id", "event_time", "ingest_time", "price", "size", "side"):
        assert getattr(ours.trades, name).tobytes() == getattr(general.trades, name).tobytes(), name
    keys = [[found.trades.keys[i] for i in found.trades.stream] for found in (ours, general)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    "names",
    [("s\n", "BTC-USD"), ("s", "BTC-USD\n"), ("a/b", "BTC-USD"), ("s" * 101, "BTC-USD"), ("s", "btc-usd"), ("s", "")],
)
def test_a_trade_or_an_end_with_a_name_that_is_not_allowed_is_unreadable(names: tuple[str, str]) -> None:
    end = msgspec.json.encode(End(*names, "live", 1, end=True))
    trade = msgspec.json.encode(Trade(*names, "live", 1, 1, 1, 1.0))
    found = decode_trades([END, end, RECORD, trade])
    assert [place for place, _ in found.ends] == [0]
    assert found.places.tolist() == [2]
    assert [bad.place for bad in found.unreadable] == [1, 3]
    assert all("must match" in bad.reason for bad in found.unreadable)


@pytest.mark.parametrize(
    "fields", [{"kafka_partition": 2**31}, {"kafka_offset": 2**63}, {"kafka_offset": -1}, {"spec_id": "a" * 101}]
)
def test_a_row_with_a_number_or_a_name_that_no_table_can_hold_is_unreadable(fields: dict[str, Any]) -> None:
    """The lake has the partition as int32 and the offset as int64."""
    trades = some_trades().take(slice(0, 1))
    [good] = encode_features(feature_rows(trades, Windows(SPEC)), SPEC, {trades.keys[0]: "live"}, 4, np.zeros(1, int))
    bad = msgspec.json.encode(msgspec.json.decode(good) | fields)
    found = decode_records([good, bad], msgspec.json.Decoder(feature_type(SPEC)).decode)
    assert found.places == [0]
    assert [each.place for each in found.unreadable] == [1]


def test_each_topic_has_a_schema_that_names_all_fields() -> None:
    found = schemas(SPEC)
    assert found.keys() == {*TOPICS, FIGURES}
    features = found[FEATURES]["$defs"]["Features"]
    assert set(SPEC.columns) <= set(features["required"])
    assert features["properties"]["product_id"]["pattern"] == "^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$"
