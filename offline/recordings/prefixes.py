"""A prefix of an object store with recordings, as `s3://bucket/recordings`."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from offline.lake.remote import explained, remote_store
from offline.settings import without_key

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store


class Recording(NamedTuple):
    """A recording of a listing.

    Attributes:
        name: path below the folder or prefix of the listing.
        place: whole path, or URI without options.
        version: another content has another version: size and e-tag of an object; of a file, size, times, and number of
            the inode, whose time of change nobody can set back.
    """

    name: str
    place: str
    version: str


class RecordingPrefix:
    """Recordings below a prefix; readers read local files, so each recording is copied here for a while.

    Raises:
        ValueError: the URI has a key, no known scheme, or unknown options.
    """

    def __init__(self, uri: str, setting: str) -> None:
        """Check the URI, as of `LAKE_URI`; no request is made.

        Args:
            setting: name of the setting with the URI, for errors.
        """
        without_key(uri, setting=setting)
        if uri.startswith("file:"):
            raise ValueError(f"{setting} names a folder by its path, not by a URI: was {uri}")
        bare, _, self.options = uri.partition("?")
        self.uri = bare.rstrip("/")
        self._whole, self._setting = uri, setting
        remote_store(uri, setting)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordingPrefix) and (self.uri, self.options) == (other.uri, other.options)

    def __hash__(self) -> int:
        return hash((self.uri, self.options))

    def below(self, uri: str) -> str | None:
        """Return the path of a URI below the prefix, empty for the prefix itself; None for a URI elsewhere.

        A URI without options means the options of the prefix; other options could lead elsewhere.
        """
        bare, _, options = uri.partition("?")
        bare = bare.rstrip("/")
        if options not in ("", self.options) or not f"{bare}/".startswith(f"{self.uri}/"):
            return None
        return bare[len(self.uri) + 1 :]

    def recordings(self, below: str) -> list[Recording]:
        """Return the recordings below a path of the prefix, sorted; objects with a hidden part are left out.

        Raises:
            OSError: the store does not answer, or refuses.
        """
        start = f"{below}/" if below else ""
        with explained(lambda reason: f"{self.uri} cannot be listed ({reason})"):
            listed = [info for chunk in self._store.list(below or None) for info in chunk]
        found = [
            Recording(
                info["path"].removeprefix(start),
                f"{self.uri}/{info['path']}",
                f"{info['size']} {info['e_tag']}",
            )
            for info in listed
            if info["path"].startswith(start)
        ]
        return sorted(each for each in found if not any(part.startswith(".") for part in each.name.split("/")))

    @contextmanager
    def local(self, below: str) -> Iterator[Path]:
        """Give a whole copy of an object as a local file while the block runs. Errors of the block name the object.

        The copy lies in the folder of temporary files (`TMPDIR`), below the path of the object: some readers read the
        path as well.

        Raises:
            OSError: the store does not answer, the object does not exist, or the copy has no room.
        """
        where = f"{self.uri}/{below}"
        with tempfile.TemporaryDirectory(prefix="cryptovol-") as folder:
            file = Path(folder, urlsplit(self.uri).path.strip("/"), below)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._download(below, where, file)
            try:
                yield file
            except ValueError as error:
                raise ValueError(str(error).replace(str(file), where)) from error

    def _download(self, below: str, where: str, file: Path) -> None:
        with explained(lambda reason: f"{where} cannot be read ({reason})"):
            try:
                result = self._store.get(below)
            except FileNotFoundError:
                raise FileNotFoundError(f"{where} does not exist") from None
            size = result.meta["size"]
            free = shutil.disk_usage(file.parent).free
            if size > free:
                raise OSError(
                    errno.ENOSPC,
                    f"{where} has {size:,} bytes, and {file.parent} has room for {free:,}: make room, or let TMPDIR "
                    "name another folder",
                )
            with file.open("xb") as copy:
                for chunk in result.stream():
                    copy.write(chunk)
        if (found := file.stat().st_size) != size:
            raise OSError(errno.EIO, f"{where} cannot be read: {found:,} of {size:,} bytes came")

    @cached_property
    def _store(self) -> S3Store | GCSStore | AzureStore:
        return remote_store(self._whole, self._setting)
