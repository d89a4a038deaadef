"""Each limit of a recording is a setting that the refusal names; up to the limit all is read."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from data.names import BeyondLimit
from data.recordings.limits import GB, RATIO_FROM, RecordingLimits
from data.recordings.readers import read_bars, read_trades

HEADER = "product_id,trade_id,event_time,price,size,side\n"


def row(number: int, product: str = "BTC-USD") -> str:
    return f"{product},{number},2025-01-06T00:00:{number:02}Z,1,1,buy\n"


def count(path: Path) -> int:
    return sum(len(batch.trades) for batch in read_trades(path))


def test_lines_are_counted_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a gzip, too, and of a file that is read from its end."""
    paths = [tmp_path / name for name in ("a.csv", "a.csv.gz", "falling.csv")]
    rows = [row(number) for number in range(1, 11)]
    paths[0].write_text(HEADER + "".join(rows))
    paths[1].write_bytes(gzip.compress((HEADER + "".join(rows)).encode()))
    paths[2].write_text(HEADER + "".join(reversed(rows)))
    monkeypatch.setenv("RECORDING_MAX_ROWS", "11")
    assert [count(path) for path in paths] == [10, 10, 10]
    monkeypatch.setenv("RECORDING_MAX_ROWS", "10")
    for path in paths:
        with pytest.raises(ValueError, match=r"more than 10 lines or rows, the limit RECORDING_MAX_ROWS; 0 whole rows"):
            count(path)


def test_products_are_counted_to_the_limit_and_names_that_are_none_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + row(1) + row(2, "ETH-USD") + "".join(row(3, f"no product {i}") for i in range(20)))
    monkeypatch.setenv("RECORDING_MAX_PRODUCTS", "2")
    assert count(path) == 2
    monkeypatch.setenv("RECORDING_MAX_PRODUCTS", "1")
    with pytest.raises(ValueError, match=r"more than 1 products, the limit RECORDING_MAX_PRODUCTS"):
        count(path)


def test_products_of_candles_are_counted_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    names = ("BTC-USD", "ETH-USD")
    rows = "".join(f"{1735689600 + 60 * i},{name},9,11,10,10,1\n" for name in names for i in range(1, 6))
    path.write_text("time,symbol,low,high,open,close,volume\n" + rows)
    monkeypatch.setenv("RECORDING_MAX_PRODUCTS", "2")
    assert sum(len(batch.bars) for batch in read_bars(path)) == 10
    monkeypatch.setenv("RECORDING_MAX_PRODUCTS", "1")
    with pytest.raises(ValueError, match=r"more than 1 products, the limit RECORDING_MAX_PRODUCTS"):
        list(read_bars(path))


def test_a_long_line_ends_a_recording_and_a_shorter_one_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + row(1) + "x" * 2_500_000 + "\n" + row(2))
    batches = list(read_trades(path))
    assert [sum(len(batch.trades) for batch in batches), sum(len(batch.rejects) for batch in batches)] == [2, 1]
    monkeypatch.setenv("RECORDING_MAX_LINE_MB", "1")
    with pytest.raises(ValueError, match=r"a line has more than 1 MB, the limit RECORDING_MAX_LINE_MB.*; 1 whole rows"):
        count(path)


def test_unpacked_bytes_have_a_limit_and_a_ratio_from_64_mb_on(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = RecordingLimits.here()
    limits.check_unpacked(RATIO_FROM, 1)
    limits.check_unpacked(200 * 10**6, 10**6)
    with pytest.raises(BeyondLimit, match=r"its 1,000,000 bytes unpack to more than 200 times as many, .*_RATIO"):
        limits.check_unpacked(200 * 10**6 + 1, 10**6)
    monkeypatch.setenv("RECORDING_MAX_GB", "3")
    limits = RecordingLimits.here()
    limits.check_unpacked(3 * GB, GB)
    with pytest.raises(BeyondLimit, match=r"it unpacks to more than 3 GB, the limit RECORDING_MAX_GB"):
        limits.check_unpacked(3 * GB + 1, GB)
