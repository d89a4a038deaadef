"""Parse columns of a recording, texts or typed, to columns of values, with a mask of the allowed values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrow import NAMES, UTC, Mask, is_present, is_text, is_true, texts_of, values_of
from data.names import PRODUCT_ID
from data.times import END_NS, FIRST_YEAR, LAST_YEAR, NS
from data.trades import MAX_PRICE, MAX_SIZE, MIN_PRICE, Floats, Int64s, Side

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DIGITS = r"^\d+$"
_TIME = r"^\d{4}-\d\d-\d\d[ T]\d\d(:?\d\d){0,2}(\.\d{1,9})?(Z|[+-]\d\d(:?\d\d)?)$"
_ZONELESS_TIME = _TIME.replace("(Z|", "((Z|").replace("$", ")?$")
_ZONE = r"[ T].*(Z|[+-]\d\d(:?\d\d)?)$"
_EPOCH = r"^(\d{10}(\.\d{0,9})?|\d{13}(\.\d{0,6})?|\d{16}(\.\d{0,3})?|\d{19}(\.0*)?)$"
"""Seconds, ms, us or ns since 1970: the number of digits tells the unit of any time from September 2001 on."""
_EPOCH_DIGITS = 19  # of ns
_FIRST_EPOCH_S = 10**9
_US = 1_000  # ns
_SURE_DIGITS = 18  # numbers of so many digits fit into an int64
_MOST_EXACT = 2**53  # whole numbers up to here are exact in a double
_INTEGRAL = r"^(\d+)\.0*$"
_EMPTY, _UTC_SUFFIX = texts_of([""])[0], texts_of(["Z"])[0]
_NO_TEXT = pa.nulls(1, pa.string())[0]


def _texts(column: pa.Array) -> pa.Array:
    """Return a column of texts as plain strings; null becomes the empty text."""
    texts = column if pa.types.is_string(column.type) else column.cast(pa.string())
    return texts.fill_null(_EMPTY) if texts.null_count else texts


def _parsed(texts: pa.Array, to: pa.DataType, pattern: str) -> pa.Array:
    """Parse texts; null where a text cannot be parsed. Numbers become the nearest double, times are exact.

    Args:
        pattern: pattern of a valid text; without the pattern, a column of nonsense would be searched value by value.
    """
    try:
        return texts.cast(to)
    except pa.ArrowInvalid:
        return _searched(pc.if_else(pc.match_substring_regex(texts, pattern=pattern), texts, _NO_TEXT), to)


def _searched(texts: pa.Array, to: pa.DataType) -> pa.Array:
    try:
        return texts.cast(to)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, to)
        half = len(texts) // 2
        return pa.concat_arrays([_searched(texts[:half], to), _searched(texts[half:], to)])


def _trimmed(texts: pa.Array) -> pa.Array:
    return pc.ascii_trim(texts, characters=" \t")


def by_name(column: pa.Array, meaning: Callable[[list[str]], list[Any]]) -> tuple[NDArray[np.int32], list[Any]]:
    """Return for each text the index of its meaning, and the meanings of the distinct texts."""
    if column.type != NAMES or column.null_count:
        column = _texts(column).dictionary_encode()
    distinct = column.dictionary.cast(pa.binary()).to_pylist()
    return values_of(column.indices, np.int32), meaning([_decoded(text) for text in distinct])


class Products(NamedTuple):
    """The products of n rows.

    Attributes:
        names: distinct names, by first appearance.
        code: shape (n,), index into `names`.
        good: shape (n,), True if the name is allowed.
    """

    names: list[str]
    code: NDArray[np.int32]
    good: Mask


def products(column: pa.Array) -> Products:
    """Parse names of products, shape (n,)."""
    code, names = by_name(column, list)
    good = np.array([bool(PRODUCT_ID.fullmatch(name)) for name in names], np.bool_)
    return Products(names, code, good[code])


def _counts(column: pa.Array) -> tuple[Int64s, Mask]:
    """Return whole numbers, or times in their unit, with a mask of values that are not null; null becomes 0."""
    present, values = is_present(column), values_of(column, np.int64)
    return np.where(present, values, 0) if column.null_count else values, present


def whole_numbers(column: pa.Array) -> tuple[Int64s, Mask]:
    """Parse whole numbers from 0 to 2^63 - 1, also if written as 7.0; in a column of doubles up to 2^53."""
    if is_text(column.type):
        texts = _texts(column)
        if not is_true(pc.utf8_is_digit(texts)).all():  # a cast alone would accept -5 and 0x1F
            texts = pc.replace_substring_regex(_trimmed(texts), pattern=_INTEGRAL, replacement=r"\1")
            texts = pc.if_else(pc.utf8_is_digit(texts), texts, _NO_TEXT)
        column = _parsed(texts, pa.int64(), _DIGITS)
    elif pa.types.is_floating(column.type):
        values, _ = _numbers(column)
        good = (values >= 0) & (values <= _MOST_EXACT) & (values == np.floor(values))
        return np.where(good, values, 0).astype(np.int64), good
    elif column.type != pa.int64():
        column = column.cast(pa.int64(), safe=False)
    numbers, good = _counts(column)
    return numbers, good & (numbers >= 0)


def times(column: pa.Array) -> tuple[Int64s, Mask]:
    """Parse times with a zone, or epochs of seconds, ms, us or ns, to ns since 1970."""
    if is_text(column.type):
        texts = _texts(column)
        try:
            column = texts.cast(UTC)
        except pa.ArrowInvalid:
            return _times_of_texts(texts)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
        return epochs(column)
    return _instants(column)


def _times_of_texts(texts: pa.Array) -> tuple[Int64s, Mask]:
    """Parse times and epochs that may be mixed, and texts that are neither."""
    is_epoch = pc.match_substring_regex(texts, pattern=_EPOCH)
    if not is_true(is_epoch).any():
        return _instants(_parsed(texts, UTC, _TIME))
    ns, good = _epochs_of_texts(texts)
    times_ns, are_times = _instants(_parsed(pc.if_else(is_epoch, _NO_TEXT, texts), UTC, _TIME))
    return np.where(good, ns, times_ns), good | are_times


def epochs(column: pa.Array) -> tuple[Int64s, Mask]:
    """Parse numbers of s, ms, us or ns since 1970, each in the unit that its size tells, to ns since 1970, exactly.

    A double of s, ms or us is rounded to us, and a double of ns is not exact enough. A time before September 2001 could
    be another number, and is none.
    """
    if pa.types.is_timestamp(column.type):
        return _instants(column)
    if is_text(column.type) or pa.types.is_decimal(column.type):
        return _epochs_of_texts(_texts(column.cast(pa.string())))
    is_double = pa.types.is_floating(column.type)
    values: Floats | Int64s
    if is_double:
        values, _ = _numbers(column)
        good = np.isfinite(values)
        values = np.where(good, values, 0.0)
    else:
        values, good = whole_numbers(column)
    unit = unit_ns(values)
    good = good & (values >= _FIRST_EPOCH_S * (NS // unit)) & (values < END_NS // unit) & (not is_double or unit > 1)
    values = np.where(good, values, 0)
    if is_double:
        return np.rint(values * (unit // _US)).astype(np.int64) * _US, good
    return values.astype(np.int64) * unit, good


def _epochs_of_texts(texts: pa.Array) -> tuple[Int64s, Mask]:
    if (numbers := plain_numbers(texts)) is not None:
        return epochs(numbers)
    is_epoch = pc.match_substring_regex(texts, pattern=_EPOCH)
    # Digits without the point, filled up with zeros, are ns whatever the unit.
    digits = pc.utf8_rpad(pc.replace_substring(texts, ".", ""), _EPOCH_DIGITS, padding="0")
    digits = pc.utf8_slice_codeunits(digits, 0, _EPOCH_DIGITS)
    ns, good = _counts(_parsed(pc.if_else(is_epoch, digits, _NO_TEXT), pa.int64(), _DIGITS))
    good = good & (ns < END_NS)
    return np.where(good, ns, 0), good


def plain_numbers(texts: pa.Array) -> pa.Array | None:
    """Return texts of digits alone as int64; None if a text is another one, or has more digits than surely fit."""
    if texts.null_count or not len(texts) or pc.max(pc.binary_length(texts)).as_py() > _SURE_DIGITS:
        return None
    are_digits = pc.and_(pc.ascii_is_decimal(texts), pc.string_is_ascii(texts))
    return texts.cast(pa.int64()) if is_true(are_digits).all() else None


def unit_ns(count: Floats | Int64s) -> Int64s:
    """Return the length in ns of each time's unit (s, ms, us or ns), told by the size of the number.

    As a number of the next longer unit, each would be in the year 5138 or later.
    """
    return np.select([count < 10**11, count < 10**14, count < 10**17], [NS, 1_000_000, _US], 1)


def _instants(column: pa.Array) -> tuple[Int64s, Mask]:
    """Return times of any unit as ns since 1970."""
    in_a_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": NS}[column.type.unit]
    count, good = _counts(column)
    good = good & (count >= 0) & (count < END_NS // NS * in_a_second)
    return np.where(good, count, 0) * (NS // in_a_second), good


def zoneless_times(column: pa.Array) -> tuple[Int64s, Mask]:
    """Parse times to ns since 1970; times without a zone are UTC."""
    if is_text(column.type):
        texts = _texts(column)
        has_zone = pc.match_substring_regex(texts, pattern=f"{_ZONE}|{_EPOCH}")
        column = pc.if_else(has_zone, texts, pc.binary_join_element_wise(texts, _UTC_SUFFIX, _EMPTY))
    return times(column)


def explain_time(text: str) -> str:
    """Return the rule for times that a rejected text breaks, for an error message."""
    if is_present(_parsed(texts_of([text]), pa.timestamp("ns"), _ZONELESS_TIME))[0]:
        return "has no zone: a time must end with Z or an offset like +00:00"
    return (
        f"must be a time like 2025-01-06T00:00:00.123456789Z, from {FIRST_YEAR} to {LAST_YEAR}, or an epoch of 10, 13, "
        "16 or 19 digits"
    )


def _numbers(column: pa.Array) -> tuple[Floats, Mask]:
    """Parse numbers to the nearest doubles, NaN if a value is no number, with a mask of values that are not empty."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.string())
    if is_text(column.type):
        texts = _trimmed(_texts(column))
        is_empty = pc.equal(texts, _EMPTY)
        given = ~is_true(is_empty)
        column = _parsed(pc.if_else(is_empty, _NO_TEXT, texts), pa.float64(), _NUMBER)
    else:
        given = is_present(column)
    if column.type != pa.float64():
        column = column.cast(pa.float64(), safe=False)
    present = is_present(column)
    values = values_of(column, np.float64)
    return values if present.all() else np.where(present, values, np.nan), given


def prices(column: pa.Array) -> tuple[Floats, Mask]:
    """Parse numbers from `MIN_PRICE` to `MAX_PRICE`."""
    values, _ = _numbers(column)
    return values, (values >= MIN_PRICE) & (values <= MAX_PRICE)


def _is_finite(text: str) -> bool:
    """Return whether a text is a finite number above 0, with blanks and tabs around it."""
    number = text.strip(" \t")  # as in `_trimmed`; other blanks, as \x1d, are none to `float`
    return re.fullmatch(_NUMBER, number) is not None and 0 < float(number) < math.inf


def explain_price(text: str) -> str:
    r"""Return the rule that a rejected price breaks.

    >>> explain_price("nan"), explain_price("1.97\x1d"), explain_price("1e308 ")
    ('must be a finite number above 0', 'must be a finite number above 0', 'must be from 1e-100 to 1e+100')
    """
    return f"must be from {MIN_PRICE:g} to {MAX_PRICE:g}" if _is_finite(text) else "must be a finite number above 0"


def sizes(column: pa.Array) -> tuple[Floats, Mask]:
    """Parse numbers from 0 to `MAX_SIZE`; an empty text, or NaN in a column of numbers, means unknown."""
    values, given = _numbers(column)
    unknown = np.isnan(values) if pa.types.is_floating(column.type) else ~given
    return values, unknown | ((values >= 0) & (values <= MAX_SIZE))


def explain_size(text: str) -> str:
    """Return the rule that a rejected size breaks, see `explain_price`."""
    return f"must be at most {MAX_SIZE:g}" if _is_finite(text) else "must be a finite number of at least 0, or empty"


_SIDES = {
    "sell": Side.SELL, "s": Side.SELL, "": Side.UNKNOWN, "unknown": Side.UNKNOWN, "unknown_order_side": Side.UNKNOWN,
    "buy": Side.BUY, "b": Side.BUY,
}  # fmt: skip


def sides(column: pa.Array) -> tuple[NDArray[np.int8], Mask]:
    """Parse the taker's side, in capitals or not; an empty text means unknown."""
    code, found = by_name(column, lambda names: [_SIDES.get(name.lower()) for name in names])
    values = np.array([side or Side.UNKNOWN for side in found], np.int8)
    return values[code], np.array([side is not None for side in found], np.bool_)[code]


class Field(NamedTuple):
    """Parser of a column.

    Attributes:
        parse: returns values and a mask of allowed values, both of shape (n,).
        explain: returns the rule that a rejected text breaks.
    """

    parse: Callable[[pa.Array], tuple[NDArray[Any], Mask]]
    explain: Callable[[str], str]


FIELDS: Final[Mapping[str, Field]] = {
    "trade_id": Field(whole_numbers, lambda _: "must be a whole number from 0 to 2^63 - 1"),
    "event_time": Field(times, explain_time),
    "price": Field(prices, explain_price),
    "size": Field(sizes, explain_size),
    "side": Field(sides, lambda _: "must be buy, sell, b, s or empty"),
}
"""The fields of a trade, without the product."""

ZONELESS_TIME = Field(zoneless_times, explain_time)


def value_text(column: pa.Array, i: int) -> str:
    """Return one value of a column as text for a reject's reason; bytes that are no UTF-8 are escaped."""
    value = column[i]
    if pa.types.is_timestamp(column.type):  # Python's datetime ends in 9999, and some machines lack some zones
        text = value.cast(pa.timestamp(column.type.unit)).cast(pa.string()).as_py()
        return "" if text is None else f"{text}Z"[:_VALUE_CHARACTERS]
    if is_text(column.type):  # a damaged Parquet file holds texts that are no UTF-8
        return _decoded(value.cast(pa.binary()).as_py() or b"")[:_VALUE_CHARACTERS]
    return (value.cast(pa.string()).as_py() or "")[:_VALUE_CHARACTERS]


def _decoded(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


_VALUE_CHARACTERS = 60
