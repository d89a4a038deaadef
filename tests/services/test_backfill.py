"""Recordings to feature rows in Parquet."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from offline.backfill import backfill_files

SPEC = FeatureSpec()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products, the second behind the first, and a line without a trade."""
    path = tmp_path_factory.mktemp("backfill") / "trades.csv"
    write_csv(path, [simulate_day(product, dt.date(2025, 3, 5), hours=(9, 11)) for product in ("BTC-USD", "ETH-USD")])
    with path.open("a") as file:
        file.write(",BTC-USD,x,2025-03-05T12:00:00Z,,1,1,buy\n")
    return path


def test_a_backfill_holds_the_bytes_of_the_kernel(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    tally = backfill_files([recording], out, SPEC)
    table = pyarrow.parquet.read_table(out)
    assert (table.num_rows, tally.rejected) == (tally.taken, 1)
    assert table.schema.metadata[b"spec_id"].decode() == SPEC.spec_id
    for product in ("BTC-USD", "ETH-USD"):
        trades = simulate_day(product, dt.date(2025, 3, 5), hours=(9, 11))
        expected = feature_rows(trades, Windows(SPEC)).values
        mine = table.filter(pyarrow.compute.equal(table["product_id"], product))
        assert mine["trade_id"].to_numpy().tobytes() == trades.trade_id.tobytes()
        found = np.column_stack([mine[name].to_numpy().astype(np.float64) for name in SPEC.columns])
        assert found.tobytes() == expected.tobytes()


def test_a_recording_that_is_none_leaves_no_file(tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.csv", tmp_path / "out.parquet"
    bad.write_bytes(b"\x89PNG")
    command = [sys.executable, "-m", "offline.backfill", str(bad), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "holds no trades" in ended.stderr
    assert not list(tmp_path.glob("out*"))
