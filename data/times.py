"""Times as int64 nanoseconds since 1970, UTC, and as RFC 3339 texts for people."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
"""Nanoseconds in a second."""
DAY_S = 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FIRST_YEAR, LAST_YEAR = 1970, 2199
"""Allowed years of a time. Int64 nanoseconds end in 2262; windows and horizons must fit after a time."""
END_NS = int(np.datetime64(f"{LAST_YEAR + 1}-01-01", "ns").view(np.int64))
"""The first time after `LAST_YEAR`."""

_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z")


def time_texts(ns: NDArray[np.int64]) -> list[str]:
    """Return times as RFC 3339 texts in UTC with nine digits of a second.

    >>> time_texts(np.array([1_500_000_000]))
    ['1970-01-01T00:00:01.500000000Z']
    """
    texts: list[str] = np.datetime_as_string(ns.view("M8[ns]"), unit="ns").tolist()
    return [text + "Z" for text in texts]


def time_text(ns: int) -> str:
    """Return one time as a text, see `time_texts`.

    >>> time_text(0)
    '1970-01-01T00:00:00.000000000Z'
    """
    return time_texts(np.array([ns]))[0]


def parse_times(texts: list[str]) -> NDArray[np.int64]:
    """Parse RFC 3339 times in UTC, with 0 to 9 digits of a second, to ns since 1970, shape (n,).

    Raises:
        ValueError: a text is no time, has no `Z`, or has a year outside of `FIRST_YEAR` to `LAST_YEAR`.

    >>> parse_times(["1970-01-01T00:00:01.5Z"])
    array([1500000000])
    """
    for text in texts:  # numpy alone accepts 24:00, a zone, and years beyond 64 bits of nanoseconds
        if not _TIME.fullmatch(text):
            raise ValueError(f"a time must be UTC and look like 2025-01-06T00:00:00.123456789Z, was {text[:60]!r}")
        if not FIRST_YEAR <= int(text[:4]) <= LAST_YEAR:
            raise ValueError(f"a time must be from {FIRST_YEAR} to {LAST_YEAR}, was {text!r}")
    return np.array([text[:-1] for text in texts], "M8[ns]").view(np.int64)


def start_ns(day: date) -> int:
    """Return the start of a UTC day, ns since 1970."""
    return (day - EPOCH.date()).days * DAY_S * NS


def second_text(when: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC, cut to whole seconds.

    >>> second_text(datetime(2025, 1, 6, 1, 2, 3, 999_999, tzinfo=UTC))
    '2025-01-06T01:02:03Z'
    """
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def to_ns(when: datetime) -> int:
    """Return an aware time as ns since 1970; exact, as a datetime holds whole microseconds."""
    return (when - EPOCH) // timedelta(microseconds=1) * 1_000


def to_datetime(ns: int) -> datetime:
    """Return a time as a datetime in UTC, cut to whole microseconds."""
    return EPOCH + timedelta(microseconds=ns // 1_000)
