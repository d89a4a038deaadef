"""Parse the starts of candles: numbers in any unit, dates, and times of twelve hours."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow import Mask, is_present, is_text, is_true, text_of, values_of
from data.recordings.fields import Field, unit_ns, zoneless_times
from data.times import END_NS, FIRST_YEAR, LAST_YEAR, NS
from data.trades import Int64s

_EMPTY, _ZERO, _MIDNIGHT, _BLANK = map(text_of, ("", "0", "00:00", " "))
_NUMBER = r"^[0-9]{1,18}(\.0*)?$"
_DAY = r"^\d{4}-\d\d-\d\d$"
_DAY_OF_DIGITS = r"^(19|20|21)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
_HOUR_OF_DIGITS = r"^20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])$"  # as s, in the years 2033 and 2034
_FIRST_HOUR_OF_DIGITS = 2_000_010_100
_FIRST_EPOCH_S = 10**9  # September 2001: fewer may be a day of Excel, a row number, or a date and an hour in digits
_TWELVE_HOURS = r"^\d{4}-\d\d-\d\d (0?[1-9]|1[0-2])-[AP]M$"


def whole_starts(texts: pa.Array) -> tuple[Int64s, pa.Array]:
    """Return the starts that are whole numbers, shape (n,), 0 for other texts; and which texts are such numbers."""
    is_number = pc.match_substring_regex(texts, pattern=_NUMBER)
    numbers = pc.replace_substring_regex(pc.if_else(is_number, texts, _ZERO), pattern=r"\..*", replacement="")
    return values_of(numbers.cast(pa.int64()), np.int64), is_number


def _starts(column: pa.Array) -> tuple[Int64s, Mask]:
    """Parse starts to ns since 1970; a time without a zone is UTC, and each number has the unit that its size tells."""
    if not is_text(column.type):
        column = column.cast(pa.string())
    texts = pc.ascii_trim_whitespace(pc.fill_null(column.cast(pa.string()), _EMPTY))
    count, is_number = whole_starts(texts)
    unit = unit_ns(count)
    is_digits = pc.match_substring_regex(texts, pattern=_DAY_OF_DIGITS)
    is_epoch = count >= _FIRST_EPOCH_S * (NS // unit)
    if ((count >= _FIRST_HOUR_OF_DIGITS) & (unit == NS)).any():
        is_epoch &= ~is_true(pc.match_substring_regex(texts, pattern=_HOUR_OF_DIGITS))
    good = is_true(is_number) & ~is_true(is_digits) & is_epoch & (count < END_NS // unit)
    ns = np.where(good, count, 0) * unit
    if good.all():
        return ns, good
    dashed = pc.replace_substring_regex(texts, pattern=r"^(\d{4})(\d\d)(\d\d)$", replacement=r"\1-\2-\3")
    others = pc.if_else(is_digits, dashed, pc.if_else(is_number, _EMPTY, texts))
    is_day = pc.match_substring_regex(others, pattern=_DAY)
    times, are_times = zoneless_times(
        pc.if_else(is_day, pc.binary_join_element_wise(others, _MIDNIGHT, _BLANK), others)
    )
    is_twelve = pc.match_substring_regex(texts, pattern=_TWELVE_HOURS)
    twelve = pc.strptime(pc.if_else(is_twelve, texts, _EMPTY), format="%Y-%m-%d %I-%p", unit="s", error_is_null=True)
    are_twelve = is_present(twelve)
    seconds = values_of(twelve, np.int64)
    are_twelve &= (seconds >= 0) & (seconds < END_NS // NS)
    ns = np.select([good, are_times, are_twelve], [ns, times, np.where(are_twelve, seconds, 0) * NS], 0)
    return ns, good | are_times | are_twelve


STARTS: Final = Field(
    _starts,
    lambda _: f"must be a number of s, ms, us or ns since 1970, or a time like 2025-01-06 00:00, from {FIRST_YEAR} to "
    f"{LAST_YEAR}",
)
