"""Numbers and times as text, written and read in compiled loops.

Numbers are written as the shortest text that reads back as the same double, the closest such, in the layout of msgspec:
so that a record is the same bytes whoever writes it.

Source of the shortest text: Giulietti (2020), "The Schubfach way to render doubles".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled

Bytes = NDArray[np.uint8]
UInt64 = Any
"""np.uint64, whose arithmetic has no exact types."""
Place = int
"""Index of a byte in a buffer."""

_FIRST_POWER, _LAST_POWER = -324, 292
"""Of the powers of ten that a double's digits are multiplied with."""


def _powers() -> NDArray[np.uint64]:
    """Return 10 ** -k for each k from `_FIRST_POWER`, as 126 bits, rounded up: two columns of 63."""
    table = np.empty((_LAST_POWER - _FIRST_POWER + 1, 2), np.uint64)
    for row, k in enumerate(range(_FIRST_POWER, _LAST_POWER + 1)):
        if k <= 0:
            power = 10**-k
            shift = power.bit_length() - 126
            bits = (power >> shift if shift >= 0 else power << -shift) + 1
        else:
            divisor = 10**k
            shift = divisor.bit_length() + 125
            bits = (1 << shift) // divisor + 1
            if bits.bit_length() > 126:
                bits = (1 << (shift - 1)) // divisor + 1
        table[row] = bits >> 63, bits & (2**63 - 1)
    return table


_POWERS = _powers()
_EXACT = np.array([10.0**k for k in range(23)])
"""The powers of ten that are doubles."""

_U = np.uint64
_TENS = np.array([10**k for k in range(20)], _U)
_PAIRS = np.frombuffer("".join(f"{pair:02}" for pair in range(100)).encode(), np.uint8)
_1, _2, _32, _52, _63 = _U(1), _U(2), _U(32), _U(52), _U(63)
_LOW_32, _LOW_52, _LOW_63 = _U(2**32 - 1), _U(2**52 - 1), _U(2**63 - 1)
_10, _100 = _U(10), _U(100)

_NS_DAY = 86_400_000_000_000


@compiled
def stands(text: Bytes, at: int, end: int, what: Bytes, start: int, stop: int) -> bool:
    """Say whether `what[start:stop]` stands in `text[at:end]`, at its beginning."""
    if at + stop - start > end:
        return False
    for i in range(_U(stop - start)):  # noqa: SIM110 - compiled
        if text[_U(at) + i] != what[_U(start) + i]:
            return False
    return True


@compiled
def _high(a: UInt64, b: UInt64) -> UInt64:
    """Return the upper 64 bits of a product."""
    a1, a0, b1, b0 = a >> _32, a & _LOW_32, b >> _32, b & _LOW_32
    middle = a1 * b0 + ((a0 * b0) >> _32)
    return a1 * b1 + (middle >> _32) + (((middle & _LOW_32) + a0 * b1) >> _32)


@compiled
def _scaled(power: NDArray[np.uint64], digits: UInt64) -> UInt64:
    """Return the product's integer part; its last bit says as well whether anything was cut off."""
    z = ((power[0] * digits) >> _1) + _high(power[1], digits)
    return (_high(power[0], digits) + (z >> _63)) | (((z & _LOW_63) + _LOW_63) >> _63)


@compiled
def _shortest(bits: UInt64) -> tuple[UInt64, Any]:
    """Return digits d and exponent k of a positive double: of all d * 10 ** k that read back as it, the shortest."""
    exponent = np.int64(bits >> _52)
    c = bits & _LOW_52
    if exponent > 0:
        c |= _1 << _52
    q = (exponent if exponent > 1 else np.int64(1)) - 1075
    odd = c & _1
    at_edge = c == _1 << _52 and exponent > 1
    # floor(q log10 2), less log10(4/3) at a power of two; floor(-k log2 10) below
    k = (q * 661_971_961_083 - (274_743_187_321 if at_edge else 0)) >> 41
    shift = _U(q + ((-k * 913_124_641_741) >> 38) + 2)
    power = _POWERS[k - _FIRST_POWER]
    middle = _scaled(power, (c << _2) << shift)
    low = _scaled(power, ((c << _2) - (_1 if at_edge else _2)) << shift) + odd
    high = _scaled(power, ((c << _2) + _2) << shift)
    s = middle >> _2
    if s >= _10:
        down = s // _10 * _10
        up = down + _10
        down_fits, up_fits = low <= down << _2, (up << _2) + odd <= high
        if down_fits != up_fits:
            return (down if down_fits else up), k
    t = s + _1
    s_fits, t_fits = low <= s << _2, (t << _2) + odd <= high
    if s_fits != t_fits:
        return (s if s_fits else t), k
    half = (s + t) << _1
    return (s if middle < half or (middle == half and s & _1 == 0) else t), k


@compiled
def _count(digits: UInt64) -> int:
    """Return how many digits a number has."""
    count = 1
    while count < 20 and digits >= _TENS[count]:
        count += 1
    return count


@compiled
def _write_digits(out: Bytes, at: Place, digits: UInt64, count: int) -> None:
    """Write `count` digits, two at a time from the end."""
    place = at + count
    while count > 1:
        rest = digits // _100
        pair = np.int64(digits - rest * _100) << 1
        place -= 2
        out[place], out[place + 1] = _PAIRS[pair], _PAIRS[pair + 1]
        digits = rest
        count -= 2
    if count == 1:
        out[at] = _U(48) + digits


@compiled
def write_integer(out: Bytes, at: Place, value: int) -> Place:
    """Write an int64 other than the least, and return where it ends."""
    if value < 0:
        out[at] = 45  # -
        at += 1
        value = -value
    count = _count(_U(value))
    _write_digits(out, at, _U(value), count)
    return at + count


@compiled
def write_number(out: Bytes, at: Place, value: float, bits: UInt64) -> Place:
    """Write a finite double, whose `bits` these are, in at most 25 bytes; return where it ends."""
    if bits >> _63:
        out[at] = 45
        at += 1
        bits &= _LOW_63
    if value == 0.0:
        out[at], out[at + 1], out[at + 2] = 48, 46, 48  # 0.0
        return at + 3
    digits, exponent = _shortest(bits)
    while digits % _10 == 0:
        digits //= _10
        exponent += 1
    count = _count(digits)
    first = exponent + count - 1  # the exponent of the first digit
    if first < -5 or first > 15:  # d.ddde-7
        _write_digits(out, at + 1, digits, count)
        out[at] = out[at + 1]
        at += 1
        if count > 1:
            out[at] = 46  # .
            at += count
        out[at] = 101  # e
        return write_integer(out, at + 1, first)
    if exponent >= 0:  # ddd00.0
        _write_digits(out, at, digits, count)
        at += count
        for _ in range(exponent):
            out[at] = 48
            at += 1
        out[at], out[at + 1] = 46, 48
        return at + 2
    if first >= 0:  # dd.dd
        _write_digits(out, at + 1, digits, count)
        for place in range(at, at + first + 1):
            out[place] = out[place + 1]
        out[at + first + 1] = 46
        return at + 1 + count
    out[at], out[at + 1] = 48, 46  # 0.00ddd
    at += 2
    for _ in range(-1 - first):
        out[at] = 48
        at += 1
    _write_digits(out, at, digits, count)
    return at + count


@compiled
def read_integer(text: Bytes, at: Place, end: Place) -> tuple[int, Place]:
    """Read digits without a sign or a leading zero; the place is -1 where there are none such, or more than 18."""
    value, start = 0, at
    while at < end and 48 <= text[at] <= 57:
        value = value * 10 + (text[at] - 48)
        at += 1
        if at - start > 18:
            return 0, -1
    if at == start or (text[start] == 48 and at - start > 1):
        return 0, -1
    return value, at


@compiled
def read_number(text: Bytes, at: Place, end: Place) -> tuple[float, Place]:
    """Read a JSON number; the place is -1 where there is none, or one that needs more than 53 bits to be read exactly.

    (Or minus 0, which is 0 or -0.0 depending on who reads.)

    Such digits times or divided by a power of ten up to 22 are rounded once, so the double is the nearest.
    Source: Clinger (1990), "How to read floating point numbers accurately".
    """
    negative = at < end and text[at] == 45
    at += negative
    digits, start = 0, at
    point = -1
    while at < end and (48 <= text[at] <= 57 or (text[at] == 46 and point < 0)):
        if text[at] == 46:
            point = at
        else:
            digits = digits * 10 + (text[at] - 48)
        at += 1
        if at - start > 18:
            return 0.0, -1
    whole = (point if point >= 0 else at) - start
    if (
        whole == 0
        or (whole > 1 and text[start] == 48)
        or point == at - 1
        or digits > 2**53
        or (negative and digits == 0)
    ):
        return 0.0, -1
    exponent = 0 if point < 0 else point + 1 - at
    if at < end and (text[at] == 101 or text[at] == 69):
        at += 1
        below = at < end and text[at] == 45
        at += at < end and (text[at] == 45 or text[at] == 43)
        tens, first = 0, at
        while at < end and 48 <= text[at] <= 57 and at - first < 4:
            tens = tens * 10 + (text[at] - 48)
            at += 1
        if at == first:
            return 0.0, -1
        exponent += -tens if below else tens
    if exponent < -22 or exponent > 22:
        return 0.0, -1
    value = digits / _EXACT[-exponent] if exponent < 0 else digits * _EXACT[exponent]
    return (-value if negative else value), at


@compiled
def _write_pair(out: Bytes, at: Place, value: int) -> None:
    out[at], out[at + 1] = 48 + value // 10, 48 + value % 10


TIME_BYTES = 30
"""Of 2025-01-06T00:00:00.123456789Z."""


@compiled
def write_time(out: Bytes, at: Place, ns: int) -> Place:
    """Write a time of at least 0, in ns since 1970, as RFC 3339 in UTC with nine digits."""
    day = ns // _NS_DAY
    rest = ns - day * _NS_DAY
    # Days since March 1 of the year 0, in eras of 400 years: leap days come last in a year.
    # Source: Hinnant, "chrono-compatible low-level date algorithms".
    day += 719_468
    era = day // 146_097
    of_era = day - era * 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    _write_pair(out, at + 8, of_year - (153 * month + 2) // 5 + 1)
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (month <= 2)
    _write_pair(out, at, year // 100)
    _write_pair(out, at + 2, year % 100)
    _write_pair(out, at + 5, month)
    seconds = rest // 1_000_000_000
    fraction = rest - seconds * 1_000_000_000
    _write_pair(out, at + 11, seconds // 3_600)
    _write_pair(out, at + 14, seconds // 60 % 60)
    _write_pair(out, at + 17, seconds % 60)
    for place in range(at + 28, at + 19, -1):
        tenth = fraction // 10
        out[place] = 48 + (fraction - tenth * 10)
        fraction = tenth
    out[at + 4] = out[at + 7] = 45
    out[at + 10], out[at + 13], out[at + 16], out[at + 19], out[at + 29] = 84, 58, 58, 46, 90  # T : : . Z
    return at + TIME_BYTES


@compiled
def _read_pair(text: Bytes, at: Place) -> int:
    """Return two digits as a number, or a large negative one."""
    tens, ones = text[at] - 48, text[at + 1] - 48
    return int(tens * 10 + ones) if 0 <= tens <= 9 and 0 <= ones <= 9 else -(10**6)


@compiled
def read_time(text: Bytes, at: Place, end: Place) -> tuple[int, Place]:
    """Read a time of the years 1970 to 2199 in UTC, as `write_time` writes it, with nine digits or fewer of a second.

    The place is -1 where that is not what stands there.
    """
    bad = (0, -1)
    if at + 20 > end or not (
        text[at + 4] == text[at + 7] == 45 and text[at + 10] == 84 and text[at + 13] == text[at + 16] == 58
    ):
        return bad
    year = _read_pair(text, at) * 100 + _read_pair(text, at + 2)
    month, day = _read_pair(text, at + 5), _read_pair(text, at + 8)
    hour, minute, second = _read_pair(text, at + 11), _read_pair(text, at + 14), _read_pair(text, at + 17)
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (1970 <= year <= 2199 and 1 <= month <= 12 and 0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return bad
    longest = 30 + (month + month // 8) % 2 if month != 2 else 28 + is_leap
    if not 1 <= day <= longest:
        return bad
    fraction, scale = 0, 1_000_000_000
    at += 19
    if text[at] == 46:
        at += 1
        while at < end and 48 <= text[at] <= 57 and scale > 1:
            fraction = fraction * 10 + (text[at] - 48)
            scale //= 10
            at += 1
        if scale == 1_000_000_000:
            return bad
    if at >= end or text[at] != 90:
        return bad
    shifted = year - (month <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    return seconds * 1_000_000_000 + fraction * scale, at + 1
