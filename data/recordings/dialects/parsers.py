"""Parse columns that only some venues have: makers' sides, flags of makers, times in a named unit."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrow import Mask, is_present, is_text, is_true, text_of, texts_of, values_of
from data.recordings.fields import FIELDS, Field, epochs, plain_numbers, sides, sizes, times
from data.times import END_NS, NS
from data.trades import Int64s

_EMPTY, _ZERO = text_of(""), text_of("0")
_FLAGS = {"true": -1, "t": -1, "1": -1, "1.0": -1, "false": 1, "f": 1, "0": 1, "0.0": 1}
"""The taker's side, by whether the buyer was the maker."""
_FLAG_TEXTS = texts_of(list(_FLAGS))
_MOST = text_of(str(2**63 - 1))
_MOST_DIGITS = pc.binary_length(_MOST)  # a number of Python in a call of pyarrow would import pandas
_EPOCH = r"^(?P<whole>[0-9]{1,19})(?:\.(?P<part>[0-9]*))?$"


def _makers(column: pa.Array) -> tuple[NDArray[np.int8], Mask]:
    """Parse the maker's side to the taker's."""
    values, good = sides(column)
    return -values, good


def _of_buyer_maker(column: pa.Array) -> tuple[NDArray[np.int8], Mask]:
    """Parse whether the buyer was the maker to the taker's side: if so, the taker sold."""
    if not is_text(column.type):
        column = column.cast(pa.string())
    found = pc.index_in(pc.utf8_lower(column.cast(pa.string())), _FLAG_TEXTS)
    code = np.where(is_present(found), values_of(found, np.int32), -1)
    values = np.array([*_FLAGS.values(), 0], np.int8)  # the last is for -1, no flag
    return values[code], code >= 0


def _amounts(column: pa.Array) -> tuple[NDArray[np.float64], Mask]:
    """Parse signed amounts to sizes."""
    texts = column.cast(pa.string())
    return sizes(pc.replace_substring_regex(texts, pattern="^-", replacement=""))


def _signs(column: pa.Array) -> tuple[NDArray[np.int8], Mask]:
    """Parse signed amounts to the taker's side: the taker sold a negative amount."""
    values, good = _amounts(column)
    are_negative = is_true(pc.starts_with(pc.fill_null(column.cast(pa.string()), _EMPTY), "-"))
    return np.where(values > 0, np.where(are_negative, -1, 1), 0).astype(np.int8), good


def _epochs_or_times(column: pa.Array) -> tuple[NDArray[Any], Mask]:
    """Parse times since 1970, and texts of times with a zone among them."""
    ns, good = epochs(column)
    if good.all() or not is_text(column.type):
        return ns, good
    others, are_times = times(column)
    return np.where(good, ns, others), good | are_times


class _Epochs(NamedTuple):
    """Numbers as texts, split at the point.

    Attributes:
        whole: shape (n,), the whole units.
        part: shape (n,), the rest, in billionths of a unit.
        good: shape (n,), True if the text is such a number.
    """

    whole: Int64s
    part: Int64s
    good: Mask


def _split(column: pa.Array) -> _Epochs:
    texts = column.cast(pa.string())
    if (whole_texts := plain_numbers(texts)) is not None:
        numbers = values_of(whole_texts, np.int64)
        return _Epochs(numbers, np.zeros(len(numbers), np.int64), np.ones(len(numbers), np.bool_))
    parts = pc.extract_regex(texts, pattern=_EPOCH)
    found = pc.is_valid(parts)
    whole = pc.if_else(found, pc.fill_null(pc.struct_field(parts, "whole"), _ZERO), _ZERO)
    # 19 digits can be more than an int64.
    fits = pc.or_(pc.less(pc.binary_length(whole), _MOST_DIGITS), pc.less_equal(whole, _MOST))
    digits = pc.utf8_slice_codeunits(
        pc.if_else(found, pc.fill_null(pc.struct_field(parts, "part"), _EMPTY), _EMPTY), 0, 9
    )
    return _Epochs(
        values_of(pc.if_else(fits, whole, _ZERO).cast(pa.int64()), np.int64),
        values_of(pc.utf8_rpad(digits, 9, "0").cast(pa.int64()), np.int64),
        is_true(found) & is_true(fits),
    )


MAKERS_SIDE: Final = Field(_makers, FIELDS["side"].explain)
BUYER_MAKER: Final = Field(_of_buyer_maker, lambda _: "must be true or false, or 1 or 0")
AMOUNT: Final = Field(_amounts, lambda _: "must be a finite number; the sign is the taker's side")
AMOUNT_SIDE: Final = Field(_signs, AMOUNT.explain)
EPOCH: Final = Field(
    _epochs_or_times,
    lambda _: "must be a time in s, ms, us or ns since 1970, as a number; the size of the number tells the unit; or a "
    "time with a zone",
)


def epochs_of(unit: int) -> Field:
    """Return the parser of times since 1970 in one unit.

    Args:
        unit: length of the unit, ns.
    """

    def parse(column: pa.Array) -> tuple[NDArray[Any], Mask]:
        counts = _split(column)
        good = counts.good & (counts.whole < END_NS // unit)
        return np.where(good, np.where(good, counts.whole, 0) * unit + counts.part * unit // NS, 0), good

    return Field(parse, lambda _: f"must be a number of units of {unit:,} ns since 1970")
