"""Recordings below a prefix of an object store: listed, and copied whole or not at all."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from data.recordings.folders import RecordingFolders
from data.recordings.readers import read_trades
from data.times import NS
from offline.days.staging import Ingested, ingest, receipt_of, taken
from offline.lake.objects import ANY, Objects
from offline.lake.store import Lake
from offline.recordings.places import RecordingPlaces
from offline.recordings.prefixes import RecordingPrefix
from tests.days import MIDNIGHT, recorded, trades_at
from tests.seaweed import Seaweed


@pytest.fixture
def uri(seaweed: Seaweed, tmp_path: Path) -> str:
    return seaweed.uri(f"second/{tmp_path.name}")


@pytest.fixture
def objects(uri: str) -> Objects:
    return Objects.open(uri)


@pytest.fixture
def places(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingPlaces:
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    return RecordingPlaces(RecordingFolders((tmp_path,)), (RecordingPrefix(uri, "RECORDINGS_DIRS"),))


def copies(folder: Path) -> list[Path]:
    return [path for path in (folder / "copies").rglob("*") if path.is_file()]


def test_a_folder_and_a_prefix_are_listed_alike(
    places: RecordingPlaces, objects: Objects, uri: str, tmp_path: Path
) -> None:
    for name in ("b.csv", "a/deep/one.csv", "a/.hidden/x.csv", ".half.csv", "a-b/two.csv"):
        objects.put(name, name.encode(), ANY)
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    names = ["a-b/two.csv", "a/deep/one.csv", "b.csv"]
    assert sorted(each.name for each in places.recordings(uri)) == names
    assert sorted(each.name for each in places.recordings(str(tmp_path / "folder"))) == names
    bare = uri.partition("?")[0]
    (one,) = places.recordings(f"{bare}/a")
    assert (one.name, one.place) == ("deep/one.csv", f"{bare}/a/deep/one.csv")
    assert places.recordings(f"{bare}/none") == []
    before = {each.name: each.version for each in places.recordings(uri)}
    objects.put("b.csv", b"other", ANY)
    after = {each.name: each.version for each in places.recordings(uri)}
    assert {name for name in names if before[name] != after[name]} == {"b.csv"}


def test_a_copy_is_whole_and_lies_below_the_path_of_the_object(
    places: RecordingPlaces, objects: Objects, uri: str, tmp_path: Path
) -> None:
    """12 MB: more than one piece of a stream."""
    content = bytes(range(256)) * 48_000
    objects.put("btcusd/20161007_trade.zip", content, ANY)
    bare = uri.partition("?")[0]
    with places.local(f"{bare}/btcusd/20161007_trade.zip") as path:
        assert path.read_bytes() == content
        assert path.as_posix().endswith(f"/second/{tmp_path.name}/btcusd/20161007_trade.zip")
        assert copies(tmp_path) == [path]
    assert copies(tmp_path) == []


def test_errors_name_the_object_and_leave_no_copy(
    places: RecordingPlaces, objects: Objects, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = uri.partition("?")[0]
    objects.put("notes.txt", b"buy milk\n", ANY)
    with (
        pytest.raises(ValueError, match=f"^{bare}/notes.txt: holds no trades"),
        places.local(f"{bare}/notes.txt") as path,
    ):
        list(read_trades(path))
    with pytest.raises(FileNotFoundError, match=f"^{bare}/none.csv does not exist"), places.local(f"{bare}/none.csv"):
        pass
    usage = namedtuple("usage", ["total", "used", "free"])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 5))
        with pytest.raises(OSError, match=r"notes\.txt has 9 bytes, and .* has room for 5: make room, or let TMPDIR"):
            places.local(f"{bare}/notes.txt").__enter__()
    assert copies(tmp_path) == []


def test_a_recording_in_its_version_is_taken_without_a_look_at_it(
    places: RecordingPlaces, objects: Objects, uri: str, tmp_path: Path
) -> None:
    """A new version with the same content is read once more, and noted."""
    lake = Lake.open(tmp_path / "lake")
    content = recorded(tmp_path / "r.csv", trades_at(MIDNIGHT + np.arange(5) * NS)).read_bytes()
    objects.put("r.csv", content, ANY)

    def take() -> Ingested:
        (each,) = places.recordings(uri)
        with places.local(each.place) as path:
            return ingest(lake, path, name=each.name, version=each.version)

    first = take()
    assert first.is_new
    (listed,) = places.recordings(uri)
    same = first._replace(days=[each._replace(is_new=False) for each in first.days], is_new=False)
    assert taken(lake, "r.csv", "BTC-USD", listed.version) == same
    assert taken(lake, "r.csv", "ETH-USD", listed.version) is None
    assert taken(lake, "r.csv", "BTC-USD", "another") is None
    with places.local(listed.place) as path:
        assert ingest(lake, path, name="r.csv", version="another") == same
    assert taken(lake, "r.csv", "BTC-USD", "another") == same
    lake.delete("recordings/r.csv", "BTC-USD", first.days[0].day)
    assert taken(lake, "r.csv", "BTC-USD", "another") is None
    assert receipt_of(lake, "r.csv").rejects is not None
