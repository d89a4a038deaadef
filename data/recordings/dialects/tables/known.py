"""The tables of trades that are known by the names of their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from data.recordings.dialects.base import (
    FLAT_COLUMNS,
    MESSAGE_TYPE,
    OWN_COLUMNS,
    TICKER,
    TICKER_COLUMNS,
    VOLUME_24H,
    ZONELESS,
)
from data.recordings.dialects.parsers import AMOUNT, AMOUNT_SIDE, BUYER_MAKER, EPOCH, MAKERS_SIDE
from data.recordings.fields import FIELDS, Field

Names = tuple[str, ...]


class Table(NamedTuple):
    """Names of columns by field of a trade, each with its other spellings.

    Capitals, blanks and underscores of a name do not matter, unless the table is exact.

    Attributes:
        venue: who writes such files, for people.
        name: the columns, for people.
        needed: columns that identify the table; those of `MARKERS` are not read.
        possible: optional columns.
        ignored: further columns of the venue that are known, and not needed.
        taken: types of messages that are trades, if a column names the type.
        are_symbols: whether products can be named like BTCUSD or BTC/USD.
        is_complete: whether a column that the table does not name means another table.
        is_exact: whether capitals matter.
        in_json: whether JSON objects with these keys are read, too.
        may_lack_ids: whether ids that are no numbers are left out, and rows numbered.
        unknown: what such a file does not tell, for people.
    """

    venue: str
    name: str
    needed: Mapping[str, Names]
    possible: Mapping[str, Names] = {}
    fields: Mapping[str, Field] = FIELDS
    ignored: Names = ()
    taken: Names = ()
    are_symbols: bool = True
    is_complete: bool = False
    is_exact: bool = False
    in_json: bool = False
    may_lack_ids: bool = False
    unknown: str = ""


MARKER: Final = "marker"
"""A needed column that is not read."""
MARKERS: Final = (MARKER, VOLUME_24H)
VENUE: Final = "venue"
"""The field of a column of exchanges: all rows of a recording must have the same one."""
VENUE_NAMES: Final = ("exchange", "venue", "exch", "exchange_id", "exchange_name")

PRODUCT_NAMES: Final = (
    "product_id",
    "product",
    "symbol",
    "pair",
    "instrument",
    "market",
    "currency_pair",
    "product_name",
    "instrument_id",
    "instrument_name",
    "inst_id",
    "trading_pair",
    "ticker",
    "coin",
    "asset",
    "sym",
    "pair_name",
    "contract",
    "security",
    "asset_id",
    "crypto",
)
ID_NAMES: Final = ("trade_id", "id", "tid", "trade_number")
SIDE_NAMES: Final = (
    "side", "taker_side", "maker_side", "taker", "maker", "is_buyer_maker", "buyer_maker", "is_buyer_taker",
    "direction", "aggressor", "aggressor_side", "buy_sell", "trade_side", "is_buy", "is_sell", "is_bid", "is_ask",
    "taker_side_sell", "tks", "m",
)  # fmt: skip
RANGE_NAMES: Final = (
    "open", "high", "low", "vwap", "open_24h", "high_24h", "low_24h", "market_cap", "bid", "ask", "best_bid",
    "best_ask",
)  # fmt: skip
"""Columns of a ticker, of candles or of CoinGecko: beside them a volume is a running total, and no size of a trade."""
COIN_CONTRACTS: Final = (10, 100)
"""Sizes of Binance's coin contracts, USD."""
ANY_VENUE: Final = "any"
UNIT_NAMES: Final = ("unit", "units", "time_unit", "currency", "quote_currency", "base_currency", "quote", "base")


def _names(columns: Mapping[str, str]) -> dict[str, Names]:
    return {field: (name,) for field, name in columns.items()}


_BUYER_MAKER_FIELDS = {**FIELDS, "event_time": EPOCH, "side": BUYER_MAKER}

TABLES: Final = (
    Table(
        "this project",
        "the project's own columns: " + ",".join(OWN_COLUMNS),
        {field: (field,) for field in ("product_id", *FIELDS)},
        ignored=OWN_COLUMNS,
        are_symbols=False,
        in_json=True,
    ),
    Table(
        "Coinbase Exchange",
        "columns of the Coinbase Exchange ticker channel: type,sequence,product_id,price,...,time,trade_id,last_size",
        _names(TICKER_COLUMNS),
        {MESSAGE_TYPE: ("type",)},
        ignored=(
            "sequence", "open_24h", "volume_24h", "low_24h", "high_24h", "volume_30d", "best_bid", "best_bid_size",
            "best_ask", "best_ask_size",
        ),
        taken=(TICKER,),
        are_symbols=False,
    ),
    Table(
        "Coinbase Advanced Trade",
        "columns of the Coinbase Advanced Trade ticker channel, flattened: timestamp,product_id,price,volume_24h,... "
        "(a time without a zone is UTC)",
        {**_names(FLAT_COLUMNS), VOLUME_24H: (VOLUME_24H,)},
        {},
        ZONELESS,
        ignored=(
            "type", "raw", "low_24h", "high_24h", "low_52_w", "high_52_w", "price_percent_chg_24_h", "best_bid",
            "best_ask", "best_bid_quantity", "best_ask_quantity", "best_bid_size", "best_ask_size",
        ),
        are_symbols=False,
        unknown="size, side and id of a trade; not each trade is there",
    ),
    Table(
        "Coinbase Exchange",
        "columns of the Coinbase Exchange matches channel: type,trade_id,maker_order_id,...,side,size,price,product_id,"
        "sequence,time (the maker's side is turned)",
        {
            "product_id": ("product_id",), "trade_id": ("trade_id",), "event_time": ("time",), "price": ("price",),
            "size": ("size",), "side": ("side",), MARKER: ("maker_order_id",),
        },
        {MESSAGE_TYPE: ("type",)},
        {**FIELDS, "side": MAKERS_SIDE},
        ignored=("taker_order_id", "sequence"),
        taken=("match", "last_match"),
        are_symbols=False,
        in_json=True,
    ),
    Table(
        "Coinbase Advanced Trade",
        "Coinbase Advanced Trade trades: trade_id,product_id,price,size,time,side (the maker's side is turned)",
        {
            "product_id": ("product_id",), "trade_id": ("trade_id",), "event_time": ("time",), "price": ("price",),
            "size": ("size",), "side": ("side",),
        },
        {},
        {**FIELDS, "side": MAKERS_SIDE},
        ignored=("bid", "ask", "exchange"),
        are_symbols=False,
        is_complete=True,
        in_json=True,
    ),
    Table(
        "Tardis",
        "columns of Tardis trades: exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
        {
            "product_id": ("symbol",), "event_time": ("timestamp",), "trade_id": ("id",), "price": ("price",),
            "size": ("amount",), "side": ("side",), MARKER: ("local_timestamp",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        may_lack_ids=True,
        unknown="the unit of sizes of contracts",
    ),
    Table(
        "cryptofeed",
        "columns of cryptofeed trades: exchange,symbol,side,amount,price,id,type,timestamp,receipt_timestamp",
        {
            "product_id": ("symbol",), "event_time": ("timestamp",), "trade_id": ("id",), "price": ("price",),
            "size": ("amount",), "side": ("side",), MARKER: ("receipt_timestamp",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("type",),
        may_lack_ids=True,
    ),
    Table(
        "Bitfinex",
        "columns of Bitfinex trades: id,mts,amount,price (an amount below 0 was sold by the taker)",
        {
            "event_time": ("mts",), "trade_id": ("id",), "price": ("price",), "size": ("amount",), "side": ("amount",),
        },
        {"product_id": ("symbol", "pair")},
        {**FIELDS, "event_time": EPOCH, "size": AMOUNT, "side": AMOUNT_SIDE},
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "Bybit",
        "columns of Bybit contracts: timestamp,symbol,side,size,price,tickDirection,trdMatchID,...",
        {
            "product_id": ("symbol",), "event_time": ("timestamp",), "price": ("price",), "size": ("size",),
            "side": ("side",), MARKER: ("trd_match_id",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("tick_direction", "gross_value", "home_notional", "foreign_notional", "rpi"),
        unknown="ids, which are no numbers; the unit of sizes of inverse contracts",
    ),
    Table(
        "Bybit",
        "columns of Bybit spot trades: id,timestamp,price,volume,side",
        {
            "event_time": ("timestamp",), "trade_id": ("id",), "price": ("price",), "size": ("volume",),
            "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("rpi",),
        is_complete=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "Bybit",
        "keys of Bybit REST trades: execId,symbol,price,size,side,time",
        {
            "product_id": ("symbol",), "event_time": ("time",), "trade_id": ("exec_id",), "price": ("price",),
            "size": ("size",), "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("is_block_trade", "is_rpi_trade", "seq", "mp", "mi_p", "iv", "m_iv"),
        in_json=True,
        may_lack_ids=True,
        unknown="the unit of sizes of inverse contracts",
    ),
    Table(
        "OKX",
        "keys of OKX REST trades: instId,side,sz,px,tradeId,ts",
        {
            "product_id": ("inst_id",), "event_time": ("ts",), "trade_id": ("trade_id",), "price": ("px",),
            "size": ("sz",), "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("source", "count", "seq_id"),
        in_json=True,
        unknown="the unit of sizes of contracts",
    ),
    Table(
        "Bitget",
        "keys of Bitget REST trades: symbol,tradeId,side,price,size,ts",
        {
            "product_id": ("symbol",), "event_time": ("ts",), "trade_id": ("trade_id",), "price": ("price",),
            "size": ("size",), "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        is_complete=True,
        in_json=True,
        unknown="the unit of sizes of inverse contracts",
    ),
    Table(
        "Poloniex",
        "keys of Poloniex REST trades: id,price,quantity,amount,takerSide,ts,createTime",
        {
            "event_time": ("ts",), "trade_id": ("id",), "price": ("price",), "size": ("quantity",),
            "side": ("taker_side",),
        },
        {"product_id": ("symbol",)},
        {**FIELDS, "event_time": EPOCH},
        ignored=("amount", "create_time"),
        in_json=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "KuCoin",
        "keys of KuCoin REST trades: sequence,price,size,side,time",
        {
            "event_time": ("time",), "trade_id": ("sequence",), "price": ("price",), "size": ("size",),
            "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        is_complete=True,
        in_json=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "Gate",
        "keys of Gate REST trades: id,create_time,create_time_ms,currency_pair,side,amount,price",
        {
            "product_id": ("currency_pair",), "event_time": ("create_time_ms",), "trade_id": ("id",),
            "price": ("price",), "size": ("amount",), "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("create_time", "role", "fee", "fee_currency", "order_id", "sequence_id"),
        in_json=True,
    ),
    Table(
        "Gemini",
        "keys of Gemini REST trades: timestamp,timestampms,tid,price,amount,exchange,type",
        {
            "event_time": ("timestampms",), "trade_id": ("tid",), "price": ("price",), "size": ("amount",),
            "side": ("type",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("timestamp", "exchange", "broken"),
        in_json=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "OKX",
        "columns of OKX trades: instrument_name,trade_id,side,price,size,created_time",
        {
            "product_id": ("instrument_name",), "event_time": ("created_time",), "trade_id": ("trade_id",),
            "price": ("price",), "size": ("size",), "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        is_complete=True,
        unknown="the unit of sizes of contracts",
    ),
    Table(
        "KuCoin",
        "columns of KuCoin trades: trade_id,trade_time,price,size,side",
        {
            "event_time": ("trade_time",), "trade_id": ("trade_id",), "price": ("price",), "size": ("size",),
            "side": ("side",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        is_complete=True,
        may_lack_ids=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "ccxt",
        "columns of ccxt trades: timestamp,datetime,symbol,id,...,side,...,price,amount,cost",
        {
            "product_id": ("symbol",), "event_time": ("timestamp",), "trade_id": ("id",), "price": ("price",),
            "size": ("amount",), "side": ("side",), MARKER: ("datetime", "taker_or_maker", "cost", "info"),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("datetime", "taker_or_maker", "cost", "info", "order", "type", "fee", "fees"),
        in_json=True,
        may_lack_ids=True,
        unknown="whether the exchange tells the taker's side: ccxt passes on what the exchange tells",
    ),
    Table(
        "freqtrade",
        "columns of freqtrade trades: timestamp,id,type,side,price,amount,cost",
        {
            "event_time": ("timestamp",), "trade_id": ("id",), "price": ("price",), "size": ("amount",),
            "side": ("side",), MARKER: ("cost",),
        },
        {},
        {**FIELDS, "event_time": EPOCH},
        ignored=("type", "date"),
        in_json=True,
        may_lack_ids=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "Binance",
        "columns of Binance trades of coin contracts: id,price,qty,base_qty,time,is_buyer_maker (a maker's flag is "
        "turned)",
        {
            "event_time": ("time",), "trade_id": ("id",), "price": ("price",), "size": ("base_qty",),
            "side": ("is_buyer_maker",),
        },
        {"product_id": ("symbol",)},
        _BUYER_MAKER_FIELDS,
        ignored=("qty",),
        in_json=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        "Binance",
        "columns of Binance trades or aggTrades: id,price,qty,quote_qty,time,is_buyer_maker (a maker's flag is turned)",
        {
            "event_time": ("time", "timestamp", "transact_time"), "trade_id": ("id", "trade_id", "agg_trade_id",
            "aggregate_trade_id"), "price": ("price",), "size": ("qty", "quantity"),
            "side": ("is_buyer_maker", "was_the_buyer_the_maker"),
        },
        {"product_id": ("symbol",)},
        _BUYER_MAKER_FIELDS,
        ignored=(
            "quote_qty", "is_best_match", "first_trade_id", "last_trade_id", "was_the_trade_the_best_price_match",
        ),
        in_json=True,
        unknown="the product, where the name of the file does not tell it; the unit of coin contracts in aggTrades",
    ),
    Table(
        "Binance",
        "keys of Binance aggTrade messages: a,p,q,f,l,T,m",
        {
            "event_time": ("T",), "trade_id": ("a",), "price": ("p",), "size": ("q",), "side": ("m",),
            MARKER: ("f",),
        },
        {"product_id": ("s",), MESSAGE_TYPE: ("e",)},
        _BUYER_MAKER_FIELDS,
        ignored=("E", "l", "M"),
        taken=("aggTrade",),
        is_exact=True,
        in_json=True,
        unknown="the product, where neither `s` nor the name of the file tells it",
    ),
    Table(
        "Binance",
        "keys of Binance trade messages: e,E,s,t,p,q,T,m",
        {
            "event_time": ("T",), "trade_id": ("t",), "price": ("p",), "size": ("q",), "side": ("m",),
            "product_id": ("s",),
        },
        {MESSAGE_TYPE: ("e",)},
        _BUYER_MAKER_FIELDS,
        ignored=("E", "M", "b", "a"),
        taken=("trade",),
        is_exact=True,
        in_json=True,
    ),
    Table(
        "Coinbase Exchange",
        "columns of Coinbase Exchange REST trades: time,trade_id,price,size,side (the maker's side is turned)",
        {
            "event_time": ("time",), "trade_id": ("trade_id",), "price": ("price",), "size": ("size",),
            "side": ("side",),
        },
        {},
        {**FIELDS, "side": MAKERS_SIDE},
        ignored=("",),
        is_complete=True,
        in_json=True,
        unknown="the product, where the name of the file does not tell it",
    ),
    Table(
        ANY_VENUE,
        "timestamp,price,volume",
        {
            "event_time": ("timestamp", "time", "datetime", "ts"), "price": ("price",),
            "size": ("volume", "size", "qty", "quantity", "amount"),
        },
        {"product_id": PRODUCT_NAMES, "trade_id": ID_NAMES},
        may_lack_ids=True,
        unknown="side; id and product, where no column names them, nor the name of the file the product",
    ),
)  # fmt: skip
