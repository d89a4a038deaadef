"""Compiled code is made anew when any source below `data/` changes, and kept where the settings say."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.compiled import FOLDER, cache_folder, sources_digest

COMPILE = "from data.features.kernel import log_return; print(log_return(100.0, 101.0))"


def test_a_change_in_a_sub_folder_changes_the_digest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer.py").write_text("A = 1\n")
    (tmp_path / "inner" / "kernel.py").write_text("B = 1\n")
    before = sources_digest(tmp_path)
    (tmp_path / "inner" / "kernel.py").write_text("B = 2\n")
    assert sources_digest(tmp_path) != before


def test_a_file_that_moves_changes_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("A = 1\n")
    before = sources_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert sources_digest(tmp_path) != before


def test_the_cache_follows_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sources_digest(FOLDER)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("VAR_DIR", "")
    assert cache_folder() == FOLDER.parent / "var" / "numba" / digest
    monkeypatch.setenv("VAR_DIR", "/srv/state")
    assert cache_folder() == Path("/srv/state/numba") / digest
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/cache")
    assert cache_folder() == Path("/cache") / digest


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
