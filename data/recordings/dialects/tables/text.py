"""Read trades from texts with columns: CSV with or without a header, and JSON arrays, whose rows become CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.arrow import NAMES, UTC, is_text, is_true, names_of, rows_of
from data.names import PRODUCT_RULE
from data.recordings.dialects.base import MESSAGE_TYPE, NO_ROWS, ZONELESS, RowColumns, SkippedTypes, TextDialect
from data.recordings.dialects.symbols import SYMBOL_RULE, products_of
from data.recordings.dialects.tables.headers import TableMatch
from data.recordings.dialects.tables.known import VENUE
from data.recordings.fields import FIELDS, by_name
from data.recordings.lines import Lines, csv_fields, csv_table

FILE_NAME = "the name of the file"


class TradeColumns:
    """Turns the columns of a table into columns of trades: takes trades alone, and names the product.

    Args:
        told: product whose symbol without a separator is known thereby.
        product: product of all rows, by the name of the file.
    """

    def __init__(self, match: TableMatch, told: str = "", product: str | None = None) -> None:
        self._table, self._told, self._lacks_ids, self._venue = match.table, told, match.lacks_ids, match.venue
        self._product = None if "product_id" in match.columns else product
        self._venue_name = match.columns.get(VENUE, "")
        self.columns = {f: name for f, name in match.columns.items() if f not in (MESSAGE_TYPE, VENUE)}
        if self._product is not None:
            self.columns["product_id"] = FILE_NAME

    @property
    def product_rule(self) -> str:
        """Return the rule for names of products."""
        return SYMBOL_RULE if self._table.are_symbols else PRODUCT_RULE

    @property
    def note(self) -> str:
        """Return what a person should know beside the table's name."""
        said = "" if self._product is None else f"; {FILE_NAME} tells the product {self._product}"
        said += "".join(
            f"; not told: {gap}" for gap in self._table.unknown.split("; ") if gap.startswith("the unit of s")
        )
        return said + ("; ids are no numbers, so rows are numbered" if self._lacks_ids else "")

    def rows(
        self, at: NDArray[np.intp], columns: Mapping[str, pa.Array], broken: Mapping[int, str], positions: int
    ) -> RowColumns:
        """Return rows without those of another message type, which are skipped; `at` has the line index of each row.

        Rows of another exchange are rejected: see `TableMatch.settled`.
        """
        if VENUE in columns:
            at, columns, broken = self._of_one_venue(at, columns, broken)
        skipped, types, read = NO_ROWS, SkippedTypes(), dict[str, int]()
        position = at
        if MESSAGE_TYPE in columns:
            code, kinds = by_name(columns[MESSAGE_TYPE], list)
            columns = {field: column for field, column in columns.items() if field != MESSAGE_TYPE}
            are_taken = np.array([kind in self._table.taken for kind in kinds], np.bool_)
            counts = np.bincount(code, minlength=len(kinds)).tolist()
            for kind, count in zip(kinds, counts, strict=True):
                if count and kind in self._table.taken:
                    read[kind] = count
                elif count:
                    types.add(kind, count)
            if not are_taken.all() and not (is_trade := are_taken[code]).all():
                kept = rows_of(np.flatnonzero(is_trade))
                skipped, position = at[~is_trade], at[is_trade]
                columns = {field: column.take(kept) for field, column in columns.items()}
        if self._product is not None:
            columns = {**columns, "product_id": names_of(np.zeros(len(position), np.int32), [self._product])}
        elif self._table.are_symbols and "product_id" in columns:
            columns = {**columns, "product_id": products_of(columns["product_id"], self._told)}
        return RowColumns(position, position, columns, broken, skipped, positions, types, read)

    def _of_one_venue(
        self, at: NDArray[np.intp], columns: Mapping[str, pa.Array], broken: Mapping[int, str]
    ) -> tuple[NDArray[np.intp], dict[str, pa.Array], Mapping[int, str]]:
        """Return the rows of the recording's exchange, without its column, and a reason for each other row."""
        code, names = by_name(columns[VENUE], list)
        others = {field: column for field, column in columns.items() if field != VENUE}
        are_own = np.array([name in ("", self._venue) for name in names], np.bool_)
        if are_own.all():
            return at, others, broken
        is_own = are_own[code]
        rule = (
            f"{self._venue_name} must be {self._venue!r}, as in the first rows: write one file for each exchange; was "
        )
        reasons = {int(at[i]): rule + repr(names[code[i]]) for i in np.flatnonzero(~is_own)}
        kept = rows_of(np.flatnonzero(is_own))
        return at[is_own], {field: column.take(kept) for field, column in others.items()}, {**broken, **reasons}


class CsvDialect(TextDialect):
    """Reader of a CSV: columns are found by name, and further columns are ignored.

    Args:
        header: names of all columns.
        header_lines: number of lines before the first row.
    """

    def __init__(
        self,
        match: TableMatch,
        header: Sequence[str],
        *,
        header_lines: int = 1,
        told: str = "",
        product: str | None = None,
    ) -> None:
        self._trades = TradeColumns(match, told, product)
        self.name = f"CSV with {match.table.name}{self._trades.note}"
        self.product_rule = self._trades.product_rule
        self.fields, self.columns, self.unread = match.table.fields, self._trades.columns, match.unread
        self.header_lines = header_lines
        self._width = len(header)
        self._index = {field: header.index(column) for field, column in match.columns.items()}
        own = {field: _TYPES[field] for field in _TYPES if self.fields.get(field) is FIELDS.get(field)}
        # Two fields can be of one column: the sign of an amount is the side.
        types = {i: own.get(field, pa.string()) for field, i in self._index.items()}
        self._types = pa.schema([(str(i), type_) for i, type_ in types.items()])

    def split(self, lines: Lines) -> RowColumns:
        at, texts, broken = csv_fields(lines, self._width, sorted({*self._index.values()}))
        return self._trades.rows(at, {field: texts[i] for field, i in self._index.items()}, broken, len(lines))

    def typed_rows(self, lines: Lines) -> RowColumns | None:
        if self.fields is ZONELESS or not lines.are_texts or b'"' in lines.data:
            return None
        try:
            table = csv_table(lines.data, self._width, self._types)
        except pa.ArrowInvalid:
            return None
        columns = {field: table[str(i)].combine_chunks() for field, i in self._index.items()}
        size = columns.get("size")
        if size is not None and not is_text(size.type) and is_true(pa.compute.is_nan(size)).any():  # a text `nan`
            return None
        rows = self._trades.rows(np.arange(len(lines)), columns, {}, len(lines))
        return None if len(rows.skipped) else rows


_TYPES = {
    "product_id": NAMES,
    "trade_id": pa.string(),  # pyarrow's own integers take -0 and 0x1F
    "event_time": UTC,
    "price": pa.float64(),
    "size": pa.float64(),
    "side": NAMES,
    MESSAGE_TYPE: NAMES,
    VENUE: NAMES,
}
"""Type of a column by field. pyarrow parses a text of this type to the value of `FIELDS`; a size can also be NaN."""
