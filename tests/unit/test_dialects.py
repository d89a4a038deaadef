"""Files of other venues give the trades of our own CSV, to the byte; a broken copy loses no line."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.recordings.dialects.base import Dialect
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.lines import Meter
from data.recordings.readers import Batch, read_trades, write_csv
from data.recordings.recognition import recognize
from data.times import NS, time_texts
from data.trades import Side, StreamKey, Trades

FIRST_MS = 1_735_689_601_250  # 2025-01-01T00:00:01.25Z: 20,089 days of 86,400 s, and 1.25 s
PRODUCT = "BTC-USDT"
COUNT = 40


def market(first_ms: int = FIRST_MS, count: int = COUNT) -> Trades:
    """Return trades with ids from 1 on, times of whole milliseconds, and sides of takers."""
    rng = random.Random(5)
    ms = first_ms + np.cumsum([rng.randrange(0, 900) for _ in range(count)])
    price = [round(100_000 + rng.uniform(-50, 50), 2) for _ in range(count)]
    size = [round(rng.uniform(1e-5, 2), 8) for _ in range(count)]
    return Trades(
        (StreamKey("", PRODUCT),),
        np.zeros(count, np.int32),
        np.arange(1, count + 1),
        ms.astype(np.int64) * 1_000_000,
        np.zeros(count, np.int64),
        np.array(price),
        np.array(size),
        np.array([rng.choice((-1, 1)) for _ in range(count)], np.int8),
    )


class Row:
    """One trade as venues write it."""

    def __init__(self, trades: Trades, i: int) -> None:
        self.id, self.ns = int(trades.trade_id[i]), int(trades.event_time[i])
        self.ms, self.us, self.s = self.ns // 1_000_000, self.ns // 1_000, f"{self.ns / NS:.3f}"
        self.iso = time_texts(trades.event_time[i : i + 1])[0]
        self.price, self.size = float(trades.price[i]), float(trades.size[i])
        self.buys = trades.side[i] == Side.BUY
        self.taker, self.maker = ("buy", "sell") if self.buys else ("sell", "buy")


def match(row: Row, **changes: Any) -> dict[str, Any]:
    return {
        "type": "match", "trade_id": row.id, "maker_order_id": "ac92", "taker_order_id": "132f", "side": row.maker,
        "size": repr(row.size), "price": repr(row.price), "product_id": PRODUCT, "sequence": 50, "time": row.iso,
        **changes,
    }  # fmt: skip


def rest(row: Row) -> dict[str, Any]:
    return {"time": row.iso, "trade_id": row.id, "price": str(row.price), "size": repr(row.size), "side": row.maker}


def ccxt(row: Row) -> dict[str, Any]:
    return {
        "info": {"a": {"b": "}{"}, "quote": '\\"'}, "timestamp": row.ms, "datetime": row.iso, "symbol": "BTC/USDT",
        "id": str(row.id), "order": None, "type": None, "side": row.taker, "takerOrMaker": None, "price": row.price,
        "amount": row.size, "cost": row.price * row.size, "fee": {"cost": 1}, "fees": [{"cost": 1}, {"cost": 2}],
    }  # fmt: skip


def binance(row: Row) -> dict[str, Any]:
    return {
        "id": row.id, "price": f"{row.price:.8f}", "qty": repr(row.size), "quoteQty": "1", "time": row.ms,
        "isBuyerMaker": not row.buys, "isBestMatch": True,
    }  # fmt: skip


def kraken(row: Row) -> list[Any]:
    return [f"{row.price:.5f}", f"{row.size:.8f}", float(row.s), row.taker[0], "m", "", row.id]


def agg(row: Row) -> dict[str, Any]:
    return {
        "e": "aggTrade", "E": row.ms + 5, "s": "BTCUSDT", "a": row.id, "p": str(row.price), "q": repr(row.size),
        "f": 1, "l": 2, "T": row.ms, "m": not row.buys, "M": True,
    }  # fmt: skip


def frame(rows: list[Row]) -> dict[str, Any]:
    """Return a frame with the newest trade first, as the feed has it."""
    trades = [
        {"trade_id": str(row.id), "product_id": PRODUCT, "price": str(row.price), "size": repr(row.size),
         "side": row.maker.upper(), "time": row.iso}
        for row in reversed(rows)
    ]  # fmt: skip
    return {
        "channel": "market_trades", "client_id": "", "timestamp": rows[-1].iso, "sequence_num": 0,
        "events": [{"type": "update", "trades": trades}],
    }  # fmt: skip


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def pages(rows: list[Row], size: int = 7) -> list[list[Row]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def csv_of(header: str, row_text: Callable[[Row], str]) -> Callable[[list[Row]], str]:
    return lambda rows: header + "".join(row_text(row) + "\n" for row in rows)


def binance_trade(row: Row) -> str:
    return f"{row.id},{row.price:.8f},{row.size:.8f},1.0,{row.ms},{not row.buys},True"


def binance_agg(row: Row) -> str:
    return f"{row.id},{row.price:.8f},{row.size:.8f},{row.id},{row.id},{row.us},{str(not row.buys).lower()}"


def freqtrade(row: Row) -> list[Any]:
    return [row.ms, str(row.id), None, row.taker, row.price, row.size, row.price * row.size]


CCXT_HEADER = ",timestamp,datetime,symbol,id,order,type,takerOrMaker,side,price,amount,cost,fee,fees\n"
TARDIS_HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
HAS_ALL, NO_SIDE = "ids, sides", "neither"

TEXTS: dict[str, tuple[str, Callable[[list[Row]], str], str]] = {
    "match": ("a", lambda rows: lines([{"type": "subscriptions"}, *map(match, rows)]), HAS_ALL),
    "last match": (
        "a",
        lambda rows: lines([match(rows[0], type="last_match"), *map(match, rows[1:])]),
        HAS_ALL,
    ),
    "match in an envelope": (
        "a",
        lambda rows: lines([{"ts": 1.5, "pair": PRODUCT, "raw": json.dumps(match(row))} for row in rows]),
        HAS_ALL,
    ),
    "match in CSV": (
        "a",
        csv_of(
            "type,trade_id,maker_order_id,taker_order_id,side,size,price,product_id,sequence,time\n",
            lambda row: ",".join(str(value) for value in match(row).values()),
        ),
        HAS_ALL,
    ),
    "REST": ("a", lambda rows: json.dumps([rest(row) for row in rows]), HAS_ALL),
    "REST, printed nicely": ("a", lambda rows: json.dumps([rest(row) for row in rows], indent=2), HAS_ALL),
    "REST, a page a line": (
        "a",
        lambda rows: lines([[rest(row) for row in page] for page in pages(rows)]),
        HAS_ALL,
    ),
    "REST, an object a line": ("a", lambda rows: lines([rest(row) for row in rows]), HAS_ALL),
    "REST in CSV": (
        "a",
        csv_of(",time,trade_id,price,size,side\n", lambda row: f"0,{','.join(str(v) for v in rest(row).values())}"),
        HAS_ALL,
    ),
    "market_trades": ("a", lambda rows: lines([frame(page) for page in pages(rows)]), HAS_ALL),
    "market_trades, as recorded": (
        "a",
        lambda rows: lines(
            [{"ingest_time": "x", "product_id": PRODUCT, "payload": frame(page)} for page in pages(rows)]
        ),
        HAS_ALL,
    ),
    "Binance trades": ("BTCUSDT-trades-2025-01-01.csv", csv_of("", binance_trade), HAS_ALL),
    "Binance trades with header": (
        "BTCUSDT-trades-2025-01.csv",
        csv_of("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n", binance_trade),
        HAS_ALL,
    ),
    "Binance aggTrades": ("BTCUSDT-aggTrades-2025-01-01.csv", csv_of("", binance_agg), HAS_ALL),
    "Binance aggTrades with header": (
        "BTCUSDT-aggTrades-2025-01-01.csv",
        csv_of("agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n", binance_agg),
        HAS_ALL,
    ),
    "Binance REST": ("a", lambda rows: json.dumps([binance(row) for row in rows]), HAS_ALL),
    "Binance aggTrade messages": ("a", lambda rows: lines([agg(row) for row in rows]), HAS_ALL),
    "ccxt": ("a", lambda rows: json.dumps([ccxt(row) for row in rows]), HAS_ALL),
    "ccxt, printed nicely": ("a", lambda rows: json.dumps([ccxt(row) for row in rows], indent=4), HAS_ALL),
    "ccxt, an object a line": ("a", lambda rows: lines([ccxt(row) for row in rows]), HAS_ALL),
    "ccxt in CSV": (
        "a",
        csv_of(
            CCXT_HEADER,
            lambda row: f"0,{row.ms},{row.iso},BTC/USDT,{row.id},,,,{row.taker},{row.price},{row.size!r},1,"
            "\"{'cost': 1, 'rate': 2}\",[]",
        ),
        HAS_ALL,
    ),
    "freqtrade": ("BTC_USDT-trades.json", lambda rows: json.dumps([freqtrade(row) for row in rows]), HAS_ALL),
    "freqtrade in CSV": (
        "BTC_USDT-trades.csv",
        csv_of(
            "timestamp,id,type,side,price,amount,cost\n",
            lambda row: f"{row.ms},{row.id},,{row.taker},{row.price},{row.size!r},1",
        ),
        HAS_ALL,
    ),
    "Kraken dump": ("BTCUSDT.csv", csv_of("", lambda row: f"{row.s},{row.price},{row.size!r}"), NO_SIDE),
    "Kraken REST": (
        "a",
        lambda rows: lines(
            [{"error": [], "result": {"XBTUSDT": [kraken(row) for row in page], "last": "17"}} for page in pages(rows)]
        ),
        HAS_ALL,
    ),
    "Kraken REST, printed nicely": (
        "a",
        lambda rows: json.dumps({"error": [], "result": {"XBTUSDT": [kraken(row) for row in rows]}}, indent=1),
        HAS_ALL,
    ),
    "Tardis": (
        "a",
        csv_of(
            TARDIS_HEADER,
            lambda row: f"binance,BTCUSDT,{row.us},{row.us + 7},{row.id},{row.taker},{row.price},{row.size!r}",
        ),
        HAS_ALL,
    ),
    "plain with symbols": (
        "a",
        csv_of("timestamp,symbol,price,volume\n", lambda row: f"{row.iso},btcusdt,{row.price},{row.size!r}"),
        NO_SIDE,
    ),
    "plain with ids": (
        "a",
        csv_of("Timestamp,Pair,Price,Volume,ID\n", lambda row: f"{row.iso},BTC/USDT,{row.price},{row.size!r},{row.id}"),
        NO_SIDE,
    ),
}


def texts(name: str, trades: Trades) -> tuple[str, str]:
    """Return name and content of a file of a dialect."""
    file, text_of, _ = TEXTS[name]
    return file, text_of([Row(trades, i) for i in range(len(trades))])


def joined(batches: list[Batch]) -> Trades:
    return Trades.join([batch.trades for batch in batches])


def columns(trades: Trades) -> dict[str, bytes]:
    return {each.name: getattr(trades, each.name).tobytes() for each in fields(Trades) if each.name != "keys"}


def features(trades: Trades) -> bytes:
    return feature_rows(trades, Windows(FeatureSpec())).values.tobytes()


@pytest.mark.parametrize("name", TEXTS)
def test_a_dialect_gives_the_trades_of_our_own_csv(tmp_path: Path, name: str) -> None:
    trades = market()
    write_csv(tmp_path / "own.csv", [trades])
    file, text = texts(name, trades)
    path = tmp_path / "venue" / file
    path.parent.mkdir()
    path.write_text(text)
    own, found = list(read_trades(tmp_path / "own.csv")), list(read_trades(path, product_id=PRODUCT))
    assert [batch.rejects for batch in found] == [[]] * len(found)
    expected, given = joined(own), joined(found)
    assert given.keys == expected.keys
    without = () if TEXTS[name][2] == HAS_ALL else ("side",)
    assert {k: v for k, v in columns(given).items() if k not in without} == {
        k: v for k, v in columns(expected).items() if k not in without
    }
    assert features(given) == features(expected)


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("Binance") and "CSV" not in TEXTS[name][0]])
def test_a_zip_of_one_file_is_read_like_the_file(tmp_path: Path, name: str) -> None:
    file, text = texts(name, market())
    plain, packed = tmp_path / file, tmp_path / (file.removesuffix(".csv") + ".zip")
    plain.write_text(text)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file, text)
    found = [joined(list(read_trades(path, product_id=PRODUCT))) for path in (plain, packed)]
    assert columns(found[0]) == columns(found[1])
    assert len(found[1]) == COUNT


PARQUET: dict[str, tuple[str, Callable[[list[Row]], dict[str, Any]]]] = {
    "match": (
        "a",
        lambda rows: {
            "type": ["match"] * len(rows), "trade_id": [row.id for row in rows],
            "maker_order_id": ["x"] * len(rows), "side": [row.maker for row in rows],
            "size": [row.size for row in rows], "price": [row.price for row in rows],
            "product_id": [PRODUCT] * len(rows), "time": [row.iso for row in rows],
        },
    ),
    "Binance": (
        "BTCUSDT-trades-2025-01.parquet",
        lambda rows: {
            "id": [row.id for row in rows], "price": [row.price for row in rows], "qty": [row.size for row in rows],
            "quote_qty": [1.0] * len(rows), "time": [row.us for row in rows],
            "is_buyer_maker": [not row.buys for row in rows],
        },
    ),
    "ccxt": (
        "a",
        lambda rows: {
            "timestamp": [row.ms for row in rows], "datetime": [row.iso for row in rows],
            "symbol": ["BTC/USDT"] * len(rows), "id": [str(row.id) for row in rows],
            "side": [row.taker for row in rows], "price": [row.price for row in rows],
            "amount": [row.size for row in rows],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARQUET)
def test_the_same_columns_are_read_from_parquet(tmp_path: Path, name: str) -> None:
    trades = market()
    file, table_of = PARQUET[name]
    pyarrow.parquet.write_table(pa.table(table_of([Row(trades, i) for i in range(len(trades))])), tmp_path / file)
    given = joined(list(read_trades(tmp_path / file, product_id=PRODUCT)))
    assert (given.keys, columns(given)) == (trades.keys, columns(trades))


@pytest.mark.parametrize("name", TEXTS)
def test_no_line_of_a_mutilated_copy_is_lost(tmp_path: Path, name: str) -> None:
    """Each line is a trade, a reject or skipped: of some bytes changed in 60 ways, none is lost."""
    file, whole = texts(name, market())
    content = whole.encode()
    head = content.find(b"\n") + 1 if "," in whole.split("\n")[0] and whole[0] not in "[{0123456789" else 0
    path = tmp_path / file
    rng = random.Random(name)
    for _ in range(60):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 2, 5))):
            at = rng.randrange(head, len(changed))
            changed[at : at + rng.choice((0, 1, 1, 3))] = rng.choice(
                (b"", b"x", b'"', b"}", b"{", b"]", b",", b"\n", b"0")
            )
        path.write_bytes(changed)
        try:
            batches = list(read_trades(path, product_id=PRODUCT))
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        seen = [*(i for b in batches for i in b.line.tolist()), *(r.line for b in batches for r in b.rejects)]
        count = len(set(seen)) + sum(batch.skipped for batch in batches)
        if whole[0] != "[" and "nicely" not in name and name != "Kraken REST":
            filled = [i for i, line in enumerate(bytes(changed).split(b"\n"), 1) if line.strip(b"\r")]
            assert count == len(filled) - bool(head)
        else:
            assert max(seen, default=0) <= count  # numbered by objects


@pytest.mark.parametrize(
    ("text", "unit"),
    [("1735689601250,100,2\n", "ms"), ("1735689601250000,100,2\n", "us"), ("1735689601250000000,100,2\n", "ns")],
)
def test_a_column_map_reads_any_names(tmp_path: Path, text: str, unit: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ts,px,qty,taker,tid,sym\n" + text.replace("\n", ",sell,9,ethusd\n"))
    given = ColumnMap.parse(f"time=ts,price=px,size=qty,side=taker,id=tid,product=sym,unit={unit}")
    (batch,) = read_trades(path, columns=given)
    assert batch.trades.keys == (StreamKey("", "ETH-USD"),)
    assert (batch.trades.event_time.tolist(), batch.trades.trade_id.tolist()) == ([FIRST_MS * 1_000_000], [9])
    assert (batch.trades.price.tolist(), batch.trades.size.tolist()) == ([100.0], [2.0])
    assert batch.trades.side.tolist() == [Side.SELL]


def test_a_column_map_reads_json_and_parquet_too_and_turns_makers(tmp_path: Path) -> None:
    given = ColumnMap.parse("time=when,price=p,maker_side=m")
    (tmp_path / "a.json").write_text('[{"when":"2025-01-01T00:00:01.25Z","p":"5.5","m":"sell","x":{}}]')
    pyarrow.parquet.write_table(pa.table({"when": [FIRST_MS], "p": [5.5], "m": ["sell"]}), tmp_path / "a.parquet")
    for name in ("a.json", "a.parquet"):
        (batch,) = read_trades(tmp_path / name, columns=given)
        assert batch.trades.event_time.tolist() == [FIRST_MS * 1_000_000]
        assert (batch.trades.side.tolist(), np.isnan(batch.trades.size).tolist()) == ([Side.BUY], [True])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "time=a,price=b,colour=c",
            "has no key 'colour': the keys are time, price, size, side, maker_side",
        ),
        ("time=a", "must name the column of price"),
        ("price", "is KEY=COLUMN,... with the keys"),
        ("time=a,price=b,unit=h", "must be one of s, ms, us, ns, was 'h'"),
        ("time=a,time=b,price=c", "the key 'time' once"),
        ("time=a,price=b,side=c,maker_side=d", "not both"),
    ],
)
def test_a_wrong_column_map_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ColumnMap.parse(text)


def test_a_column_map_of_other_columns_is_refused_and_known_dialects_stay(tmp_path: Path) -> None:
    given = ColumnMap.parse("time=when,price=p")
    other, known = tmp_path / "other.csv", tmp_path / "known.csv"
    other.write_text("when,cost\n1735689601250,1\n")
    with pytest.raises(ValueError, match=r"lacks the columns 'p' of the column map 'time=when,price=p'"):
        read_trades(other, columns=given)
    known.write_text("timestamp,price,volume\n2025-01-01T00:00:01Z,1,1\n")
    assert len(joined(list(read_trades(known, columns=given)))) == 1


@pytest.mark.parametrize("column", ["symbol", "pair", "product", "market"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_of_products_keeps_products_apart(tmp_path: Path, column: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    times = ["2025-01-01T00:00:01Z", "2025-01-01T00:00:02Z", "2025-01-01T00:00:03Z"]
    names, prices = ["BTC/USD", "ETH-USD", "BTC_USD"], [100.0, 5.0, 101.0]
    if kind == "csv":
        rows = zip(times, names, prices, strict=True)
        path.write_text(f"timestamp,{column},price,volume\n" + "".join(f"{t},{n},{p},1\n" for t, n, p in rows))
    else:
        table = {"timestamp": times, column: names, "price": prices, "volume": [1.0] * 3}
        pyarrow.parquet.write_table(pa.table(table), path)
    (batch,) = read_trades(path)
    assert [key.product_id for key in batch.trades.keys] == ["BTC-USD", "ETH-USD"]
    assert batch.trades.stream.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "timestamp,price,volume,side",
            r"a column 'side', which names a side that would .*--columns time=times",
        ),
        ("timestamp,price,volume,unit", "a column 'unit', which names a unit"),
        ("timestamp,product_id,symbol,price,volume", "a column 'symbol', which names a product"),
        ("timestamp,id,trade_id,price,volume", "a column 'id', which names an id"),
        ("timestamp,price,volume,price", "has more than one column 'price'"),
    ],
)
def test_a_column_with_a_meaning_is_never_ignored(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(header + "\n" + ",".join("1" * len(header.split(","))) + "\n")
    with pytest.raises(ValueError, match=said):
        read_trades(path)


def test_columns_that_no_dialect_knows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("timestamp,price,volume,weather,mood\n2025-01-01T00:00:01Z,1,1,2,3\n")
    assert recognize(path).unread == ("weather", "mood")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "id,price,qty,time",
            "'time', 'id', 'price', 'qty' of the columns of Binance's trades and lacks 'is_bu",
        ),
        (
            "timestamp,price,amount",
            r"has 'timestamp', 'price' of .* lacks 'volume'.*time=timestamp,price=price,size=amount",
        ),
    ],
)
def test_a_near_miss_names_the_nearest_dialect_and_the_missing_column(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(header + "\n1,2,3\n")
    with pytest.raises(ValueError, match=said):
        read_trades(path)


def test_parquet_of_other_columns_names_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"timestamp": ["x"], "price": [1.0], "weather": [1]}), tmp_path / "a")
    with pytest.raises(ValueError, match=r"other columns: 'timestamp', 'price', 'weather'; it has .* lacks 'volume'"):
        read_trades(tmp_path / "a")


def test_a_zip_says_what_is_inside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.csv", "secret")
        archive.writestr("two.csv", "secret")
    with pytest.raises(ValueError, match=r"zip archive, with 2 files: 'one.csv', 'two.csv'; .*unpack") as refusal:
        read_trades(tmp_path / "a.zip")
    assert "secret" not in str(refusal.value)


def test_trades_after_a_minute_of_other_messages_are_found_and_types_are_counted(tmp_path: Path) -> None:
    """The head of 64 KiB has an order book alone, whose first line is longer than the head."""
    row = Row(market(count=1), 0)
    book = {"type": "snapshot", "product_id": PRODUCT, "bids": [["1", "2"]] * 10_000}
    update = {"type": "l2update", "product_id": PRODUCT, "changes": []}
    path = tmp_path / "a"
    path.write_text(lines([book, *[update] * 5, {"type": "heartbeat"}, match(row)]))
    (batch,) = read_trades(path)
    assert (batch.trades.trade_id.tolist(), batch.skipped) == ([1], 7)
    dialect = recognize(path)
    assert isinstance(dialect, Dialect)
    (block,) = dialect.blocks(path, Meter())
    assert dialect.rows(block).skipped_types == {"snapshot": 1, "l2update": 5, "heartbeat": 1}


def test_ids_that_are_no_numbers_number_the_rows(tmp_path: Path) -> None:
    rows = [{**ccxt(Row(market(count=2), i)), "id": f"TX-{i}"} for i in range(2)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (batch,) = read_trades(tmp_path / "a.json")
    assert batch.trades.trade_id.tolist() == [1, 2]
    assert "ids are no numbers, so rows are numbered" in recognize(tmp_path / "a.json").name


@pytest.mark.parametrize("places", [1, 2, 5])
def test_a_broken_object_of_an_array_costs_few_objects(tmp_path: Path, places: int) -> None:
    """Quotation marks and braces are taken out of a long array of nested objects."""
    rows = [ccxt(row) for row in (Row(trades, i) for trades in [market(count=3_000)] for i in range(3_000))]
    content = json.dumps(rows)
    rng = random.Random(places)
    broken = list(content)
    for _ in range(places):
        at = rng.choice([i for i, c in enumerate(broken) if c in '"{}'])
        broken[at] = "_"
    (tmp_path / "a.json").write_text("".join(broken))
    batches = list(read_trades(tmp_path / "a.json", product_id=PRODUCT))
    assert sum(len(batch.trades) for batch in batches) >= 3_000 - 3 * places
    assert sum(len(batch.rejects) for batch in batches) >= 1
