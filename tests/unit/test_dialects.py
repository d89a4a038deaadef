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
from data.recordings.dialects.file_names import product_in_name
from data.recordings.dialects.symbols import product_of
from data.recordings.lines import Meter
from data.recordings.readers import Batch, read_trades, write_csv
from data.recordings.recognition import recognize
from data.trades import Side, StreamKey, Trades
from tests.venues import COUNT, FIRST_MS, HAS_ALL, PRODUCT, TEXTS, Row, ccxt, lines, market, match, texts


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


@pytest.mark.parametrize("column", ["symbol", "pair", "product", "market", "ticker", "instrument_id", "coin"])
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


def test_a_volume_of_a_ticker_is_no_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(
        "timestamp,pair,price,volume,bid,ask,low,high\n2025-01-01T00:00:00Z,BTCUSD,9,7,8,9,1,9\n"
    )
    with pytest.raises(ValueError, match="a column 'bid', as a ticker or candles have"):
        read_trades(tmp_path / "a")


def test_contracts_of_coins_have_the_amount_of_the_coin(tmp_path: Path) -> None:
    header = "id,price,qty,base_qty,time,is_buyer_maker\n"
    (tmp_path / "a").write_text(header + "7,50000.0,10,0.02,1735689601250,0\n")  # 10 contracts of 100 USD
    trades = joined(list(read_trades(tmp_path / "a")))
    assert (trades.size.tolist(), trades.side.tolist()) == ([0.02], [Side.BUY])


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("krakenEUR.csv", "BTC-EUR"),
        ("ethUSD.csv", "ETH-USD"),
        ("BTCUSDT-agg.json", "BTC-USDT"),
        ("btcusdt_trades_jan.csv", "BTC-USDT"),
        ("coinbase_eth-eur_2025.csv.gz", "ETH-EUR"),
        ("trades.ETHBTC.csv", "ETH-BTC"),
        ("binance-btc_usdt-btcusdt.csv", "BTC-USDT"),
        *(
            (f"{word}.csv", None)
            for word in (
                "trades",
                "recording",
                "monday",
                "seth",
                "INDUSTRIAL",
                "part-0001",
                "usd",
                "2025-01-06",
                "DATA_2025",
                "btc-trades",
                "sand",
                "trades_in_usd",
                "big",
                "0",
            )
        ),
        ("BTCUSDT_2025-01-01.csv.gz", "BTC-USDT"),
        ("tETHUSD_1m.json", "ETH-USD"),
        ("ETH-USD.csv", "ETH-USD"),
    ],
)
def test_the_name_of_a_dump_tells_the_product(name: str, product: str | None) -> None:
    assert product_in_name(Path(name)) == product


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FOOUSDT-agg.json", "FOO-USDT"),
        ("foousdt-trades.csv", "FOO-USDT"),
        ("tBTCUST_1m.json", "BTCUST"),
        ("FOO_USD_2025.csv", "FOO-USD"),
        ("eth-trades.csv", "ETH with an unknown quote currency"),
        ("btc-eth.csv", "ETH with an unknown quote currency"),
        ("BTC-USD_ETH-USD.csv", "BTC-USD or ETH-USD"),
    ],
)
def test_a_name_that_tells_a_product_unclearly_is_refused_unless_somebody_tells_it(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"its name tells {said}, which is not clear: set PRODUCT_ID"):
        product_in_name(Path(name))
    assert product_in_name(Path(name), "SOL-EUR") is None


def test_no_table_without_a_product_gets_the_default_in_spite_of_its_name(tmp_path: Path) -> None:
    plain = "timestamp,price,volume\n2025-01-01T00:00:00Z,9,1\n"
    aggregated = {"a": 1, "p": "9", "q": "1", "f": 1, "l": 1, "T": 1735689600000, "m": True, "M": True}
    for name, content, product in (
        ("ETHUSD-sample.csv", plain, "ETH-USD"),
        ("BTCUSDT-agg.json", json.dumps([aggregated]), "BTC-USDT"),
        ("trades.csv", plain, "BTC-USD"),
    ):
        (tmp_path / name).write_text(content)
        assert [key.product_id for key in joined(list(read_trades(tmp_path / name))).keys] == [product]
    (tmp_path / "eth.csv").write_text(plain)
    with pytest.raises(ValueError, match=r"eth\.csv: has no product in its rows, and its name tells ETH"):
        read_trades(tmp_path / "eth.csv")
    named = "timestamp,product,price,volume\n2025-01-01T00:00:00Z,SOL-USD,9,1\n"
    (tmp_path / "eth.csv").write_text(named)
    assert joined(list(read_trades(tmp_path / "eth.csv"))).keys[0].product_id == "SOL-USD"


def test_columns_that_no_dialect_knows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("timestamp,price,volume,weather,mood\n2025-01-01T00:00:01Z,1,1,2,3\n")
    assert recognize(path).unread == ("weather", "mood")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "id,price,qty,is_buyer_maker",
            "'id', 'price', 'qty', 'is_buyer_maker' of the columns of trades of Binance and lacks 'time'",
        ),
        (
            "ts,px,qty",
            "has 'ts', 'qty' of the columns of trades and lacks 'price' .*--columns time=ts,price=px,size=qty",
        ),
        (
            "when,px,lots",
            "a table of 3 columns that no dialect knows, and no two are named like a time and a price",
        ),
        (
            "trade_time,px,qty",
            "has columns of trades that no dialect knows: --columns time=trade_time,price=px,size=qty reads them",
        ),
    ],
)
def test_a_near_miss_names_the_nearest_dialect_and_the_missing_column(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(header + "\n1,2,3\n")
    with pytest.raises(ValueError, match=said):
        read_trades(path)


def test_rows_below_unknown_names_are_not_read_by_their_form(tmp_path: Path) -> None:
    """Without a header three numbers are time, price and volume, but here the amount stands before the price."""
    (tmp_path / "a").write_text("date,amount,price\n" + "1735689600,0.5,99000.0\n" * 9)
    with pytest.raises(ValueError, match="--columns time=date,price=price,size=amount"):
        read_trades(tmp_path / "a")


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


def test_an_excel_workbook_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    with pytest.raises(ValueError, match="it is an Excel workbook: save it as CSV"):
        recognize(tmp_path / "a.xlsx")


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


@pytest.mark.parametrize("name", ["REST", "REST, printed nicely", "ccxt", "freqtrade", "Kraken dump"])
def test_the_newest_trade_may_come_first(tmp_path: Path, name: str) -> None:
    """REST interfaces answer with the newest trade first."""
    trades = market()
    file, text_of, tells = TEXTS[name]
    (tmp_path / file).write_text(text_of([Row(trades, i) for i in reversed(range(len(trades)))]))
    given = joined(list(read_trades(tmp_path / file, product_id=PRODUCT)))
    assert given.price.tolist() == trades.price.tolist()
    assert given.event_time.tolist() == trades.event_time.tolist()
    if tells == HAS_ALL:
        assert columns(given) == columns(trades)


@pytest.mark.parametrize(
    "text",
    [
        "1,50000,5,0.01,1735689600000,true\n2,50000,10,0.02,1735689601000,false\n",
        '[{"id":1,"price":"50000","qty":"5","baseQty":"0.01","time":1735689600000,"isBuyerMaker":true},'
        '{"id":2,"price":"50000","qty":"10","baseQty":"0.02","time":1735689601000,"isBuyerMaker":false}]',
    ],
    ids=["without header", "REST"],
)
def test_contracts_of_coins_are_known_without_a_header_and_in_json(tmp_path: Path, text: str) -> None:
    """5 contracts of 100 USD at 50,000 USD are 0.01 coins."""
    (tmp_path / "a").write_text(text)
    trades = joined(list(read_trades(tmp_path / "a")))
    assert (trades.size.tolist(), trades.side.tolist()) == ([0.01, 0.02], [Side.SELL, Side.BUY])


def test_a_price_of_ten_makes_no_contracts_of_coins(tmp_path: Path) -> None:
    """At a price of 10, the quote amount of 5 units is 50, as if 5 contracts of 100 were 50 coins."""
    (tmp_path / "a").write_text("1,10,5,50,1735689600000,true\n")
    assert joined(list(read_trades(tmp_path / "a"))).size.tolist() == [5.0]


@pytest.mark.parametrize(
    ("symbol", "product"),
    [
        ("KRW-BTC", "BTC-KRW"),
        ("USDT-ETH", "ETH-USDT"),
        ("EUR-USDT", "EUR-USDT"),
        ("USDT/USD", "USDT-USD"),
        ("BTC-KRW", "BTC-KRW"),
    ],
)
def test_a_quote_currency_before_its_base_asset_is_turned(symbol: str, product: str) -> None:
    assert product_of(symbol) == product


def test_a_market_cap_makes_a_volume_no_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("timestamp,price,volume,market_cap\n1735689600000,9,1e9,1e12\n")
    with pytest.raises(ValueError, match="the volume may be a running total"):
        read_trades(tmp_path / "a")


def test_a_table_without_a_header_that_no_dialect_knows_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("2025-01-06 00:00:00,1,1,1,1,2\n")
    with pytest.raises(ValueError, match="a table of 6 columns without a header, and no dialect knows its rows"):
        recognize(tmp_path / "a")
