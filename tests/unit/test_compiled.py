"""Compiled code is made anew when any source below `data/` changes, and kept where the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.compiled import FOLDER, CompilerSettings, sources_digest


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
    assert CompilerSettings(_env_file=None).cache_folder() == FOLDER.parent / "var" / "numba" / digest
    monkeypatch.setenv("VAR_DIR", "/srv/state")
    assert CompilerSettings(_env_file=None).cache_folder() == Path("/srv/state/numba") / digest
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/cache")
    assert CompilerSettings(_env_file=None).cache_folder() == Path("/cache") / digest
