"""Recordings of every dialect, whole and broken, give exactly their trades."""

import datetime as dt
import gzip
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.features.admission import REASONS
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.recordings import lines
from data.recordings.readers import Batch, read_bars, read_trades, write_csv
from data.recordings.recognition import recognize
from data.simulator.day import simulate_day
from data.times import NS, time_texts
from data.trades import MAX_PRICE, MIN_PRICE, Reject, Side, StreamKey, Trades

PLAIN = "timestamp,price,volume\n"
OWN = "source_id,product_id,trade_id,event_time,ingest_time,price,size,side\n"
TICKER = (
    "type,sequence,product_id,price,open_24h,volume_24h,low_24h,high_24h,volume_30d,best_bid,best_bid_size,best_ask,"
    "best_ask_size,side,time,trade_id,last_size\n"
)
SECOND_1 = 1_735_689_601  # 2025-01-01T00:00:01Z: 20,089 days of 86,400 s, and one second


def recording(folder: Path, content: str | bytes, name: str = "recording") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(paths: Path | Sequence[Path], product_id: str = "BTC-USD", batch_rows: int = 65_536) -> list[Batch]:
    """Return all batches, also of recordings without any trade, whose reading ends with an error."""
    batches = []
    try:
        for batch in read_trades(paths, product_id=product_id, batch_rows=batch_rows):
            batches.append(batch)
    except ValueError as error:
        if "no row is a trade" not in str(error):
            raise
    return batches


def only(paths: Path | Sequence[Path]) -> Batch:
    (batch,) = read(paths)
    return batch


def joined(batches: Sequence[Batch]) -> Trades:
    """Return the trades of batches that all have the same keys."""
    columns = {
        field.name: np.concatenate([getattr(batch.trades, field.name) for batch in batches])
        for field in fields(Trades)
        if field.name != "keys"
    }
    return Trades(batches[0].trades.keys, **columns)


def rejects(batches: Sequence[Batch]) -> list[Reject]:
    return [reject for batch in batches for reject in batch.rejects]


def ticker(**changes: object) -> dict[str, object]:
    return {
        "type": "ticker",
        "sequence": 1,
        "product_id": "BTC-USD",
        "price": "100.5",
        "side": "buy",
        "time": "2025-01-01T00:00:01.000001Z",
        "trade_id": 7,
        "last_size": "0.25",
        **changes,
    }


def test_plain_csv_numbers_its_rows_and_is_given_its_product(tmp_path: Path) -> None:
    path = recording(
        tmp_path, PLAIN + "2025-01-01T00:00:01.5Z,91749.99,1.587e-05\n2025-01-01 02:00:01.500000001+02:00,2e3,8e-08\n"
    )
    (batch,) = read(path, product_id="ETH-USD")
    trades = batch.trades
    assert trades.keys == (StreamKey("", "ETH-USD"),)
    assert trades.stream.tolist() == [0, 0]
    assert trades.trade_id.tolist() == [1, 2]
    assert trades.event_time.tolist() == [SECOND_1 * NS + 500_000_000, SECOND_1 * NS + 500_000_001]
    assert trades.ingest_time.tolist() == [0, 0]
    assert trades.price.tolist() == [91749.99, 2000.0]
    assert trades.size.tolist() == [1.587e-05, 8e-08]
    assert trades.side.tolist() == [Side.UNKNOWN, Side.UNKNOWN]
    assert (batch.file, batch.line.tolist(), batch.rejects, batch.skipped) == (str(path), [2, 3], [], 0)


def test_positions_count_rejected_rows_and_go_on_in_the_next_file(tmp_path: Path) -> None:
    first = recording(tmp_path, PLAIN + "2025-01-01T00:00:01Z,1,1\nbad,1,1\n\n2025-01-01T00:00:01Z,1,1\n", "1")
    second = recording(tmp_path, PLAIN + "2025-01-01T00:00:02Z,1,1\n", "2")
    batches = read([first, second])
    assert [batch.trades.trade_id.tolist() for batch in batches] == [[1, 3], [4]]
    assert [batch.line.tolist() for batch in batches] == [[2, 5], [2]]


def test_plain_csv_that_names_products_keeps_them_apart(tmp_path: Path) -> None:
    rows = "2025-01-01T00:00:01Z,A-USD,1,1\n2025-01-01T00:00:01Z,B-USD,2,1\n2025-01-01T00:00:02Z,A-USD,3,1\n"
    trades = only(recording(tmp_path, "timestamp,product_id,price,volume\n" + rows)).trades
    assert trades.keys == (StreamKey("", "A-USD"), StreamKey("", "B-USD"))
    assert trades.stream.tolist() == [0, 1, 0]


def test_ticker_csv_finds_columns_by_name_and_skips_control_rows(tmp_path: Path) -> None:
    path = recording(
        tmp_path,
        TICKER
        + "subscriptions,,,,,,,,,,,,,,,,\n"
        + "ticker,1,BTC-USD,100.5,9,9,9,9,9,9,9,9,9,sell,2025-01-01T00:00:01Z,12,0.25\n",
    )
    batch = only(path)
    assert (batch.trades.price.tolist(), batch.trades.size.tolist()) == ([100.5], [0.25])
    assert (batch.trades.trade_id.tolist(), batch.trades.side.tolist()) == ([12], [Side.SELL])
    assert (batch.line.tolist(), batch.skipped) == ([3], 1)


@pytest.mark.parametrize("enclosed", [False, True])
def test_ndjson_of_the_ticker_channel(tmp_path: Path, enclosed: bool) -> None:
    messages = [
        {"type": "subscriptions", "channels": []},
        ticker(),
        ticker(trade_id="8", price=100.75, side="sell", last_size=None),
    ]
    lines = [json.dumps({"ts": 1.5, "pair": "BTC-USD", "raw": json.dumps(m)} if enclosed else m) for m in messages]
    batch = only(recording(tmp_path, "\n".join(lines)))
    assert batch.trades.trade_id.tolist() == [7, 8]
    assert batch.trades.event_time.tolist() == [SECOND_1 * NS + 1_000] * 2
    assert batch.trades.price.tolist() == [100.5, 100.75]
    assert batch.trades.size[0] == 0.25
    assert math.isnan(batch.trades.size[1])
    assert batch.trades.side.tolist() == [Side.BUY, Side.SELL]
    assert (batch.line.tolist(), batch.skipped, batch.rejects) == ([2, 3], 1, [])


def test_own_csv_in_any_order_of_columns_with_more_of_them(tmp_path: Path) -> None:
    path = recording(
        tmp_path,
        "note,side,size,price,event_time,trade_id,product_id\n"
        '"a, b",,,5,2025-01-01T00:00:01Z,0,"BTC-USD"\nc,buy,0,5,2025-01-01T00:00:01Z,1,ETH-USD\n',
    )
    trades = only(path).trades
    assert trades.keys == (StreamKey("", "BTC-USD"), StreamKey("", "ETH-USD"))
    assert trades.side.tolist() == [Side.UNKNOWN, Side.BUY]
    assert math.isnan(trades.size[0])
    assert trades.size[1] == 0


def some_trades() -> Trades:
    return Trades(
        keys=(StreamKey("s", "BTC-USD"), StreamKey("s", "ETH-USD")),
        stream=np.array([1, 0, 1], np.int32),
        trade_id=np.array([1, 2**62, 3]),
        event_time=np.array([1, SECOND_1 * NS + 123_456_789, 2]),
        ingest_time=np.array([0, 5, 0]),
        price=np.array([0.1 + 0.2, 1e-8, 123456.78]),
        size=np.array([1e-8, np.nan, 1e6]),
        side=np.array([-1, 0, 1], np.int8),
    )


@pytest.mark.parametrize("name", ["trades.csv", "trades.csv.gz"])
def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path, name: str) -> None:
    trades = some_trades()
    path = tmp_path / "new" / name
    write_csv(path, [trades, trades.take(slice(0, 0))])
    again = only(path).trades
    products = [again.keys[i].product_id for i in again.stream]
    assert products == ["ETH-USD", "BTC-USD", "ETH-USD"]
    for column in ("trade_id", "event_time", "price", "size", "side"):
        assert getattr(again, column).tobytes() == getattr(trades, column).tobytes(), column
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_written_text_is_exact(tmp_path: Path) -> None:
    write_csv(tmp_path / "x", [some_trades().take(slice(1, 2))])
    row = "s,BTC-USD,4611686018427387904,2025-01-01T00:00:01.123456789Z,1970-01-01T00:00:00.000000005Z,1e-8,,\n"
    assert (tmp_path / "x").read_text() == OWN + row


def test_equal_trades_give_equal_bytes_with_gzip(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.gz", [some_trades()])
    write_csv(tmp_path / "b.gz", [some_trades()])
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = recording(tmp_path, "old")

    def breaks() -> Iterator[Trades]:
        yield some_trades()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_csv(path, breaks())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("recording", "old")]


GOOD = "s,BTC-USD,{},2025-01-01T00:00:01Z,,1,1,buy"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,0,1,buy", "price must be a finite number above 0, was '0'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,-1,1,buy", "price must be a finite number above 0, was '-1'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,nan,1,buy", "price must be a finite number above 0, was 'nan'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1e999,1,buy", "price must be a finite number above 0, was '1e999'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1e308,1,buy", "price must be from 1e-100 to 1e+100, was '1e308'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,5e-324,1,buy", "price must be from 1e-100 to 1e+100, was '5e-324'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1,1e101,buy", "size must be at most 1e+100, was '1e101'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,,1,buy", "price must be a finite number above 0, was ''"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,0x10,1,buy", "price must be a finite number above 0, was '0x10'"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1_0,1,buy", "price must be a finite number above 0, was '1_0'"),
        (
            "s,BTC-USD,5,2025-01-01T00:00:01Z,,1,-1,buy",
            "size must be a finite number of at least 0, or empty, was '-1'",
        ),
        (
            "s,BTC-USD,5,2025-01-01T00:00:01Z,,1,inf,buy",
            "size must be a finite number of at least 0, or empty, was 'inf'",
        ),
        (
            "s,BTC-USD,5,2025-01-01T00:00:01Z,,1,nan,buy",
            "size must be a finite number of at least 0, or empty, was 'nan'",
        ),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1,1,bid", "side must be buy, sell, b, s or empty, was 'bid'"),
        ("s,BTC-USD,-5,2025-01-01T00:00:01Z,,1,1,buy", "trade_id must be a whole number from 0 to 2^63 - 1, was '-5'"),
        (
            "s,BTC-USD,0x5,2025-01-01T00:00:01Z,,1,1,buy",
            "trade_id must be a whole number from 0 to 2^63 - 1, was '0x5'",
        ),
        (
            "s,BTC-USD,5.5,2025-01-01T00:00:01Z,,1,1,buy",
            "trade_id must be a whole number from 0 to 2^63 - 1, was '5.5'",
        ),
        (
            "s,BTC-USD,9223372036854775808,2025-01-01T00:00:01Z,,1,1,buy",
            "trade_id must be a whole number from 0 to 2^63 - 1, was '9223372036854775808'",
        ),
        (
            "s,btc-usd,5,2025-01-01T00:00:01Z,,1,1,buy",
            "product_id must be named like BTC-USD (capitals and digits), was 'btc-usd'",
        ),
        ("s,,5,2025-01-01T00:00:01Z,,1,1,buy", "product_id must be named like BTC-USD (capitals and digits), was ''"),
        (
            "s,BTC-USD,5,2025-01-01T00:00:01,,1,1,buy",
            "event_time has no zone: a time must end with Z or an offset like +00:00, was '2025-01-01T00:00:01'",
        ),
        (
            "s,BTC-USD,5,2025-02-30,,1,1,buy",
            "event_time must be a time like 2025-01-06T00:00:00.123456789Z, from 1970 to 2199, or an epoch of 10, "
            "13, 16 or 19 digits, was '2025-02-30'",
        ),
        (
            "s,BTC-USD,5,173568960,,1,1,buy",
            "event_time must be a time like 2025-01-06T00:00:00.123456789Z, from 1970 to 2199, or an epoch of 10, "
            "13, 16 or 19 digits, was '173568960'",
        ),
        ("s,BTC-USD,5", "expected 8 fields, found 3"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1,1,buy,9", "expected 8 fields, found 9"),
        ('s,BTC-USD,5,2025-01-01T00:00:01Z,,1,1,"buy', "a quotation mark is not closed on its line"),
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1,1,bu\ry", "the line must be one line, but has a carriage return within"),
    ],
)
def test_a_bad_row_is_rejected_alone_with_its_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    path = recording(tmp_path, OWN + "\n".join([GOOD.format(3), "", row, GOOD.format(6)]) + "\n")
    batch = only(path)
    assert batch.trades.trade_id.tolist() == [3, 6]
    assert batch.line.tolist() == [2, 5]
    assert batch.rejects == [Reject(str(path), 4, reason, row)]


def test_a_line_that_is_not_utf_8_is_rejected_alone(tmp_path: Path) -> None:
    path = recording(tmp_path, OWN.encode() + GOOD.format(1).encode() + b"\n\xe4,BTC-USD\n" + GOOD.format(2).encode())
    batch = only(path)
    assert batch.trades.trade_id.tolist() == [1, 2]
    assert batch.rejects == [
        Reject(str(path), 3, "the line must be UTF-8, but its byte 1 is 0xe4", "�,BTC-USD"),
    ]


def test_broken_json_is_rejected_alone(tmp_path: Path) -> None:
    lines = [json.dumps(ticker(trade_id=1)), '{"type":"ticker","pri', "[]", json.dumps(ticker(trade_id=2, time=None))]
    batch = only(recording(tmp_path, "\n".join([*lines, json.dumps(ticker(trade_id=3))])))
    assert batch.trades.trade_id.tolist() == [1, 3]
    assert [reject.line for reject in batch.rejects] == [2, 3, 4]
    assert "truncated" in batch.rejects[0].reason
    assert "Expected `object`" in batch.rejects[1].reason
    assert batch.rejects[2].reason.startswith("time must be a time like")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1735689601", 0),
        ("1735689601.", 0),
        ("1735689601.5", 500_000_000),
        ("1735689601.123456789", 123_456_789),
        ("1735689601123", 123_000_000),
        ("1735689601123.456", 123_456_000),
        ("1735689601123456", 123_456_000),
        ("1735689601123456.789", 123_456_789),
        ("1735689601123456789", 123_456_789),
        ("1735689601123456789.0", 123_456_789),
    ],
)
def test_an_epoch_tells_its_unit_by_its_digits(tmp_path: Path, text: str, ns: int) -> None:
    """2025-01-01T00:00:01Z in s, ms, us and ns, beside a time with a zone; also in JSON, where an epoch is a number."""
    rows = f"2025-01-01T00:00:01Z,1,1\n{text},2,1\nsoon,3,1\n"
    batch = only(recording(tmp_path, PLAIN + rows))
    assert batch.trades.event_time.tolist() == [SECOND_1 * NS, SECOND_1 * NS + ns]
    assert [reject.line for reject in batch.rejects] == [4]
    assert only(recording(tmp_path, json.dumps(ticker(time=text)), "j")).trades.event_time[0] == SECOND_1 * NS + ns
    bybit = f"id,timestamp,price,volume,side\n1,{text},9,1,buy\n"
    assert only(recording(tmp_path, bybit, "bybit")).trades.event_time.tolist() == [SECOND_1 * NS + ns]


@pytest.mark.parametrize(
    "text",
    [
        *("173568960", "17356896011", "7258118400", "17356896011234567", "1735689601e0", "-1735689601", "9999999999"),
        "1735689601.1234567891",
    ],
)
def test_an_epoch_that_could_be_another_number_is_no_time(tmp_path: Path, text: str) -> None:
    """7,258,118,400 s are the begin of 2200."""
    (batch,) = read(recording(tmp_path, PLAIN + text + ",1,1\n"))
    assert batch.rejects[0].reason.startswith("timestamp must be a time like")
    bybit = f"id,timestamp,price,volume,side\n1,{text},9,1,buy\n"
    (batch,) = read(recording(tmp_path, bybit, "bybit"))
    assert batch.rejects[0].reason.startswith("timestamp must be a time in s, ms, us or ns since 1970")


@pytest.mark.parametrize(
    ("values", "type_", "ns"),
    [
        ([1_735_689_601, 1_735_689_602], pa.int64(), [0, NS]),
        ([1_735_689_601_123, 1_735_689_602_000], pa.uint64(), [123_000_000, NS]),
        ([1_735_689_601.123456, 1_735_689_602.5], pa.float64(), [123_456_000, NS + 500_000_000]),
        ([1_735_689_601_123.25, 1_735_689_602_000.0], pa.float64(), [123_250_000, NS]),
        ([Decimal("1735689601.123456789"), Decimal("1735689602")], pa.decimal128(20, 9), [123_456_789, NS]),
    ],
)
def test_an_epoch_of_parquet_may_be_a_number(
    tmp_path: Path, values: list[object], type_: pa.DataType, ns: list[int]
) -> None:
    columns = {"timestamp": pa.array(values, type_), "price": [1.0, 2.0], "volume": [1.0, 2.0]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x")
    assert (only(tmp_path / "x").trades.event_time - SECOND_1 * NS).tolist() == ns


def test_ids_may_be_written_as_integral_floats_and_sides_in_capitals_or_as_letters(tmp_path: Path) -> None:
    sides = ["BUY", "Sell", "b", "S", "", "buy"]
    rows = [f"s,BTC-USD,{900_701_309 + i}.0,2025-01-01T00:00:01Z,,1,1,{side}\n" for i, side in enumerate(sides)]
    trades = only(recording(tmp_path, OWN + "".join(rows))).trades
    assert trades.trade_id.tolist() == [900_701_309 + i for i in range(6)]
    assert trades.side.tolist() == [1, -1, 1, -1, 0, 1]
    table = as_own("trade_id", [900_701_309.0, 5.5, 2.0**60], pa.float64())
    pyarrow.parquet.write_table(table, tmp_path / "x")
    batch = only(tmp_path / "x")
    assert (batch.trades.trade_id.tolist(), len(batch.rejects)) == ([900_701_309], 2)


@pytest.mark.parametrize("end", [",", ",\r"])
def test_a_comma_behind_the_last_field_is_no_field(tmp_path: Path, end: str) -> None:
    """Rows with and without the comma; an empty size keeps its place."""
    rows = ["2025-01-01T00:00:01Z,1,1", "2025-01-01T00:00:02Z,2," + end, "2025-01-01T00:00:03Z,3,1,9", "x,4,1" + end]
    batch = only(recording(tmp_path, "\ufeff" + PLAIN + rows[0] + end + "\n" + "\n".join(rows) + "\n"))
    assert batch.line.tolist() == [2, 3, 4]
    assert batch.trades.price.tolist() == [1, 1, 2]
    assert np.isnan(batch.trades.size).tolist() == [False, False, True]
    assert [reject.line for reject in batch.rejects] == [5, 6]
    assert batch.rejects[0].reason == "expected 3 fields, found 4"


@pytest.mark.parametrize("line", ["   ", json.dumps(ticker()) * 2, '{"ts": 1}', '{"type":"ticker","side":true}'])
def test_a_line_that_is_not_one_message_is_rejected_alone(tmp_path: Path, line: str) -> None:
    lines = [json.dumps(ticker(trade_id=1)), line, json.dumps(ticker(trade_id=3))]
    batch = only(recording(tmp_path, "\n".join(lines)))
    assert (batch.trades.trade_id.tolist(), batch.line.tolist()) == ([1, 3], [1, 3])
    assert [(reject.line, reject.text) for reject in batch.rejects] == [(2, line[:200])]


def test_a_column_named_type_means_something_only_in_the_ticker_channel(tmp_path: Path) -> None:
    batch = only(recording(tmp_path, "type,timestamp,price,volume\nlimit,2025-01-01T00:00:01Z,1,1\n"))
    assert (len(batch.trades), batch.skipped) == (1, 0)


def test_the_text_of_a_reject_is_cut_to_200_characters(tmp_path: Path) -> None:
    batch = only(recording(tmp_path, OWN + GOOD.format(1) + "\n" + "é" * 300))
    assert batch.rejects[0].text == "é" * 200


def test_ids_that_do_not_rise_and_times_that_fall_are_rejected_over_the_whole_source(tmp_path: Path) -> None:
    """The id 5 of a stream does not affect the other stream. A fall of one second is allowed, a longer fall is not."""
    first = "s,A-USD,5,2025-01-01T00:00:10Z,,1,1,\ns,B-USD,5,2025-01-01T00:00:05Z,,1,1,\n"
    second = (
        "s,A-USD,5,2025-01-01T00:00:11Z,,1,1,\n"
        "s,A-USD,6,2025-01-01T00:00:09Z,,1,1,\n"
        "s,A-USD,7,2025-01-01T00:00:08.999999999Z,,1,1,\n"
    )
    batches = read([recording(tmp_path, OWN + first, "1"), recording(tmp_path, OWN + second, "2")])
    assert [batch.trades.trade_id.tolist() for batch in batches] == [[5, 5], [6]]
    assert [(reject.line, reject.reason) for reject in rejects(batches)] == [(2, REASONS[1]), (4, REASONS[2])]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_the_share_of_the_recordings_rises_with_each_batch_to_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two recordings of 3,000 and 1,000 equal rows: the first ends at its share of the bytes, three quarters."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10_000)
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(10, 12)).take(slice(0, 4_000))
    for path, rows in zip(paths, (slice(0, 3_000), slice(3_000, 4_000)), strict=True):
        plain = path.with_suffix(".plain") if kind == "parquet" else path
        write_csv(plain, [trades.take(rows)])
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.csv.read_csv(plain), path)
    sizes = [path.stat().st_size for path in paths]
    batches = read(paths, batch_rows=50)
    shares = [batch.share for batch in batches]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    first_end = [batch.share for batch in batches if batch.file == str(paths[0])][-1]
    assert first_end == pytest.approx(sizes[0] / sum(sizes))
    halfway = next(batch.share for batch in batches if batch.line[-1] >= 1_500)
    assert halfway == pytest.approx(first_end / 2, abs=0.15)


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 1_000])
@pytest.mark.parametrize("block_bytes", [1, 70, 1 << 20])
def test_batches_and_blocks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, block_bytes: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    rows = [GOOD.format(i) for i in range(1, 8)]
    rows[3] = "s,BTC-USD,4"
    rows[5] = rows[5].replace("buy", '"buy')
    path = recording(
        tmp_path, "\ufeff" + OWN.replace("\n", "\r\n") + "\r\n".join(rows[:2]) + "\r\n\r\n" + "\n".join(rows[2:])
    )
    batches = read(path, batch_rows=batch_rows)
    assert [i for batch in batches for i in batch.trades.trade_id.tolist()] == [1, 2, 3, 5, 7]
    assert [i for batch in batches for i in batch.line.tolist()] == [2, 3, 5, 7, 9]
    assert [reject.line for reject in rejects(batches)] == [6, 8]
    assert max(len(batch.trades) + len(batch.rejects) for batch in batches) <= batch_rows


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 45), st.sampled_from(['"', ",", "\r", "\n", "x", "0", " ", "-", "\0", "\xe9"]))
    ),
    batch_rows=st.integers(1, 4),
)
def test_what_becomes_of_a_line_does_not_depend_on_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], batch_rows: int
) -> None:
    """Each row has a replaced character; alone or among other rows, the row is the same trade or reject."""
    lines = [GOOD.format(10 + i) for i in range(len(rows) + 1)]
    for i, (at, character) in enumerate(rows):
        lines[i] = lines[i][:at] + character + lines[i][at + 1 :]
    path = recording(tmp_path_factory.mktemp("any"), (OWN + "\n".join(lines)).encode("latin-1"))
    together, apart = read(path), read(path, batch_rows=batch_rows)
    for name in ("trade_id", "event_time", "price", "size", "side"):
        columns = [b"".join(getattr(b.trades, name).tobytes() for b in batches) for batches in (together, apart)]
        assert columns[0] == columns[1]
    assert [n for b in together for n in b.line.tolist()] == [n for b in apart for n in b.line.tolist()]
    assert rejects(together) == rejects(apart)


@settings(deadline=None)  # files on a busy disk
@given(price=st.floats(min_value=MIN_PRICE, max_value=MAX_PRICE), ns=st.integers(0, 7_258_118_399_999_999_999))
def test_any_price_and_time_survive(tmp_path_factory: pytest.TempPathFactory, price: float, ns: int) -> None:
    """Python's own float is the nearest double, and integers of nanoseconds are exact."""
    time = str(np.datetime64(ns, "ns")) + "Z"
    path = recording(tmp_path_factory.mktemp("any"), f"{PLAIN}{time},{price!r},{price:.17f}\n")
    trades = only(path).trades
    assert trades.price[0] == price
    assert trades.size[0] == float(f"{price:.17f}")
    assert trades.event_time[0] == ns


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "it starts with the bytes of a PNG image"),
        (b"", "it is empty"),
        (b"\n\n", "it has blank lines alone"),
        (b"<!DOCTYPE html>\n<html>403</html>\n", "it is an HTML page in place of a recording"),
        (b'<?xml version="1.0"?>\n<Error/>\n', "it is XML in place of a recording"),
        (b"timestamp;price;volume\n1;2;3\n", "it is a table whose fields are separated by semicolons: save it with"),
        (b"Dear reader,\n", "it is a text without a known header or message"),
        (
            b"timestamp,open,close\n1,2,3\n",
            "it is a table of 3 columns that no dialect knows, and no two are named like",
        ),
        (b'{"a": 1}\n', "it is JSON whose keys no dialect knows, and no two are named like a time and a price"),
        (b"\x7fELF\0\0", "it holds no text"),
        (gzip.compress(b"", mtime=0), "it is empty"),
        (b"\x1f\x8b\x08", "it cannot be read .the gzip ends early before its first byte"),
    ],
)
def test_a_file_of_another_kind_is_refused_at_once(tmp_path: Path, content: bytes, found: str) -> None:
    path = recording(tmp_path, content)
    with pytest.raises(ValueError, match=found) as refusal:
        read_trades(path)
    assert str(refusal.value).startswith(f"{path}: holds no trades")
    assert "CSV or Parquet with timestamp,price,volume" in str(refusal.value)


@pytest.mark.parametrize("name", ["file.csv", "file.parquet", "second/btcusd/20180404_trade.zip", "file.csv.gz"])
@pytest.mark.parametrize("start", [b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"\xef\xbb\xbf", b"\n\n", b"\xff\xfe"])
def test_no_byte_of_a_file_that_is_no_recording_is_shown(tmp_path: Path, name: str, start: bytes) -> None:
    secret = b"swordfish:x:0:0:swordfish:/swordfish\n"
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in (start + secret * 9, gzip.compress(start + secret), gzip.compress(b"") + start + secret):
        path.write_bytes(content)
        for read_some in (read_trades, read_bars):
            with pytest.raises(ValueError, match=r"file|2018") as refusal:
                list(read_some(path))
            assert not re.search("sword|x:0|b'|\\\\x", str(refusal.value)), refusal.value


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a directory"):
        read_trades(tmp_path)
    with pytest.raises(ValueError, match="it does not exist"):
        read_trades(tmp_path / "none")


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    path = recording(tmp_path, gzip.compress((PLAIN + "2025-01-01T00:00:01Z,1,1\n").encode()), "picture.png")
    assert len(only(path).trades) == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [(PLAIN, "no row"), ('{"type":"subscriptions"}\n' * 2, "only 2 messages of other kinds")],
)
def test_a_recording_without_rows_holds_no_trades(tmp_path: Path, content: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"holds no trades, {found}"):
        read(recording(tmp_path, content))


def test_a_recording_with_ids_and_one_without_are_two_sources(tmp_path: Path) -> None:
    with_ids = recording(tmp_path, OWN + GOOD.format(1), "with")
    without = recording(tmp_path, PLAIN + "2025-01-01T00:00:01Z,1,1\n", "without")
    with pytest.raises(ValueError, match=r"with has trade ids and .*without has none.*two sources"):
        read_trades([without, with_ids])


def test_all_whole_rows_of_a_gzip_that_ends_early_are_read(tmp_path: Path) -> None:
    """Stored blocks, so that the position of each byte is known: the cut is within the third row."""
    text = (OWN + "\n".join(GOOD.format(i) for i in range(1, 9))).encode()
    whole = gzip.compress(text, compresslevel=0)
    kept = len(OWN) + 2 * len(GOOD.format(1) + "\n") + 5
    path = recording(tmp_path, whole[: 15 + kept])
    batches = []
    with pytest.raises(ValueError, match=r"recording: the gzip ends early after 2 whole rows.*download the file again"):
        for batch in read_trades(path):
            batches.append(batch)
    assert [batch.trades.trade_id.tolist() for batch in batches] == [[1, 2]]
    assert rejects(batches) == []


def test_a_gzip_with_a_wrong_checksum_is_reported(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress((OWN + GOOD.format(1) + "\n").encode()))
    packed[-8] ^= 1
    with pytest.raises(ValueError, match=r"the gzip is damaged .* after 1 whole rows"):
        read(recording(tmp_path, bytes(packed)))


def test_arguments_are_checked_at_once(tmp_path: Path) -> None:
    path = recording(tmp_path, PLAIN)
    with pytest.raises(ValueError, match="named like BTC-USD"):
        read_trades(path, product_id="btcusd")
    with pytest.raises(ValueError, match="at least 1 recording, got 0"):
        read_trades([])
    with pytest.raises(ValueError, match="batch_rows must be at least 1, was 0"):
        read_trades(path, batch_rows=0)


def frame(*ticks: dict[str, object], channel: str = "ticker", time: str = "2025-01-01T00:00:01.123456789Z") -> str:
    return json.dumps({"channel": channel, "timestamp": time, "sequence_num": 0, "events": [{"tickers": list(ticks)}]})


def tick(product_id: str, price: object) -> dict[str, object]:
    return {"type": "ticker", "product_id": product_id, "price": price, "volume_24_h": "9"}


@pytest.mark.parametrize("recorded", [False, True])
def test_frames_of_the_advanced_trade_channel(tmp_path: Path, recorded: bool) -> None:
    """A frame may hold ticks of several products; each tick has a position, and other frames have one position."""
    lines = [
        frame(channel="subscriptions"),
        frame(tick("BTC-USD", "100.5"), tick("ETH-USD", "7")),
        frame(),
        frame(tick("BTC-USD", "101")),
    ]
    if recorded:
        lines = [f'{{"ingest_time":"2025-01-01","product_id":"BTC-USD","payload":{line}}}' for line in lines]
    batch = only(recording(tmp_path, "\n".join(lines)))
    trades = batch.trades
    assert [trades.keys[stream].product_id for stream in trades.stream] == ["BTC-USD", "ETH-USD", "BTC-USD"]
    assert trades.price.tolist() == [100.5, 7, 101]
    assert trades.event_time.tolist() == [SECOND_1 * NS + 123_456_789] * 3
    assert trades.trade_id.tolist() == [2, 3, 5]
    assert np.isnan(trades.size).all()
    assert trades.side.tolist() == [Side.UNKNOWN] * 3
    assert (batch.line.tolist(), batch.skipped, batch.rejects) == ([2, 2, 4], 2, [])


def test_a_bad_tick_of_a_frame_is_rejected_alone(tmp_path: Path) -> None:
    bad = frame(tick("A-USD", "1"), tick("B-USD", "0"), tick("c", "1"), tick("A-USD", "2"))
    path = recording(tmp_path, "\n".join([frame(tick("A-USD", 3)), "{", bad]))
    batches = read(path, batch_rows=2)
    assert [batch.trades.price.tolist() for batch in batches] == [[3], [1, 2]]
    assert [batch.trades.trade_id.tolist() for batch in batches] == [[1], [3, 6]]
    assert [(reject.line, reject.reason.partition(":")[0]) for reject in rejects(batches)] == [
        (2, "the line must be a JSON message of the ticker channel"),
        (3, "price must be a finite number above 0, was '0'"),
        (3, "product_id must be named like BTC-USD (capitals and digits), was 'c'"),
    ]


FLAT = {"timestamp": "2025-01-01T00:00:01.5", "product_id": "BTC-USD", "price": "100.5", "volume_24h": "5410.7"}


def test_flattened_ticks_have_the_recorders_clock_which_is_utc(tmp_path: Path) -> None:
    """A time without a zone is UTC; a written zone is used. The running volume is no size."""
    times = [FLAT["timestamp"], "2025-01-01T00:00:02Z", "2025-01-01T02:00:03+02:00", "2025-01-01", "soon"]
    ndjson = recording(tmp_path, "\n".join(json.dumps({**FLAT, "timestamp": time, "raw": {}}) for time in times), "a")
    rows = [f'{time},BTC-USD,100.5,5410.7,"{{""type"":""ticker"", ""x"":1}}"' for time in times]
    csv = recording(tmp_path, "timestamp,product_id,price,volume_24h,raw\n" + "\n".join(rows), "b")
    for path in (ndjson, csv):
        batch = only(path)
        first = SECOND_1 * NS
        assert batch.trades.event_time.tolist() == [first + 500_000_000, first + NS, first + 2 * NS]
        assert np.isnan(batch.trades.size).all()
        assert [reject.reason for reject in batch.rejects] == [
            "timestamp has no zone: a time must end with Z or an offset like +00:00, was '2025-01-01'",
            "timestamp must be a time like 2025-01-06T00:00:00.123456789Z, from 1970 to 2199, or an epoch of 10, 13, "
            "16 or 19 digits, was 'soon'",
        ]


def as_own(name: str, values: list[object], type_: pa.DataType) -> pa.Table:
    """Return three rows of the own columns, with a replaced column."""
    columns: dict[str, pa.Array] = {
        "product_id": pa.array(["BTC-USD", "ETH-USD", "BTC-USD"]),
        "trade_id": pa.array([1, 1, 2]),
        "event_time": pa.array([SECOND_1 * NS] * 3, pa.timestamp("ns", "UTC")),
        "price": pa.array([1.5, 2.5, 3.5]),
        "size": pa.array([1.0, 2.0, 3.0]),
        "side": pa.array(["buy", "sell", None]),
    }
    return pa.table({**columns, name: pa.array(values, type_)})


@pytest.mark.parametrize(
    ("name", "type_", "values", "read_as", "reason"),
    [
        ("price", pa.float64(), [0.1 + 0.2, 1e-8, -1.0], [0.1 + 0.2, 1e-8], "price must be a finite number above 0"),
        ("price", pa.string(), ["0.30000000000000004", "1e-8", "x"], [0.1 + 0.2, 1e-8], "price must be a finite"),
        ("price", pa.decimal128(20, 8), [Decimal("91749.99"), Decimal("0.00000001"), None], [91749.99, 1e-8], "price"),
        ("price", pa.int64(), [2**53 + 1, 7, 0], [float(2**53), 7.0], "price must be a finite number above 0, was '0'"),
        ("price", pa.float32(), [0.5, 0.25, math.nan], [0.5, 0.25], "price must be a finite number above 0, was 'nan'"),
        ("size", pa.float64(), [2.0, 0.0, -1.0], [2.0, 0.0], "size must be a finite number of at least 0, or empty"),
        ("trade_id", pa.uint64(), [5, 6, 2**63], [5, 6], "trade_id must be a whole number from 0 to 2^63 - 1"),
        ("trade_id", pa.string(), ["5", "6", "0x7"], [5, 6], "trade_id must be a whole number"),
        (
            "side",
            pa.dictionary(pa.int8(), pa.string()),
            ["buy", "", "bid"],
            [1, 0],
            "side must be buy, sell, b, s or empty",
        ),
        (
            "event_time",
            pa.timestamp("us", "America/New_York"),
            [SECOND_1 * 1_000_000, SECOND_1 * 1_000_000, -1],
            [SECOND_1 * NS] * 2,
            "event_time must be a time like",
        ),
        (
            "event_time",
            pa.timestamp("s", "UTC"),
            [SECOND_1, SECOND_1, 2**40],
            [SECOND_1 * NS] * 2,
            "event_time must be a time like",
        ),
        (
            "event_time",
            pa.string(),
            ["2025-01-01T00:00:01Z", "2025-01-01T01:00:01+01:00", "2025-01-01T00:00:01"],
            [SECOND_1 * NS] * 2,
            "event_time has no zone",
        ),
        ("product_id", pa.string(), ["BTC-USD", "ETH-USD", None], None, "product_id must be named like BTC-USD"),
    ],
)
def test_parquet_columns_may_be_typed_or_texts(
    tmp_path: Path, name: str, type_: pa.DataType, values: list[object], read_as: list[float] | None, reason: str
) -> None:
    path = tmp_path / "trades"
    pyarrow.parquet.write_table(as_own(name, values, type_), path)
    batch = only(path)
    assert len(batch.trades) == 2
    if read_as is not None:
        assert getattr(batch.trades, name).tolist() == read_as
    (reject,) = batch.rejects
    assert (reject.file, reject.line) == (str(path), 3)
    assert reject.reason.startswith(reason)
    assert batch.line.tolist() == [1, 2]


@pytest.mark.parametrize("longest", [3, 40_000])
def test_a_large_row_group_of_texts_is_read_like_numbers(tmp_path: Path, longest: int) -> None:
    """Sides are whole texts where all are short, and else numbers of a dictionary; the long one is rejected."""
    rows = 70_000
    number = np.arange(rows)
    texts = {
        "product_id": pa.array(["BTC-USD"] * rows),
        "trade_id": pa.array((number + 1).astype(str)),
        "event_time": pa.array([str(SECOND_1 * 1_000 + i) for i in range(rows)]),
        "price": pa.array((100 + number % 50 / 4).astype(str)),
        "size": pa.array((number % 7).astype(str)),
        "side": pa.array(["buy", "sell"] * (rows // 2 - 1) + ["buy", "x" * longest]),
    }
    pyarrow.parquet.write_table(pa.table(texts), tmp_path / "x")
    batches = list(read_trades(tmp_path / "x"))
    (reject,) = [reject for batch in batches for reject in batch.rejects]
    assert (reject.line, reject.reason[:12]) == (rows, "side must be")
    trades = Trades.join([batch.trades for batch in batches])
    whole = number[:-1]
    assert trades.trade_id.tolist() == (whole + 1).tolist()
    assert trades.event_time.tolist() == (SECOND_1 * NS + whole * 10**6).tolist()
    assert trades.price.tolist() == (100 + whole % 50 / 4).tolist()
    assert trades.side.tolist() == np.where(whole % 2 == 0, 1, -1).tolist()


def test_an_unknown_size_of_parquet_is_null_or_nan(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(as_own("size", [None, math.nan, 0.0], pa.float64()), tmp_path / "x")
    assert np.isnan(only(tmp_path / "x").trades.size).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("name", "type_", "values", "said"),
    [
        (
            "event_time",
            pa.timestamp("ns"),
            [1, 2, 3],
            r"'event_time' must be a timestamp with a zone \(this one has none",
        ),
        (
            "event_time",
            pa.bool_(),
            [True] * 3,
            "must be a timestamp with a zone, an epoch, or text; it is",
        ),
        ("price", pa.bool_(), [True] * 3, "'price' must be numbers or text; it is bool"),
        ("trade_id", pa.bool_(), [True] * 3, "'trade_id' must be whole numbers or text; it is bool"),
        ("side", pa.int8(), [1] * 3, "'side' must be text; it is int8"),
    ],
)
def test_a_parquet_column_of_a_wrong_type_is_refused(
    tmp_path: Path, name: str, type_: pa.DataType, values: list[object], said: str
) -> None:
    pyarrow.parquet.write_table(as_own(name, values, type_), tmp_path / "x")
    with pytest.raises(ValueError, match=said):
        read_trades(tmp_path / "x")


def test_parquet_of_other_kinds_is_refused(tmp_path: Path) -> None:
    other, packed, cut = tmp_path / "other", tmp_path / "packed", tmp_path / "cut"
    pyarrow.parquet.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(ValueError, match="starts with the bytes of a Parquet file of other columns"):
        read_trades(other)
    packed.write_bytes(gzip.compress(other.read_bytes()))
    with pytest.raises(ValueError, match="is a gzip of a file that is packed already: unpack it with gzip -d"):
        read_trades(packed)
    cut.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(ValueError, match="starts as a Parquet file, but cannot be read"):
        read_trades(cut)


def test_all_row_groups_before_the_damage_are_read(tmp_path: Path) -> None:
    """Each of two groups has 100 rows; the pages of the second group are overwritten."""
    path = tmp_path / "damaged"
    table = pa.concat_tables([as_own("trade_id", [i, i, i + 1], pa.int64()) for i in range(0, 200, 2)]).slice(0, 200)
    pyarrow.parquet.write_table(table, path, row_group_size=100)
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1)
    content = bytearray(path.read_bytes())
    for i in range(group.num_columns):
        column = group.column(i)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    batches = []
    with pytest.raises(ValueError, match=r"the Parquet file is damaged .* after 100 whole rows"):
        for batch in read_trades(path):
            batches.append(batch)
    assert sum(len(batch.line) + len(batch.rejects) for batch in batches) == 100


def market() -> Trades:
    """Two products, ids from 1 on as in a recording without ids, and no unknown size."""
    one = simulate_day("BTC-USD", dt.date(2025, 1, 6), hours=(0, 1)).take(slice(0, 3_000))
    return replace(one, keys=(StreamKey("", "BTC-USD"),), trade_id=np.arange(1, len(one) + 1))


def rows_of(trades: Trades) -> list[tuple[str, float, float, str, int]]:
    """Return time, price, size, side and id of each trade."""
    side = {-1: "sell", 1: "buy"}
    times, sides = time_texts(trades.event_time), [side[i] for i in trades.side.tolist()]
    return list(zip(times, trades.price.tolist(), trades.size.tolist(), sides, trades.trade_id.tolist(), strict=True))


def write_all_dialects(folder: Path, trades: Trades) -> list[Path]:
    """Write the same trades in every dialect with sizes."""
    rows = rows_of(trades)
    messages = [
        ticker(time=time, price=repr(price), last_size=repr(size), side=side, trade_id=i)
        for time, price, size, side, i in rows
    ]
    names = TICKER.strip().split(",")
    write_csv(folder / "own.csv", [trades])
    write_csv(folder / "own.csv.gz", [trades])
    texts = {
        "plain.csv": PLAIN + "".join(f"{time},{price!r},{size!r}\n" for time, price, size, _, _ in rows),
        "ticker.csv": TICKER + "".join(",".join(str(m.get(name, "")) for name in names) + "\n" for m in messages),
        "raw.ndjson": "\n".join(json.dumps(message) for message in messages),
        "enveloped.ndjson": "\n".join(json.dumps({"ts": 1, "raw": json.dumps(message)}) for message in messages),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    time, price, size, sides, ids = zip(*rows, strict=True)
    own = {"trade_id": ids, "price": price, "size": size, "side": sides, "product_id": ["BTC-USD"] * len(rows)}
    tables = {
        "own.parquet": {**own, "event_time": pa.array(trades.event_time, pa.timestamp("ns", "UTC"))},
        "plain.parquet": {"timestamp": time, "price": list(map(repr, price)), "volume": list(map(repr, size))},
        "ticker.parquet": {name: [str(message.get(name, "")) for message in messages] for name in names},
    }
    for name, columns in tables.items():
        pyarrow.parquet.write_table(pa.table(columns), folder / name, row_group_size=1_000)
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def feature_bytes(path: Path, batch_rows: int) -> bytes:
    windows = Windows(FeatureSpec())
    batches = read_trades(path, batch_rows=batch_rows)
    return b"".join(feature_rows(batch.trades, windows).values.tobytes() for batch in batches)


def test_the_same_trades_give_the_same_features_in_every_dialect(tmp_path: Path) -> None:
    paths = write_all_dialects(tmp_path, market())
    expected = feature_rows(market(), Windows(FeatureSpec())).values.tobytes()
    assert len(paths) == 9
    for batch_rows, path in enumerate(paths, start=700):
        assert feature_bytes(path, batch_rows) == expected, path.name


def test_the_same_ticks_give_the_same_features_in_both_advanced_dialects(tmp_path: Path) -> None:
    rows = rows_of(market())
    frames = "\n".join(frame(tick("BTC-USD", repr(price)), time=time) for time, price, *_ in rows)
    flat = "\n".join(json.dumps({**FLAT, "timestamp": time[:-1], "price": price}) for time, price, *_ in rows)
    one, other = recording(tmp_path, frames, "frames"), recording(tmp_path, flat, "flat")
    found = feature_bytes(one, 1_000)
    assert found == feature_bytes(other, 300)
    assert len(found) == len(rows) * 8 * len(FeatureSpec().columns)


NUMBERS = (
    "1",
    " 1",
    "1 ",
    "0x1",
    "0X1",
    "+1",
    "-1",
    "1.5",
    "1e5",
    "nan",
    "inf",
    "",
    " ",
    "01",
    "\t2",
    "9" * 19,
    "1,",
    "900.0",
    "7.",
    "8.50",
)
TIMES = (
    "2025-01-01T00:00:01Z",
    "2025-01-01 00:00:01Z",
    "2025-01-01T00:00:01",
    "2300-01-01T00:00:00Z",
    "1969-01-01T00Z",
    "1735689601",
    "1735689601123456.5",
    "1735689601.1234567891",
)
NAMES = (
    "buy",
    "SELL",
    "b",
    "x",
    "BTC-USD",
    "10X-USD",
    "btc-usd",
    "2025-01-01T00:00:01.1234567891Z",
    "2025-01-01T02:00+02",
)
FIELD_TEXTS = st.sampled_from([*NUMBERS, *TIMES, *NAMES])


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 7), FIELD_TEXTS), min_size=1, max_size=4))
def test_a_block_read_in_one_go_is_as_read_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]]
) -> None:
    """A last line that is no row makes the reader parse the block line by line."""
    texts = [GOOD.format(10 + i).split(",") for i in range(len(rows))]
    for fields_, (at_, text) in zip(texts, rows, strict=True):
        fields_[at_] = text
    content = OWN + "".join(",".join(fields_) + "\n" for fields_ in texts)
    folder = tmp_path_factory.mktemp("any")
    (typed,), (careful,) = read(recording(folder, content, "a")), read(recording(folder, content + "no row\n", "b"))
    for name in ("trade_id", "event_time", "price", "size", "side"):
        assert getattr(typed.trades, name).tobytes() == getattr(careful.trades, name).tobytes()
    assert typed.line.tolist() == careful.line.tolist()
    assert [r[1:] for r in typed.rejects] == [r[1:] for r in careful.rejects[:-1]]


Edit = tuple[int, bytes, int | None]
"""Place (modulo the length of the file), new bytes, and number of old bytes that the new ones replace."""

EDITS = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.one_of(st.binary(max_size=6), st.sampled_from([b"\n", b'"', b"\r", b"}"])),
        st.sampled_from([0, None, 3]),
    ),
    min_size=1,
    max_size=6,
)


def mutilated(content: bytes, edits: list[Edit]) -> bytes:
    """Return a file with some of its bytes replaced, taken out or put in; None replaces as many bytes as it puts in."""
    changed = bytearray(content)
    for place, piece, removed in edits:
        at = place % (len(changed) + 1)
        changed[at : at + (len(piece) if removed is None else removed)] = piece
    return bytes(changed)


def lines_of(content: bytes, header_lines: int) -> int:
    """Return the number of lines that are not blank, without a header, counted another way than in the reader."""
    return len([line for line in content.split(b"\n") if line.strip(b"\r")]) - header_lines


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small recording of each dialect, by name."""
    folder = tmp_path_factory.mktemp("small")
    write_all_dialects(folder, market().take(slice(0, 12)))
    recording(folder, "\n".join(json.dumps(FLAT) for _ in range(5)), "flat.ndjson")
    recording(folder, "\n".join(frame(tick("BTC-USD", 1), tick("ETH-USD", 2)) for _ in range(5)), "frames.ndjson")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SMALL_FILES = (
    "enveloped.ndjson", "flat.ndjson", "frames.ndjson", "own.csv", "own.csv.gz", "own.parquet", "plain.csv",
    "plain.parquet", "raw.ndjson", "ticker.csv", "ticker.parquet",
)  # fmt: skip


def test_every_small_file_is_mutilated(small_files: dict[str, bytes]) -> None:
    assert sorted(small_files) == sorted(SMALL_FILES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="own.parquet", edits=[(4, b"\x80", None)], batch_rows=1)
@given(name=st.sampled_from(SMALL_FILES), edits=EDITS, batch_rows=st.sampled_from([1, 5, 1_000]))
def test_no_line_of_a_mutilated_file_is_lost(
    tmp_path: Path, small_files: dict[str, bytes], name: str, edits: list[Edit], batch_rows: int
) -> None:
    """Any bytes raise only ValueError, and each line is a trade, a reject or a message."""
    path = tmp_path / name
    path.write_bytes(content := mutilated(small_files[name], edits))
    seen: set[int] = set()
    skipped = 0
    try:
        dialect = recognize(path)
        for batch in read_trades(path, batch_rows=batch_rows):
            seen |= {*batch.line.tolist(), *(reject.line for reject in batch.rejects)}
            skipped += batch.skipped
    except ValueError as error:
        assert str(error).startswith(f"{path}: "), "said by the reader, not by the library below"
        return
    if path.suffix in (".csv", ".ndjson"):
        assert len(seen) + skipped == lines_of(content, dialect.name.startswith("CSV"))


@pytest.mark.parametrize("column", ["product_id", "trade_id", "event_time", "price", "size", "side"])
def test_a_text_in_parquet_that_is_no_utf8_is_rejected(tmp_path: Path, column: str) -> None:
    """A flipped bit in a Parquet file leaves texts that no decoder accepts."""
    row = {"source_id": "", "product_id": "BTC-USD", "trade_id": "1", "event_time": "2025-01-06T00:00:00Z",
               "ingest_time": "", "price": "1.5", "size": "2", "side": "buy"}  # fmt: skip
    table = {name: pa.array([text, text], pa.string()) for name, text in row.items()}
    bad = pa.array([b"x\x80", row[column].encode()], pa.binary())
    table[column] = pa.StringArray.from_buffers(2, *bad.buffers()[1:])
    pyarrow.parquet.write_table(pa.table(table), path := tmp_path / "bad.parquet")
    (batch,) = list(read_trades(path))
    assert batch.line.tolist() == [2]
    (reject,) = batch.rejects
    assert (reject.line, "was 'x\\\\x80'" in reject.reason) == (1, True)


def test_columns_of_every_dialect_can_be_written(tmp_path: Path) -> None:
    """A compiled kernel is compiled again for read-only columns: seconds in the middle of a stream."""
    for path in write_all_dialects(tmp_path, market().take(slice(0, 50))):
        trades = only(path).trades
        assert all(getattr(trades, field.name).flags.writeable for field in fields(Trades) if field.name != "keys")


def at(trades: Trades, i: int) -> str:
    return str(trades.event_time[i : i + 1 or None].view("M8[ns]")[0])


def holes_h(trades: Trades) -> list[float]:
    """Return the holes of more than 300 s, in hours."""
    gaps = np.diff(trades.event_time) / NS
    return [round(gap / 3_600, 1) for gap in gaps.tolist() if gap > 300]


def test_shared_plain_recording(shared: Path) -> None:
    batches = read(shared / "coinbase_trades_btcusd_20251117.csv")
    trades = joined(batches)
    assert (len(trades), rejects(batches), sum(batch.skipped for batch in batches)) == (4_337, [], 0)
    assert (trades.price[0], trades.size[0], trades.size.min()) == (91749.99, 0.00915181, 8e-08)
    assert at(trades, 0) == "2025-11-17T23:33:18.135099000"
    assert at(trades, -1)[:19] == "2025-11-17T23:43:17"
    assert trades.trade_id.tolist() == list(range(1, 4_338))
    assert holes_h(trades) == []


def test_shared_exchange_recording(shared: Path) -> None:
    batches = read(shared / "coinbase_exchange_ticker_btcusd_20251112-13.ndjson.gz")
    assert rejects(batches) == []
    assert sum(batch.skipped for batch in batches) == 3
    lines = [line for batch in batches for line in batch.line.tolist()]
    assert set(range(1, 2_828)) - set(lines) == {1, 46, 1837}
    trades = joined(batches)
    assert len(trades) == len(lines) == 2_824
    first = (trades.trade_id[0], trades.price[0], trades.size[0], trades.side[0])
    assert first == (900701309, 103472.28, 0.00068754, Side.BUY)
    assert at(trades, -1)[:19] == "2025-11-14T00:00:51"
    assert holes_h(trades) == [35.3, 5.4]
    jumps = np.diff(trades.trade_id)
    assert jumps[jumps > 1].tolist() == [918_113, 335_089]


def test_shared_advanced_recording(shared: Path) -> None:
    """The exchange's clock, to the nanosecond; no size and no side is invented."""
    batches = read(shared / "coinbase_advanced_ws_btcusd_20260405.ndjson.gz", product_id="NONE-USD")
    trades = joined(batches)
    assert (len(trades), rejects(batches), sum(batch.skipped for batch in batches)) == (5_970, [], 1)
    assert trades.keys == (StreamKey("", "BTC-USD"),)
    assert (at(trades, 0), trades.price[0]) == ("2026-04-05T22:35:13.925327620", 67468.26)
    assert at(trades, -1)[:19] == "2026-04-05T22:55:13"
    assert [batches[0].line[:3].tolist(), trades.trade_id[:3].tolist()] == [[1, 3, 4], [1, 3, 4]]
    assert np.isnan(trades.size).all()
    assert not trades.side.any()
    assert round(float(np.mean(np.diff(trades.price) == 0)), 2) == 0.68
    assert holes_h(trades) == []


def test_shared_flattened_recording(shared: Path) -> None:
    batch = only(shared / "coinbase_advanced_ticker_btcusd_20251108.ndjson")
    trades = batch.trades
    assert (len(trades), batch.rejects, batch.skipped) == (223, [], 0)
    assert (at(trades, 0), trades.price[0]) == ("2025-11-08T15:12:31.463496000", 102020.48)
    assert at(trades, -1)[:19] == "2025-11-08T15:13:14"
    assert np.isnan(trades.size).all()


def test_a_text_that_is_no_recording_is_refused(shared: Path) -> None:
    with pytest.raises(ValueError, match="holds no trades: it is a text without"):
        read_trades(shared / "lean" / "LICENSE")
