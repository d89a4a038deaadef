"""Records to columns and back."""

from __future__ import annotations

import datetime as dt

import msgspec
import numpy as np

from data.features import Windows, feature_rows
from data.simulator import simulate_day
from data.spec import FeatureSpec
from data.topics import FEATURES, TOPICS, decode_trades, encode_features, encode_trades, feature_type, schemas
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
    records = encode_features(rows, SPEC, {rows.trades.keys[0]: "replay"}, place * 0 + 4, place)
    decoded = [msgspec.json.decode(record, type=feature_type(SPEC)) for record in records]
    values = np.array([[getattr(record, name) for name in SPEC.columns] for record in decoded], np.float64)
    assert values.tobytes() == rows.values.tobytes()
    assert b'"n":0,"ret_mean":null,"ret_std":null' in records[0]


def test_each_topic_has_a_schema_that_names_all_fields() -> None:
    found = schemas(SPEC)
    assert found.keys() == set(TOPICS)
    features = found[FEATURES]["$defs"]["Features"]
    assert set(SPEC.columns) <= set(features["required"])
    assert features["properties"]["product_id"]["pattern"] == "^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$"
