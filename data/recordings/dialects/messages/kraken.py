"""Read trades from responses of Kraken's REST interface: each line, or each object, is a response with many trades."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from data.recordings.dialects.messages.base import JsonDialect, Scalar, Ticks
from data.recordings.dialects.parsers import EPOCH
from data.recordings.dialects.symbols import product_of
from data.recordings.fields import FIELDS

KRAKEN_NAME: Final = (
    'Kraken REST trades: {"error":[],"result":{"XXBTZUSD":[[price,volume,time,side,type,misc,id],...]}}'
)
_START = re.compile(
    rb'\s*\{\s*"error"\s*:\s*\[[^\]]*\]\s*,\s*"result"\s*:\s*\{\s*"(?!last")[^"]{3,20}"\s*:\s*\[\s*\[([^\]]*)\]'
)
_SIDES = {"b": "buy", "s": "sell"}


class _Response(msgspec.Struct):
    result: dict[str, list[Any] | str | int | None] = {}
    error: list[Any] = []


class _Trade(msgspec.Struct):
    product_id: str
    price: Scalar = None
    size: Scalar = None
    time: Scalar = None
    side: Scalar = None
    trade_id: Scalar = None


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
    # Floats stay texts: a time with nine digits of a second is more than a double holds.
    decoder = msgspec.json.Decoder(_Response, float_hook=str)
    return JsonDialect(KRAKEN_NAME, "trades", columns, decoder, lambda found: _trades(found.result, told), fields)


def _trades(result: Mapping[str, Any], told: str) -> Ticks:
    trades: list[_Trade] = []
    for pair, rows in result.items():
        if isinstance(rows, list):
            product = product_of(pair, told)
            trades += [_trade(product, row) for row in rows]
    return Ticks(trades, "response without trades", is_known=True)


def _trade(product: str, row: Any) -> _Trade:
    """Return one trade; without values, which is rejected, if the row is no trade."""
    if not isinstance(row, list) or not 6 <= len(row) <= 7 or any(isinstance(each, list | dict) for each in row):
        return _Trade(product)
    side = _SIDES.get(row[3], row[3]) if isinstance(row[3], str) else row[3]
    return _Trade(product, row[0], row[1], row[2], side, row[6] if len(row) == 7 else None)
