"""Note the share of a replay that was sent, where another process can read the share.

The note is metadata of a committed offset of the source's own consumer group, beside the offsets of the source's
beginning. So the broker takes the note from the writer of the source alone, keeps the note for a paused replay, and
forgets the note with the group.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from data.stream.records import REJECTED

NOTED_AT = (REJECTED, 0)
"""Topic and partition of the offset with the note."""


class _Note(Struct, frozen=True):
    share: float


def write_share(share: float) -> str:
    """Return the note of a share of the recordings' bytes, 0 to 1.

    >>> write_share(0.42119)
    '{"share":0.4212}'
    """
    return msgspec.json.encode(_Note(round(share, 4))).decode()


def read_share(note: str) -> float | None:
    """Return the share of a note; None if the text is no note.

    >>> read_share('{"share":0.4212}'), read_share("")
    (0.4212, None)
    """
    try:
        return msgspec.json.decode(note, type=_Note).share
    except msgspec.DecodeError:
        return None
