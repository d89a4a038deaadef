"""A command whose output goes into a pipe may lose its reader, as to `head`: that is no failure to be traced."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
