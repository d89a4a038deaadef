"""Whole objects by path, in a folder; `tests/services/test_objects.py` runs `check_*` on an object store, too."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from offline.lake.objects import ANY, Changed, Objects
from tests.pipeline import wait_until


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "lake")


def check_an_object_is_put_by_its_version(objects: Objects) -> None:
    assert objects.get("manifests/A.json") is None
    first = objects.put("manifests/A.json", b"one", None)
    held = objects.get("manifests/A.json")
    assert held == (b"one", first)
    with pytest.raises(Changed, match=r"manifests/A\.json"):
        objects.put("manifests/A.json", b"two", None)
    second = objects.put("manifests/A.json", b"two", first)
    assert second != first
    with pytest.raises(Changed):
        objects.put("manifests/A.json", b"three", first)
    assert objects.get("manifests/A.json") == (b"two", second)
    third = objects.put("manifests/A.json", b"three", ANY)
    assert objects.get("manifests/A.json") == (b"three", third)


def check_a_put_that_waits_for_a_version_makes_no_object(objects: Objects) -> None:
    version = objects.put("manifests/B.json", b"one", ANY)
    objects.delete("manifests/B.json")
    with pytest.raises(Changed):
        objects.put("manifests/B.json", b"two", version)
    assert objects.get("manifests/B.json") is None


def check_of_writers_of_the_same_object_each_loses_nothing(objects: Objects) -> None:
    """Each of 4 writers adds a letter 10 times; a refused writer reads again."""

    def write(letter: bytes) -> None:
        for _ in range(10):
            while True:
                held = objects.get("manifests/C.json")
                content, expected = (b"", None) if held is None else held
                try:
                    objects.put("manifests/C.json", content + letter, expected)
                    break
                except Changed:
                    continue

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    held = objects.get("manifests/C.json")
    assert held is not None
    assert sorted(held.content.decode()) == sorted("abcd" * 10)


def check_an_added_object_is_never_replaced(objects: Objects) -> None:
    for content, is_new in ((b"first", True), (b"again", False)):
        with objects.scratch() as file:
            file.write_bytes(content)
            assert objects.add("objects/ab/abc.parquet", file) is is_new
        assert not file.exists()
    held = objects.get("objects/ab/abc.parquet")
    assert held is not None
    assert held.content == b"first"
    with objects.scratch() as file:
        file.write_bytes(b"never added")
    assert objects.paths("objects") == ["objects/ab/abc.parquet"]


def check_a_listing_is_of_a_folder_and_all_below(objects: Objects) -> None:
    begin = time.time()
    for path in ("rejects/b%2Fc~.csv", "rejects/a/b.csv", "rejects-2/a.csv", ".hidden/x"):
        objects.put(path, b"12345", ANY)
    assert objects.paths("rejects") == ["rejects/a/b.csv", "rejects/b%2Fc~.csv"]
    assert objects.paths("none") == []
    assert {".hidden/x", "rejects-2/a.csv"} <= set(objects.paths())
    assert all(info.size == 5 and abs(info.changed - begin) < 60 for info in objects.infos("rejects"))
    held = objects.get("rejects/b%2Fc~.csv")
    assert held is not None
    for path in ("rejects/a/b.csv", "rejects/b%2Fc~.csv"):
        objects.delete(path)
        objects.delete(path)
    assert objects.paths("rejects") == []


def check_an_object_is_moved_and_has_a_new_time_of_change(objects: Objects) -> None:
    path, to = "objects/ab/abm.parquet", "removed/objects/ab/abm.parquet/1"
    objects.put(path, b"rows", None)
    before = time_of(objects, path)

    def is_later() -> bool:
        objects.put("clock", b"", ANY)
        return time_of(objects, "clock") > before

    wait_until(is_later, "a later time of the store's clock")
    assert objects.move(path, to)
    assert objects.info(path) is None
    held = objects.get(to)
    assert held is not None
    assert held.content == b"rows"
    assert time_of(objects, to) > before
    assert not objects.move(path, to)


def time_of(objects: Objects, path: str) -> float:
    info = objects.info(path)
    assert info is not None
    return info.changed


def check_parquet_is_read_by_columns(objects: Objects, rows: int = 1_000) -> None:
    table = pa.table({"n": pa.array(range(rows)), "square": pa.array([float(i) ** 2 for i in range(rows)])})
    with objects.scratch() as file:
        pa.parquet.write_table(table, file, row_group_size=max(1, rows // 4), compression="none", use_dictionary=False)
        objects.add("objects/de/def.parquet", file)
    with objects.opened("objects/de/def.parquet") as opened:
        assert pa.parquet.ParquetFile(opened).read(["square"])["square"].equals(table["square"])
    with objects.opened("objects/de/def.parquet") as opened:
        assert pa.parquet.read_table(opened, filters=[("n", ">=", rows - 10)])["n"].to_pylist() == [
            *range(rows - 10, rows)
        ]
    with pytest.raises(FileNotFoundError):
        objects.opened("objects/de/none.parquet")


CHECKS = [check for name, check in globals().items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_folder(check, objects: Objects) -> None:  # type: ignore[no-untyped-def]
    check(objects)


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.b.lock", "a/.0f.part"])
def test_a_path_that_leads_elsewhere_is_refused(path: str, objects: Objects) -> None:
    for act in (objects.get, objects.opened, objects.delete, lambda path: objects.put(path, b"", ANY)):
        with pytest.raises(ValueError, match="path of an object"):
            act(path)


def test_a_folder_hides_its_locks_and_what_killed_writers_left(objects: Objects, tmp_path: Path) -> None:
    objects.put("manifests/A.json", b"one", None)
    left = tmp_path / "lake" / "manifests" / ".0f.part"
    left.write_bytes(b"half")
    assert objects.paths() == ["manifests/A.json"]
    assert objects.remove_scratch(older_than_s=60) == 0
    assert objects.remove_scratch(older_than_s=-1) == 1
    assert not left.exists()


def test_a_folder_of_another_filesystem_gets_a_copy(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    file = tmp_path / "rows"
    file.write_bytes(b"rows")
    assert [objects.add("objects/a", file), objects.add("objects/a", file)] == [True, False]
    assert [path.name for path in (tmp_path / "lake" / "objects").iterdir()] == ["a"]


def test_a_put_on_a_full_disk_keeps_the_object(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = objects.put("manifests/A.json", b"one", None)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"manifests/A\.json cannot be written .*No space left.* make room"):
        objects.put("manifests/A.json", b"two", version)
    assert objects.get("manifests/A.json") == (b"one", version)
    assert objects.paths() == ["manifests/A.json"]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/lake", "must be a folder, or a URI that begins with"),
        ("s3://bucket/lake?regoin=eu", "regoin"),
        ("s3://bucket/lake?secret_key=sesame", "no login and no key"),
    ],
)
def test_a_uri_of_no_known_store_is_refused(uri: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        Objects.open(uri)
    assert "sesame" not in str(refused.value)


def test_a_file_uri_is_a_folder(tmp_path: Path) -> None:
    Objects.open(f"file://{tmp_path}/a%20lake").put("x", b"1", None)
    assert (tmp_path / "a lake" / "x").read_bytes() == b"1"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/lake?region=eu-central-1",
        "gs://anonymous@bucket/lake",
        "abfs://box@account.dfs.core.windows.net/lake",
    ],
)
def test_a_store_is_opened_without_a_request(uri: str) -> None:
    assert Objects.open(uri).where("x") == f"{uri.partition('?')[0]}/x"
