"""A lake of an earlier release, files without manifests, is taken over; a killed take-over goes on."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Trades
from offline.days.staging import ingest, receipt_of
from offline.days.staleness import stale
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET
from offline.lake.objects import Objects
from offline.lake.state import Entry, ProductState
from offline.lake.store import Lake
from offline.lake.takeover import TakenOver, take_over
from tests.days import DAY, MIDNIGHT, recorded, trades_at
from tests.services.test_days import make_all
from tests.unit.test_lake import names_below

SPEC = FeatureSpec()
PRODUCTS = ["BTC-USD", "ETH-USD"]


def recording(folder: Path) -> Path:
    times = MIDNIGHT + np.arange(0, 90_000, 60) * NS
    return recorded(folder / "two words.csv", Trades.join([trades_at(times, each) for each in PRODUCTS]))


def old_file(lake: Lake, entry: Entry, path: Path) -> None:
    """Write rows as the earlier release did: hash and notes are metadata of the file."""
    table = pa.parquet.read_table(lake.objects.where(entry.path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.parquet.ParquetWriter(path, table.schema, compression="zstd") as file:
        file.write_table(table)
        file.add_key_value_metadata({b"content_hash": entry.content_hash.encode(), b"notes": bytes(entry.notes)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of this release: a recording of two products, 25 hours."""
    folder = tmp_path_factory.mktemp("made")
    lake = Lake.open(folder / "lake")
    ingest(lake, recording(folder))
    make_all(lake, PRODUCTS, [DAY, DAY + dt.timedelta(days=1)])
    return lake


@pytest.fixture
def old(made: Lake, tmp_path: Path) -> Path:
    """The same lake as of the earlier release."""
    for table in ("recordings", TRADES, FEATURE_ROWS, TRAINING_SET):
        for each in made.partitions(table):
            entry = made.product(each.product_id).entry(each.table, each.day)
            assert entry is not None
            old_file(made, entry, tmp_path / "lake" / each.table / each.product_id / f"{each.day}.parquet")
    rejects = receipt_of(made, "two words.csv").rejects
    assert rejects is not None
    old_file(made, rejects, tmp_path / "lake" / "rejects" / "two%20words.csv.parquet")
    return tmp_path / "lake"


def states(lake: Lake) -> list[ProductState]:
    return [lake.product(each) for each in lake.product_ids()]


def test_a_lake_of_an_earlier_release_names_the_command(old: Path) -> None:
    lake = Lake.open(old)
    asked: list[Callable[[], object]] = [
        lambda: lake.partition(TRADES, "BTC-USD", DAY),
        lambda: stale(lake, SPEC),
        lambda: lake.held().products(TRADES),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=r"is of an earlier release: take it over by `python -m offline.lake`"):
            ask()


def test_all_is_there_after_a_take_over(made: Lake, old: Path, tmp_path: Path) -> None:
    """Partitions, notes and receipts are those of a lake of this release; nothing is stale, nor read again."""
    said: list[str] = []
    assert take_over(Objects.open(old), said.append) == TakenOver(16, 1)
    assert said == ["BTC-USD: 8 partitions", "ETH-USD: 8 partitions"]
    lake = Lake.open(old)
    assert states(lake) == states(made)
    assert receipt_of(lake, "two words.csv") == receipt_of(made, "two words.csv")
    assert sorted(path.name for path in old.iterdir()) == ["manifests", "objects", "rejects"]
    assert names_below(old) == names_below(Path(made.objects.where("")))
    assert lake.read(TRADES, "BTC-USD", DAY).equals(made.read(TRADES, "BTC-USD", DAY))
    assert stale(lake, SPEC) == []
    assert not ingest(lake, recording(tmp_path)).is_new
    assert make_all(lake, PRODUCTS, [DAY, DAY + dt.timedelta(days=1)]) == set()
    assert take_over(lake.objects) == TakenOver(0, 0)


def be_killed_while_taking_over(objects: Objects, method: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a take-over at the call of a method after `calls` calls; the lake is refused then."""
    left, real = [None] * calls, getattr(type(objects), method)

    def killed(*arguments: object) -> object:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(objects), method, killed)
        take_over(objects)
    with pytest.raises(ValueError, match="take it over"):
        stale(Lake(objects), SPEC)


@pytest.mark.parametrize("method", ["copy", "put", "delete"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_take_over_goes_on(
    made: Lake, old: Path, method: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first, second or third object, manifest or receipt, or removal of an old file."""
    objects = Objects.open(old)
    be_killed_while_taking_over(objects, method, calls, monkeypatch)
    take_over(objects)
    assert states(Lake.open(old)) == states(made)
    assert names_below(old) == names_below(Path(made.objects.where("")))


def test_a_damaged_file_stops_the_take_over_and_nothing_is_removed(old: Path) -> None:
    damaged = old / TRADES / "ETH-USD" / f"{DAY}.parquet"
    damaged.write_bytes(b"PAR1")
    before = names_below(old / FEATURE_ROWS)
    with pytest.raises(
        ValueError, match=r"trades/ETH-USD/2025-03-05.parquet is no whole file of the lake .*: delete it"
    ):
        take_over(Objects.open(old))
    assert names_below(old / FEATURE_ROWS) == before
    damaged.unlink()
    take_over(Objects.open(old))
    found = stale(Lake.open(old), SPEC)
    assert (found[0].table, found[0].day, {each.product_id for each in found}) == (TRADES, DAY, {"ETH-USD"})


def test_names_of_the_lake_are_no_old_files(made: Lake, tmp_path: Path) -> None:
    shutil.copytree(made.objects.where(""), tmp_path / "copy")
    (tmp_path / "copy" / "recordings").mkdir()
    (tmp_path / "copy" / "recordings" / "monday.parquet").write_bytes(b"a recording of somebody")
    assert states(Lake.open(tmp_path / "copy")) == states(made)
    assert msgspec.json.decode((tmp_path / "copy" / "manifests" / "BTC-USD.json").read_bytes())["format"] == 2
