"""Parse columns that only some venues have: makers' sides, flags of makers, epochs."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrow import Mask, is_present, is_text, is_true, mask_of, text_of, texts_of, values_of
from data.recordings.fields import FIELDS, Field, sides, times
from data.times import END_NS, NS
from data.trades import Int64s

_EMPTY, _ZERO = text_of(""), text_of("0")
_FLAGS = {"true": -1, "t": -1, "1": -1, "1.0": -1, "false": 1, "f": 1, "0": 1, "0.0": 1}
"""The taker's side, by whether the buyer was the maker."""
_FLAG_TEXTS = texts_of(list(_FLAGS))
_MOST = text_of(str(2**63 - 1))
_EPOCH = r"^(?P<whole>[0-9]{1,19})(?:\.(?P<part>[0-9]*))?$"
_SURE_DIGITS = 18
"""Numbers of so many digits fit into an int64."""
FIRST_EPOCH_S = 10**8
"""Smaller numbers are no times: in 1973 nobody traded, and the unit of a smaller number cannot be told."""
MILLISECONDS, MICROSECONDS, NANOSECONDS = 10**11, 10**14, 10**17
"""From these numbers on a time is in this unit: as a number of the next longer unit, its year would be 5138."""


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


def unit_ns(count: Int64s) -> Int64s:
    """Return the length in ns of each time's unit (s, ms, us or ns), told by the size of the number."""
    bounds = [count < MILLISECONDS, count < MICROSECONDS, count < NANOSECONDS]
    return np.select(bounds, [NS, 1_000_000, 1_000], 1)


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


def _plain_numbers(texts: pa.Array) -> Int64s | None:
    """Return texts of digits alone as numbers; None if a text is another one."""
    if texts.null_count or not len(texts) or pc.max(pc.binary_length(texts)).as_py() > _SURE_DIGITS:
        return None
    are_digits = pc.and_(pc.ascii_is_decimal(texts), pc.string_is_ascii(texts))
    return values_of(texts.cast(pa.int64()), np.int64) if is_true(are_digits).all() else None


def _split(column: pa.Array) -> _Epochs:
    texts = column.cast(pa.string())
    if (numbers := _plain_numbers(texts)) is not None:
        return _Epochs(numbers, np.zeros(len(numbers), np.int64), np.ones(len(numbers), np.bool_))
    parts = pc.extract_regex(texts, pattern=_EPOCH)
    found = pc.is_valid(parts)
    whole = pc.if_else(found, pc.fill_null(pc.struct_field(parts, "whole"), _ZERO), _ZERO)
    # 19 digits can be more than an int64. A number of Python in a call of pyarrow would import pandas.
    fits = (values_of(pc.binary_length(whole), np.int32) <= _SURE_DIGITS) | is_true(pc.less_equal(whole, _MOST))
    digits = pc.utf8_slice_codeunits(
        pc.if_else(found, pc.fill_null(pc.struct_field(parts, "part"), _EMPTY), _EMPTY), 0, 9
    )
    return _Epochs(
        values_of(pc.if_else(mask_of(fits), whole, _ZERO).cast(pa.int64()), np.int64),
        values_of(pc.utf8_rpad(digits, 9, "0").cast(pa.int64()), np.int64),
        is_true(found) & fits,
    )


def _ns(epochs: _Epochs, unit: Int64s, least: Int64s | int) -> tuple[Int64s, Mask]:
    good = epochs.good & (epochs.whole >= least) & (epochs.whole < END_NS // unit)
    return np.where(good, np.where(good, epochs.whole, 0) * unit + epochs.part * unit // NS, 0), good


def _epochs(column: pa.Array) -> tuple[NDArray[Any], Mask]:
    """Parse times since 1970 in s, ms, us or ns, exactly; each row has the unit that its size tells."""
    if pa.types.is_timestamp(column.type):
        return times(column)
    epochs = _split(column)
    return _ns(epochs, unit_ns(epochs.whole), FIRST_EPOCH_S)


MAKERS_SIDE: Final = Field(_makers, FIELDS["side"].explain)
BUYER_MAKER: Final = Field(_of_buyer_maker, lambda _: "must be true or false, or 1 or 0")
EPOCH: Final = Field(
    _epochs,
    lambda _: "must be a time in s, ms, us or ns since 1970, as a number; the size of the number tells the unit",
)


def epochs_of(unit: int) -> Field:
    """Return the parser of times since 1970 in one unit.

    Args:
        unit: length of the unit, ns.
    """

    def parse(column: pa.Array) -> tuple[NDArray[Any], Mask]:
        epochs = _split(column)
        return _ns(epochs, np.full(len(epochs.whole), unit), 0)

    return Field(parse, lambda _: f"must be a number of units of {unit:,} ns since 1970")
