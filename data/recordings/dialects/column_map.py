"""Read a column map: the names of a recording's columns, as a person gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from data.recordings.dialects.parsers import MAKERS_SIDE, epochs_of
from data.recordings.dialects.tables.known import Table
from data.recordings.fields import FIELDS

_FIELDS: Final = {
    "time": "event_time",
    "price": "price",
    "size": "size",
    "side": "side",
    "maker_side": "side",
    "id": "trade_id",
    "product": "product_id",
}
"""Field of a trade by key of a map."""
UNITS_NS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


class ColumnMap(NamedTuple):
    """Names of columns that no dialect knows.

    Attributes:
        text: the map as given.
        names: name of the column by key: time, price, size, side, maker_side, id, product.
        unit: unit of times that are numbers; None: the size of each number tells the unit.
    """

    text: str
    names: Mapping[str, str]
    unit: str | None = None

    @classmethod
    def parse(cls, text: str) -> ColumnMap | None:
        """Read a map such as `time=ts,price=px,size=qty,side=taker,id=tid,product=sym,unit=ms`; None for no text.

        Raises:
            ValueError: a key is unknown or there twice, has no name, or time or price is missing.
        """
        if not text.strip():
            return None
        names: dict[str, str] = {}
        allowed = f"{', '.join(_FIELDS)} and unit"
        for part in text.split(","):
            key, is_given, name = (piece.strip() for piece in part.partition("="))
            if not is_given or not name:
                raise ValueError(f"a column map is KEY=COLUMN,... with the keys {allowed}; was {part.strip()!r}")
            if key not in (*_FIELDS, "unit"):
                raise ValueError(f"a column map has no key {key!r}: the keys are {allowed}")
            if key in names:
                raise ValueError(f"a column map has the key {key!r} once, not twice")
            names[key] = name
        unit = names.pop("unit", None)
        if unit is not None and unit not in UNITS_NS:
            raise ValueError(f"the unit of a column map must be one of {', '.join(UNITS_NS)}, was {unit!r}")
        if missing := [key for key in ("time", "price") if key not in names]:
            raise ValueError(f"a column map must name the column of {' and '.join(missing)}: {text!r} does not")
        if {"side", "maker_side"} <= names.keys():
            raise ValueError("a column map names side (the taker's) or maker_side, not both")
        return cls(text, names, unit)

    def table(self) -> Table:
        """Return the map as a table of trades."""
        fields = dict(FIELDS)
        if self.unit is not None:
            fields["event_time"] = epochs_of(UNITS_NS[self.unit])
        if "maker_side" in self.names:
            fields["side"] = MAKERS_SIDE
        needed = {_FIELDS[key]: (name,) for key, name in self.names.items()}
        return Table("a column map", f"a column map: {self.text}", needed, fields=fields, is_exact=True, in_json=True)

    def missing(self, header: list[str]) -> list[str]:
        """Return the columns of the map that a header lacks."""
        return [name for name in self.names.values() if name not in header]
