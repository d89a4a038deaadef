"""Read JSON lines, several at once where each line is whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, NamedTuple

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


class Skipped(NamedTuple):
    """A message without trades.

    Attributes:
        kind: type of the message.
        is_known: whether the message belongs to the feed of the dialect.
    """

    kind: str
    is_known: bool


Ticks = list[Any] | Skipped
"""The trades of a message, at least one, as objects with the columns of the dialect as attributes."""


class JsonDialect(TextDialect):
    """Reader of NDJSON: a message, or a frame of several messages, on each line.

    Args:
        channel: what a line must be, for the reason of a reject.
        decoder: decodes a line to a message.
        ticks_of: returns the ticks of a message.
    """

    def __init__(
        self,
        name: str,
        channel: str,
        columns: Mapping[str, str],
        decoder: msgspec.json.Decoder[Any],
        ticks_of: Callable[[Any], Ticks],
        fields: Mapping[str, Field] = FIELDS,
    ) -> None:
        self.name = f"NDJSON of the {name}"
        self.columns, self.fields = columns, fields
        self._channel, self._decoder, self._ticks_of = channel, decoder, ticks_of

    def recognizes(self, head: Sequence[bytes]) -> int:
        """Return HAS_TRADE if a line has a trade of the dialect, 1 if a line has another message of it, else 0."""
        found = 0
        for line in head:
            try:
                ticks = self._ticks_of(self._decoder.decode(line))
            except NO_JSON:
                continue
            if isinstance(ticks, list):
                return HAS_TRADE
            found = max(found, int(ticks.is_known))
        return found

    def split(self, lines: Lines) -> RowColumns:
        found, broken = decoded(lines, self._decoder, self._ticks_of, f"a JSON message of the {self._channel}")
        ticks: list[Any] = []
        count = np.ones(len(lines), np.intp)
        skipped = np.zeros(len(lines), np.bool_)
        types = SkippedTypes()
        for i, each in enumerate(found):
            if type(each) is list:
                ticks += each
                if len(each) > 1:
                    count[i] = len(each)
            elif each is not None:
                skipped[i] = True
                types.add(each.kind)
        line_of = np.repeat(np.arange(len(lines)), count)
        no_tick = skipped.copy()
        no_tick[list(broken)] = True
        is_tick = ~no_tick[line_of]
        columns = {
            field: json_column(field, list(map(attrgetter(name), ticks))) for field, name in self.columns.items()
        }
        return RowColumns(
            line_of[is_tick], np.flatnonzero(is_tick), columns, broken, np.flatnonzero(skipped), len(line_of), types
        )


def decoded(
    lines: Lines, decoder: msgspec.json.Decoder[Any], convert: Callable[[Any], Any], what: str
) -> tuple[list[Any], dict[int, str]]:
    """Return each line's message, converted, and by line index the reason why a line is none: its message is None."""
    found: list[Any] = []
    broken: dict[int, str] = {}
    data = memoryview(lines.data)
    for first in range(0, len(lines), AT_ONCE):
        last = min(first + AT_ONCE, len(lines))
        part = data[int(lines.ends[first - 1]) + 1 if first else 0 : int(lines.ends[last - 1]) + 1]
        try:
            messages = decoder.decode_lines(part)
            if len(messages) == last - first:
                found += map(convert, messages)
                continue
        except NO_JSON:
            del found[first:]  # `convert` can fail, too
        for i, line in enumerate(bytes(part).split(b"\n")[:-1], first):
            try:
                found.append(convert(decoder.decode(line)))
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
