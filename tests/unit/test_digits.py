"""Numbers and times as text against msgspec, Python and numpy, which write and read them by other ways."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.digits import read_integer, read_number, read_time, write_integer, write_number, write_time
from data.trades import iso_times

LAST_NS = 7_258_118_400 * 10**9 - 1
"""The end of 2199."""


def written(value: float) -> bytes:
    out = np.zeros(32, np.uint8)
    return out[: write_number(out, 0, value, np.float64(value).view(np.uint64))].tobytes()


def read(text: bytes) -> float | None:
    found, end = read_number(np.frombuffer(text, np.uint8), 0, len(text))
    return found if end == len(text) else None


@settings(max_examples=2_000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_as_msgspec_writes_it(value: float) -> None:
    assert written(value) == msgspec.json.encode(value)


def test_numbers_at_the_edges_of_their_format_are_written_as_msgspec_writes_them() -> None:
    """All powers of two and ten, and their neighbours: where the gap to the next double changes, or the digits do."""
    edges = [2.0**k for k in range(-1074, 1024)] + [float(f"1e{k}") for k in range(-323, 309)]
    for edge in edges:
        for value in (edge, -edge, math.nextafter(edge, 0), math.nextafter(edge, math.inf)):
            if math.isfinite(value):
                assert written(value) == msgspec.json.encode(value)


def test_a_million_numbers_are_written_as_python_would_read_them() -> None:
    bits = np.random.default_rng(0).integers(0, 2**63, 1_000_000, dtype=np.uint64)
    values = bits.view(np.float64)
    out = np.zeros(32, np.uint8)
    for value, pattern in zip(values[np.isfinite(values)].tolist(), bits[np.isfinite(values)], strict=True):
        text = out[: write_number(out, 0, value, pattern)].tobytes()
        assert float(text) == value
        assert len(text) <= 25


@settings(max_examples=2_000, deadline=None)
@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(msgspec.json.encode),
                 st.decimals(0, 10**7, places=8).map(lambda d: str(d).encode()),
                 st.text("0123456789.eE+-", max_size=20).map(str.encode)))  # fmt: skip
def test_what_is_read_is_the_nearest_double_and_json(text: bytes) -> None:
    """What is no JSON number is not read; what is one is read exactly, or left to the general parser."""
    try:
        expected = float(msgspec.json.decode(text, type=float))
    except msgspec.MsgspecError:
        expected = None
    found = read(text)
    if found is not None:
        assert expected is not None
        assert (found, math.copysign(1, found)) == (expected, math.copysign(1, expected))


@pytest.mark.parametrize("text", [b"0.00000001", b"91749.99", b"1.587e-05", b"0", b"-3.25", b"1e22", b"100000000.0"])
def test_prices_and_sizes_are_read(text: bytes) -> None:
    assert read(text) == float(text)


@pytest.mark.parametrize("text", [b"", b".5", b"5.", b"05", b"1e", b"1e+", b"--1", b"1.2.3", b"Infinity", b"0x1F"])
def test_what_is_no_number_is_not_read(text: bytes) -> None:
    assert read(text) is None


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_integers(value: int) -> None:
    out = np.zeros(24, np.uint8)
    end = write_integer(out, 0, value)
    assert out[:end].tobytes() == str(value).encode()
    if 0 <= value < 10**18:
        assert read_integer(out, 0, end) == (value, end)


def test_an_integer_with_a_leading_zero_is_none() -> None:
    assert read_integer(np.frombuffer(b"07", np.uint8), 0, 2)[1] == -1


@settings(max_examples=1_000, deadline=None)
@given(st.integers(0, LAST_NS))
def test_times_are_those_of_numpy(ns: int) -> None:
    out = np.zeros(32, np.uint8)
    assert out[: write_time(out, 0, ns)].tobytes().decode() == iso_times(np.array([ns]))[0]
    assert read_time(out, 0, 30) == (ns, 30)


@pytest.mark.parametrize(
    "text",
    ["2025-02-29T00:00:00.000000000Z", "2100-02-29T00:00:00.000000000Z", "2025-04-31T00:00:00.000000000Z",
     "2025-13-01T00:00:00.000000000Z", "2025-00-01T00:00:00.000000000Z", "2025-01-00T00:00:00.000000000Z",
     "2025-01-01T24:00:00.000000000Z", "2025-01-01T00:60:00.000000000Z", "1969-12-31T23:59:59.000000000Z",
     "2200-01-01T00:00:00.000000000Z", "2025-01-01 00:00:00.000000000Z", "2025-01-01T00:00:00.00000000xZ",
     "2025-01-01T00:00:00.000000000+", "/025-01-01T00:00:00.000000000Z"],
)  # fmt: skip
def test_what_is_no_time_is_not_read(text: str) -> None:
    assert read_time(np.frombuffer(text.encode(), np.uint8), 0, 30)[1] == -1


def test_leap_days() -> None:
    for text in ("2024-02-29T23:59:59.999999999Z", "2000-02-29T00:00:00.000000000Z"):
        ns, _ = read_time(np.frombuffer(text.encode(), np.uint8), 0, 30)
        assert iso_times(np.array([ns])) == [text]
