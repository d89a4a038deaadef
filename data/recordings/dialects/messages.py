"""Read trades from JSON messages of the Coinbase channels, one message a line, as sent or in a recorder's envelope."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from data.arrow import texts_of
from data.recordings.dialects.base import FLAT_COLUMNS, TICKER, TICKER_COLUMNS, ZONELESS, RowColumns, TextDialect
from data.recordings.fields import FIELDS, Field
from data.recordings.lines import Lines

_Scalar = str | int | float | None


class _Message(msgspec.Struct):
    """{"type":"ticker","product_id":"BTC-USD","price":"103472.28","side":"buy",
    "time":"2025-11-12T07:20:11.615272Z","trade_id":900701309,"last_size":"0.00068754",...}
    """

    type: str
    product_id: _Scalar = None
    trade_id: _Scalar = None
    time: _Scalar = None
    price: _Scalar = None
    last_size: _Scalar = None
    side: _Scalar = None


class _Envelope(msgspec.Struct):
    """{"ts":1762932011.629353,"pair":"BTC-USD","raw":"{\\"type\\":\\"ticker\\",...}"}"""

    raw: str


class _Flat(msgspec.Struct):
    """{"timestamp":"2025-11-08T15:12:31.463496","product_id":"BTC-USD","price":"102020.48","volume_24h":"5410.7",...,
    "raw":{"type":"ticker",...}}, and `raw` has no time
    """

    timestamp: _Scalar
    product_id: _Scalar
    price: _Scalar
    volume_24h: _Scalar


class _Tick(msgspec.Struct):
    product_id: _Scalar = None
    price: _Scalar = None
    timestamp: _Scalar = None


class _Event(msgspec.Struct):
    tickers: list[_Tick] = []


class _Frame(msgspec.Struct):
    """{"channel":"ticker","timestamp":"2026-04-05T22:35:13.92532762Z","sequence_num":0,"events":
    [{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"67468.26",...}]}]}
    """

    channel: str
    timestamp: _Scalar = None
    events: list[_Event] = []


class _RecordedFrame(msgspec.Struct):
    """{"ingest_time":"2026-04-05T22:35:13.865365+00:00","product_id":"BTC-USD","payload":{"channel":...}}"""

    payload: _Frame


_Ticks = Sequence[_Message | _Flat | _Tick]


def _of_message(message: _Message) -> _Ticks | None:
    if message.type == TICKER:
        return (message,)
    return () if message.type == "subscriptions" else None


def _of_frame(frame: _Frame) -> _Ticks | None:
    if frame.channel not in ("ticker", "ticker_batch"):
        return () if frame.channel == "subscriptions" else None
    ticks = [tick for event in frame.events for tick in event.tickers]
    for tick in ticks:
        tick.timestamp = frame.timestamp
    return ticks


_messages, _envelopes = msgspec.json.Decoder(_Message).decode, msgspec.json.Decoder(_Envelope).decode
_frames, _recorded = msgspec.json.Decoder(_Frame).decode, msgspec.json.Decoder(_RecordedFrame).decode
_flats = msgspec.json.Decoder(_Flat).decode


class _JsonDialect(TextDialect):
    """Reader of NDJSON: a message, or a frame of several messages, on each line.

    Args:
        ticks: decodes a line, and returns its ticks; empty for another message of the dialect, None for a message that
            does not show the dialect.
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, str],
        ticks: Callable[[bytes], _Ticks | None],
        fields: Mapping[str, Field] = FIELDS,
    ) -> None:
        self.name = f"NDJSON of the {name}"
        self.columns, self.fields, self._ticks = columns, fields, ticks

    def recognizes(self, head: Sequence[bytes]) -> bool:
        """Return whether one of the first lines belongs to the dialect."""
        for line in head:
            try:
                if self._ticks(line) is not None:
                    return True
            except (msgspec.MsgspecError, UnicodeError):
                continue
        return False

    def split(self, lines: Lines) -> RowColumns:
        broken: dict[int, str] = {}
        skipped: list[int] = []
        ticks: list[Any] = []
        count = np.ones(len(lines), np.intp)
        for i, line in enumerate(lines.data.split(b"\n")[:-1]):
            try:
                found = self._ticks(line) or ()
            except (msgspec.MsgspecError, UnicodeError) as error:
                broken[i] = f"the line must be a JSON message of the ticker channel: {error}"
                continue
            if not found:
                skipped.append(i)
            count[i] = max(1, len(found))
            ticks.extend(found)
        line_of = np.repeat(np.arange(len(lines)), count)
        is_tick = ~np.isin(line_of, [*skipped, *broken])
        columns = {f: _json_texts(list(map(attrgetter(column), ticks))) for f, column in self.columns.items()}
        return RowColumns(
            line_of[is_tick],
            np.flatnonzero(is_tick),
            columns,
            broken,
            np.array(skipped, np.intp),
            len(line_of),
        )


def _json_texts(values: list[_Scalar]) -> pa.Array:
    return texts_of([value if isinstance(value, str) else "" if value is None else str(value) for value in values])


_EXCHANGE, _ADVANCED = "Coinbase Exchange ticker channel", "Coinbase Advanced Trade ticker channel"

MESSAGE_DIALECTS = (
    _JsonDialect(
        f'{_EXCHANGE}: {{"type":"ticker",...}}',
        TICKER_COLUMNS,
        lambda line: _of_message(_messages(line)),
    ),
    _JsonDialect(
        f'{_EXCHANGE}, as recorded: {{"ts":...,"pair":...,"raw":"{{\\"type\\":\\"ticker\\",...}}"}}',
        TICKER_COLUMNS,
        lambda line: _of_message(_messages(_envelopes(line).raw)),
    ),
    _JsonDialect(
        f'{_ADVANCED}: {{"channel":"ticker","timestamp":...,"events":[...]}}',
        FLAT_COLUMNS,
        lambda line: _of_frame(_frames(line)),
    ),
    _JsonDialect(
        f'{_ADVANCED}, as recorded: {{"ingest_time":...,"product_id":...,"payload":{{"channel":...}}}}',
        FLAT_COLUMNS,
        lambda line: _of_frame(_recorded(line).payload),
    ),
    _JsonDialect(
        f'{_ADVANCED}, flattened: {{"timestamp":...,"product_id":...,"price":...,"volume_24h":...}} (a time without '
        "a zone is UTC)",
        FLAT_COLUMNS,
        lambda line: (_flats(line),),
        ZONELESS,
    ),
)
