"""Compiled code in a checkout or a cache that cannot be written, and for named processors."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from data.compiled import FOLDER
from data.files import CHECKOUT

COMPILE = "from data.features.kernel import log_return; print(log_return(100.0, 101.0))"

DIGEST = """
import datetime as dt, hashlib
import numpy as np
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.simulator.day import simulate_day
from data.truth.adaptation import Adaptations, RawForecasts
from data.truth.targets import target_volatility

spec, trades = FeatureSpec(), simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, 20_000))
rows = feature_rows(trades, Windows(spec))
variance = np.nan_to_num(rows.values[:, 2], nan=1e-8) + 1e-8
raw = RawForecasts(trades.stream, trades.event_time, trades.price, variance, variance / 2, variance * 2,
                   np.ones(len(trades), np.bool_))
adapted = Adaptations(spec).adapt(trades.keys, raw)
made = hashlib.sha256(rows.values.tobytes())
made.update(target_volatility(trades.event_time, trades.price, spec).tobytes())
for column in adapted:
    made.update(column.tobytes())
print(len(trades), made.hexdigest())
"""


def run(
    code: str, settings: Mapping[str, str], *, cwd: Path = CHECKOUT, before: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Run code in a fresh process; return the text of stdout and the text of stderr.

    Args:
        settings: all variables of cache and processor.
        before: words of a command that becomes the process.
    """
    ours = ("VAR_DIR", "NUMBA_CACHE_DIR", "NUMBA_CPU_NAME")
    environ = {key: value for key, value in os.environ.items() if key not in ours} | dict(settings)
    command = [*before, sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def read_only(folder: Path) -> tuple[str, ...]:
    """Return the words of a command that mounts a folder read-only, for root too, and becomes another command."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("no right to mount a folder read-only")
    mounts = f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}" && exec "$@"'
    return "unshare", "--mount", "sh", "-c", mounts, "sh"


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_rows_are_computed_by_compiled_code_whatever_numbas_switch_says(tmp_path: Path) -> None:
    """As plain Python, the windows could not be read at all."""
    code = "from data.features.kernel import log_return; print(type(log_return).__name__)"
    kind, _ = run(code, {"NUMBA_DISABLE_JIT": "1", "NUMBA_CACHE_DIR": str(tmp_path)})
    assert kind == "CPUDispatcher\n"


def test_a_checkout_that_cannot_be_written_compiles_nevertheless(tmp_path: Path) -> None:
    """A file stands where the cache folder would be: root may write anywhere, so permissions would prove nothing."""
    shutil.copytree(FOLDER, tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "var").write_text("no folder")
    printed, warned = run(COMPILE, {}, cwd=tmp_path)
    assert float(printed) == pytest.approx(math.log(101 / 100))
    assert warned.count("compiled code is missing in a cache that cannot be written") == 1


def test_a_cache_that_cannot_be_written_is_read_and_its_gaps_are_reported(tmp_path: Path) -> None:
    """The code of another processor is another entry of the cache."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": "generic"}
    filled, _ = run(COMPILE, cache)
    written = files_of(tmp_path)
    assert any(path.suffix == ".nbc" for path in written)
    assert run(COMPILE, cache, before=read_only(tmp_path)) == (filled, "")
    other, warned = run(COMPILE, cache | {"NUMBA_CPU_NAME": "x86-64-v2"}, before=read_only(tmp_path))
    assert (other, len(warned.splitlines())) == (filled, 1)
    assert f"{tmp_path}/" in warned
    assert "code for x86-64-v2" in warned
    assert files_of(tmp_path) == written


def test_rows_and_forecasts_are_the_same_bytes_on_any_processor(tmp_path: Path) -> None:
    """Feature rows, targets and adapted forecasts, compiled for this machine and for the oldest one."""
    here, _ = run(DIGEST, {})
    generic, _ = run(DIGEST, {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": "generic"})
    assert here.split()[0] == "20000"
    assert generic == here
