"""The folders and prefixes whose recordings a job may read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data.recordings.folders import RecordingFolders
from offline.lake.remote import is_uri
from offline.recordings.prefixes import Recording, RecordingPrefix

SETTING = "RECORDINGS_DIRS"

_AFTER_URI = re.compile(r":(?=/(?!/)|~|[a-z][a-z0-9+]*://|:|$)")
"""End of a URI in a text separated by colons: a whole path, a path from home, or a URI follows; no port follows."""


class RecordingPlaces(NamedTuple):
    """Folders and prefixes of object stores whose recordings a job may read, see `RecordingFolders`."""

    folders: RecordingFolders
    prefixes: tuple[RecordingPrefix, ...] = ()

    def check(self, place: str) -> None:
        """Raise ValueError unless a path or a URI lies in one of the folders or prefixes, or is one of them."""
        if is_uri(place):
            self._found(place)
        else:
            self.folders.real_path(place)

    def local_path(self, place: str) -> Path:
        """Return the whole path of a recording of this machine.

        Raises:
            ValueError: the recording lies elsewhere, or in an object store.
        """
        if is_uri(place):
            raise ValueError(
                f"{place.partition('?')[0]} lies in an object store, and a replay reads files of this machine: copy "
                f"it to one of the folders of {SETTING}, or take it into the lake by the job `ingest`"
            )
        return self.folders.real_path(place)

    def recordings(self, place: str) -> list[Recording]:
        """Return the recordings below a folder or prefix, sorted by name.

        Hidden files are left out: they may be incomplete. A prefix without objects is empty, as stores have no folders.

        Raises:
            ValueError: a URI outside the prefixes.
            OSError: the folder is missing, or the store does not answer.
        """
        if is_uri(place):
            prefix, below = self._found(place)
            return prefix.recordings(below)
        root = Path(place).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"the inbox: there is no folder {root}")
        found = []
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                info = path.stat()
                version = f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}"
                found.append(Recording(name.as_posix(), str(path), version))
        return found

    @contextmanager
    def local(self, place: str) -> Iterator[Path]:
        """Give a recording as a local file while the block runs: the file itself, or a copy of the object.

        Raises:
            ValueError: the recording lies elsewhere.
            OSError: the object cannot be copied.
        """
        if is_uri(place):
            prefix, below = self._found(place)
            with prefix.local(below) as copy:
                yield copy
        else:
            yield self.folders.real_path(place)

    def _found(self, uri: str) -> tuple[RecordingPrefix, str]:
        bare = uri.partition("?")[0]
        path = bare.partition("://")[2].rstrip("/")
        if {"", ".", ".."} & set(path.split("/")):
            raise ValueError(f"{bare}: a URI of a recording has no part '..', '.' or ''; name it from its prefix on")
        for prefix in self.prefixes:
            if (below := prefix.below(uri)) is not None:
                return prefix, below
        allowed = os.pathsep.join(map(str, (*self.folders.folders, *(each.uri for each in self.prefixes))))
        raise ValueError(
            f"{bare} is not in one of the places that jobs read ({allowed}): put the recording there, or let {SETTING} "
            "name its prefix too, with the same options"
        )


def split_places(text: str) -> list[str]:
    """Return the folders and URIs of a text that is separated as `PATH` is.

    >>> split_places("/a:s3://box/b?endpoint_override=store:9000&scheme=http:/c:d")
    ['/a', 's3://box/b?endpoint_override=store:9000&scheme=http', '/c', 'd']
    """
    found: list[str] = []
    while text:
        if re.match(r"[a-z][a-z0-9+]+://", text):
            piece = _AFTER_URI.split(text, maxsplit=1)[0]
        else:
            piece = text.partition(os.pathsep)[0]
        found.append(piece)
        text = text[len(piece) + 1 :]
    return [piece for piece in found if piece]
