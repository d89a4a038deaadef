"""A folder of copies with a list of their SHA-256, whole or not there at all.

The list is `SHA256SUMS`, in the form of the command: `sha256sum -c SHA256SUMS` checks a backup without this program.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from data.files import until_on_disk

SUMS = "SHA256SUMS"
CHUNK = 1 << 20
TRIES = 5
"""Readings of a file that changes while it is read."""


class BackupRefused(Exception):
    """A backup or a restore cannot go on; the text gives a person the reason and the remedy."""


class Readable(Protocol):
    """An open file."""

    def read(self, size: int, /) -> bytes: ...


class Copies:
    """Copies below a folder, with the digest of what was read of each source.

    Attributes:
        folder: of the copies.
        digests: SHA-256 by path relative to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.digests = folder, dict[str, str]()

    def add(self, path: str, source: Readable) -> None:
        """Copy all bytes of an open file.

        Raises:
            OSError: the source cannot be read, or the copy cannot be written.
        """
        digest, at = hashlib.sha256(), self._place(path)
        with at.open("wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        self.digests[path] = digest.hexdigest()

    def add_bytes(self, path: str, content: bytes) -> None:
        """Write a copy of some bytes."""
        self.add(path, io.BytesIO(content))

    def add_file(self, path: str, source: Path) -> bool:
        """Copy a file that other processes may write; return False if the file has gone.

        Raises:
            BackupRefused: the file changed during each of `TRIES` readings.
        """
        for _ in range(TRIES):
            try:
                before = _look(source)
                with source.open("rb") as file:
                    self.add(path, file)
                if _look(source) == before:
                    return True
            except FileNotFoundError:
                self.drop(path)
                return False
        raise BackupRefused(f"{source} changes while it is copied: make the backup again when nothing writes the file")

    def note(self, path: str) -> None:
        """Take a file of the folder that another program has written into the list."""
        with (self.folder / path).open("rb") as file:
            self.digests[path] = hashlib.file_digest(file, "sha256").hexdigest()

    def drop(self, path: str) -> None:
        """Remove a copy."""
        (self.folder / path).unlink(missing_ok=True)
        self.digests.pop(path, None)

    def _place(self, path: str) -> Path:
        if set(PurePosixPath(path).parts) & {"..", "/"} or set(path) & set("\n\r\\"):
            raise BackupRefused(f"no backup can have a file with the name {path!r}: rename it")
        at = self.folder / path
        at.parent.mkdir(parents=True, exist_ok=True)
        return at


def _look(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def made_whole(folder: Path) -> Iterator[Copies]:
    """Make a new folder of copies: under another name first, and under its own name when all copies are proved.

    The copies are read back and compared with what was read of the sources. A killed backup leaves a hidden folder,
    which the next backup of the name removes.

    Raises:
        BackupRefused: the folder exists and is not empty, another backup makes it, or a copy differs.
        OSError: the folder cannot be written; no folder of the name is left.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupRefused(
            f"{folder} is there already: a backup needs a new or empty folder, BACKUP names another one"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(exist_ok=True)
    with _alone(part, f"another backup makes {folder}: wait for its end"):
        try:
            for rest in part.iterdir():
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
            copies = Copies(part)
            yield copies
            lines = [f"{digest}  {path}\n" for path, digest in sorted(copies.digests.items())]
            (part / SUMS).write_text("".join(lines), encoding="utf-8")
            check(part)
            for each in (part / SUMS, *(path for path in part.rglob("*") if path.is_dir()), part):
                until_on_disk(each)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    until_on_disk(folder.parent)


@contextmanager
def _alone(folder: Path, otherwise: str) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases the lock with the process
        except BlockingIOError:
            raise BackupRefused(otherwise) from None
        yield
    finally:
        os.close(descriptor)


def check(folder: Path) -> Mapping[str, str]:
    """Return the digests of a backup's files by path, after each file was read and compared.

    Raises:
        BackupRefused: the folder is no whole backup; the text says which file is missing, changed or too many.
    """
    digests = listed(folder)
    for path, digest in digests.items():
        try:
            with (folder / path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BackupRefused(f"the backup {folder} is broken: {path} cannot be read ({error.strerror})") from None
        if found != digest:
            raise BackupRefused(f"the backup {folder} is broken: {path} has the SHA-256 {found}, listed is {digest}")
    return digests


def listed(folder: Path) -> dict[str, str]:
    """Return the digests of a backup's files by path, as listed.

    Raises:
        BackupRefused: the folder has no list, a damaged list, or files that are not listed.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BackupRefused(f"{folder} is no whole backup: {SUMS} cannot be read ({error})") from None
    digests = {}
    for number, line in enumerate(lines, 1):
        digest, gap, path = line.partition("  ")
        if not gap or len(digest) != 64 or {"..", "/"} & set(PurePosixPath(path).parts):
            raise BackupRefused(f"the backup {folder} is broken: line {number} of {SUMS} has no digest and path")
        digests[path] = digest
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if extra := sorted(there - digests.keys() - {SUMS}):
        raise BackupRefused(f"the backup {folder} is broken: {extra[0]} is in the folder, and not in {SUMS}")
    return digests
