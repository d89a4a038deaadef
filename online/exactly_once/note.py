"""The note in a committed offset: which streams of a partition are open, what they need, and which ended last."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from data.trades import StreamKey

GROUP = "forecaster"
"""The consumer group whose offsets carry the notes."""

MAX_STREAMS = 300
"""Open at once in a partition: the memory of the windows, and the size of a note, are known beforehand."""

MAX_ENDED = 96
"""Ended streams that a partition remembers, the newest. A writer that was frozen while another one took its place can
still send what it had read; after their source's end these trades would open the stream anew."""

MAX_NOTE = 4_000
"""Characters of a note; brokers take 4,096 bytes by default. Room for `MAX_STREAMS` needs and `MAX_ENDED` names."""

NAME_BYTES, NEED_BYTES = 5, 4
"""Of each stream: 40 bits tell apart the few that are named, 32 bits count records."""


def short_name(key: StreamKey) -> bytes:
    """Return `NAME_BYTES` that name a stream."""
    return hashlib.blake2b("/".join(key).encode(), digest_size=NAME_BYTES).digest()


def write_note(needs: Iterable[tuple[StreamKey, int]], ended: Iterable[bytes]) -> str:
    """Write a note.

    Args:
        needs: the open streams, each with how many records before the offset its window needs.
        ended: short names, the oldest end first.
    """
    most = 2 ** (8 * NEED_BYTES) - 1
    entries = (short_name(key) + min(records, most).to_bytes(NEED_BYTES, "big") for key, records in needs)
    return ".".join(base64.b85encode(b"".join(names)).decode() for names in (entries, ended))


def read_note(note: str, offset: int) -> tuple[dict[bytes, int], list[bytes]]:
    """Read a note that was committed with an offset.

    Returns:
        The first offset that each open stream still needs, by short name; and the short names of ended streams.

    Raises:
        ValueError: the text is no such note.
    """
    if not note:
        return {}, []
    needs, ended = (base64.b85decode(part) for part in note.split("."))
    size = NAME_BYTES + NEED_BYTES
    if len(needs) % size or len(ended) % NAME_BYTES:
        raise ValueError(f"a note has {size} bytes a need and {NAME_BYTES} an end, this one {len(needs)}, {len(ended)}")
    entries = [needs[at : at + size] for at in range(0, len(needs), size)]
    first = {entry[:NAME_BYTES]: offset - int.from_bytes(entry[NAME_BYTES:], "big") for entry in entries}
    return first, [ended[at : at + NAME_BYTES] for at in range(0, len(ended), NAME_BYTES)]
