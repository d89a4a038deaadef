"""Jobs read recordings of some places alone; the answer to any other path tells nothing about what lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.recordings.folders import RecordingFolders
from offline.recordings.places import RecordingPlaces
from offline.recordings.prefixes import RecordingPrefix
from orchestration.settings import OrchestrationSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "recordings"
    (path / "monday").mkdir(parents=True)
    (path / "monday" / "day.csv").touch()
    (tmp_path / "secret").write_text("root:x:0:0\n")
    return path


def test_files_in_the_folders_and_links_among_them_are_read(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "link.csv").symlink_to(folder / "monday" / "day.csv")
    folders = RecordingFolders((folder, other))
    assert folders.real_path(str(folder / "monday" / "day.csv")) == folder / "monday" / "day.csv"
    assert folders.real_path(other / "link.csv") == folder / "monday" / "day.csv"
    assert folders.real_path(folder) == folder
    assert folders.real_path(folder / "absent.csv") == folder / "absent.csv", "its reader says that it is not there"


def test_other_files_and_links_to_them_are_refused(folder: Path, tmp_path: Path) -> None:
    folders = RecordingFolders((folder,))
    (folder / "file.csv").symlink_to(tmp_path / "secret")
    (folder / "nowhere.csv").symlink_to(tmp_path / "absent")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    twin = tmp_path / "recordings-of-others"
    for path in ("/etc/passwd", folder / "file.csv", folder / "nowhere.csv", folder / "folder" / "secret",
                 folder / "circle", tmp_path / "secret", tmp_path / "absent", twin, "", "relative.csv"):  # fmt: skip
        with pytest.raises(ValueError, match="RECORDINGS_DIRS") as refused:
            folders.real_path(path)
        assert "root:x" not in str(refused.value)
        assert str(tmp_path / "secret") not in str(refused.value).replace(str(path), ""), "nor where a link leads"
    for path in (folder / ".." / "secret", folder / "monday" / ".." / "monday" / "day.csv", f"{folder}/.."):
        with pytest.raises(ValueError, match=r"no part '\.\.'"):
            folders.real_path(path)


def of(tmp_path: Path, **values: str) -> tuple[Path, ...]:
    return OrchestrationSettings(_env_file=None, var_dir=tmp_path, **values).recording_places.folders.folders  # type: ignore[arg-type]


def test_the_folders_follow_the_settings(tmp_path: Path) -> None:
    own = (tmp_path / "inbox", tmp_path / "recordings")
    assert of(tmp_path) == own
    both = of(tmp_path, recording="'/a b/one.csv' /c/two.csv", replay_recordings="'/a b/three.csv'")
    assert both == (*own, Path("/a b"), Path("/c"))
    assert of(tmp_path, recordings_dirs=os.pathsep.join(["/x", "", "/y/"])) == (Path("/x"), Path("/y"))


def test_a_folder_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    """A person names the folders."""
    (tmp_path / "link").symlink_to(folder)
    allowed = RecordingFolders(of(tmp_path, recordings_dirs=str(tmp_path / "link")))
    assert allowed.real_path(tmp_path / "link" / "monday" / "day.csv") == folder / "monday" / "day.csv"


OPTIONS = "?endpoint_override=store.example:9000&scheme=http"


def settings(tmp_path: Path, **values: str) -> OrchestrationSettings:
    return OrchestrationSettings(_env_file=None, var_dir=tmp_path, **values)  # type: ignore[arg-type]


def test_a_prefix_of_an_object_store_counts_as_a_folder(tmp_path: Path) -> None:
    """The port in the options is no end of the prefix."""
    named = f"s3://box/recordings/{OPTIONS}:{tmp_path}:s3://box/other"
    places = settings(tmp_path, recordings_dirs=named).recording_places
    assert [each.uri for each in places.prefixes] == ["s3://box/recordings", "s3://box/other"]
    assert places.folders.folders == (tmp_path,)
    for place in (
        "s3://box/recordings",
        "s3://box/recordings/a/b.csv",
        f"s3://box/recordings{OPTIONS}",
        "s3://box/other",
    ):
        places.check(place)
    with pytest.raises(
        ValueError, match=r"s3://box/recordings/a\.csv lies in an object store, and a replay reads files"
    ):
        places.local_path("s3://box/recordings/a.csv")


def test_the_inbox_may_be_a_prefix_and_is_read_without_another_setting(tmp_path: Path) -> None:
    found = settings(tmp_path, inbox_dir=f"s3://box/inbox{OPTIONS}")
    assert found.inbox_dir == f"s3://box/inbox{OPTIONS}"
    found.recording_places.check(str(found.inbox_dir))
    found.make_inbox()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://box/recordings/../secret.csv", r"no part '\.\.'"),
        ("s3://box/recordings//a.csv", r"no part '\.\.', '\.' or ''"),
        ("s3://box/recordings-of-others/a.csv", "not in one of the places that jobs read .*s3://box/recordings"),
        ("s3://box", "RECORDINGS_DIRS"),
        ("s3://other/recordings/a.csv", "RECORDINGS_DIRS"),
        ("gs://box/recordings/a.csv", "RECORDINGS_DIRS"),
        ("s3://box/recordings/a.csv?endpoint_override=thief.example", "with the same options"),
    ],
)
def test_an_object_elsewhere_is_refused(tmp_path: Path, uri: str, said: str) -> None:
    """Other options would send the key of the store to another machine."""
    places = RecordingPlaces(
        RecordingFolders((tmp_path,)), (RecordingPrefix("s3://box/recordings", "RECORDINGS_DIRS"),)
    )
    for ask in (places.check, places.recordings, lambda uri: places.local(uri).__enter__()):
        with pytest.raises(ValueError, match=said):
            ask(uri)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://key:sesame@box/inbox", "INBOX_DIR must have no login and no key"),
        ("ftp://box/inbox", "INBOX_DIR must be a folder, or a URI that begins with"),
        ("file:///srv/inbox", "INBOX_DIR names a folder by its path"),
    ],
)
def test_an_inbox_of_no_known_store_and_one_with_a_key_are_refused(tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        settings(tmp_path, inbox_dir=uri)
    assert "sesame" not in str(refused.value)
