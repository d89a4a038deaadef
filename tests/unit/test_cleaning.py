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
from data.models.registry import Registry, Version
from data.models.served import ML
from data.names import VersionNotFound
from data.times import NS
from offline.cleaning.versions import clean_lake
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import ingest, receipt_of, simulate
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
from offline.lake.cleaning import clean, store_time_ns
from offline.lake.objects import Objects
from offline.lake.state import OBJECTS, REMOVED, removed_folder
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
    size = Path(old).stat().st_size
    held = clean(lake, 24 * HOUR_S, time.time_ns())
    assert (held.removed, held.kept) == (0, 1)  # a reader may hold the manifest of a moment ago
    moved = clean(lake, 24 * HOUR_S, later(25))
    assert (moved.aside, moved.removed) == (1, 0)
    assert not Path(old).exists()
    assert lake.product("BTC-USD").dropped == {}
    assert clean(lake, 24 * HOUR_S, later(23)).removed == 0
    assert clean(lake, 24 * HOUR_S, later(25))[:2] == (1, size)
    assert lake.objects.paths(REMOVED) == []
    assert Path(new).exists()


def test_an_object_of_a_writer_at_work_stays(lake: Lake) -> None:
    """Nothing names the object yet: the writer has not put the manifest."""
    with lake.batch() as changes:
        changes.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)
        found = clean(lake, 24 * HOUR_S, time.time_ns())
        assert (found.aside, found.kept) == (0, 1)
    assert lake.read("trades", "BTC-USD", DAY).num_rows == 5


class Takes:
    """A writer of rows whose old object is unnamed: the object is taken up, and a moment later named."""

    def __init__(self, lake: Lake) -> None:
        write(lake, 5)
        write(lake, 6)
        for path in lake.objects.paths(OBJECTS):
            age(lake, path)
        lake.replace("BTC-USD", lambda state: msgspec.structs.replace(state, dropped={}))
        self._lake, self.changes = lake, lake.held()

    def take_up(self) -> None:
        self.changes.write("trades", "BTC-USD", DAY, [batch(0, 5)], SCHEMA, NOTES)

    def name(self) -> None:
        self.changes.publish()

    def rows(self) -> int:
        return int(self._lake.read("trades", "BTC-USD", DAY).num_rows)


def age(lake: Lake, path: str) -> None:
    """Put the time of change of an object in a folder back."""
    at = time.time() - 100 * HOUR_S
    os.utime(lake.objects.where(path), (at, at))


def test_an_object_that_a_writer_takes_up_and_names_before_the_move_is_put_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Look, taken up, named, moved: the clean-up reads the manifests again, and has all the while lost no row."""
    writer, read = Takes(lake), []
    with monkeypatch.context() as patch:
        real = type(lake.objects).move

        def move(objects: Objects, path: str, to: str) -> bool:
            writer.take_up()
            writer.name()
            moved = real(objects, path, to)
            read.append(writer.rows())
            return moved

        patch.setattr(type(lake.objects), "move", move)
        found = clean(lake, 24 * HOUR_S, time.time_ns())
    assert (found.aside, found.restored, read) == (1, 1, [5])
    assert lake.objects.info(lake.product("BTC-USD").tables["trades"][DAY].path) is not None
    assert clean(lake, 24 * HOUR_S, later(25)).removed == 1, "the copy"
    assert writer.rows() == 5


def test_an_object_that_a_writer_takes_up_before_the_move_and_names_after_the_clean_up_is_read_and_put_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Look, taken up, moved, end of the clean-up, named."""
    writer = Takes(lake)
    with monkeypatch.context() as patch:
        real = type(lake.objects).move

        def move(objects: Objects, path: str, to: str) -> bool:
            writer.take_up()
            return real(objects, path, to)

        patch.setattr(type(lake.objects), "move", move)
        found = clean(lake, 24 * HOUR_S, time.time_ns())
    assert (found.aside, found.restored) == (1, 0)
    writer.name()
    assert writer.rows() == 5, "readers look among the copies, too"
    found = clean(lake, 24 * HOUR_S, later(25))
    assert (found.restored, found.lost) == (1, [])
    assert lake.objects.info(lake.product("BTC-USD").tables["trades"][DAY].path) is not None
    assert writer.rows() == 5


def test_a_copy_of_a_killed_move_is_removed_and_the_object_in_place_stays(lake: Lake) -> None:
    """An object store copies first, and then deletes."""
    write(lake, 5)
    entry = lake.product("BTC-USD").tables["trades"][DAY]
    lake.objects.copy(entry.path, f"{removed_folder(entry.path)}/killed")
    assert clean(lake, 24 * HOUR_S, later(25))[:5:2] == (1, 0, 0)
    assert lake.objects.paths(REMOVED) == []
    assert lake.read("trades", "BTC-USD", DAY).num_rows == 5


def test_the_age_of_an_object_is_that_of_the_clock_of_the_store(lake: Lake) -> None:
    assert abs(store_time_ns(lake.objects) / NS - time.time()) < 60


def test_rejects_stay(lake: Lake, tmp_path: Path) -> None:
    ingest(lake, recorded(tmp_path / "r.csv", trades_at(MIDNIGHT + np.arange(3) * NS)))
    assert clean(lake, 0, later(1)).aside == 0
    rejects = receipt_of(lake, "r.csv").rejects
    assert rejects is not None
    assert lake.objects.info(rejects.path) is not None


def test_a_lost_object_makes_its_partition_stale(lake: Lake) -> None:
    lake.write("trades", "BTC-USD", DAY + dt.timedelta(days=1), [batch(0, 7)], SCHEMA, NOTES)
    Path(write(lake, 5)).unlink()
    assert clean(lake, HOUR_S, time.time_ns()).lost == [("trades", "BTC-USD", DAY)]
    assert [each.day for each in lake.partitions("trades")] == [DAY + dt.timedelta(days=1)]


class _Registry(Registry):
    """A registry with one version, and at most one artifact of the version's run."""

    def __init__(self, tags: dict[str, str], artifact: bytes | None = None, alias: str = "challenger") -> None:
        self._held, self._artifact, self._alias = Version(ML, "7", tags, "run"), artifact, alias

    def aliased(self, name: str, alias: str, timeout_s: float | None = None) -> Version | None:  # noqa: ARG002
        return self._held if (name, alias) == (ML, self._alias) else None

    def artifact(self, run_id: str, path: str) -> bytes:
        if self._artifact is None:
            raise VersionNotFound(f"{run_id} has no {path}")
        return self._artifact


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
    used = named_hashes(_Registry(Provenance.here("cascade", rows).tags()))
    assert used == {hashes[0]}
    for _ in range(2):
        clean(lake, 0, later(1), used)
    found = lake_sample(lake, rows, spec)
    assert found.values.tobytes() == before.values.tobytes()
    assert found.targets.tobytes() == before.targets.tobytes()
    with pytest.raises(ValueError, match="the training rows of BTC-USD on 2025-01-06 have changed"):
        lake_sample(lake, LakeRows(content_hashes={"BTC-USD": {DAY: hashes[1]}}), spec)


LISTED = Provenance.here(
    "cascade", LakeRows(content_hashes={"BTC-USD": {DAY + dt.timedelta(i): "ab" for i in range(900)}})
)
"""Of more product-days than a tag can name: the artifact names the days."""


@pytest.mark.parametrize("alias", ["champion", "challenger", "previous"])
@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (None, "run has no training/rows.json"),
        (b"{}", "training/rows.json is another one than the tag `rows` says"),
    ],
)
def test_nothing_is_removed_while_the_rows_of_a_version_in_use_cannot_be_read(
    lake: Lake, alias: str, artifact: bytes | None, reason: str
) -> None:
    old, _ = write(lake, 5), write(lake, 6)
    clean(lake, HOUR_S, time.time_ns())
    grow_old(lake, 100)
    registry = _Registry(LISTED.tags(), artifact, alias)
    with pytest.raises(
        ValueError, match=rf"volatility-ml version 7 \({alias}\) .* {reason}.* or give the alias `{alias}`"
    ):
        clean_lake(lake, registry, 1e-9)
    assert Path(old).exists()


def test_a_damaged_tag_of_rows_stops_the_clean_up() -> None:
    with pytest.raises(ValueError, match=r"version 7 .*the tag `rows` is damaged"):
        named_hashes(_Registry(LISTED.tags() | {"rows": "{"}))


def test_a_version_that_never_named_rows_stops_no_clean_up(lake: Lake) -> None:
    """As a version that was registered by hand: the version can be fitted again by nobody."""
    old, _ = write(lake, 5), write(lake, 6)
    clean(lake, HOUR_S, time.time_ns())
    assert clean_lake(lake, _Registry({"digest": "ab"}), 1e-9).aside == 1
    assert not Path(old).exists()


def test_the_rows_that_an_artifact_names_stay() -> None:
    assert named_hashes(_Registry(LISTED.tags(), LISTED.rows_file().encode())) == {"ab"}
