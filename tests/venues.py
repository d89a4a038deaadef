"""The same trades as each venue writes them, for tests and benchmarks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from data.times import NS, time_texts
from data.trades import Side, StreamKey, Trades

FIRST_MS = 1_735_689_601_250  # 2025-01-01T00:00:01.25Z: 20,089 days of 86,400 s, and 1.25 s
PRODUCT = "BTC-USDT"
COUNT = 40


def market(first_ms: int = FIRST_MS, count: int = COUNT, first_id: int = 1) -> Trades:
    """Return trades with rising ids, times of whole milliseconds, and sides of takers."""
    rng = random.Random(5)
    ms = first_ms + np.cumsum([rng.randrange(0, 900) for _ in range(count)])
    price = [round(100_000 + rng.uniform(-50, 50), 2) for _ in range(count)]
    size = [round(rng.uniform(1e-5, 2), 8) for _ in range(count)]
    return Trades(
        (StreamKey("", PRODUCT),),
        np.zeros(count, np.int32),
        np.arange(first_id, first_id + count),
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


def bitfinex(row: Row) -> list[Any]:
    return [row.id, row.ms, row.size if row.buys else -row.size, row.price]


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
    "Coinbase Advanced in CSV": (
        "a",
        csv_of(
            ",trade_id,product_id,price,size,side,time\n",
            lambda row: f"0,{row.id},{PRODUCT},{row.price},{row.size!r},{row.maker.upper()},{row.iso}",
        ),
        HAS_ALL,
    ),
    "cryptofeed": (
        "a",
        csv_of(
            "exchange,symbol,side,amount,price,id,type,timestamp,receipt_timestamp\n",
            lambda row: f"X,BTC-USDT,{row.taker},{row.size!r},{row.price},{row.id},,{row.s},{row.s}",
        ),
        HAS_ALL,
    ),
    "Bybit spot": (
        "BTCUSDT_2025-01-01.csv",
        csv_of(
            "id,timestamp,price,volume,side,rpi\n",
            lambda row: f"{row.id},{row.ms},{row.price},{row.size!r},{row.taker},0",
        ),
        HAS_ALL,
    ),
    "OKX": (
        "a",
        csv_of(
            "instrument_name,trade_id,side,price,size,created_time\n",
            lambda row: f"BTC-USDT,{row.id},{row.taker},{row.price},{row.size!r},{row.ms}",
        ),
        HAS_ALL,
    ),
    "KuCoin": (
        "BTCUSDT-trades-2025-01-01.csv",
        csv_of(
            "trade_id,trade_time,price,size,side\n",
            lambda row: f"{row.id},{row.ms},{row.price},{row.size!r},{row.taker.upper()}",
        ),
        HAS_ALL,
    ),
    "Bitget REST": (
        "a",
        lambda rows: json.dumps(
            [
                {
                    "symbol": "BTCUSDT",
                    "tradeId": str(row.id),
                    "side": row.taker.title(),
                    "price": str(row.price),
                    "size": repr(row.size),
                    "ts": str(row.ms),
                }
                for row in rows
            ]
        ),
        HAS_ALL,
    ),
    "Poloniex REST": (
        "a",
        lambda rows: json.dumps(
            [
                {
                    "id": str(row.id),
                    "price": str(row.price),
                    "quantity": repr(row.size),
                    "amount": "1",
                    "takerSide": row.taker.upper(),
                    "ts": row.ms,
                    "createTime": row.ms + 5,
                }
                for row in rows
            ]
        ),
        HAS_ALL,
    ),
    "Bitfinex REST": ("a", lambda rows: json.dumps([bitfinex(row) for row in rows]), HAS_ALL),
    "Bitfinex without header": (
        "a",
        csv_of("", lambda row: ",".join(map(str, bitfinex(row)))),
        HAS_ALL,
    ),
    "Gate": (
        "BTC_USDT-202501.csv",
        csv_of("", lambda row: f"{row.s},{row.id},{row.price},{row.size!r},{2 if row.buys else 1}"),
        NO_SIDE,
    ),
    "Bybit contracts": (
        "a",
        csv_of(
            "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional\n",
            lambda row: f"{row.s},BTCUSDT,{row.taker.title()},{row.size!r},{row.price},PlusTick,0e8a-{row.id},1,1,1",
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
