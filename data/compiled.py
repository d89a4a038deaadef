"""Compile functions with numba, and keep the compiled code in one folder."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import structlog
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator
from pydantic import Field

from data.settings import Folder, StateSettings

log = structlog.get_logger()

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = Path(__file__).resolve().parent


class CompilerSettings(StateSettings):
    """Folder and processor of compiled code, by numba's own names."""

    numba_cache_dir: Folder | None = Field(None, description="keeps compiled code; without: numba/ under VAR_DIR")
    numba_cpu_name: str | None = Field(
        None, description="processor that code is compiled for, by LLVM's name; without: the processor of this machine"
    )

    def cache_folder(self) -> Path:
        """Return the folder of the code that is compiled from the present sources."""
        return (self.numba_cache_dir or self.var_dir / "numba") / sources_digest(FOLDER)


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


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


_SETTINGS = CompilerSettings()
_CACHE = _SETTINGS.cache_folder()
numba.config.CACHE_DIR = str(_CACHE)  # type: ignore[attr-defined]
numba.config.CPU_NAME = _SETTINGS.numba_cpu_name  # type: ignore[attr-defined]
numba.config.DISABLE_JIT = 0  # type: ignore[attr-defined] # NUMBA_DISABLE_JIT: the code is no plain Python
if _SETTINGS.numba_cpu_name:  # the features of this machine must be no part of the cache's keys
    numba.config.CPU_FEATURES = ""  # type: ignore[attr-defined]
_IS_WRITABLE = _is_writable(_CACHE)


@cache
def _report_miss() -> None:
    """Report once that this process compiles: with the log of a process, else on stderr, as stdout may hold data."""
    cpu = _SETTINGS.numba_cpu_name or "this machine"
    text = "compiled code is missing in a cache that cannot be written, so this process compiles for itself"
    if structlog.is_configured():
        log.warning(text, folder=str(_CACHE), cpu=cpu)
    else:
        print(f"warning: {text}: {_CACHE}, code for {cpu}", file=sys.stderr)


class _FixedLocator(UserProvidedCacheLocator):
    """Name the folder of a function in a cache that cannot be written; numba's own locators refuse such a folder."""

    def ensure_cache_path(self) -> None:
        """Accept the folder."""


class _FixedCacheImpl(CompileResultCacheImpl):
    _locator_classes = [_FixedLocator]  # noqa: RUF012 # a list in the base, too


class _FixedCache(FunctionCache):
    """Load compiled code from a cache that cannot be written, and never write the cache."""

    _impl_class = _FixedCacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code for a signature, None if the code must be compiled."""
        found = None
        with suppress(OSError):  # there is no folder
            found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        if found is None:
            _report_miss()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep nothing."""


def compiled(function: F) -> F:
    """Compile a function when it is first called, or load it from the cache.

    Other threads run while the function runs. A division by 0 gives the IEEE 754 result, without a branch beside each
    division. Additions keep their written order: results are the same on machines of one type.
    """
    dispatcher: Any = numba.njit(cache=_IS_WRITABLE, nogil=True, error_model="numpy")(function)
    if not _IS_WRITABLE:
        dispatcher._cache = _FixedCache(function)  # type: ignore[no-untyped-call]
    return cast(F, dispatcher)


@compiled
def copy(values: Any, out: Any) -> None:
    """Copy values into the first places of an array.

    `out[:n] = values` would compile numba's check of the shapes, with the texts of its errors: about 2 s and 20 MiB.
    """
    for i in range(len(values)):
        out[i] = values[i]
