"""The clean-up: objects that no manifest names go, after a time in which nobody can need them any more."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.models.served import ML
from data.times import NS
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import ingest, receipt_of, simulate
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
from offline.lake.cleaning import clean
from offline.lake.state import OBJECTS
from offline.lake.store import Lake
from offline.promotion.inputs import lake_sample
from offline.promotion.provenance import LakeRows, Provenance, named_hashes
from tests.days import MIDNIGHT, recorded, trades_at
from tests.unit.test_lake import DAY, NOTES, SCHEMA, batch

HOUR_S = 3_600.0


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake")


def write(lake: Lake, rows: int) -> str:
    return lake.write("trades", "BTC-USD", DAY, [batch(0, rows)], SCHEMA, NOTES).path


def grow_old(lake: Lake, hours: float) -> None:
    """Put the time of change of all objects back."""
    for path in lake.objects.paths(OBJECTS):
        at = time.time() - hours * HOUR_S
        os.utime(lake.objects.where(path), (at, at))


def later(hours: float) -> int:
    return time.time_ns() + int(hours * HOUR_S * NS)


def test_a_replaced_object_goes_when_nobody_can_read_it_any_more(lake: Lake) -> None:
    old, new = write(lake, 5), write(lake, 6)
    grow_old(lake, 100)
    held = clean(lake, 24 * HOUR_S, time.time_ns())
    assert (held.removed, held.kept) == (0, 1)  # a reader may hold the manifest of a moment ago
    assert clean(lake, 24 * HOUR_S, later(25)).removed == 1
    assert not Path(old).exists()
    assert Path(new).exists()
    assert lake.product("BTC-USD").dropped == {}


def test_an_object_of_a_writer_at_work_stays(lake: Lake) -> None:
    """Nothing names the object yet: the writer has not put the manifest."""
    with lake.batch() as changes:
        changes.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
        assert clean(lake, 24 * HOUR_S, time.time_ns())[::2] == (0, 1)
    assert lake.read("trades", "BTC-USD", DAY).num_rows == 5


def test_an_old_object_that_a_writer_finds_in_place_is_young_again(lake: Lake) -> None:
    write(lake, 5)
    write(lake, 6)
    grow_old(lake, 100)
    with lake.batch() as changes:
        changes.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
        assert clean(lake, 24 * HOUR_S, time.time_ns() + NS).removed == 0
    assert lake.read("trades", "BTC-USD", DAY).num_rows == 5


def test_rejects_stay(lake: Lake, tmp_path: Path) -> None:
    ingest(lake, recorded(tmp_path / "r.csv", trades_at(MIDNIGHT + np.arange(3) * NS)))
    assert clean(lake, 0, later(1)).removed == 0
    rejects = receipt_of(lake, "r.csv").rejects
    assert rejects is not None
    assert lake.objects.info(rejects.path) is not None


def test_a_lost_object_makes_its_partition_stale(lake: Lake) -> None:
    lake.write("trades", "BTC-USD", DAY + dt.timedelta(days=1), [batch(0, 7)], SCHEMA, NOTES)
    Path(write(lake, 5)).unlink()
    assert clean(lake, HOUR_S, time.time_ns()).lost == [("trades", "BTC-USD", DAY)]
    assert [each.day for each in lake.partitions("trades")] == [DAY + dt.timedelta(days=1)]


class _Registry:
    """A registry with one version, the challenger."""

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags

    def aliased(self, name: str, alias: str) -> object:
        tags = self._tags if (name, alias) == (ML, "challenger") else None
        return None if tags is None else msgspec.defstruct("V", [("tags", dict)])(tags)


def test_rows_of_a_version_in_use_stay_and_are_read(lake: Lake) -> None:
    """The gate fits the recipe again on the rows of then, though the day was made again."""
    spec = FeatureSpec()
    hashes = []
    for seed in range(3):
        simulate(lake, "BTC-USD", DAY, seed, (9, 10))
        for make in (make_trades, make_feature_rows, make_training_set):
            made = make(lake, "BTC-USD", DAY, spec)
        assert made.partition is not None
        hashes.append(made.partition.content_hash)
        if not seed:
            before = lake_sample(lake, LakeRows(content_hashes={"BTC-USD": {DAY: hashes[0]}}), spec)
    rows = LakeRows(content_hashes={"BTC-USD": {DAY: hashes[0]}})
    used = named_hashes(_Registry(Provenance.here("cascade", rows).tags()))  # type: ignore[arg-type]
    assert used == {hashes[0]}
    clean(lake, 0, later(1), used)
    found = lake_sample(lake, rows, spec)
    assert found.values.tobytes() == before.values.tobytes()
    assert found.targets.tobytes() == before.targets.tobytes()
    with pytest.raises(ValueError, match="the training rows of BTC-USD on 2025-01-06 have changed"):
        lake_sample(lake, LakeRows(content_hashes={"BTC-USD": {DAY: hashes[1]}}), spec)
