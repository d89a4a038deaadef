"""Unit tests start no process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import NoReturn

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_process() -> Iterator[None]:
    """Let a test fail that starts a process: such a test belongs to `tests/services/`."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a unit test starts a process: move the test to tests/services/")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # else scikit-learn starts a process to count the cores
        patch.setattr(subprocess.Popen, "__init__", refuse)
        yield
