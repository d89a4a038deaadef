"""Find the table of a header, and the column that a table lacks or that must not be ignored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from data.recordings.dialects.parsers import MAKERS_SIDE
from data.recordings.dialects.tables.known import (
    ANY_VENUE,
    ID_NAMES,
    MARKERS,
    PRODUCT_NAMES,
    RANGE_NAMES,
    SIDE_NAMES,
    TABLES,
    UNIT_NAMES,
    VENUE,
    VENUE_NAMES,
    Names,
    Table,
)


class TableMatch(NamedTuple):
    """The table of a header.

    Attributes:
        columns: by field of a trade, name of the header's column.
        unread: names of columns that the table does not know.
        venue: exchange of all trades, if a column names exchanges.
    """

    table: Table
    columns: dict[str, str]
    unread: tuple[str, ...]
    venue: str = ""

    @property
    def lacks_ids(self) -> bool:
        """Return whether ids are left out, because they are no numbers."""
        return "trade_id" in self.table.needed and "trade_id" not in self.columns

    def settled(self, first_values: Callable[[str], Sequence[object]]) -> TableMatch:
        """Return the match after a look at the first rows: without ids that are no numbers, and with the exchange.

        Ids are left out only if most of them are no numbers and the table may lack ids.

        Args:
            first_values: returns the first values of a column.

        Raises:
            ValueError: the trades are of several exchanges, or a column that the table does not know holds sides.
        """
        columns, venue = dict(self.columns), ""
        for unread in self.unread if "side" not in columns else ():
            if (said := {str(each).strip().lower() for each in first_values(unread)}) and (
                said <= _SIDES or (plain(unread) == "type" and said <= _BITSTAMP)
            ):
                raise ValueError(
                    f"has the columns of trades ({self.table.name}) and a column {unread!r} of sides "
                    f"({', '.join(sorted(said))}), which would be ignored: name all columns, as --columns "
                    "...,side=COLUMN (the taker's) or maker_side=COLUMN, or remove the column; bids and asks are an "
                    "order book, and no trades"
                )
        if self.table.may_lack_ids and "trade_id" in columns:
            ids = first_values(columns["trade_id"])
            are_numbers = [str(each).strip().removesuffix(".0").isdecimal() for each in ids]
            if ids and sum(are_numbers) * 2 <= len(ids):
                del columns["trade_id"]
        if (name := columns.get(VENUE)) is not None:
            found = list(dict.fromkeys(str(each) for each in first_values(name) if each not in (None, "")))
            if len(found) > 1:
                shown = ", ".join(repr(each[:40]) for each in found[:3])
                raise ValueError(
                    f"has trades of several exchanges, as the column {name!r} tells: {shown}; write one file for each"
                )
            venue = next(iter(found), "")
            if not found:
                del columns[VENUE]
        return self._replace(columns=columns, venue=venue)


def plain(name: str) -> str:
    """Return a name without capitals, blanks and underscores.

    >>> plain("isBuyerMaker"), plain("is_buyer_maker")
    ('isbuyermaker', 'isbuyermaker')
    """
    return re.sub(r"[\s_]", "", name.lower())


HEADER_WITHIN: Final = 5
"""The header of a table stands in one of so many first lines: above it, some files have an address or a comment."""
_SIDES: Final = frozenset(("buy", "sell", "buyer", "seller", "b", "s", "a", "bid", "ask", "long", "short"))
_BITSTAMP: Final = frozenset(("0", "1", "0.0", "1.0"))
"""Sides of Bitstamp, in a column `type`: 0 bought, 1 sold."""
_VALUES: Final = ("true", "false", "buy", "sell", "null", "nan", "none")


def names_columns(row: Sequence[str]) -> bool:
    """Return whether a row has names of columns in place of values.

    >>> names_columns(["time", "amount", "price"]), names_columns(["1735689600", "buy", "NaN"])
    (True, False)
    """
    words = [text for text in row if re.match(r"\W*[^\W\d]", text) and text.strip(' "').lower() not in _VALUES]
    return len(row) >= 2 and len(words) * 2 > len(row)


def has_header(lines: Sequence[bytes]) -> bool:
    """Return whether a text of a table begins with names of columns, so that its rows are not read by their form."""
    return any(names_columns(line.decode(errors="replace").split(",")) for line in lines[:HEADER_WITHIN])


_MEANINGS: Final = {
    "a product": {plain(name) for name in PRODUCT_NAMES},
    "an id": {plain(name) for name in ID_NAMES},
    "a side": {plain(name) for name in SIDE_NAMES},
    "a unit": {plain(name) for name in UNIT_NAMES},
}


_RANGES: Final = {plain(name) for name in RANGE_NAMES}
_BAR_NAMES: Final = {"open", "high", "low"}
_VENUES: Final = {plain(name) for name in VENUE_NAMES}

_ROW_LABELS: Final = ("", "unnamed:0", "index", "indexlevel0")
"""Columns of row numbers that pandas writes."""
INDEX_TIME: Final = "timestamp"
"""Name of the column that pandas writes for a nameless index of times."""


def with_index_time(header: Sequence[str], row: Sequence[str]) -> list[str]:
    """Return a header whose nameless first column has a name, if its value in the first row is a date.

    >>> with_index_time(["", "price"], ["2025-01-01 00:00:00+00:00", "1"]), with_index_time(["", "price"], ["0", "1"])
    (['timestamp', 'price'], ['', 'price'])
    """
    is_time = header[:1] == [""] and INDEX_TIME not in header and re.match(r"\d{4}-\d\d-\d\d", "".join(row[:1]))
    return [INDEX_TIME, *header[1:]] if is_time else list(header)


def table_of(header: Sequence[str], tables: Sequence[Table] = TABLES) -> TableMatch | None:
    """Return the table that a header identifies; None for an unknown header.

    Raises:
        ValueError: a column is there twice, or names a product, an id, a side or a unit, and no field has its meaning.
    """
    for table in tables:
        columns = _columns(table, header)
        if columns is None:
            continue
        own = {_key(table, name) for name in (*columns.values(), *table.ignored)}
        own |= {_key(table, name) for marker in MARKERS for name in table.needed.get(marker, ())}
        unread = tuple(name for name in header if _key(table, name) not in own and plain(name) not in _ROW_LABELS)
        if table.is_complete and unread:
            continue
        venue = next((name for name in unread if plain(name) in _VENUES), None)
        if venue is not None:
            columns[VENUE] = venue
            unread = tuple(name for name in unread if name != venue)
        if table in TABLES:  # with a column map a person decides
            _check_columns(header, table, unread)
        return TableMatch(table, columns, unread)
    return None


def _key(table: Table, name: str) -> str:
    return name if table.is_exact else plain(name)


def _columns(table: Table, header: Sequence[str]) -> dict[str, str] | None:
    """Return the columns by field of a header that has all needed columns, else None."""
    at = {_key(table, name): name for name in reversed(header)}

    def named(spellings: Names) -> str | None:
        return next((at[_key(table, each)] for each in spellings if _key(table, each) in at), None)

    needed = {field: named(names) for field, names in table.needed.items()}
    possible = {field: named(names) for field, names in table.possible.items()}
    if None in needed.values():
        return None
    return {f: name for f, name in {**needed, **possible}.items() if name is not None and f not in MARKERS}


def _check_columns(header: Sequence[str], table: Table, unread: Sequence[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise ValueError(f"has more than one column {twice[0]!r}")
    ranges = [name for name in unread if plain(name) in _RANGES]
    if ranges and set(table.needed) == {"event_time", "price", "size"}:
        raise ValueError(
            f"has the columns of trades ({table.name}) and a column {ranges[0]!r}, as a ticker or candles have: the "
            "volume may be a running total; remove the column if each row is a trade"
        )
    if table.venue == ANY_VENUE:
        _check_alternatives(header, table)
    for name in unread:
        if (said := _OTHER_FEEDS.get(plain(name))) is not None:
            raise ValueError(said)
        for meaning, names in _MEANINGS.items():
            if plain(name) in names:
                raise ValueError(
                    f"has the columns of trades ({table.name}) and a column {name!r}, which names {meaning} that would "
                    f"be ignored: remove the column, or name all columns, {suggested_columns(header)}"
                )


def _check_alternatives(header: Sequence[str], table: Table) -> None:
    """Raise ValueError if two columns could be one field, as a running volume and a size."""
    for field, spellings in table.needed.items():
        found = [name for name in header if plain(name) in map(plain, spellings)]
        if len(found) > 1:
            raise ValueError(
                f"has {len(found)} columns that may be the {_FIELD_NAMES[field]} of a trade, "
                f"{' and '.join(map(repr, found))}: name the columns, as {suggested_columns(header)}"
            )


class NearMiss(NamedTuple):
    """The table that is nearest to an unknown header.

    Attributes:
        missing: needed columns that the header lacks.
        present: needed columns of the header, as the header names them.
    """

    table: Table
    missing: tuple[str, ...]
    present: tuple[str, ...]


def near_miss(header: Sequence[str]) -> NearMiss | None:
    """Return the nearest table of a header of which at least half is there, at least 2 columns; None if none is."""
    found = []
    for table in TABLES:
        names = {_key(table, name): name for name in reversed(header)}
        spelled = [
            [names[key] for each in needed if (key := _key(table, each)) in names] for needed in table.needed.values()
        ]
        present = tuple(each[0] for each in spelled if each)
        missing = tuple(needed[0] for needed, each in zip(table.needed.values(), spelled, strict=True) if not each)
        if len(present) >= max(2, len(missing)):
            found.append(NearMiss(table, missing, present))
    return min(found, key=lambda miss: (len(miss.missing), -len(miss.present)), default=None)


_FIELD_NAMES: Final = {"event_time": "time", "price": "price", "size": "size"}
_OTHER_FEEDS: Final = {
    "issnapshot": "is an order book, with bids and asks: it has no trades",
    "fundingrate": "is a ticker of derivatives, with funding rates: it has no trades",
    "openinterest": "is a ticker of derivatives, with open interest: it has no trades",
    "trdtype": "has trades of BitMEX, whose sizes count contracts: name the columns, as --columns "
    "time=timestamp,price=price,size=homeNotional,side=side,product=symbol",
    "markprice": "is a ticker of derivatives, with mark prices: it has no trades",
    "candledatetimeutc": "has candles of Upbit, whose keys are not read: save them with the columns "
    "time,open,high,low,close,volume",
}
"""Columns of feeds without trades, and what to say."""
_GUESSES: Final = {
    "time": ("event_time", "time", "timestamp", "ts", "datetime", "date", "trade_time", "transact_time", "created_at",
             "trade_ts", "time_exchange", "unix", "epoch"),
    "price": ("price", "px", "p", "rate", "last", "trade_price", "last_price"),
    "size": ("size", "volume", "qty", "quantity", "amount", "q", "vol", "last_size", "trade_size", "base_volume", "sz",
             "trade_volume", "size(base)"),
    "side": ("taker_side", "side", "direction", "aggressor", "aggressor_side", "taker", "trade_side"),
    "maker_side": ("maker_side",),
    "id": ID_NAMES,
    "product": PRODUCT_NAMES,
}  # fmt: skip


def suggested_columns(header: Sequence[str]) -> str:
    """Return a column map for a header, as the option that sets it; `?` for a column that is not recognized.

    >>> suggested_columns(["ts", "px", "qty"])
    '--columns time=ts,price=px,size=qty'
    """
    names = {plain(name): name for name in reversed(header)}
    chosen: dict[str, str] = {}
    makers = any(_has_makers_side(table, header) for table in TABLES)
    for key, spellings in _GUESSES.items():
        name = next((names[plain(each)] for each in spellings if plain(each) in names), None)
        if key == "side" and makers:
            chosen["maker_side"] = name or "?"
            continue
        if name is not None or key in ("time", "price"):
            chosen[key] = "?" if name is None else name
    return "--columns " + ",".join(f"{key}={name}" for key, name in chosen.items())


def _has_makers_side(table: Table, header: Sequence[str]) -> bool:
    """Return whether a header has all columns of a table whose sides are the makers'."""
    return table.fields.get("side") is MAKERS_SIDE and _columns(table, header) is not None


def described_miss(header: Sequence[str]) -> str:
    """Return what a table with named columns lacks, for a refusal; empty if the header resembles no table."""
    names = [plain(name) for name in header]
    for name, said in _OTHER_FEEDS.items():
        if name in names:
            return said
    if {"open", "high", "low", "close"} <= set(names):
        return (
            "has the prices of candles, and no column is named like their start: name the column `time`, as in "
            "time,open,high,low,close,volume"
        )
    numbered = list(filter(None, names))
    if len(numbered) > 2 and numbered == list(map(str, range(len(numbered)))):
        return (
            "has numbers in place of names of columns: write names, as time,price,size, or "
            "time,open,high,low,close,volume"
        )
    ranges = [name for name in header if plain(name) in _BAR_NAMES]
    if len(ranges) > 1:
        return (
            f"has {', '.join(map(repr, ranges))}, as candles or a ticker have, in a form that no dialect knows: "
            "candles are read with the columns time,open,high,low,close,volume"
        )
    miss = near_miss(header)
    if miss is None:
        suggested = suggested_columns(header)
        return "" if "?" in suggested else f"has columns of trades that no dialect knows: {suggested} reads them"
    venue = f" of {miss.table.venue}" if miss.table.venue != ANY_VENUE else ""
    lacking = f"lacks {', '.join(map(repr, miss.missing))}" if miss.missing else "has further columns"
    return (
        f"has {', '.join(map(repr, miss.present))} of the columns of trades{venue} and {lacking} "
        f"({miss.table.name}); a column map reads other names, as {suggested_columns(header)}"
    )
