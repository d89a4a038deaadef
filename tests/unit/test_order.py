"""Recordings in any order: newest row first, and several files in the wrong order, lose no trade."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import structlog

from data.recordings import lines
from data.recordings.readers import Batch, read_trades

HEAD = "timestamp,price,volume"
N = 500


def row(i: int) -> str:
    return f"2025-01-01T00:{i // 60:02}:{i % 60:02}Z,{100 + i},1"


def content(rows: list[str]) -> str:
    return "\n".join([HEAD, *rows]) + "\n"


def prices(batches: list[Batch]) -> list[float]:
    return [price for batch in batches for price in batch.trades.price.tolist()]


@pytest.mark.parametrize("block_bytes", [60, 1_000, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_with_the_newest_row_first_is_read_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, packed: bool, end: str
) -> None:
    """Line 2 holds the newest trade, and line 501 the oldest; one row is bad, and one line is blank."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    rows = [row(i) for i in reversed(range(N))]
    rows[300] = "bad" + rows[300]
    rows.insert(400, "")
    text = "\ufeff" + content(rows).removesuffix("\n") + end
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    batches = list(read_trades(path))
    assert prices(batches) == [100 + i for i in range(N) if i != N - 1 - 300]
    number = [line for batch in batches for line in batch.line.tolist()]
    assert (number[0], number[-1], 402 in number) == (N + 2, 2, False)
    assert [(reject.line, reject.text) for batch in batches for reject in batch.rejects] == [(302, rows[300])]
    assert [i for batch in batches for i in batch.trades.trade_id.tolist()][-1] == N
    assert batches[-1].share == 1.0


def test_a_gzip_that_ends_early_gives_its_whole_rows_from_the_end(tmp_path: Path) -> None:
    text = content([row(i) for i in reversed(range(N))]).encode()
    whole = gzip.compress(text, 0)
    (tmp_path / "x").write_bytes(whole[: len(whole) // 2])
    batches = []
    with pytest.raises(ValueError, match="the gzip ends early"):
        for batch in read_trades(tmp_path / "x"):
            batches.append(batch)
    found = prices(batches)
    assert found == list(range(int(found[0]), 100 + N))
    assert len(found) > N // 3


def test_a_parquet_file_with_the_newest_row_first_is_read_from_its_end(tmp_path: Path) -> None:
    at = np.arange(N)[::-1]
    columns = {
        "timestamp": pa.array((1_735_689_600 + at) * 10**9, pa.timestamp("ns", "UTC")),
        "price": 100.0 + at,
        "volume": np.ones(N),
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x", row_group_size=120)
    batches = list(read_trades(tmp_path / "x"))
    assert prices(batches) == [100 + i for i in range(N)]
    assert [line for batch in batches for line in batch.line.tolist()] == list(range(N, 0, -1))


def test_several_recordings_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    """The middle file has its newest row first; one log line tells the order."""
    parts = {
        "c": [row(i) for i in range(400, 500)],
        "b": [row(i) for i in reversed(range(200, 400))],
        "a": [row(i) for i in range(200)],
    }
    for name, rows in parts.items():
        (tmp_path / name).write_text(content(rows))
    with structlog.testing.capture_logs() as logs:
        batches = list(read_trades([tmp_path / name for name in parts]))
    assert prices(batches) == [100 + i for i in range(N)]
    assert [(each["event"], [Path(p).name for p in each["recordings"]]) for each in logs] == [
        ("newest row first: read from the last row on", ["b"]),
        ("recordings are read in the order of their first times", ["a", "b", "c"]),
    ]


def test_rows_whose_ids_rise_are_not_turned(tmp_path: Path) -> None:
    """Times that fall while ids rise are bad times: the order of the ids counts."""
    head = "source_id,product_id,trade_id,event_time,ingest_time,price,size,side\n"
    rows = [f"s,BTC-USD,{i},2025-01-01T00:00:{59 - i * 2:02}Z,,{i},1,\n" for i in range(1, 11)]
    (tmp_path / "x").write_text(head + "".join(rows))
    assert prices(list(read_trades(tmp_path / "x"))) == [1]
