"""Compiled code in a checkout that cannot be written."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.compiled import FOLDER

COMPILE = "from data.features.kernel import log_return; print(log_return(100.0, 101.0))"


def test_a_checkout_that_cannot_be_written_compiles_nevertheless(tmp_path: Path) -> None:
    """A file stands where the cache folder would be: root may write anywhere, so permissions would prove nothing."""
    shutil.copytree(FOLDER, tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "var").write_text("no folder")
    environ = {key: value for key, value in os.environ.items() if key not in ("VAR_DIR", "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", COMPILE], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(math.log(101 / 100))
