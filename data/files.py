"""Write files whole or not at all, wait for the disk, and end quietly when the reader of a pipe is gone."""

from __future__ import annotations

import gzip
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Open a temporary file for writing, and rename the file to `path` after the last byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{threading.get_native_id()}.part")
    try:
        with part.open("wb") as plain:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) as packed:
                    yield packed
            else:
                yield plain
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def until_on_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that holds the project."""

READER_GONE = 141
"""Exit code: 128 + SIGPIPE, as in shells. Why not the signal itself: the signal would also end a command whose server
closes the connection."""


@contextmanager
def may_lose_its_reader() -> Iterator[None]:
    """End the process quietly if the reader of its standard output is gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it exits
        sys.exit(READER_GONE)
