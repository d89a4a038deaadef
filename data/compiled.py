"""Compile functions with numba, and keep the compiled code in one folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from data.settings import StateSettings

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = Path(__file__).resolve().parent


def sources_digest(folder: Path) -> str:
    """Return a digest of all Python files below a folder, 12 hexadecimal digits.

    The compiler notices changes in a function's own file only. Without the digest, old compiled code would stay in use
    after a change in a callee or in a constant of another module.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def cache_folder() -> Path:
    """Return the folder of compiled code, below numba's own NUMBA_CACHE_DIR, else VAR_DIR.

    `make reset` removes `var`, and no folder of sources collects compiled code.
    """
    root = os.environ.get("NUMBA_CACHE_DIR") or StateSettings().var_dir / "numba"
    return Path(root).absolute() / sources_digest(FOLDER)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


_CACHE = cache_folder()
numba.config.CACHE_DIR = str(_CACHE)  # type: ignore[attr-defined]
_IS_KEPT = _is_writable(_CACHE)
"""False if no folder can be written; each process then compiles for itself."""


def compiled(function: F) -> F:
    """Compile a function when it is first called, or load it from the cache.

    Other threads run while the function runs. A division by 0 gives the IEEE 754 result, without a branch beside each
    division. Additions keep their written order: results are the same on machines of one type.
    """
    return cast(F, numba.njit(cache=_IS_KEPT, nogil=True, error_model="numpy")(function))
