"""The lake: whole partitions or none, described by their own files, on any filesystem."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest

from data.columns import NAMES
from data.lake import Lake, content_hash

DAY = dt.date(2025, 1, 6)
SCHEMA = pa.schema([("trade_id", pa.int64()), ("price", pa.float64()), ("recording", NAMES)], {"spec_id": "abc"})
NOTES = {"inputs": "none"}


def batch(first: int, rows: int, name: str = "monday.csv") -> pa.RecordBatch:
    """Some rows; each third price is missing."""
    ids = np.arange(first, first + rows)
    prices = pa.array(ids / 7, mask=ids % 3 == 0)
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [name])
    return pa.RecordBatch.from_arrays([pa.array(ids), prices, names], schema=SCHEMA)


@pytest.fixture(params=["folder", "file URI", "in memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Nothing may depend on where a lake lies."""
    if request.param == "folder":
        return Lake.open(tmp_path / "lake")
    if request.param == "file URI":
        return Lake.open(f"file://{tmp_path}/lake")
    return Lake(pa.fs._MockFileSystem(), "bucket/lake")


def names_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_read_and_described(lake: Lake) -> None:
    written = lake.write("trades", "BTC-USD", DAY, [batch(0, 5), batch(5, 2)], SCHEMA, NOTES, head_hash="h")
    assert lake.partition("trades", "BTC-USD", DAY) == written
    assert (written.rows, written.notes, written.head_hash, written.tail_hash) == (7, NOTES, "h", "")
    assert written.path.endswith("lake/trades/BTC-USD/2025-01-06.parquet")
    table = lake.read("trades", "BTC-USD", DAY)
    assert table["trade_id"].to_pylist() == list(range(7))
    assert table["price"].to_pylist() == [None if i % 3 == 0 else i / 7 for i in range(7)]
    assert table["recording"].to_pylist() == ["monday.csv"] * 7
    assert table.schema.metadata[b"spec_id"] == b"abc"
    assert pa.Table.from_batches(lake.batches("trades", "BTC-USD", DAY, ["trade_id"])) == table.select(["trade_id"])


def test_what_is_not_there_is_said_to_be_missing(lake: Lake) -> None:
    assert lake.partition("trades", "BTC-USD", DAY) is None
    assert not [*lake.partitions("trades"), *lake.products("trades"), *lake.tables("trades")]
    with pytest.raises(FileNotFoundError):
        lake.read("trades", "BTC-USD", DAY)


def test_partitions_are_listed_by_table_product_and_day(lake: Lake) -> None:
    for table, product, day in (
        ("trades", "ETH-USD", 6), ("trades", "BTC-USD", 7), ("trades", "BTC-USD", 6),
        ("recordings/b.csv", "BTC-USD", 6), ("recordings/a%20b.csv", "BTC-USD", 6),
    ):  # fmt: skip
        lake.write(table, product, dt.date(2025, 1, day), [batch(0, 2)], SCHEMA, NOTES)
    found = [(each.table, each.product_id, each.day.day) for each in lake.partitions("trades")]
    assert found == [("trades", "BTC-USD", 6), ("trades", "BTC-USD", 7), ("trades", "ETH-USD", 6)]
    assert [each.day.day for each in lake.partitions("trades", "ETH-USD")] == [6]
    assert lake.products("trades") == ["BTC-USD", "ETH-USD"]
    assert lake.tables("recordings") == ["recordings/a%20b.csv", "recordings/b.csv"]
    assert [each.table for each in lake.partitions("recordings")] == ["recordings/a%20b.csv", "recordings/b.csv"]
    lake.delete("trades", "BTC-USD", DAY)
    assert [each.day.day for each in lake.partitions("trades", "BTC-USD")] == [7]


def test_the_content_hash_is_of_values_alone() -> None:
    """Batches, slices, encodings and what stands where a value is missing change nothing; each value does."""

    def hashed(lake: Lake, *batches: pa.RecordBatch) -> str:
        return lake.write("trades", "BTC-USD", DAY, batches, batches[0].schema, NOTES).content_hash

    lake = Lake(pa.fs._MockFileSystem(), "")
    whole = hashed(lake, batch(0, 9))
    assert whole == hashed(lake, batch(0, 4), batch(4, 5)) == hashed(lake, batch(0, 12).slice(0, 9))
    assert whole == hashed(lake, batch(0, 4), batch(0, 9).slice(4, 5)) == content_hash(batch(0, 9))
    plain = batch(0, 9).set_column(2, "recording", pa.array(["monday.csv"] * 9))
    assert whole == hashed(lake, plain)
    prices = batch(0, 9)["price"]
    hidden = pa.Array.from_buffers(
        pa.float64(), 9, [prices.buffers()[0], pa.py_buffer(np.where(np.arange(9) % 3 == 0, 5.0, np.arange(9) / 7))]
    )
    assert hidden == prices
    assert whole == hashed(lake, batch(0, 9).set_column(1, SCHEMA.field("price"), hidden))
    others = [
        batch(0, 8),
        batch(1, 9),
        batch(0, 9, "tuesday.csv"),
        batch(0, 9).rename_columns(["trade_id", "size", "recording"]),
        batch(0, 9).set_column(1, SCHEMA.field("price"), prices.fill_null(0.0)),
    ]
    assert len({whole, *(hashed(lake, other) for other in others)}) == 1 + len(others)


def test_where_one_text_ends_and_the_next_begins_counts() -> None:
    schema = pa.schema([("reason", pa.string())])
    texts = (["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], [None, "abc"])
    batches = [pa.RecordBatch.from_arrays([pa.array(pair, pa.string())], schema=schema) for pair in texts]
    assert len(set(map(content_hash, batches))) == len(texts)


@pytest.mark.parametrize(
    ("table", "product", "said"),
    [
        ("trades", "../x", "must be named like BTC-USD"),
        ("trades/..", "BTC-USD", "must be named like trades"),
        ("/etc", "BTC-USD", "must be named like trades"),
    ],
)
def test_a_name_cannot_leave_the_lake(lake: Lake, table: str, product: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lake.write(table, product, DAY, [batch(0, 1)], SCHEMA, NOTES)


def test_a_filesystem_that_nobody_knows_is_said() -> None:
    with pytest.raises(ValueError, match=r"LAKE_URI must be a folder, or a URI .* was ftp://host/lake"):
        Lake.open("ftp://host/lake")
