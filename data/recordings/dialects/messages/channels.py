"""Read trades from NDJSON: Coinbase's channels, plain or in a recorder's envelope."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from operator import attrgetter
from typing import Final

import msgspec

from data.recordings.dialects.base import FLAT_COLUMNS, TICKER, TICKER_COLUMNS, ZONELESS
from data.recordings.dialects.messages.base import JsonDialect, Scalar, Skipped, Ticks, TypesOf
from data.recordings.dialects.parsers import MAKERS_SIDE
from data.recordings.fields import FIELDS

MATCHES: Final = ("match", "last_match")
MARKET_TRADES: Final = "market_trades"
TICKER_BATCH: Final = "ticker_batch"

EXCHANGE_TYPES: Final = frozenset(
    [TICKER, *MATCHES, "subscriptions", "heartbeat", "snapshot", "l2update", "status", "received", "open", "done",
     "change", "activate", "auction", "rfq_match", "error"]
)  # fmt: skip
ADVANCED_CHANNELS: Final = frozenset(
    [TICKER, TICKER_BATCH, MARKET_TRADES, "subscriptions", "heartbeats", "l2_data", "candles", "status", "user",
     "futures_balance_summary"]
)  # fmt: skip
"""Types and channels of Coinbase's feeds: messages that may stand beside the trades."""


class _Message(msgspec.Struct, gc=False):
    """{"type":"ticker","product_id":"BTC-USD","price":"103472.28","side":"buy",
    "time":"2025-11-12T07:20:11.615272Z","trade_id":900701309,"last_size":"0.00068754",...}

    {"type":"match","trade_id":10,"side":"sell","size":"5.2","price":"400.2","product_id":"BTC-USD","time":...,...}
    """

    type: str
    product_id: Scalar = None
    trade_id: Scalar = None
    time: Scalar = None
    price: Scalar = None
    last_size: Scalar = None
    size: Scalar = None
    side: Scalar = None


class _Envelope(msgspec.Struct, gc=False):
    """{"ts":1762932011.629353,"pair":"BTC-USD","raw":"{\\"type\\":\\"ticker\\",...}"}"""

    raw: str


class _Flat(msgspec.Struct, gc=False):
    """{"timestamp":"2025-11-08T15:12:31.463496","product_id":"BTC-USD","price":"102020.48","volume_24h":"5410.7",...,
    "raw":{"type":"ticker",...}}, and `raw` has no time
    """

    timestamp: Scalar
    product_id: Scalar
    price: Scalar
    volume_24h: Scalar


class _Tick(msgspec.Struct, gc=False):
    product_id: Scalar = None
    price: Scalar = None
    timestamp: Scalar = None
    channel: str = TICKER


class _MarketTrade(msgspec.Struct, gc=False):
    product_id: Scalar = None
    trade_id: Scalar = None
    time: Scalar = None
    price: Scalar = None
    size: Scalar = None
    side: Scalar = None


class _Event(msgspec.Struct, gc=False):
    tickers: list[_Tick] = []
    trades: list[_MarketTrade] = []


class _Frame(msgspec.Struct, gc=False):
    """{"channel":"ticker","timestamp":"2026-04-05T22:35:13.92532762Z","sequence_num":0,"events":
    [{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"67468.26",...}]}]}

    {"channel":"market_trades","timestamp":...,"sequence_num":0,"events":[{"type":"snapshot","trades":
    [{"trade_id":"12","product_id":"ETH-USD","price":"1260.01","size":"0.3","side":"BUY","time":...}]}]}
    """

    channel: str
    timestamp: Scalar = None
    events: list[_Event] = []


class _RecordedFrame(msgspec.Struct, gc=False):
    """{"ingest_time":"2026-04-05T22:35:13.865365+00:00","product_id":"BTC-USD","payload":{"channel":...}}"""

    payload: _Frame


def _of_ticker(message: _Message) -> Ticks:
    if message.type == TICKER:
        return [message]
    return Skipped(message.type, message.type in EXCHANGE_TYPES)


def _of_match(message: _Message) -> Ticks:
    if message.type in MATCHES:
        return [message]
    return Skipped(message.type, message.type in EXCHANGE_TYPES)


def _of_tickers(frame: _Frame) -> Ticks:
    if frame.channel not in (TICKER, TICKER_BATCH):
        return Skipped(frame.channel, frame.channel in ADVANCED_CHANNELS)
    ticks = [tick for event in frame.events for tick in event.tickers]
    for tick in ticks:
        tick.timestamp, tick.channel = frame.timestamp, frame.channel
    return ticks or Skipped(frame.channel, is_known=True)


def _of_market_trades(frame: _Frame) -> Ticks:
    """Return the trades of a frame by rising id; the feed has the newest first."""
    if frame.channel != MARKET_TRADES:
        return Skipped(frame.channel, frame.channel in ADVANCED_CHANNELS)
    trades: list[_MarketTrade] = []
    for event in frame.events:
        trades += event.trades
    if len(trades) > 1:
        with suppress(TypeError, ValueError):  # an id that is no number is rejected later
            trades.sort(key=_id_of)
    return trades or Skipped(frame.channel, is_known=True)


def _id_of(trade: _MarketTrade) -> int:
    return int(trade.trade_id)  # type: ignore[arg-type]


def _messages_in(envelopes: list[_Envelope]) -> list[_Message]:
    """Return the message in each envelope."""
    raws = [envelope.raw for envelope in envelopes]
    text = "\n".join(raws)
    if text.count("\n") == len(raws) - 1:
        with suppress(msgspec.MsgspecError, UnicodeError):
            found = _messages.decode_lines(text)
            if len(found) == len(raws):
                return found
    return list(map(_messages.decode, raws))


def _only(kind: str) -> TypesOf:
    return lambda found: {kind: len(found)} if found else {}


def _by(attribute: str) -> TypesOf:
    type_of = attrgetter(attribute)
    return lambda found: Counter(type_of(ticks[0]) for ticks in found)


_messages, _envelopes = msgspec.json.Decoder(_Message), msgspec.json.Decoder(_Envelope)
_frames, _recorded = msgspec.json.Decoder(_Frame), msgspec.json.Decoder(_RecordedFrame)

_EXCHANGE, _ADVANCED = "Coinbase Exchange ticker channel", "Coinbase Advanced Trade ticker channel"
_MATCHES, _MARKET_TRADES = "Coinbase Exchange matches channel", "Coinbase Advanced Trade market_trades channel"
_MAKERS = {**FIELDS, "side": MAKERS_SIDE}
_TRADE_COLUMNS = {**TICKER_COLUMNS, "size": "size"}

MESSAGE_DIALECTS: Final = (
    JsonDialect(
        f'{_EXCHANGE}: {{"type":"ticker",...}}',
        "ticker channel",
        TICKER_COLUMNS,
        _messages,
        _of_ticker,
        types_of=_only(TICKER),
    ),
    JsonDialect(
        f'{_EXCHANGE}, as recorded: {{"ts":...,"pair":...,"raw":"{{\\"type\\":\\"ticker\\",...}}"}}',
        "ticker channel",
        TICKER_COLUMNS,
        _envelopes,
        _of_ticker,
        unpacked=_messages_in,
        types_of=_only(TICKER),
    ),
    JsonDialect(
        f'{_MATCHES}: {{"type":"match","maker_order_id":...}} (the maker\'s side is turned)',
        "matches channel",
        _TRADE_COLUMNS,
        _messages,
        _of_match,
        _MAKERS,
        types_of=_by("type"),
    ),
    JsonDialect(
        f'{_MATCHES}, as recorded: {{"ts":...,"pair":...,"raw":"{{\\"type\\":\\"match\\",...}}"}}',
        "matches channel",
        _TRADE_COLUMNS,
        _envelopes,
        _of_match,
        _MAKERS,
        _messages_in,
        _by("type"),
    ),
    JsonDialect(
        f'{_ADVANCED}: {{"channel":"ticker","timestamp":...,"events":[...]}}',
        "ticker channel",
        FLAT_COLUMNS,
        _frames,
        _of_tickers,
        types_of=_by("channel"),
    ),
    JsonDialect(
        f'{_ADVANCED}, as recorded: {{"ingest_time":...,"product_id":...,"payload":{{"channel":...}}}}',
        "ticker channel",
        FLAT_COLUMNS,
        _recorded,
        lambda recorded: _of_tickers(recorded.payload),
        types_of=_by("channel"),
    ),
    JsonDialect(
        f'{_MARKET_TRADES}: {{"channel":"market_trades","events":[{{"trades":[...]}}]}} (the maker\'s side is turned)',
        "market_trades channel",
        _TRADE_COLUMNS,
        _frames,
        _of_market_trades,
        _MAKERS,
        types_of=_only(MARKET_TRADES),
    ),
    JsonDialect(
        f'{_MARKET_TRADES}, as recorded: {{"ingest_time":...,"product_id":...,"payload":{{"channel":...}}}}',
        "market_trades channel",
        _TRADE_COLUMNS,
        _recorded,
        lambda recorded: _of_market_trades(recorded.payload),
        _MAKERS,
        types_of=_only(MARKET_TRADES),
    ),
    JsonDialect(
        f'{_ADVANCED}, flattened: {{"timestamp":...,"product_id":...,"price":...,"volume_24h":...}} (a time without '
        "a zone is UTC)",
        "ticker channel",
        FLAT_COLUMNS,
        msgspec.json.Decoder(_Flat),
        lambda flat: [flat],
        ZONELESS,
    ),
)
