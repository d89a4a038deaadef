"""Whether a source may go on with the recordings that are named now."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.stream.origin import ENDS, MAX_NOTE, difference, read_origin, recording_of, write_origin


def recordings(folder: Path, *contents: bytes) -> list[Path]:
    paths = [folder / f"{number}.csv" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def said(note: str, paths: list[Path], product_id: str = "BTC-USD", speed: str = "10") -> str | None:
    return difference(read_origin(note), paths, product_id, speed)


def test_the_same_recordings_elsewhere_under_other_names_go_on(tmp_path: Path) -> None:
    first = recordings(tmp_path, b"a" * 100, b"b" * 100)
    note = write_origin(first, "BTC-USD", "10")
    moved = [path.rename(path.with_suffix(".moved")) for path in first]
    assert said(note, moved) is None
    assert said(note, moved, speed="max") is None


def test_a_list_that_begins_with_the_old_one_goes_on(tmp_path: Path) -> None:
    paths = recordings(tmp_path, b"a" * 100, b"b" * 100, b"c" * 100)
    assert said(write_origin(paths[:2], "BTC-USD", "10"), paths) is None


def test_the_last_recording_may_have_grown_and_no_other(tmp_path: Path) -> None:
    """Longer than the parts that are read at both ends, so that the old end lies within the file."""
    paths = recordings(tmp_path, b"a" * 100, b"b" * (3 * ENDS) + b"c" * ENDS)
    note = write_origin(paths, "BTC-USD", "10")
    with paths[1].open("ab") as file:
        file.write(b"more")
    assert said(note, paths) is None
    with paths[0].open("ab") as file:
        file.write(b"more")
    assert "recording 1 of its start is" in (said(note, paths) or "")


@pytest.mark.parametrize(
    ("now", "names"),
    [
        ([b"x" * 100, b"b" * 100], "recording 1"),
        ([b"a" * 100, b"x" * 100], "recording 2"),
        ([b"a" * 100, b"b" * 99], "recording 2"),
        ([b"b" * 100, b"a" * 100], "recording 1"),
    ],
)
def test_another_recording_is_named_with_both_digests(tmp_path: Path, now: list[bytes], names: str) -> None:
    note = write_origin(recordings(tmp_path, b"a" * 100, b"b" * 100), "BTC-USD", "10")
    paths = recordings(tmp_path, *now)
    found = said(note, paths) or ""
    assert found.startswith(f"{names} of its start is ")
    assert str(recording_of(paths[int(names[-1]) - 1]).digest) in found


def test_a_shorter_list_another_product_and_moved_times_do_not_go_on(tmp_path: Path) -> None:
    paths = recordings(tmp_path, b"a", b"b")
    note = write_origin(paths, "BTC-USD", "10")
    assert said(note, paths[:1]) == "it was begun with 2 recordings, 1 are named"
    assert "PRODUCT_ID is ETH-USD" in (said(note, paths, product_id="ETH-USD") or "")
    assert "REPLAY_SPEED was 10 and is real-time" in (said(note, paths, speed="real-time") or "")


def test_recordings_beyond_the_room_of_the_note_are_compared_together(tmp_path: Path) -> None:
    paths = recordings(tmp_path, *(bytes([65 + number % 26]) * 50 for number in range(60)))
    note = write_origin(paths, "BTC-USD", "10")
    origin = read_origin(note)
    assert len(note.encode()) <= MAX_NOTE
    assert len(origin.recordings) + origin.left_out == 60
    assert origin.left_out > 0
    assert said(note, paths) is None
    paths[-1].write_bytes(b"another")
    assert (
        said(note, paths) == f"one of its recordings from number {len(origin.recordings) + 1} to 60 is another one now"
    )


def test_a_recording_that_is_not_there_is_said_to_be_unreadable_and_not_another_one(tmp_path: Path) -> None:
    (path,) = recordings(tmp_path, b"a" * 100)
    note, gone = write_origin([path], "BTC-USD", "10"), tmp_path / "gone.csv"
    marks = f"100 bytes, digest {recording_of(path).digest}"
    assert said(note, [gone]) == f"recording 1 of its start is {path} ({marks}), {gone} cannot be read"


def test_a_file_that_cannot_be_read_is_known_by_its_path_alone(tmp_path: Path) -> None:
    gone, other = tmp_path / "gone.csv", tmp_path / "other.csv"
    note = write_origin([gone], "BTC-USD", "10")
    assert said(note, [gone]) is None
    assert "recording 1" in (said(note, [other]) or "")
