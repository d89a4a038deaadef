"""Describe the recordings of a source in a note.

The ingestor writes the note at the source's start; a restarted ingestor and `offline/explain` read the note.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

MAX_NOTE = 4_000
"""Bytes of a note; brokers take 4,096 bytes with an offset by default."""
ENDS = 65_536
"""Bytes at each end of a recording that go into the digest: enough to notice a cut, longer or other recording."""


def group_of(source_id: str) -> str:
    """Return the consumer group of a source: the writer is the only member, and the notes lie at its offsets."""
    return f"ingestor-{source_id}"


class Recording(Struct, frozen=True):
    """A recorded file at the start of a source.

    Attributes:
        path: absolute, links followed.
        size: bytes; None if the file could not be read.
        digest: digest of the first and last `ENDS` bytes; None if the file could not be read.
    """

    path: str
    size: int | None
    digest: str | None


class Origin(Struct, frozen=True):
    """The recordings and settings of a source.

    Attributes:
        recordings: the first recordings, in order, as many as fit in a note.
        left_out: number of further recordings.
        product_id: product of trades in recordings without product names.
        speed: `real-time` moves times; all other speeds keep times.
        rest: digest of the further recordings; None if there are none, or if a file could not be read.
        columns: the column map, `RECORDING_COLUMNS`.
    """

    recordings: list[Recording]
    left_out: int
    product_id: str
    speed: str
    rest: str | None = None
    columns: str = ""


def recording_of(path: Path, size: int | None = None) -> Recording:
    """Return size and digest of a file now, or of its first `size` bytes if the file is longer."""
    name = str(path.resolve()).encode(errors="replace").decode()
    try:
        if not path.is_file():  # reading a pipe would remove the bytes
            return Recording(name, None, None)
        with path.open("rb") as file:
            size = min(path.stat().st_size, path.stat().st_size if size is None else size)
            digest = hashlib.sha256(file.read(min(ENDS, size)))
            file.seek(start := max(ENDS, size - ENDS))
            digest.update(file.read(max(0, size - start)))
    except OSError:
        return Recording(name, None, None)
    return Recording(name, size, digest.hexdigest()[:16])


def write_origin(recordings: Sequence[Path], product_id: str, speed: str, columns: str = "") -> str:
    """Describe a source in at most `MAX_NOTE` bytes; the last recordings are left out if they do not fit."""
    found = [recording_of(path) for path in recordings]
    rests = [_digest_of(found[count:]) for count in range(len(found) + 1)]
    kept = 0
    while kept < len(found) and len(_text(found, kept + 1, rests, product_id, speed, columns)) <= MAX_NOTE:
        kept += 1
    return _text(found, kept, rests, product_id, speed, columns).decode()


def _text(
    found: list[Recording], kept: int, rests: list[str | None], product_id: str, speed: str, columns: str
) -> bytes:
    return msgspec.json.encode(Origin(found[:kept], len(found) - kept, product_id, speed, rests[kept], columns))


def _digest_of(recordings: list[Recording]) -> str | None:
    """Return one digest of several recordings; None without recordings, or if a recording could not be read."""
    if not recordings or any(each.digest is None for each in recordings):
        return None
    return hashlib.sha256("".join(f"{each.size}:{each.digest}" for each in recordings).encode()).hexdigest()[:16]


def _describe(recording: Recording) -> str:
    """Describe size and digest of a recording, for a person."""
    if recording.digest is None:
        return "which could not be read then"
    return f"{recording.size} bytes, digest {recording.digest}"


def difference(
    origin: Origin, recordings: Sequence[Path], product_id: str, speed: str, columns: str = ""
) -> str | None:
    """Return the reason why a source cannot continue with a list of recordings, None if the source can.

    The list must begin with the recordings of the source's start; the last recording of the start may have grown.
    """
    count = len(origin.recordings) + origin.left_out
    if len(recordings) < count:
        return f"it was begun with {count} recordings, {len(recordings)} are named"
    for number, (was, path) in enumerate(zip(origin.recordings, recordings, strict=False), 1):
        now = recording_of(path, was.size if number == count else None)
        if (was.size, was.digest) != (now.size, now.digest) or (was.digest is None and was.path != now.path):
            found = "cannot be read" if now.digest is None else f"is another one ({_describe(now)})"
            return f"recording {number} of its start is {was.path} ({_describe(was)}), {path} {found}"
    if origin.rest != _digest_of([recording_of(path) for path in recordings[len(origin.recordings) : count]]):
        return f"one of its recordings from number {len(origin.recordings) + 1} to {count} is another one now"
    return _other_settings(origin, product_id, speed, columns)


def _other_settings(origin: Origin, product_id: str, speed: str, columns: str) -> str | None:
    """Return the setting that differs from the source's start, None without one."""
    if origin.product_id != product_id:
        return f"trades of recordings that name no product were {origin.product_id}, PRODUCT_ID is {product_id}"
    if origin.columns != columns:
        return f"its RECORDING_COLUMNS were {origin.columns!r} and are {columns!r}"
    if (origin.speed == "real-time") != (speed == "real-time"):
        return f"its REPLAY_SPEED was {origin.speed} and is {speed}: real-time moves times, other speeds keep them"
    return None


def read_origin(note: str) -> Origin:
    """Parse a note of `write_origin`.

    Raises:
        ValueError: the text is no note.
    """
    return msgspec.json.decode(note, type=Origin)
