"""Read trades from JSON objects whose keys are the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec
import numpy as np

from data.recordings.dialects.base import RowColumns, TextDialect
from data.recordings.dialects.messages.base import NO_JSON, Scalar, decoded, json_column, themselves
from data.recordings.dialects.tables.headers import TableMatch, table_of
from data.recordings.dialects.tables.known import TABLES, Table
from data.recordings.dialects.tables.text import TradeColumns
from data.recordings.lines import Lines

JSON_TABLES = tuple(table for table in TABLES if table.in_json)


class ObjectDialect(TextDialect):
    """Reader of objects, one a line: keys are found by name, and further keys are ignored.

    Args:
        told, product: see `TradeColumns`.
    """

    def __init__(self, match: TableMatch, told: str = "", product: str | None = None) -> None:
        self._trades = TradeColumns(match, told, product)
        self.name = f"JSON objects with {match.table.name}{self._trades.note}"
        self.product_rule = self._trades.product_rule
        self.fields, self.columns, self.unread = match.table.fields, self._trades.columns, match.unread
        self._attributes = {field: f"c{i}" for i, field in enumerate(match.columns)}
        row = msgspec.defstruct(
            "Row",
            [(attribute, Scalar, None) for attribute in self._attributes.values()],
            gc=False,
            rename={self._attributes[field]: name for field, name in match.columns.items()},
        )
        self._decoder = msgspec.json.Decoder(row)

    def split(self, lines: Lines) -> RowColumns:
        found, broken = decoded(lines, self._decoder, themselves, "a JSON object of a trade")
        at = np.delete(np.arange(len(lines)), list(broken))
        objects = found if not broken else [each for each in found if each is not None]
        columns = {
            field: json_column(field, list(map(attrgetter(attribute), objects)))
            for field, attribute in self._attributes.items()
        }
        return self._trades.rows(at, columns, broken, len(lines))


def keys_of(head: Sequence[bytes]) -> list[str]:
    """Return the keys of the first objects; empty if no line is an object."""
    keys: dict[str, None] = {}
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    for line in head:
        try:
            keys |= dict.fromkeys(decoder.decode(line))
        except NO_JSON:
            continue
    return list(keys)


def object_match(head: Sequence[bytes], tables: Sequence[Table] = JSON_TABLES) -> TableMatch | None:
    """Return the table of the first objects; None if their keys are no columns of a table.

    Raises:
        ValueError: see `table_of`.
    """
    return table_of(keys_of(head), tables)


def values_of_key(head: Sequence[bytes], key: str) -> list[object]:
    """Return the values of a key in the first objects."""
    values = []
    for line in head:
        try:
            found = msgspec.json.decode(line)
        except NO_JSON:
            continue
        if isinstance(found, dict) and key in found:
            values.append(found[key])
    return values
