"""The steps of a product-day: equal to the whole stream, done again only where something has changed."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features import Windows, feature_rows
from data.lake import Lake
from data.simulator import simulate_day
from data.spec import FeatureSpec
from data.trades import NS
from offline.backfill import backfill_files
from offline.days import (
    FEATURE_ROWS,
    TRADES,
    TRAINING_SET,
    feature_columns,
    ingest,
    make_feature_rows,
    make_trades,
    make_training_set,
    simulate,
    stale,
    tail_start,
    training_sample,
)
from offline.samples import sample
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, rough_times, trades_at, without
from tests.proofs import Proof

SPEC = FeatureSpec()
HOUR = 3_600 * NS
STEPS = (TRADES, FEATURE_ROWS, TRAINING_SET)


def days_from(first: dt.date, count: int) -> list[dt.date]:
    return [first + dt.timedelta(days=i) for i in range(count)]


def make_all(
    lake: Lake, products: list[str], days: list[dt.date], spec: FeatureSpec = SPEC
) -> set[tuple[str, str, int]]:
    """Run all steps; return which made something new, by table, product and day of the month."""
    new = set()
    for product in products:
        for day in days:
            new |= {(TRADES, product, day.day)} if make_trades(lake, product, day).is_new else set()
        for day in days:
            new |= {(FEATURE_ROWS, product, day.day)} if make_feature_rows(lake, product, day, spec).is_new else set()
        for day in days:
            new |= {(TRAINING_SET, product, day.day)} if make_training_set(lake, product, day, spec).is_new else set()
    return new


STREAM = trades_at(rough_times(MIDNIGHT + 15 * HOUR, MIDNIGHT + 60 * HOUR, 12))


@pytest.mark.parametrize(
    ("holes", "days"),
    [
        pytest.param([], 3, id="over midnight, with ties and falls there"),
        pytest.param([(DAY_NS - 2 * HOUR, DAY_NS - HOUR)], 3, id="a hole within reach of midnight"),
        pytest.param([(DAY_NS - 200 * NS, DAY_NS + 50 * NS)], 3, id="midnight lies in a pause that is no hole"),
        pytest.param([(DAY_NS - 301 * NS, DAY_NS)], 3, id="midnight ends a hole"),
        pytest.param([(DAY_NS - 301 * NS, DAY_NS - NS)], 3, id="a second of trades between a hole and midnight"),
        pytest.param([(DAY_NS, 2 * DAY_NS)], 3, id="a day is missing"),
        pytest.param([(DAY_NS + 100 * NS, 2 * DAY_NS - 100 * NS)], 3, id="a day has its ends alone"),
        pytest.param([(0, DAY_NS - 20 * NS)], 3, id="few trades before midnight"),
    ],
)
def test_days_one_by_one_equal_the_whole_stream(tmp_path: Path, holes: list[tuple[int, int]], days: int) -> None:
    """Feature rows byte for byte as `offline.backfill` makes them; training rows as `sample` does."""
    trades = without(STREAM, [(MIDNIGHT + start, MIDNIGHT + end) for start, end in holes])
    recording = recorded(tmp_path / "trades.csv", trades)
    lake = Lake.open(tmp_path / "lake")
    ingest(lake, recording)
    make_all(lake, ["BTC-USD"], days_from(DAY, days))
    backfill_files([recording], tmp_path / "whole.parquet", SPEC)

    whole = pa.parquet.read_table(tmp_path / "whole.parquet")
    parts = [lake.read(*place) for place in lake.places(FEATURE_ROWS)]
    assert pa.concat_tables(parts).equals(whole)
    assert [part["event_time"][0].as_py().date() for part in parts] == [
        place.day for place in lake.places(FEATURE_ROWS)
    ]

    found = training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY + dt.timedelta(days=days))
    expected = sample(trades, SPEC)
    assert found.event_time.tobytes() == expected.event_time.tobytes()
    assert found.targets.tobytes() == expected.targets.tobytes()
    assert found.values.tobytes() == expected.values.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_the_kernel_goes_on_from_a_tail_as_from_the_whole(seed: int) -> None:
    """Short windows and blocks, many holes: all that a tail may begin with occurs."""
    rng = np.random.default_rng(seed)
    spec = FeatureSpec(window_size=5, lookback_steps=300, block_steps=60, half_lives=(20, 60), gap_s=60)
    times = rough_times(MIDNIGHT + DAY_NS - 1_000 * NS, MIDNIGHT + DAY_NS + 1_000 * NS, float(rng.uniform(2, 40)), seed)
    holes = [(start, start + int(rng.integers(30, 120)) * NS) for start in rng.choice(times, 6)]
    trades = without(trades_at(times, seed=seed), holes)
    whole = feature_rows(trades, Windows(spec))
    end = MIDNIGHT + DAY_NS
    before = trades.take(slice(int(np.sum(whole.trades.event_time < end))))
    tail = tail_start(before.event_time, end, spec)
    after = feature_rows(trades.take(slice(tail.first, None)), Windows(spec))
    rest = len(trades) - len(before)
    assert after.values[-rest:].tobytes() == whole.values[-rest:].tobytes()
    assert tail.first > 0


def test_a_window_of_many_days_is_made_from_many_days(tmp_path: Path) -> None:
    """400 returns, at most one in 290 s: a row sees the day before, and the one before that."""
    spec = FeatureSpec(window_size=400)
    times = np.arange(MIDNIGHT, MIDNIGHT + 4 * DAY_NS, 290 * NS)
    trades = trades_at(times)
    lake = Lake.open(tmp_path / "lake")
    ingest(lake, recorded(tmp_path / "t.csv", trades))
    days = days_from(DAY, 4)
    make_all(lake, ["BTC-USD"], days, spec)
    expected = feature_rows(trades, Windows(spec)).values
    found = np.concatenate([feature_columns(lake, spec, "BTC-USD", day).values for day in days])
    assert found.tobytes() == expected.tobytes()
    assert found[-1, 0] == 400
    # A trade of the first day: the last day's rows do not see it, those of the third do.
    ingest(lake, recorded(tmp_path / "late.csv", trades_at(np.array([MIDNIGHT + 80_000 * NS]), first_id=2755)))
    make_trades(lake, "BTC-USD", DAY)
    assert [each.day for each in stale(lake, spec) if each.table == FEATURE_ROWS] == days[:3]


def test_nothing_is_made_twice(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    simulate(lake, "BTC-USD", DAY, hours=(9, 10))
    assert [each.why for each in stale(lake, SPEC)] == ["was never made"]
    assert make_all(lake, ["BTC-USD"], [DAY]) == {(table, "BTC-USD", DAY.day) for table in STEPS}
    assert stale(lake, SPEC) == []
    before = files(lake)
    assert make_all(lake, ["BTC-USD"], [DAY]) == set()
    assert not simulate(lake, "BTC-USD", DAY, hours=(9, 10)).is_new
    assert files(lake) == before
    rows = [
        made.facts["rows"]
        for made in (make_trades(lake, "BTC-USD", DAY), make_feature_rows(lake, "BTC-USD", DAY, SPEC))
    ]
    assert rows == [len(simulate_day("BTC-USD", DAY, hours=(9, 10)))] * 2


def test_another_spec_makes_rows_stale_and_not_trades(tmp_path: Path) -> None:
    lake, other = Lake.open(tmp_path), FeatureSpec(window_size=20)
    simulate(lake, "BTC-USD", DAY, hours=(9, 10))
    make_all(lake, ["BTC-USD"], [DAY])
    assert [(each.table, each.why) for each in stale(lake, other)] == [
        (FEATURE_ROWS, "feature spec has changed"),
        (TRAINING_SET, "feature spec has changed"),
    ]
    with pytest.raises(ValueError, match=r"feature rows of BTC-USD on 2025-03-05 are of .* make them again"):
        make_training_set(lake, "BTC-USD", DAY, other)
    with pytest.raises(ValueError, match="training rows of BTC-USD on 2025-03-05 are of feature spec"):
        training_sample(lake, other, ["BTC-USD"], DAY, DAY)
    make_feature_rows(lake, "BTC-USD", DAY, other)
    make_training_set(lake, "BTC-USD", DAY, other)
    assert stale(lake, other) == []


FOUR_DAYS = days_from(DAY, 4)
LATE = {  # when trades come late on the second day -> what changes, by table and day
    "at noon": (12 * HOUR, {TRADES: [1], FEATURE_ROWS: [1], TRAINING_SET: [1]}),
    "in the last hour": (23 * HOUR, {TRADES: [1], FEATURE_ROWS: [1, 2], TRAINING_SET: [1, 2]}),
    "just within the tail": (20 * HOUR + NS, {TRADES: [1], FEATURE_ROWS: [1, 2], TRAINING_SET: [1, 2]}),
    "just before the tail": (20 * HOUR - 90 * NS, {TRADES: [1], FEATURE_ROWS: [1], TRAINING_SET: [1]}),
    "in the first minute": (30 * NS, {TRADES: [1], FEATURE_ROWS: [1], TRAINING_SET: [0, 1]}),
    "after the head": (362 * NS, {TRADES: [1], FEATURE_ROWS: [1], TRAINING_SET: [1]}),
}


@pytest.fixture(scope="module")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of 4 days and 2 products, all made: a trade in 20 s."""
    folder = tmp_path_factory.mktemp("four")
    lake = Lake.open(folder / "lake")
    products = ["BTC-USD", "ETH-USD"]
    times = [rough_times(MIDNIGHT + NS, MIDNIGHT + 4 * DAY_NS, 20, seed) for seed in range(2)]
    streams = [trades_at(times[i], product, i) for i, product in enumerate(products)]
    ingest(lake, recorded(folder / "all.csv", *streams))
    make_all(lake, products, FOUR_DAYS)
    return folder / "lake"


def test_late_trades_are_felt_as_far_as_they_reach(four_days: Path, tmp_path: Path, proof: Proof) -> None:
    """All else keeps its hash, and its file untouched."""
    proof.disturbs("three trades that come late, on the second of four days, of one of two products")
    for when, (at, reach) in LATE.items():
        folder = tmp_path / when
        shutil.copytree(four_days, folder)
        lake = Lake.open(folder)
        stream = lake.read(TRADES, "BTC-USD", FOUR_DAYS[1])
        times = stream["event_time"].cast(pa.int64()).to_numpy()
        before_it = stream["trade_id"][int(np.searchsorted(times, MIDNIGHT + DAY_NS + at)) - 1].as_py()
        late = trades_at(MIDNIGHT + DAY_NS + at + np.array([0, 5, 10]), first_id=before_it + 1, step=1)
        hashes, untouched = content_hashes(lake), files(lake)

        ingested = ingest(lake, recorded(tmp_path / "late.csv", late))
        assert [(each.day, each.rows, each.is_new) for each in ingested.days] == [(FOUR_DAYS[1], 3, True)]
        expected = {(table, "BTC-USD", FOUR_DAYS[i].day) for table, places in reach.items() for i in places}
        new = make_all(lake, ["BTC-USD", "ETH-USD"], FOUR_DAYS)
        assert new == expected, when
        after = content_hashes(lake)
        assert {key for key in after if key[0] in STEPS and after[key] != hashes[key]} == expected, when
        same = {path: found for path, found in files(lake).items() if untouched.get(path) == found}
        assert len(same) == len(untouched) - len(expected), when
        assert stale(lake, SPEC) == [], when
        proof.saw(**{f"changed_{when.replace(' ', '_')}": f"{len(expected)} of {len(hashes)} partitions"})


def test_a_recording_that_shrinks_or_goes_changes_its_days(four_days: Path, tmp_path: Path) -> None:
    shutil.copytree(four_days, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    hashes = content_hashes(lake)
    noon = MIDNIGHT + DAY_NS + 12 * HOUR
    few = trades_at(noon + np.array([0, 1, 2 * DAY_NS]), first_id=10**9, step=1)
    path = recorded(tmp_path / "more.csv", few.take(slice(0, 2)))
    ingest(lake, path)
    make_all(lake, ["BTC-USD"], FOUR_DAYS)
    assert content_hashes(lake) != hashes

    recorded(path, few.take(slice(2, 3)))  # the same name, and nothing of the second day
    assert [(each.day, each.rows) for each in ingest(lake, path).days] == [(FOUR_DAYS[1], 0), (FOUR_DAYS[3], 1)]
    assert {each.why for each in stale(lake, SPEC) if each.day == FOUR_DAYS[1]} == {"recording more.csv is gone"}
    make_all(lake, ["BTC-USD"], FOUR_DAYS)
    shutil.rmtree(tmp_path / "lake" / "recordings" / "more.csv")
    make_all(lake, ["BTC-USD"], FOUR_DAYS)
    assert {key: found for key, found in content_hashes(lake).items() if key in hashes} == hashes
    assert ingest(lake, path).is_new  # its rejects are still there, and do not hide that its days are gone


def test_a_day_whose_recordings_go_goes_too(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    simulate(lake, "BTC-USD", DAY, hours=(9, 10))
    make_all(lake, ["BTC-USD"], [DAY])
    lake.delete("recordings/simulated-0", "BTC-USD", DAY)
    assert [(each.table, each.why) for each in stale(lake, SPEC)] == [(TRADES, "what it was made from is gone")]
    assert make_all(lake, ["BTC-USD"], [DAY]) == {(table, "BTC-USD", DAY.day) for table in STEPS}
    assert not [place for table in STEPS for place in lake.places(table)]
    assert make_trades(lake, "BTC-USD", DAY).facts["missing"] == (
        "no recording has trades of BTC-USD on 2025-03-05 (UTC): ingest one that has"
    )


def files(lake: Lake) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all files of a lake in a folder."""
    root = Path(lake.partitions("recordings")[0].path).parents[3]
    found = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {str(path.relative_to(root)): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def content_hashes(lake: Lake) -> dict[tuple[str, str, int], str]:
    return {
        (each.table, each.product_id, each.day.day): each.content_hash
        for table in ("recordings", *STEPS)
        for each in lake.partitions(table)
    }
