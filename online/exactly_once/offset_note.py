"""Write and read the note of a committed offset: open streams, their needs, and the newest ended streams."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from data.trades import StreamKey

GROUP = "forecaster"
"""The consumer group whose offsets carry the notes."""

MAX_STREAMS = 300
"""Most streams that are open at once in a partition: a limit of the windows' memory and of a note's size."""

MAX_ENDED = 96
"""Most ended streams that a partition remembers, the newest. A writer that was frozen while another writer took over
can still send old trades; after the end of their source, old trades would open the stream anew."""

MAX_NOTE = 4_000
"""Most characters of a note; brokers take 4,096 bytes by default. Room for `MAX_STREAMS` needs and `MAX_ENDED`
names."""

NAME_BYTES, NEED_BYTES = 5, 4
"""Bytes of a stream's name and need: 40 bits tell the few named streams apart, 32 bits count records."""


def short_name(key: StreamKey) -> bytes:
    """Return the name of a stream in `NAME_BYTES` bytes."""
    return hashlib.blake2b("/".join(key).encode(), digest_size=NAME_BYTES).digest()


def write_note(needs: Iterable[tuple[StreamKey, int]], ended: Iterable[bytes]) -> str:
    """Return a note as text.

    Args:
        needs: the open streams, each with the number of records before the offset that its window needs.
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
        ValueError: the text is not a note.
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
