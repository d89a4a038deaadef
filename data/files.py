"""Files that are written whole or not at all, and pipes whose reader is gone."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Open a file for writing that takes its name only when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
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


CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that holds the project."""

READER_GONE = 141
"""Exit code: 128 + SIGPIPE, as shells have it. The signal itself would also end a command that a server hangs up on."""


@contextmanager
def may_lose_its_reader() -> Iterator[None]:
    """End the process quietly where nobody reads what it prints any more."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it exits
        sys.exit(READER_GONE)
