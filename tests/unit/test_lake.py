"""The lake: whole partitions or none, described by one manifest a product, in a folder and in an object store."""

from __future__ import annotations

import datetime as dt
import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.arrow import NAMES
from offline.days.staging import RecordingNotes, StagedNotes
from offline.days.steps import DayNotes
from offline.days.trades import TradesFacts
from offline.lake.objects import ANY, Objects, _Store
from offline.lake.parquet import GROUP_ROWS, content_hash
from offline.lake.state import COMPRESSED_FROM, PartitionKey
from offline.lake.store import Lake

DAY = dt.date(2025, 1, 6)
SCHEMA = pa.schema([("trade_id", pa.int64()), ("price", pa.float64()), ("recording", NAMES)], {"spec_id": "abc"})
NOTES = {"inputs": "none"}


def batch(first: int, rows: int, name: str = "monday.csv") -> pa.RecordBatch:
    """Some rows; each third price is missing."""
    ids = np.arange(first, first + rows)
    prices = pa.array(ids / 7, mask=ids % 3 == 0)
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [name])
    return pa.RecordBatch.from_arrays([pa.array(ids), prices, names], schema=SCHEMA)


@pytest.fixture(params=["folder", "file URI", "object store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Nothing may depend on where a lake lies."""
    if request.param == "folder":
        return Lake.open(tmp_path / "lake")
    if request.param == "file URI":
        return Lake.open(f"file://{tmp_path}/lake")
    return Lake(in_memory())


def in_memory() -> Objects:
    """An object store of this process alone."""
    return _Store("memory://lake", pytest.importorskip("obstore.store").MemoryStore())


def test_a_uri_with_one_slash_is_a_uri(tmp_path: Path) -> None:
    lake = Lake.open(f"file:{tmp_path}/lake")
    lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    assert [each.day for each in Lake.open(tmp_path / "lake").partitions("trades")] == [DAY]
    with pytest.raises(ValueError, match=r"LAKE_URI must be a folder, or a URI .*, was other:/lake"):
        Lake.open("other:/lake")


def names_below(folder: Path) -> list[str]:
    """Return the names of all files below a folder, locks apart."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_what_is_written_is_read_and_described(lake: Lake) -> None:
    written = lake.write("trades", "BTC-USD", DAY, [batch(0, 5), batch(5, 2)], SCHEMA, NOTES)
    assert lake.partition("trades", "BTC-USD", DAY) == written
    assert (written.rows, written.notes_as(dict[str, str])) == (7, NOTES)
    content_hash = written.content_hash
    assert f"lake/objects/{content_hash[:2]}/{content_hash}-" in written.path
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


def test_the_content_hash_is_of_values_alone(tmp_path: Path) -> None:
    """Batches, slices, encodings and what stands where a value is missing change nothing; each value does."""

    def hashed(lake: Lake, *batches: pa.RecordBatch) -> str:
        return lake.write("trades", "BTC-USD", DAY, batches, batches[0].schema, NOTES).content_hash

    lake = Lake.open(tmp_path)
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


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 3_000, 500_000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, limit: int) -> None:
    """At the first byte, at the end of a small file, between the row groups of a large one."""
    lake = Lake.open(tmp_path)
    prices = pa.array(np.random.default_rng(0).random(3 * GROUP_ROWS))  # nothing packs these
    large = batch(0, 3 * GROUP_ROWS).set_column(1, SCHEMA.field("price"), prices)
    with full_disk(limit), pytest.raises(OSError, match=r"cannot be written .* make room, or choose another LAKE_URI"):
        lake.write("trades", "BTC-USD", DAY, [large], SCHEMA, NOTES)
    assert names_below(tmp_path) == []
    old = lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    with full_disk(limit), pytest.raises(OSError, match="what was there before is whole") as raised:
        lake.write("trades", "BTC-USD", DAY, [large], SCHEMA, NOTES)
    assert raised.value.errno == errno.EFBIG
    assert names_below(tmp_path) == sorted(["BTC-USD.json", Path(old.path).name])
    assert lake.partition("trades", "BTC-USD", DAY) == old
    assert lake.read("trades", "BTC-USD", DAY)["trade_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert lake.write("trades", "BTC-USD", DAY, [large], SCHEMA, NOTES).rows == 3 * GROUP_ROWS


def test_an_error_among_the_rows_leaves_what_was_there(lake: Lake) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        yield batch(0, 2 * GROUP_ROWS)
        raise KeyboardInterrupt

    old = lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    with pytest.raises(KeyboardInterrupt):
        lake.write("trades", "BTC-USD", DAY, rows(), SCHEMA, NOTES)
    assert lake.partitions("trades") == [old]


def test_of_two_writers_at_once_none_loses_a_partition(lake: Lake) -> None:
    """The writers hold the same state. The second writer's put is refused, and done again on the state of the first."""
    day_after = DAY + dt.timedelta(days=1)
    with lake.batch() as first:
        first.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
        with Lake(lake.objects).batch() as second:
            second.write("trades", "BTC-USD", DAY, [batch(0, 6)], SCHEMA, NOTES)
            second.write("trades", "BTC-USD", day_after, [batch(0, 7)], SCHEMA, NOTES)
        assert [each.rows for each in lake.partitions("trades")] == [6, 7]
        assert [each.rows for each in first.partitions("trades")] == [5]
    assert [each.rows for each in lake.partitions("trades")] == [5, 7]


@pytest.mark.parametrize("is_current", [True, False])
def test_a_partition_changed_by_both_is_that_of_the_inputs_of_now(lake: Lake, is_current: bool) -> None:
    key = PartitionKey("trades", "BTC-USD", DAY)
    with lake.batch() as batch_of_ours:
        with batch_of_ours.writing(key, SCHEMA) as writing:
            writing.write(batch(0, 5))
            entry = writing.finish()
        batch_of_ours.record(key, entry, NOTES, lambda _: is_current)
        Lake(lake.objects).write(*key, [batch(0, 6)], SCHEMA, {"inputs": "others"})
    assert [each.rows for each in lake.partitions("trades")] == [5 if is_current else 6]


def test_a_reader_holds_one_state(lake: Lake) -> None:
    lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    held = lake.held()
    assert held.partition("trades", "BTC-USD", DAY) is not None
    lake.write("trades", "BTC-USD", DAY, [batch(0, 6)], SCHEMA, NOTES)
    lake.write("trades", "BTC-USD", DAY + dt.timedelta(days=1), [batch(0, 7)], SCHEMA, NOTES)
    assert [each.rows for each in held.partitions("trades")] == [5]
    assert held.read("trades", "BTC-USD", DAY).num_rows == 5


def test_a_batch_with_an_error_changes_nothing(lake: Lake) -> None:
    with pytest.raises(KeyboardInterrupt), lake.batch() as changes:
        changes.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
        assert changes.products("trades") == ["BTC-USD"]
        raise KeyboardInterrupt
    assert lake.products("trades") == []


def test_what_holds_and_says_the_same_stays_as_it_is(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    path = Path(lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES).path)
    manifest = tmp_path / "manifests" / "BTC-USD.json"
    before, manifest_before = path.stat(), manifest.stat()
    lake.write("trades", "BTC-USD", DAY, [batch(0, 2), batch(2, 3)], SCHEMA, NOTES)
    assert path.stat().st_ino == before.st_ino
    assert manifest.stat().st_ino == manifest_before.st_ino
    other = lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, {"inputs": "others"})
    assert Path(other.path) == path
    assert path.stat().st_ino == before.st_ino
    assert manifest.stat().st_ino != manifest_before.st_ino


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        (DayNotes[TradesFacts], {"inputs": '{"meaning": "3"}', "facts": '{"rows": 5}'}),
        (StagedNotes, {"name": "r.csv", "has_ids": "yes"}),
        (RecordingNotes, {"made_from": '{"sha256": "0"}', "days": "[]", "rejects": "{}"}),
        (DayNotes[TradesFacts], {}),
        (StagedNotes, "none"),
    ],
)
def test_notes_of_another_release_are_refused_in_a_sentence(lake: Lake, kind: Any, notes: object) -> None:
    """The first three are as earlier releases wrote them: texts, and JSON texts in JSON."""
    stored = lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, notes)
    said = r"trades of BTC-USD on 2025-01-06 was left by another release \(.*: remove this lake, .* `make reset`"
    with pytest.raises(ValueError, match=said):
        stored.notes_as(kind)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all"])
def test_a_damaged_object_is_said_and_can_be_made_again(tmp_path: Path, content: bytes) -> None:
    lake = Lake.open(tmp_path)
    path = Path(lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES).path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"parquet is no whole object of the lake .* delete it, run .*then make the"):
        lake.read("trades", "BTC-USD", DAY)
    path.unlink()
    assert lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES).rows == 5
    assert lake.read("trades", "BTC-USD", DAY).num_rows == 5


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1, "product_id": "BTC-USD"}'])
def test_a_damaged_manifest_is_said(tmp_path: Path, content: bytes) -> None:
    lake = Lake.open(tmp_path)
    lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    (tmp_path / "manifests" / "BTC-USD.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"BTC-USD.json is no manifest of the lake .*: remove it, then ingest"):
        lake.partitions("trades")


def test_a_large_partition_is_read_in_row_groups(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    written = lake.write("trades", "BTC-USD", DAY, [batch(0, 2 * GROUP_ROWS + 1)], SCHEMA, NOTES)
    assert pa.parquet.read_metadata(written.path).num_row_groups == 3
    assert [len(each) for each in lake.batches("trades", "BTC-USD", DAY)] == [GROUP_ROWS // 2] * 4 + [1]


def test_a_long_manifest_is_compressed_and_a_damaged_one_is_refused(lake: Lake) -> None:
    """A thousand days of a product; what a manifest holds does not depend on how it is stored."""
    written = lake.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
    short = lake.objects.get("manifests/BTC-USD.json")
    assert short is not None
    assert short.content.startswith(b"{")
    entry = lake.product("BTC-USD").tables["trades"][DAY]
    days = {DAY + dt.timedelta(days=number): entry for number in range(1_000)}
    state = lake.replace("BTC-USD", lambda old: msgspec.structs.replace(old, tables={"trades": days}))
    held = lake.objects.get("manifests/BTC-USD.json")
    assert held is not None
    assert len(held.content) < COMPRESSED_FROM < len(msgspec.json.encode(state))
    again = Lake(lake.objects)
    assert again.product("BTC-USD") == state
    assert again.partition("trades", "BTC-USD", DAY) == written
    for damaged in (held.content[: len(held.content) // 2], held.content[:40] + b"?" * 40 + held.content[80:]):
        lake.objects.put("manifests/BTC-USD.json", damaged, ANY)
        with pytest.raises(ValueError, match=r"manifests/BTC-USD\.json is no manifest of the lake"):
            Lake(lake.objects).product("BTC-USD")
