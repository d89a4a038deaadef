"""A lake of an earlier release in an object store is taken over, and a killed take-over goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.days.staging import receipt_of
from offline.days.staleness import stale
from offline.days.steps import TRADES
from offline.lake.objects import ANY, Objects
from offline.lake.store import Lake
from offline.lake.takeover import TakenOver, take_over
from tests.days import DAY
from tests.seaweed import Seaweed
from tests.unit.test_takeover import SPEC, be_killed_while_taking_over, made, old, states

__all__ = ["made", "old"]


@pytest.fixture
def old_objects(old: Path, seaweed: Seaweed, tmp_path: Path) -> Objects:
    """The files of the earlier release below a prefix."""
    objects = Objects.open(seaweed.uri(f"old-{tmp_path.name}"))
    for path in old.rglob("*.parquet"):
        objects.put(path.relative_to(old).as_posix(), path.read_bytes(), ANY)
    return objects


def test_all_is_there_after_a_take_over(made: Lake, old_objects: Objects) -> None:
    before = len(old_objects.paths())
    assert take_over(old_objects) == TakenOver(before - 1, 1) == TakenOver(16, 1)
    lake = Lake(old_objects)
    assert states(lake) == states(made)
    assert receipt_of(lake, "two words.csv") == receipt_of(made, "two words.csv")
    assert {path.partition("/")[0] for path in old_objects.paths()} == {"manifests", "objects", "rejects"}
    assert old_objects.paths("objects") == made.objects.paths("objects")
    assert lake.read(TRADES, "BTC-USD", DAY).equals(made.read(TRADES, "BTC-USD", DAY))
    assert stale(lake, SPEC) == []
    assert take_over(old_objects) == TakenOver(0, 0)


@pytest.mark.parametrize("method", ["copy", "put", "delete"])
@pytest.mark.parametrize("calls", [0, 2])
def test_a_killed_take_over_goes_on(
    made: Lake, old_objects: Objects, method: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first or third object, manifest or receipt, or removal of an old file."""
    be_killed_while_taking_over(old_objects, method, calls, monkeypatch)
    take_over(old_objects)
    assert states(Lake(old_objects)) == states(made)
    assert old_objects.paths("objects") == made.objects.paths("objects")
