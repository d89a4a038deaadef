"""Read trades from responses of Kraken's REST interface: each line, or each object, is a response with many trades."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from data.recordings.dialects.messages.base import JsonDialect, Scalar, Skipped, Ticks
from data.recordings.dialects.parsers import EPOCH
from data.recordings.dialects.symbols import product_of
from data.recordings.fields import FIELDS

KRAKEN_NAME: Final = (
    'Kraken REST trades: {"error":[],"result":{"XXBTZUSD":[[price,volume,time,side,type,misc,id],...]}}'
)
_START = re.compile(
    rb'\s*\{\s*"error"\s*:\s*\[[^\]]*\]\s*,\s*"result"\s*:\s*\{\s*(?:"last"\s*:\s*"\d+"\s*,\s*)?"(?!last")[^"]{3,20}"\s*:\s*\[\s*\[([^\]]*)\]'
)


_BRACKET = ord("[")


class _Response(msgspec.Struct, gc=False):
    result: dict[str, msgspec.Raw] = {}


class _Trade(msgspec.Struct, array_like=True, gc=False):
    """["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952]"""

    price: Scalar = None
    size: Scalar = None
    time: Any = None
    side: Scalar = None
    type: Scalar = None
    misc: Scalar = None
    trade_id: Scalar = None
    product_id: str = ""


class _WholeTrade(_Trade, array_like=True, gc=False):
    time: msgspec.Raw = msgspec.Raw()


_WHOLE = msgspec.json.Decoder(list[_WholeTrade])
_ANY = msgspec.json.Decoder(list[Any], float_hook=str)
_RESPONSES = msgspec.json.Decoder(_Response)


def kraken_dialect(head: bytes, told: str) -> JsonDialect | None:
    """Return the dialect of a text that starts with a response of trades, else None.

    Args:
        told: product whose symbol without a separator is known thereby.
    """
    start = _START.match(head)
    if start is None or not 5 <= start[1].count(b",") <= 6:
        return None
    columns = {"product_id": "product_id", "event_time": "time", "price": "price", "size": "size", "side": "side"}
    if start[1].count(b",") == 6:
        columns["trade_id"] = "trade_id"
    fields = {**FIELDS, "event_time": EPOCH}
    return JsonDialect(KRAKEN_NAME, "trades", columns, _RESPONSES, lambda found: _ticks(found.result, told), fields)


def _ticks(result: Mapping[str, msgspec.Raw], told: str) -> Ticks:
    trades: list[_Trade] = []
    for pair, rows in result.items():
        if memoryview(rows)[0] == _BRACKET:
            trades += _trades(rows, product_of(pair, told))
    return trades or Skipped("response without trades", is_known=True)


def _trades(rows: msgspec.Raw, product: str) -> Sequence[_Trade]:
    """Return the trades of a pair. A time stays the text that was sent: a double holds fewer digits."""
    try:
        whole = _WHOLE.decode(rows)
    except msgspec.MsgspecError:
        return [_trade(product, row) for row in _ANY.decode(rows)]
    for trade in whole:
        trade.time = str(trade.time, "utf-8")  # type: ignore[assignment]
        trade.product_id = product
    return whole


def _trade(product: str, row: Any) -> _Trade:
    """Return one trade; without values, which is rejected, if the row is no trade."""
    if not isinstance(row, list) or not 6 <= len(row) <= 7 or any(isinstance(each, list | dict) for each in row):
        return _Trade(product_id=product)
    trade = _Trade(*row)
    trade.product_id = product
    return trade
