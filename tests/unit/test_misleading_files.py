"""Files that look like another one: each is read right, or refused with its reason; nothing is read wrongly."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.recordings.dialects.symbols import product_of
from data.recordings.readers import read_bars, read_trades
from data.recordings.recognition import recognize

START = 1_735_689_600
"""2025-01-01, a Wednesday."""
BAR = "100,101,99,100,2"


def written(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def bars(starts: list[int], header: str = "time,open,high,low,close,volume", row: str = BAR) -> str:
    return f"{header}\n" + "".join(f"{start},{row}\n" for start in starts)


HOURS = [START + 3_600 * i for i in range(4)]
PRICES = list(zip(HOURS, (90, 150, 80, 120), strict=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Date,Close,High,Low,Open,Volume\n2025-01-01,100,101,99,100,5\n", "candles of Yahoo Finance, as the order"),
        (bars(HOURS, row="94000,95000,93000,94000,24519888919"), "volume times price is .* than any market trades"),
        (bars([45_658, 45_659, 45_660]), "no time is understood"),
        (bars([2_025_010_100, 2_025_010_101]), "no time is understood"),
        ("date,time,open,high,low,close,volume\n20250101,100000,1,1,1,1,1\n", "no time is understood"),
        (bars(HOURS, "time,open,high,low,close,Volume ($)"), r"'Volume \(\$\)', of an unknown unit"),
        (bars(HOURS, "time,open,high,low,close,tick_volume"), "'tick_volume', of an unknown unit"),
        (bars(HOURS, "time,open,high,low,close,total_volume"), "'total_volume', of an unknown unit"),
        ("symbol,time,open,high,low,close,Volume BTC\n" + "".join(f"ETH/BTC,{start},{BAR}\n" for start in HOURS),
         "candles of ETH-BTC with one volume in BTC, which is the quote currency"),
        ("base,quote,time,open,high,low,close,volume\n" + f"ETH,EUR,{START},1,1,1,1,1\n", "in two columns, 'base' and"),
        (bars([START + 86_400 * day for day in (0, 31, 59, 90, 120)]), "candles of months"),
        ("index,open,high,low,close,volume\n" + f"{START},{BAR}\n", "no column is named like their start"),
        (",0,1,2,3,4,5\n" + f"0,{START},{BAR}\n", "numbers in place of names of columns"),
        ("time,open,high,low,close,volume,turnover\n"
         + "".join(f"{start},{price},{price},{price},{price},1000,{price}\n" for start, price in PRICES),
         "a volume of lots or contracts is none"),
    ],
)  # fmt: skip
def test_candles_that_would_be_read_wrongly_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recognize(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timestamp,price,volume,size\n1735689600000,9,8123.4,0.1\n", "2 columns that may be the size of a trade"),
        ("timestamp,time,price,size\n1735689600000,1735689600000,9,0.1\n", "2 columns that may be the time of a trade"),
        ("ask,bid,volume,price,time\n9,8,8123.4,9,1735689600000\n", "the volume may be a running total"),
        ("timestamp,tid,price,amount,type\n1735689600123,7,9,1,buy\n", r"a column 'type' of sides \(buy\)"),
        ("timestamp,symbol,type,price,amount\n1735689600123,BTC-USD,a,9,1\n", "bids and asks are an order book"),
        ("timestamp,type,price,size\n1735689600123,0,9,1\n", r"a column 'type' of sides \(0\)"),
        ("timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional,trdType\n"
         "2025-01-01T00:00:01Z,XBTUSD,Buy,100,90000,PlusTick,x,1,0.001,100,Regular\n", "size=homeNotional"),
        ("timestamp,is_bid,price,size\n1735689600123,1,9,1\n", "'is_bid', which names a side"),
        ("exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount\nx,BTC-USD,1,1,false,bid,9,1\n",
         "is an order book"),
        ("received_at,trade_id,product_id,price,size,side,time\n1,7,BTC-USD,9,1,sell,2025-01-01T00:00:01Z\n",
         "maker_side=side"),
        ("755000001,1735689600123,93425.10,0.012\n", "write a header above them, as time,price,size"),
    ],
)  # fmt: skip
def test_trades_that_would_be_read_wrongly_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recognize(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("binance_liquidations_2025-01-01_BTCUSDT.csv",
         "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\nb,BTCUSDT,1735689600123456,1,,sell,9,1\n",
         "has liquidations"),
        ("BTCUSD_PERP-aggTrades-2025-01-01.csv",
         "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
         "7,9,16,1,1,1735689600123,false\n", "quantities count contracts"),
        ("BTCUSD_PERP-aggTrades-2020-09.csv", "7,9,16,1,1,1598918400123,false\n", "quantities count contracts"),
        ("liquidations.json", '[{"time":1735689600123,"trade_id":7,"side":"sell","price":9,"size":1}]',
         "has liquidations"),
        ("FOOTUSD.csv", "1735689600,9,1\n", "FOOT-USD, which is not clear"),
    ],
)  # fmt: skip
def test_the_name_of_a_file_tells_of_other_rows(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recognize(written(tmp_path, text, name))


def test_the_name_of_a_parquet_file_or_inside_a_zip_tells_of_other_rows(tmp_path: Path) -> None:
    table = pa.table({"timestamp": [1_735_689_600_123], "price": [9.0], "volume": [1.0]})
    pq.write_table(table, tmp_path / "liquidations.parquet")
    with zipfile.ZipFile(tmp_path / "september.zip", "w") as archive:
        archive.writestr("BTCUSD_PERP-aggTrades-2020-09.csv", "7,9,16,1,1,1598918400123,false\n")
    with pytest.raises(ValueError, match="has liquidations"):
        recognize(tmp_path / "liquidations.parquet")
    with pytest.raises(ValueError, match="quantities count contracts"):
        recognize(tmp_path / "september.zip")


@pytest.mark.parametrize(
    ("symbol", "product"),
    [
        ("QNTUSD", "QNT-USD"),
        ("LPTUSD", "LPT-USD"),
        ("BTCTUSD", "BTC-TUSD"),
        ("BTCBUSD", "BTC-BUSD"),
        ("FOOTUSD", "FOOTUSD"),
        ("FOOFDUSD", "FOO-FDUSD"),
        ("USDTZUSD", "USDT-USD"),
        ("XTZUSD", "XTZ-USD"),
        ("tBTCUSD", "BTC-USD"),
        ("TUSDT", "T-USDT"),
    ],
)
def test_a_last_letter_belongs_to_the_base_asset_or_to_the_quote_currency(symbol: str, product: str) -> None:
    """FOO before TUSD and FOOT before USD are equally unknown: the symbol stays, and is rejected."""
    assert product_of(symbol) == product


def test_the_name_inside_a_zip_tells_the_product(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "binance.zip", "w") as archive:
        archive.writestr("ETHUSDT-trades-2025-01.csv", "7,3342.10,0.5,1671.05,1735689600123456,True,True\n")
    (batch,) = read_trades(tmp_path / "binance.zip")
    assert [key.product_id for key in batch.trades.keys] == ["ETH-USDT"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"data":{"pair":"BTC/USD","ohlc":[ROWS]}}', '{"data":{"pair":"ETH/USD","ohlc":[ROWS]}}'),
        ('{"error":[],"result":{"XXBTZUSD":[ROWS],"last":9999999999}}', '{"error":[],"result":{"XETHZUSD":[ROWS]}}'),
    ],
    ids=["Bitstamp", "Kraken"],
)  # fmt: skip
def test_answers_of_another_pair_end_the_reading_in_words(tmp_path: Path, first: str, second: str) -> None:
    one = '{"timestamp":"%d","open":"1","high":"1","low":"1","close":"1","volume":"1"}'
    one = one if "ohlc" in first else '[%d,"1","1","1","1","1","1",9]'
    texts = [text.replace("ROWS", ",".join(one % start for start in HOURS)) for text in (first, second)]
    found = []
    with pytest.raises(ValueError, match=r"follow answers of .*, and a file holds one pair"):
        for batch in read_bars(written(tmp_path, "\n".join(texts) + "\n", "a.json")):
            found.append(len(batch.bars))
    assert sum(found) == len(HOURS)


@pytest.mark.parametrize(
    ("starts", "step_s"),
    [
        ([START - 2 * 86_400 + 7 * 86_400 * week for week in range(4)], 7 * 86_400),  # from Monday on
        ([START - 8 * 3_600 + 86_400 * day for day in range(4)], 86_400),  # days of OKX begin at 16:00 UTC
    ],
)
def test_candles_may_start_at_any_quarter_of_an_hour(tmp_path: Path, starts: list[int], step_s: int) -> None:
    (batch,) = read_bars(written(tmp_path, bars(starts)))
    assert batch.rejects == []
    assert batch.bars.event_time.tolist() == [(start + step_s) * 1_000_000_000 for start in starts]


def test_ends_of_candles_are_no_starts(tmp_path: Path) -> None:
    path = written(tmp_path, bars([start + 3_599 for start in HOURS]))
    with pytest.raises(ValueError, match="must be a time at which a bar of 3600 s starts"):
        list(read_bars(path))


@pytest.mark.parametrize(("column", "value"), [("interval", "1m"), ("granularity", "60"), ("close_time", None)])
def test_a_column_tells_the_length_of_candles_with_holes(tmp_path: Path, column: str, value: str | None) -> None:
    starts = [START + 300 * i for i in range(5)]
    rows = "".join(f"{start},{BAR},{value or start + 59.999}\n" for start in starts)
    (batch,) = read_bars(written(tmp_path, f"time,open,high,low,close,volume,{column}\n{rows}"))
    assert batch.bars.step_s == 60
    assert batch.bars.event_time.tolist() == [(start + 60) * 1_000_000_000 for start in starts]


def test_an_unknown_number_of_trades_costs_no_candle(tmp_path: Path) -> None:
    rows = "".join(f"{start},{BAR},{count}\n" for start, count in zip(HOURS, ("7", "", "nan", "8"), strict=True))
    (batch,) = read_bars(written(tmp_path, f"time,open,high,low,close,volume,trades\n{rows}"))
    assert batch.rejects == []
    assert [str(count) for count in batch.bars.count.tolist()] == ["7.0", "nan", "nan", "8.0"]


def test_bitfinex_trades_with_a_header_have_the_side_in_the_sign(tmp_path: Path) -> None:
    (batch,) = read_trades(written(tmp_path, "ID,MTS,AMOUNT,PRICE\n7,1735689600123,0.5,99\n8,1735689600345,-0.4,98\n"))
    assert (batch.trades.size.tolist(), batch.trades.side.tolist()) == ([0.5, 0.4], [1, -1])
    assert batch.trades.price.tolist() == [99.0, 98.0]


def test_times_as_text_are_read_where_a_venue_writes_numbers(tmp_path: Path) -> None:
    header = "id,price,qty,quote_qty,time,is_buyer_maker\n"
    rows = "1,9,1,9,2025-01-01 00:00:00.25+00:00,True\n2,9,1,9,1735689601500,False\n"
    (batch,) = read_trades(written(tmp_path, header + rows))
    assert batch.trades.event_time.tolist() == [START * 10**9 + 250_000_000, START * 10**9 + 1_500_000_000]


def test_our_own_columns_are_read_as_json(tmp_path: Path) -> None:
    text = (
        '{"product_id":"ETH-USD","trade_id":7,"event_time":"2025-01-01T00:00:01Z","price":9,"size":0.5,"side":"sell"}\n'
    )
    (batch,) = read_trades(written(tmp_path, text))
    assert [key.product_id for key in batch.trades.keys] == ["ETH-USD"]
    assert (batch.trades.trade_id.tolist(), batch.trades.side.tolist()) == ([7], [-1])
