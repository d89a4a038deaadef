"""Whole objects by path, in a folder or in an object store: all that the lake asks of storage.

An object is replaced as a whole, or not at all. A put may have a condition: the version that the writer read before. So
of two writers one is refused, and loses nothing of the other. A folder gives the same promise as a store, by a lock of
the kernel beside the object; callers never ask whether they have a folder or a store.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from data.files import until_on_disk
from offline.lake.remote import explained, is_uri, remote_store
from offline.settings import without_key

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

WHOLE_BYTES = 8 << 20
"""Objects of an object store up to this size are read by one request, larger objects by ranges."""

_OWN = re.compile(r"\..+\.(part|lock)")
"""Names in a folder that are no objects: files being written, and locks."""


class Condition(Enum):
    """Conditions of a put that are no version."""

    ANY = "any"


ANY: Final = Condition.ANY
"""Condition of a put: replace the object, whatever the path holds."""


class Changed(ValueError):
    """The object is not the version that the writer expected: another process has written the object meanwhile."""


class Held(NamedTuple):
    """Content of an object.

    Attributes:
        version: another content has another version; see `Objects.put`.
    """

    content: bytes
    version: str


class ObjectInfo(NamedTuple):
    """An object of a listing.

    Attributes:
        size: bytes.
        changed: time of the last put, seconds since 1970, by the clock of the store.
    """

    path: str
    size: int
    changed: float


class Objects(ABC):
    """Objects below a root; paths are relative to the root and have no empty part, `.` or `..`.

    All methods raise OSError if the storage does not answer, refuses, or is full; an object is then as before.
    """

    @staticmethod
    def open(uri: str | Path) -> Objects:
        """Open a root; the root may be empty or not exist yet, and nothing is made.

        Args:
            uri: a folder, or a URI: `file:///srv/lake`, `s3://bucket/lake`, `gs://bucket/lake`, or
                `abfs://container@account.dfs.core.windows.net/lake`.

        Raises:
            ValueError: the URI is of no known store, or holds a key.
        """
        text = str(uri)
        if not is_uri(text):
            return _Folder(Path(text).absolute())
        without_key(text)
        if (parts := urlsplit(text)).scheme == "file":
            return _Folder(Path(unquote(parts.path)))
        return _Store(text, remote_store(text))

    @abstractmethod
    def where(self, path: str) -> str:
        """Return the whole path or URI of an object, for people."""

    @abstractmethod
    def get(self, path: str) -> Held | None:
        """Return content and version of an object; None if the object does not exist."""

    @abstractmethod
    def put(self, path: str, content: bytes, expected: str | Condition | None) -> str:
        """Write a whole object, and return the new version.

        Args:
            expected: the version that the path must hold; None: the path must hold no object; `ANY`: no condition.

        Raises:
            Changed: the path holds another version; nothing was written.
        """

    @abstractmethod
    def add(self, path: str, file: Path) -> bool:
        """Write an object that is never replaced, from a local file, which must not change afterwards.

        Returns:
            False if the path holds an object already; the old object stays, with the old time of change.
        """

    @abstractmethod
    def copy(self, path: str, to: str) -> None:
        """Give an object that never changes a second path, unless the second path holds an object already.

        Raises:
            FileNotFoundError: the object does not exist.
        """

    @abstractmethod
    def move(self, path: str, to: str) -> bool:
        """Give an object another path, where no object is, with a new time of change; a killed move may leave both.

        Returns:
            False if the object does not exist.
        """

    @abstractmethod
    def opened(self, path: str) -> pa.NativeFile:
        """Open an object for random access; the caller closes the file.

        Raises:
            FileNotFoundError: the object does not exist.
        """

    @abstractmethod
    def infos(self, folder: str = "") -> list[ObjectInfo]:
        """Return all objects below a folder, at any depth, sorted by path; none if the folder does not exist."""

    @abstractmethod
    def info(self, path: str) -> ObjectInfo | None:
        """Return size and time of change of an object; None if the object does not exist."""

    def paths(self, folder: str = "") -> list[str]:
        """Return the paths of all objects below a folder, at any depth, sorted."""
        return [info.path for info in self.infos(folder)]

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object; a missing object is no error. Readers of the object in a folder may go on reading."""

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """Give the path of a new local file while the block runs, for `add`: a writer fills the file first."""

    @abstractmethod
    def remove_scratch(self, older_than_s: float) -> int:
        """Remove the files that killed writers left, older than some seconds; return the number of files."""


class _Folder(Objects):
    """Objects as files of a local or shared folder. A version is the hash of the content."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def where(self, path: str) -> str:
        return str(self._root / path)

    def get(self, path: str) -> Held | None:
        try:
            content = self._at(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return Held(content, _digest(content))

    def put(self, path: str, content: bytes, expected: str | Condition | None) -> str:
        at = self._at(path)
        with self._explained(path):
            at.parent.mkdir(parents=True, exist_ok=True)
            with (at.parent / f".{at.name}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases the lock with the process
                held = None if expected is ANY else self.get(path)
                if expected is not ANY and expected != (held and held.version):
                    raise Changed(_changed(self.where(path)))
                with self._part(at.parent) as part:
                    with part.open("xb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                    part.replace(at)
                    until_on_disk(at.parent)
        return _digest(content)

    def add(self, path: str, file: Path) -> bool:
        at = self._at(path)
        with self._explained(path):
            at.parent.mkdir(parents=True, exist_ok=True)
            until_on_disk(file)
            try:
                os.link(file, at)  # a second name for the same bytes: no copy
            except FileExistsError:
                return False
            except OSError:  # another filesystem, or one without links
                if at.exists():
                    return False
                with self._part(at.parent) as part:
                    shutil.copyfile(file, part)
                    until_on_disk(part)
                    part.replace(at)
        return True  # the new name reaches the disk before the name of any later put

    def copy(self, path: str, to: str) -> None:
        self.add(to, self._at(path))

    def move(self, path: str, to: str) -> bool:
        at, target = self._at(path), self._at(to)
        try:
            os.utime(at)  # before the object has the new path: there, an old time would be wrong
            target.parent.mkdir(parents=True, exist_ok=True)
            at.rename(target)
        except FileNotFoundError:
            return False
        return True

    def opened(self, path: str) -> pa.NativeFile:
        return pa.OSFile(str(self._at(path)))

    def infos(self, folder: str = "") -> list[ObjectInfo]:
        found, waiting = [], [self._at(folder) if folder else self._root]
        while waiting:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append(Path(entry.path))
                    elif not _OWN.fullmatch(entry.name):
                        with suppress(FileNotFoundError):
                            info = entry.stat()
                            path = Path(entry.path).relative_to(self._root).as_posix()
                            found.append(ObjectInfo(path, info.st_size, info.st_mtime))
        return sorted(found)

    def info(self, path: str) -> ObjectInfo | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            info = self._at(path).stat()
            return ObjectInfo(path, info.st_size, info.st_mtime)
        return None

    def delete(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        # On the filesystem of the objects, so that `add` copies nothing.
        self._root.mkdir(parents=True, exist_ok=True)
        with self._part(self._root) as part:
            yield part

    def remove_scratch(self, older_than_s: float) -> int:
        limit, count = time.time() - older_than_s, 0
        for part in self._root.rglob(".*.part"):
            with suppress(FileNotFoundError):
                if part.stat().st_mtime < limit:
                    part.unlink()
                    count += 1
        return count

    def _at(self, path: str) -> Path:
        return self._root / _checked(path)

    @contextmanager
    def _part(self, folder: Path) -> Iterator[Path]:
        """Give a new path that is no object; a file left at the path is removed."""
        part = folder / f".{uuid.uuid4().hex}.part"
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno or 0, not_written(self.where(path), error)) from error


class _Store(Objects):
    """Objects of an object store with conditional puts. A version is the store's e-tag."""

    def __init__(self, uri: str, store: S3Store | GCSStore | AzureStore) -> None:
        self._uri, self._store = uri.partition("?")[0].rstrip("/"), store
        # Google's store puts by generation, the others by e-tag.
        self._mark = "version" if uri.startswith("gs:") else "e_tag"

    def where(self, path: str) -> str:
        return f"{self._uri}/{path}"

    def get(self, path: str) -> Held | None:
        try:
            with self._explained(path):
                result = self._store.get(_checked(path))
                return Held(bytes(result.bytes()), self._version(result.meta))
        except FileNotFoundError:
            return None

    def put(self, path: str, content: bytes, expected: str | Condition | None) -> str:
        mode: Any = "create" if expected is None else {self._mark: expected}
        if expected is ANY:
            mode = "overwrite"
        with self._explained(path, is_put=True):
            try:
                return self._version(self._store.put(_checked(path), content, mode=mode, use_multipart=False))
            except FileNotFoundError as error:
                if not isinstance(mode, dict):
                    raise OSError(errno.ENOENT, not_written(self.where(path), "there is no such bucket")) from error
            except _refusals():
                # The client asks again after an answer was lost: a refusal may follow the put's own success.
                held = self.get(path)
                if held is not None and held.content == content:
                    return held.version
        raise Changed(_changed(self.where(path)))

    def add(self, path: str, file: Path) -> bool:
        with self._explained(path, is_put=True):
            try:
                self._store.head(_checked(path))  # an upload that is refused at its end costs as much as one taken
                return False
            except FileNotFoundError:
                pass
            try:
                self._store.put(path, file, mode="create", use_multipart=False)
            except _refusals():
                return False
        return True

    def copy(self, path: str, to: str) -> None:
        with self._explained(to, is_put=True):
            if self.info(to) is None:
                self._store.copy(_checked(path), _checked(to))

    def move(self, path: str, to: str) -> bool:
        with self._explained(to, is_put=True):
            try:
                self._store.copy(_checked(path), _checked(to))
            except FileNotFoundError:
                return False
        self.delete(path)
        return True

    def opened(self, path: str) -> pa.NativeFile:
        with self._explained(path):
            result = self._store.get(_checked(path))
            if result.meta["size"] <= WHOLE_BYTES:
                return pa.BufferReader(pa.py_buffer(result.bytes()))
        return pa.PythonFile(_Ranges(self, path, result.meta["size"], result.meta["e_tag"]), mode="r")

    def read_range(self, path: str, start: int, end: int, e_tag: str | None) -> bytes:
        """Return bytes of an object; raise OSError if the object is not the same any more."""
        with self._explained(path):
            return bytes(self._store.get(path, options={"range": (start, end), "if_match": e_tag}).bytes())

    def infos(self, folder: str = "") -> list[ObjectInfo]:
        with self._explained(folder):
            listed = [info for chunk in self._store.list(_checked(folder) if folder else None) for info in chunk]
        return sorted(ObjectInfo(info["path"], info["size"], info["last_modified"].timestamp()) for info in listed)

    def info(self, path: str) -> ObjectInfo | None:
        with suppress(FileNotFoundError), self._explained(path):
            meta = self._store.head(_checked(path))
            return ObjectInfo(path, meta["size"], meta["last_modified"].timestamp())
        return None

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError), self._explained(path):
            self._store.delete(_checked(path))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="cryptovol-") as folder:
            yield Path(folder) / "part"

    def remove_scratch(self, older_than_s: float) -> int:  # noqa: ARG002 - a store shows no object that is being put
        return 0

    def _version(self, meta: Any) -> str:
        return str(meta[self._mark])

    @contextmanager
    def _explained(self, path: str, *, is_put: bool = False) -> Iterator[None]:
        """Raise the client's errors as OSError, see `offline.lake.remote`."""
        where = self.where(path)
        with explained(lambda reason: not_written(where, reason) if is_put else f"{where} cannot be read ({reason})"):
            yield


class _Ranges(io.RawIOBase):
    """An object of a store as a file; each read is a request for a range of the same version."""

    def __init__(self, store: _Store, path: str, size: int, e_tag: str | None) -> None:
        self._store, self._path, self._size, self._e_tag = store, path, size, e_tag
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._place + size)
        if end <= self._place:
            return b""
        content = self._store.read_range(self._path, self._place, end, self._e_tag)
        self._place = end
        return content


def _refusals() -> tuple[type[Exception], ...]:
    """Return the errors of a put whose condition failed."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError  # noqa: PLC0415

    return AlreadyExistsError, PreconditionError


def _checked(path: str) -> str:
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or _OWN.fullmatch(parts[-1]):
        raise ValueError(f"the path of an object must be as manifests/BTC-USD.json, was {path!r}")
    return path


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _changed(where: str) -> str:
    return f"another process has written {where} meanwhile: run this again"


def not_written(where: str, reason: object) -> str:
    """Return the text of an error about an object or rows that cannot be written."""
    return (
        f"{where} cannot be written ({reason}): make room, or choose another LAKE_URI, then run it again; what was "
        "there before is whole"
    )
