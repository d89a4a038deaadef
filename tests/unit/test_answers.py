"""Answers of REST interfaces, saved to a file, are read right, or refused with venue and content in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.recordings.readers import read_bars, read_trades
from data.recordings.recognition import recognize
from data.times import NS
from data.trades import Trades

BEGIN = 1_735_689_600  # 2025-01-01: 55 years of 365 days and 14 leap days
IDS, PRICES, SIZES = [1001, 1002, 1003], ["94000.5", "94001", "94000.25"], ["0.5", "0.25", "1"]
SIDES = ["buy", "sell", "sell"]
TIMES_MS = [BEGIN * 1_000 + 100 * i for i in range(3)]
ISO = [f"2025-01-01T00:00:00.{i}00000Z" for i in range(3)]
MAKERS = ["SELL", "BUY", "BUY"]


def rows(*columns: tuple[str, Sequence[Any]], **same: Any) -> list[dict[str, Any]]:
    return [{name: values[i] for name, values in columns} | same for i in range(3)]


ADVANCED = rows(("trade_id", [str(i) for i in IDS]), ("price", PRICES), ("size", SIZES), ("time", ISO),
                ("side", MAKERS), product_id="BTC-USD", bid="", ask="", exchange="coinbase")  # fmt: skip
BYBIT = rows(("execId", [str(i) for i in IDS]), ("price", PRICES), ("size", SIZES), ("time", list(map(str, TIMES_MS))),
             ("side", ["Buy", "Sell", "Sell"]), symbol="BTCUSDT", isBlockTrade=False, isRPITrade=False)  # fmt: skip
OKX = rows(("tradeId", [str(i) for i in IDS]), ("px", PRICES), ("sz", SIZES), ("ts", list(map(str, TIMES_MS))),
           ("side", SIDES), instId="BTC-USDT")  # fmt: skip
KUCOIN = rows(("sequence", [str(i) for i in IDS]), ("price", PRICES), ("size", SIZES),
              ("time", [ms * 1_000_000 for ms in TIMES_MS]), ("side", SIDES))  # fmt: skip
GATE = rows(("id", [str(i) for i in IDS]), ("price", PRICES), ("amount", SIZES),
            ("create_time_ms", [f"{ms}.000" for ms in TIMES_MS]), ("side", SIDES), create_time=str(BEGIN),
            currency_pair="BTC_USDT", sequence_id="7")  # fmt: skip
GEMINI = rows(("tid", IDS), ("price", PRICES), ("amount", SIZES), ("timestampms", TIMES_MS), ("type", SIDES),
              timestamp=BEGIN, exchange="gemini")  # fmt: skip
KRAKEN = [[PRICES[i], SIZES[i], BEGIN + i / 10, SIDES[i][0], "m", "", IDS[i]] for i in range(3)]


@pytest.mark.parametrize("layout", [None, 2])
@pytest.mark.parametrize(
    ("answer", "product"),
    [
        ({"trades": ADVANCED, "best_bid": "1", "best_ask": "2"}, "BTC-USD"),
        ({"trades": ADVANCED[::-1], "best_bid": "1", "best_ask": "2"}, "BTC-USD"),
        ({"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": BYBIT[::-1]}, "time": 1}, "BTC-USDT"),
        ({"code": "0", "msg": "", "data": OKX[::-1]}, "BTC-USDT"),
        ({"code": "200000", "data": KUCOIN}, "ETH-BTC"),
        (GATE[::-1], "BTC-USDT"),
        (GEMINI[::-1], "ETH-BTC"),
        ({"error": [], "result": {"last": "1735689600200000000", "XXBTZUSD": KRAKEN}}, "BTC-USD"),
    ],
)
def test_trades_within_an_answer(tmp_path: Path, answer: Any, product: str, layout: int | None) -> None:
    """Makers' sides of Coinbase are turned, and the newest trade may stand first; products without a name are given."""
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer, indent=layout))
    batches = list(read_trades(path, product_id="ETH-BTC"))
    trades = Trades.join([batch.trades for batch in batches])
    assert [key.product_id for key in trades.keys] == [product]
    assert trades.trade_id.tolist() == IDS
    assert trades.event_time.tolist() == [ms * 1_000_000 for ms in TIMES_MS]
    assert (trades.price.tolist(), trades.size.tolist()) == (list(map(float, PRICES)), list(map(float, SIZES)))
    assert trades.side.tolist() == [1, -1, -1]
    assert sum(len(batch.rejects) for batch in batches) == 0


def test_pages_one_a_line_and_an_error_between_them(tmp_path: Path) -> None:
    """The answer with an error is one reject, and costs no trade of the other pages."""
    pages = [{"trades": ADVANCED[:2]}, {"error": "busy"}, {"trades": ADVANCED[2:]}]
    path = tmp_path / "pages.ndjson"
    path.write_text("\n".join(map(json.dumps, pages)) + "\n")
    batches = list(read_trades(path))
    assert np.concatenate([batch.trades.trade_id for batch in batches]).tolist() == IDS
    (reject,) = (reject for batch in batches for reject in batch.rejects)
    assert (reject.line, reject.text) == (3, '{"error": "busy"}')


def candle(i: int, *names: str) -> Any:
    """Return the values of a candle by name: open 100, high 103, low 99, close 102, base volume 2."""
    values = {"time": str(BEGIN + 60 * i), "ms": str((BEGIN + 60 * i) * 1_000), "open": "100", "high": "103",
              "low": "99", "close": "102", "volume": "2", "turnover": "203", "vwap": "101.5", "count": 7}  # fmt: skip
    return [values.get(name, name) for name in names]


def candles(*names: str) -> list[Any]:
    return [candle(i, *names) for i in range(5)]


_PRICES = ("open", "high", "low", "close")
_NAMED = [dict(zip(("start", *_PRICES, "volume"), row, strict=True)) for row in candles("time", *_PRICES, "volume")]


@pytest.mark.parametrize(
    ("answer", "product"),
    [
        ({"candles": _NAMED[::-1]}, "ETH-BTC"),
        (_NAMED, "ETH-BTC"),
        (
            {"error": [], "result": {"XXBTZUSD": candles("time", *_PRICES, "vwap", "volume", "count"), "last": 10**10}},
            "BTC-USD",
        ),
        (
            {
                "retCode": 0,
                "result": {"symbol": "BTCUSDT", "list": candles("ms", *_PRICES, "volume", "turnover")[::-1]},
            },
            "BTC-USDT",
        ),
        (
            {"code": "0", "msg": "", "data": candles("ms", *_PRICES, "volume", "turnover", "turnover", "1")[::-1]},
            "ETH-BTC",
        ),
        (
            {"code": "200000", "data": candles("time", "open", "close", "high", "low", "volume", "turnover")[::-1]},
            "ETH-BTC",
        ),
        (candles("ms", *_PRICES, "volume", "volume", "turnover", "1")[::-1], "ETH-BTC"),
        (candles("time", "turnover", "close", "high", "low", "open", "volume", "true"), "ETH-BTC"),
        ({"data": {"pair": "BTC/USD", "ohlc": [{**each, "timestamp": each["start"]} for each in _NAMED]}}, "BTC-USD"),
    ],
)
@pytest.mark.parametrize("file", ["answer.json", "SOL-EUR.json"])
def test_candles_within_an_answer(tmp_path: Path, file: str, answer: Any, product: str) -> None:
    """A product that the answer tells wins over the name of the file, and the name over PRODUCT_ID."""
    path = tmp_path / file
    if product == "ETH-BTC" and file.startswith("SOL"):
        product = "SOL-EUR"
    path.write_text(json.dumps(answer))
    batches = list(read_bars(path, product_id="ETH-BTC"))
    assert sum(len(batch.rejects) for batch in batches) == 0
    bars = [batch.bars for batch in batches if len(batch.bars)]
    assert {key.product_id for each in bars for key in each.keys} == {product}
    event_time = np.concatenate([each.event_time for each in bars])
    assert event_time.tolist() == [(BEGIN + 60 * (i + 1)) * NS for i in range(5)]
    for name, value in (("high", 103), ("low", 99), ("close", 102), ("volume", 2)):
        assert np.concatenate([getattr(each, name) for each in bars]).tolist() == [value] * 5


@pytest.mark.parametrize(
    "answer",
    [
        {
            "error": [],
            "result": {"XXBTZUSD": candles("time", *_PRICES, "vwap", "volume", "count"), "last": BEGIN + 180},
        },
        {
            "code": "0",
            "msg": "",
            "data": [
                *candles("ms", *_PRICES, "volume", "turnover", "turnover", "1")[:4],
                candle(4, "ms", *_PRICES, "volume", "turnover", "turnover", "0"),
            ],
        },
        [
            *candles("time", "turnover", "close", "high", "low", "open", "volume", "true")[:4],
            candle(4, "time", "turnover", "close", "high", "low", "open", "volume", "false"),
        ],
    ],
)
def test_a_candle_that_its_venue_calls_unfinished_is_rejected(tmp_path: Path, answer: Any) -> None:
    """Kraken names the last finished candle, the fourth; OKX and Gate have a flag."""
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer))
    batches = list(read_bars(path))
    assert sum(len(batch.bars) for batch in batches) == 4
    assert [reject.line for batch in batches for reject in batch.rejects] == [5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"error":["EQuery:Unknown asset pair"]}', "error of Kraken"),
        ('{"error": ["EGeneral:Too many requests"], "result": {}}', "error of Kraken"),
        (
            '{"error":[],"result":{"XXBTZUSD":[[1735689600,"1","2"]],"last":1}}',
            "Kraken's REST interface without trades",
        ),
        ('{"retCode":10001,"retMsg":"params error","result":{}}', "error of Bybit"),
        ('{"code":-1121,"msg":"Invalid symbol."}', "error of the REST of Binance, OKX or KuCoin"),
        ('{"code":"51001","msg":"Instrument ID does not exist","data":[]}', "error of the REST of Binance, OKX"),
        ('{"code":"00000","msg":"success","data":[]}', "Bitget's REST interface without trades"),
        ('{"label":"INVALID_CURRENCY_PAIR","message":"Invalid"}', "error of Gate"),
        ('{"message":"NotFound"}', "error of Coinbase"),
        ('["error",10020,"symbol: invalid"]', "error of Bitfinex"),
        ("[]", "without content"),
        ("null", "without content"),
        ('{"trades":[],"best_bid":"","best_ask":""}', "Coinbase Advanced Trade with an empty list"),
        ('{"bids":[["1","2",3]],"asks":[["2","1",1]],"sequence":1}', "an order book"),
        ('{"symbol":"BTCUSDT","priceChange":"-1","lastPrice":"4"}', "a ticker or a statistic"),
        ('{"stream":"btcusdt@trade","data":{"e":"trade","t":1}}', "Binance's combined streams"),
        ('{"topic":"publicTrade.BTCUSDT","type":"snapshot","data":[{"p":"1"}]}', "Bybit's websocket"),
        ('{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD"}]}', "Kraken's websocket (version 2)"),
        ('[0,[["1","2","1735689600.1","b","l",""]],"trade","XBT/USD"]', "Kraken's websocket (version 1)"),
        ('{"jsonrpc":"2.0","result":{"trades":[{"trade_seq":1}]}}', "Deribit"),
        ('{"swordfish":{"list":[{"a":1}]}}', "a list within an object"),
        ('{"trades":[{"trade_id":"1","price":"1"},{"trade_id":"2","pri', "ends early or is damaged"),
    ],
)
def test_a_refused_document_is_named_in_words(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "answer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no trades") as refused:
        recognize(path)
    first = str(refused.value).split("\n")[0]
    assert said in first
    assert "swordfish" not in first
