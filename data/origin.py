"""What a source is made of: noted by the ingestor where the source begins, read by whoever explains a forecast."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

MAX_NOTE = 4_000
"""Bytes of a note; brokers take 4,096 with an offset by default."""
ENDS = 65_536
"""Bytes at each end of a recording that tell it from others: enough to see that it was cut, went on, or is another."""


class Recording(Struct, frozen=True):
    """A file as it was when a source began.

    Attributes:
        path: absolute, links followed.
        size: bytes.
        digest: of its first and last `ENDS` bytes; with `size` None where it could not be read.
    """

    path: str
    size: int | None
    digest: str | None


class Origin(Struct, frozen=True):
    """What a source is made of.

    Attributes:
        recordings: in their order, as many as a note has room for.
        left_out: how many more there are.
        product_id: of trades in recordings that name none.
        speed: `real-time` moves times; all others keep them.
    """

    recordings: list[Recording]
    left_out: int
    product_id: str
    speed: str


def recording_of(path: Path) -> Recording:
    """Return a recording as it is now."""
    name = str(path.resolve()).encode(errors="replace").decode()
    try:
        if not path.is_file():  # a pipe would lose what is read of it
            return Recording(name, None, None)
        with path.open("rb") as file:
            size = path.stat().st_size
            digest = hashlib.sha256(file.read(ENDS))
            file.seek(max(ENDS, size - ENDS))
            digest.update(file.read(ENDS))
    except OSError:
        return Recording(name, None, None)
    return Recording(name, size, digest.hexdigest()[:16])


def write_origin(recordings: Sequence[Path], product_id: str, speed: str) -> str:
    """Describe a source in at most `MAX_NOTE` bytes; the last recordings are left out where they do not fit."""
    origin = Origin([], len(recordings), product_id, speed)
    for path in recordings:
        more = Origin([*origin.recordings, recording_of(path)], origin.left_out - 1, product_id, speed)
        if len(msgspec.json.encode(more)) > MAX_NOTE:
            break
        origin = more
    return msgspec.json.encode(origin).decode()


def read_origin(note: str) -> Origin:
    """Read what `write_origin` wrote.

    Raises:
        ValueError: it is none.
    """
    return msgspec.json.decode(note, type=Origin)
