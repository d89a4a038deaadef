"""Jobs read recordings of some folders alone; the answer to any other path tells nothing about what lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.recordings.folders import RecordingFolders
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
    return OrchestrationSettings(_env_file=None, var_dir=tmp_path, **values).recording_folders.folders  # type: ignore[arg-type]


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
