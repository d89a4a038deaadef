"""Columns of a file of candles, as its header or the form of its rows tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data.recordings.dialects.bars.base import PRICE_COLUMNS


class CandleColumns(NamedTuple):
    """Columns of a file of candles.

    Attributes:
        venue: who writes such files, for people.
        names: names of all columns.
        header_line: line of the header; 0 if there is none.
        at: index by field of a bar, without the volume.
        volumes: indexes of one column of volumes, or of two, base and quote in an unknown order.
        is_named: the first of two volumes is the base currency's, unless the numbers contradict.
        alike: indexes of columns of which all rows must have the same value.
        length, end: index of a column with the length of a candle, or with its end.
        asset: base asset that the name of the volume tells.
        others: venues and names of columns that are possible, too; the rows tell which of them a file has.
    """

    venue: str
    names: Sequence[str]
    header_line: int
    at: Mapping[str, int]
    volumes: Sequence[int]
    is_named: bool = False
    alike: Sequence[int] = ()
    length: int | None = None
    end: int | None = None
    asset: str = ""
    others: Sequence[tuple[str, Sequence[str]]] = ()

    @property
    def product(self) -> int | None:
        """Return the index of the column that names a product, or None."""
        return self.at.get("product_id")

    @property
    def orders(self) -> list[list[int]]:
        """Return the possible indexes of open, high, low and close: the venue's own, then those of `others`."""
        own = [self.at[name] for name in PRICE_COLUMNS]
        return [own, *([names.index(name) for name in PRICE_COLUMNS] for _, names in self.others)]
