"""How functions of this project are compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

ROOM = Path(__file__).resolve().parent


def _sources() -> str:
    """Return a digest of the room's code. The compiler looks at a function's own file only, not at what it calls."""
    digest = hashlib.sha256()
    for path in sorted(ROOM.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


# Compiled code is kept with all other state, so that `make reset` forgets it and no source folder collects it.
numba.config.CACHE_DIR = str(ROOM.parent / "var" / "numba" / _sources())  # type: ignore[attr-defined]


def compiled(function: F) -> F:
    """Compile a function when it is first called, or load it from the cache.

    Other threads go on meanwhile, and a division by 0 gives what IEEE 754 says, without a branch beside each division.
    Additions stay in the order in which they are written: results are the same on machines of one type.
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
