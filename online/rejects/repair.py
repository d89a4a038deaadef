"""Make the trades of a replay from rejects, and from the trades of a repaired list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from data.names import check_names
from data.stream.records import End, Purpose, Trade
from data.trades import StreamKey
from online.rejects.kept import Kept

HOW = "give the trade with --repaired"
ROW = f"rows of recordings, whose bytes are in the recording: mend and replay the file, or {HOW}"
UNREADABLE = f"no trades: {HOW}"
IS_END = "ends of sources, which need no replay"


class NoTrade(ValueError):
    """A reject gives no trade; the message is the reason, for all rejects of this kind."""


class BadRepair(ValueError):
    """A repaired list cannot be used; the message has the entry and the field."""


class _Entry(Struct):
    id: str
    trade: dict[str, Any] | None = None


class _List(Struct):
    rejects: list[_Entry]


def read_repaired(path: Path) -> dict[str, dict[str, Any]]:
    """Return the trades of a repaired list by the ids of their rejects; entries without a trade are left out.

    Args:
        path: JSON as of `list --json`, of which `id` and `trade` are read.

    Raises:
        BadRepair: the file cannot be read, or is no such list.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_List)
    except OSError as error:
        raise BadRepair(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRepair(f"{path} is no list as of `list --json`: {error}") from error
    return {entry.id: entry.trade for entry in found.rejects if entry.trade is not None}


def trade_of(kept: Kept, source_id: str, repaired: Mapping[str, dict[str, Any]]) -> Trade:
    """Return the trade to send for a reject, in a new source. A drill stays a drill, all other trades are a replay.

    Args:
        repaired: trades by id of the reject.

    Raises:
        NoTrade: the record is no trade, and no trade was given.
        BadRepair: the given trade is none.
    """
    if (fields := repaired.get(kept.id)) is not None:
        purpose: Purpose = "drill" if fields.get("purpose") == "drill" else "replay"
        try:
            trade = msgspec.convert(fields | {"source_id": source_id, "purpose": purpose, "ingest_time": 0}, Trade)
            check_names(StreamKey(source_id, trade.product_id))
        except ValueError as error:
            raise BadRepair(f"the trade of reject {kept.id} cannot be sent: {error}") from error
        return trade
    trade = _refused_trade(kept)
    return replace(trade, source_id=source_id, purpose="drill" if trade.purpose == "drill" else "replay")


def _refused_trade(kept: Kept) -> Trade:
    original = kept.reject.original
    if original is None:
        raise NoTrade(ROW)
    try:
        trade = msgspec.json.decode(original, type=Trade)
        check_names(StreamKey("any", trade.product_id))
    except (ValueError, RecursionError):  # the decoder's errors are ValueErrors
        raise NoTrade(IS_END if _is_end(original) else UNREADABLE) from None
    return trade


def _is_end(original: bytes) -> bool:
    try:
        return msgspec.json.decode(original, type=End).end
    except (ValueError, RecursionError):
        return False
