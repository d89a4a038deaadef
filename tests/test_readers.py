"""Recordings of every dialect, whole and broken, give exactly the trades that they hold."""

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import lines
from data.admission import REASONS
from data.readers import Batch, read_trades, write_csv
from data.trades import NS, Reject, Side, StreamKey, Trades

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
    return list(read_trades(paths, product_id=product_id, batch_rows=batch_rows))


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
        ("s,BTC-USD,5,2025-01-01T00:00:01Z,,1,1,BUY", "side must be buy, sell or empty, was 'BUY'"),
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
            "event_time must be a time like 2025-01-06T00:00:00.123456789Z, from 1970 to 2199, was '2025-02-30'",
        ),
        (
            "s,BTC-USD,5,1735689601,,1,1,buy",
            "event_time must be a time like 2025-01-06T00:00:00.123456789Z, from 1970 to 2199, was '1735689601'",
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


@pytest.mark.parametrize("line", ["   ", json.dumps(ticker()) * 2, '{"ts": 1}', '{"type":"ticker","side":true}'])
def test_a_line_that_is_not_one_message_is_rejected_alone(tmp_path: Path, line: str) -> None:
    lines = [json.dumps(ticker(trade_id=1)), line, json.dumps(ticker(trade_id=3))]
    batch = only(recording(tmp_path, "\n".join(lines)))
    assert (batch.trades.trade_id.tolist(), batch.line.tolist()) == ([1, 3], [1, 3])
    assert [(reject.line, reject.text) for reject in batch.rejects] == [(2, line[:200])]


def test_a_column_named_type_means_something_only_in_the_ticker_channel(tmp_path: Path) -> None:
    batch = only(recording(tmp_path, "type,timestamp,price,volume\nbuy,2025-01-01T00:00:01Z,1,1\n"))
    assert (len(batch.trades), batch.skipped) == (1, 0)


def test_the_text_of_a_reject_is_cut_to_200_characters(tmp_path: Path) -> None:
    batch = only(recording(tmp_path, OWN + GOOD.format(1) + "\n" + "é" * 300))
    assert batch.rejects[0].text == "é" * 200


def test_ids_that_do_not_rise_and_times_that_fall_are_rejected_over_the_whole_source(tmp_path: Path) -> None:
    """Two streams: the id 5 of one says nothing of the other. Falling by one second is taken, by more not."""
    first = "s,A-USD,5,2025-01-01T00:00:10Z,,1,1,\ns,B-USD,5,2025-01-01T00:00:05Z,,1,1,\n"
    second = (
        "s,A-USD,5,2025-01-01T00:00:11Z,,1,1,\n"
        "s,A-USD,6,2025-01-01T00:00:09Z,,1,1,\n"
        "s,A-USD,7,2025-01-01T00:00:08.999999999Z,,1,1,\n"
    )
    batches = read([recording(tmp_path, OWN + first, "1"), recording(tmp_path, OWN + second, "2")])
    assert [batch.trades.trade_id.tolist() for batch in batches] == [[5, 5], [6]]
    assert [(reject.line, reject.reason) for reject in rejects(batches)] == [(2, REASONS[1]), (4, REASONS[2])]


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
    """Each row has one character replaced; alone or among others it is the same trade or reject."""
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
@given(price=st.floats(min_value=1e-300, max_value=1e300), ns=st.integers(0, 7_258_118_399_999_999_999))
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
        (b"\n\n", r"it starts with '\\n\\n'"),
        (b"Dear reader,\n", "it starts with 'Dear reader,"),
        (b"timestamp,open,close\n1,2,3\n", "it starts with 'timestamp,open,close"),
        (b'{"a": 1}\n', 'it starts with \'{"a": 1}'),
        (gzip.compress(b""), "it is empty"),
        (b"\x1f\x8b\x08", "it cannot be read .the gzip ends early before its first byte"),
    ],
)
def test_a_file_of_another_kind_is_refused_at_once(tmp_path: Path, content: bytes, found: str) -> None:
    path = recording(tmp_path, content)
    with pytest.raises(ValueError, match=found) as refusal:
        read_trades(path)
    assert str(refusal.value).startswith(f"{path}: holds no trades")
    assert "CSV or Parquet with timestamp,price,volume" in str(refusal.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a directory"):
        read_trades(tmp_path)
    with pytest.raises(ValueError, match="it does not exist"):
        read_trades(tmp_path / "none")


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
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
    """Stored blocks, so that it is known which bytes are there: the cut is within the third row."""
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


def test_a_gzip_with_a_wrong_checksum_is_said(tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match="holds no trades: it starts with"):
        read_trades(shared / "lean" / "LICENSE")
