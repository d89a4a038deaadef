"""Read JSON lines, several at once where each line is whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, compress
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from data.arrow import column_of, texts_of
from data.recordings.dialects.base import RowColumns, SkippedTypes, TextDialect
from data.recordings.fields import FIELDS, Field
from data.recordings.lines import Lines

Scalar = str | int | float | bool | None

NO_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Errors of a text that is no JSON of the wanted shape; the last is that of values too deep in each other."""
AT_ONCE = 128
"""Lines that are decoded at once: few, because Python's collector searches all objects when many live."""

HAS_TRADE = 2
"""Strongest result of `JsonDialect.recognizes`."""


class Skipped(list[Any]):
    """The trades of a message without trades: none.

    Attributes:
        kind: type of the message.
        is_known: whether the message belongs to the feed of the dialect.
    """

    def __init__(self, kind: str, is_known: bool) -> None:
        self.kind, self.is_known = kind, is_known


Ticks = list[Any]
"""The trades of a message as objects with the columns of the dialect as attributes; without a trade it is `Skipped`."""


Convert = Callable[[list[Any]], list[Any]]
"""Converts decoded messages."""


TypesOf = Callable[[list[Ticks]], Mapping[str, int]]
"""Counts messages with trades by type."""


def themselves(messages: list[Any]) -> list[Any]:
    return messages


class JsonDialect(TextDialect):
    """Reader of NDJSON: a message, or a frame of several messages, on each line.

    Args:
        channel: what a line must be, for the reason of a reject.
        decoder: decodes a line to a message.
        ticks_of: returns the ticks of a message.
        unpacked: returns what the decoded messages hold, each one message.
        types_of: counts messages with trades by type, where messages have types.
    """

    def __init__(
        self,
        name: str,
        channel: str,
        columns: Mapping[str, str],
        decoder: msgspec.json.Decoder[Any],
        ticks_of: Callable[[Any], Ticks],
        fields: Mapping[str, Field] = FIELDS,
        unpacked: Convert = themselves,
        types_of: TypesOf = lambda _: {},
    ) -> None:
        self.name = f"NDJSON of the {name}"
        self.columns, self.fields = columns, fields
        self._channel, self._decoder, self._ticks_of, self._unpacked = channel, decoder, ticks_of, unpacked
        self._types_of = types_of

    def recognizes(self, head: Sequence[bytes]) -> int:
        """Return HAS_TRADE if a line has a trade of the dialect, 1 if a line has another message of it, else 0."""
        found = 0
        for line in head:
            try:
                (ticks,) = self._ticks([self._decoder.decode(line)])
            except NO_JSON:
                continue
            if not isinstance(ticks, Skipped):
                return HAS_TRADE
            found = max(found, int(ticks.is_known))
        return found

    def _ticks(self, messages: list[Any]) -> list[Ticks]:
        return list(map(self._ticks_of, self._unpacked(messages)))

    def split(self, lines: Lines) -> RowColumns:
        found, broken = decoded(lines, self._decoder, self._ticks, f"a JSON message of the {self._channel}")
        for i in broken:
            found[i] = []
        count = np.fromiter(map(len, found), np.intp, len(lines))
        no_tick = count == 0
        skipped = no_tick.copy()
        skipped[list(broken)] = False
        types = SkippedTypes()
        for i in np.flatnonzero(skipped).tolist():
            types.add(found[i].kind)
        ticks = list(chain.from_iterable(found))
        with_ticks = list(compress(found, ~no_tick)) if no_tick.any() else found
        line_of = np.repeat(np.arange(len(lines)), np.maximum(count, 1))
        is_tick = ~no_tick[line_of]
        columns = {
            field: json_column(field, list(map(attrgetter(name), ticks))) for field, name in self.columns.items()
        }
        return RowColumns(
            line_of[is_tick],
            np.flatnonzero(is_tick),
            columns,
            broken,
            np.flatnonzero(skipped),
            len(line_of),
            types,
            self._types_of(with_ticks),
        )


def decoded(
    lines: Lines, decoder: msgspec.json.Decoder[Any], convert: Convert, what: str
) -> tuple[list[Any], dict[int, str]]:
    """Return each line's message, converted, and by line index the reason why a line is none: its message is None.

    Args:
        convert: returns as many values as there are messages; a message's value does not depend on the others.
    """
    found: list[Any] = []
    broken: dict[int, str] = {}
    data = memoryview(lines.data)
    for first in range(0, len(lines), AT_ONCE):
        last = min(first + AT_ONCE, len(lines))
        part = data[int(lines.ends[first - 1]) + 1 if first else 0 : int(lines.ends[last - 1]) + 1]
        with suppress(*NO_JSON):
            messages = decoder.decode_lines(part)
            if len(messages) == last - first:
                found += convert(messages)
                continue
        for i, line in enumerate(bytes(part).split(b"\n")[:-1], first):
            try:
                found += convert([decoder.decode(line)])
            except NO_JSON as error:
                found.append(None)
                too_deep = isinstance(error, RecursionError)
                broken[i] = f"the line must be {what}: {'its values lie too deep in each other' if too_deep else error}"
    return found, broken


def json_column(field: str, values: list[Scalar]) -> pa.Array:
    """Return the values of a field: numbers where all are numbers, else texts; null becomes the empty text."""
    kinds = set(map(type, values))
    with suppress(OverflowError):
        if kinds == {int}:
            return column_of(np.array(values, np.int64), pa.int64())
        if kinds == {float} and field in ("price", "size"):  # a text of another double has digits that a reader needs
            return column_of(np.array(values, np.float64), pa.float64())
    if kinds <= {str}:
        return texts_of(values)  # type: ignore[arg-type]
    return texts_of([value if isinstance(value, str) else "" if value is None else str(value) for value in values])
