"""Tables of trades without a header: known by the form of their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from data.recordings.dialects.parsers import EPOCH
from data.recordings.dialects.tables.headers import TableMatch, has_header, table_of
from data.recordings.dialects.tables.known import COIN_CONTRACTS, TABLES, Table
from data.recordings.fields import FIELDS

_N = r'"?\d[\d.eE+-]*"?'
_FLAG = r"(?i:true|false)"

KRAKEN_TABLE: Final = Table(
    "Kraken",
    "three columns without a header: time,price,volume",
    {"event_time": ("time",), "price": ("price",), "size": ("volume",)},
    {},
    {**FIELDS, "event_time": EPOCH},
    unknown="side and id; the product, where the name of the file does not tell it",
)

_GATE_TABLE: Final = Table(
    "Gate",
    "five columns without a header: timestamp,id,price,amount,side (the side is not read)",
    {"event_time": ("timestamp",), "trade_id": ("id",), "price": ("price",), "size": ("amount",)},
    {},
    {**FIELDS, "event_time": EPOCH},
    unknown="side, a number; the product, where the name of the file does not tell it",
)


class _Form(NamedTuple):
    """Rows without a header.

    Attributes:
        row: pattern of a row.
        names: names of the columns; a row may lack the last ones.
        table: the meaning of the columns.
    """

    row: re.Pattern[str]
    names: tuple[str, ...]
    table: Table


_COINS, _BINANCE, _FREQTRADE = (
    next(table for table in TABLES if table.venue == venue and column in table.ignored)
    for venue, column in (("Binance", "qty"), ("Binance", "quote_qty"), ("freqtrade", "type"))
)
_BITFINEX: Final = next(table for table in TABLES if table.venue == "Bitfinex")
_TRADES: Final = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match")
_CONTRACT_TRADES: Final = ("id", "price", "qty", "base_qty", "time", "is_buyer_maker")
_RATIO_OFF: Final = 0.01
"""Allowed relative distance of an amount, which is rounded, from the product of price and quantity."""

FORMS: Final = (
    _Form(
        re.compile(rf"\d+,{_N},{_N},{_N},\d{{13,19}},{_FLAG}(,{_FLAG})?"),
        _TRADES,
        _BINANCE,
    ),
    _Form(
        re.compile(rf"\d+,{_N},{_N},-?\d+,-?\d+,\d{{13,19}},{_FLAG}(,{_FLAG})?"),
        ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "time", "is_buyer_maker",
         "is_best_match"),
        _BINANCE,
    ),
    _Form(
        re.compile(rf'\d{{13}},(null|"?[^,"]*"?),(null|"?[a-z]*"?),"?(?:buy|sell)"?,{_N},{_N},({_N}|null)'),
        ("timestamp", "id", "type", "side", "price", "amount", "cost"),
        _FREQTRADE,
    ),
    _Form(
        re.compile(rf"\d{{10}}(\.\d+)?,\d+,{_N},{_N},[12]"), ("timestamp", "id", "price", "amount", "code"), _GATE_TABLE
    ),
    _Form(re.compile(rf"\d+,\d{{13}},-?{_N},{_N}"), ("id", "mts", "amount", "price"), _BITFINEX),
    _Form(re.compile(r"\d{9,10}(\.\d+)?,\d[\d.eE+-]*,\d[\d.eE+-]*"), ("time", "price", "volume"), KRAKEN_TABLE),
)  # fmt: skip


class Headerless(NamedTuple):
    """The table of rows without a header, and the names of all columns."""

    match: TableMatch
    names: tuple[str, ...]


def headerless_match(head: Sequence[bytes]) -> Headerless | None:
    """Return the table of most of the first rows; None if they have the form of no table."""
    if has_header(head):
        return None
    rows = [line.decode(errors="replace").strip() for line in head[:50]]
    for form in FORMS:
        fitting = [row for row in rows if form.row.fullmatch(row)]
        if form.table is _BITFINEX and not any(row.split(",")[2].startswith("-") for row in fitting):
            continue  # without a sale, the third number may be the price, and the fourth the amount
        if fitting and len(fitting) >= len(rows) / 2:
            widths = [row.count(",") + 1 for row in fitting]
            names, table = form.names, form.table
            if names is _TRADES and _have_contracts(fitting):
                names, table = _CONTRACT_TRADES, _COINS
            names = names[: max(set(widths), key=widths.count)]
            match = table_of(names, (table,))
            if match is not None:
                return Headerless(match, names)
    return None


def _have_contracts(rows: Sequence[str]) -> bool:
    """Return whether most of Binance's trades count contracts of 10 or 100 USD, and have the coins behind them."""
    found = 0
    for row in rows:
        with suppress(ValueError):  # the reader tells of a text that is no number
            price, contracts, amount = (float(text.strip('"')) for text in row.split(",")[1:4])
            is_quote = abs(amount - price * contracts) <= _RATIO_OFF * price * contracts
            coins = [size * contracts / price for size in COIN_CONTRACTS] if price else []
            found += not is_quote and any(abs(amount - each) <= _RATIO_OFF * each for each in coins)
    return found * 2 > len(rows)
