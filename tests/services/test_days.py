"""The steps of a product-day: equal to the whole stream, done again only where something has changed."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features.reach import tail_start
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.simulator.day import simulate_day
from data.times import NS, to_datetime
from offline.backfill import backfill_files
from offline.days.feature_rows import feature_columns, make_feature_rows, span_of
from offline.days.staging import RECORDINGS, ingest, simulate
from offline.days.staleness import stale
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET, StepResult
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set, training_sample
from offline.lake.objects import Objects
from offline.lake.store import Lake
from offline.leaks.rows import check_rows
from offline.samples import sample
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, rough_times, trades_at, without
from tests.proofs import Proof
from tests.seaweed import Lakes
from tests.unit.test_lake import full_disk

SPEC = FeatureSpec()
HOUR = 3_600 * NS
STEPS = (TRADES, FEATURE_ROWS, TRAINING_SET)


def days_from(first: dt.date, count: int) -> list[dt.date]:
    return [first + dt.timedelta(days=i) for i in range(count)]


def make_all(
    lake: Lake, products: list[str], days: list[dt.date], spec: FeatureSpec = SPEC
) -> set[tuple[str, str, int]]:
    """Run all steps; return the changed partitions by table, product and day of the month."""
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
    parts = [lake.read(*place) for place in lake.partition_keys(FEATURE_ROWS)]
    assert pa.concat_tables(parts).equals(whole)
    assert [part["event_time"][0].as_py().date() for part in parts] == [
        place.day for place in lake.partition_keys(FEATURE_ROWS)
    ]

    found = training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY + dt.timedelta(days=days))
    expected = sample(trades, SPEC)
    assert found.event_time.tobytes() == expected.event_time.tobytes()
    assert found.targets.tobytes() == expected.targets.tobytes()
    assert found.values.tobytes() == expected.values.tobytes()

    spans = [span_of(lake, *place[1:], SPEC) for place in lake.partition_keys(FEATURE_ROWS)]
    verdicts = check_rows(found, SPEC, to_datetime(int(np.median(found.event_time))), spans)
    assert all(each.passed for each in verdicts), verdicts


@pytest.mark.parametrize("seed", range(20))
def test_the_kernel_goes_on_from_a_tail_as_from_the_whole(seed: int) -> None:
    """Short windows and blocks, many holes: a tail begins in every possible way."""
    rng = np.random.default_rng(seed)
    spec = FeatureSpec(window_size=5, lookback_steps=300, block_steps=60, half_lives=(20, 60), gap_s=60)
    times = rough_times(MIDNIGHT + DAY_NS - 1_000 * NS, MIDNIGHT + DAY_NS + 1_000 * NS, float(rng.uniform(2, 40)), seed)
    holes = [(start, start + int(rng.integers(30, 120)) * NS) for start in rng.choice(times, 6)]
    trades = without(trades_at(times, seed=seed), holes)
    whole = feature_rows(trades, Windows(spec))
    end = MIDNIGHT + DAY_NS
    before = trades.take(slice(int(np.sum(whole.trades.event_time < end))))
    tail = tail_start(before.event_time, end, spec)
    after = feature_rows(trades.take(slice(tail, None)), Windows(spec))
    rest = len(trades) - len(before)
    assert after.values[-rest:].tobytes() == whole.values[-rest:].tobytes()
    assert tail


def test_a_window_of_many_days_is_made_from_many_days(tmp_path: Path) -> None:
    """400 returns, at most one in 290 s: a row sees the two days before."""
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
        made.facts.rows for made in (make_trades(lake, "BTC-USD", DAY), make_feature_rows(lake, "BTC-USD", DAY, SPEC))
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


def test_late_trades_are_felt_as_far_as_they_reach(four_days: Path, lakes: Lakes, tmp_path: Path, proof: Proof) -> None:
    """All other partitions keep their hash; no object changes, nor the manifest of the other product."""
    proof.disturbs("three trades that come late, on the second of four days, of one of two products")
    for when, (at, reach) in LATE.items():
        uri = lakes.uri()
        objects, lake = Objects.open(uri), Lake.open(uri)
        for file in four_days.rglob("[!.]*.*"):
            objects.put(str(file.relative_to(four_days)), file.read_bytes(), None)
        stream = lake.read(TRADES, "BTC-USD", FOUR_DAYS[1])
        times = stream["event_time"].cast(pa.int64()).to_numpy()
        before_it = stream["trade_id"][int(np.searchsorted(times, MIDNIGHT + DAY_NS + at)) - 1].as_py()
        late = trades_at(MIDNIGHT + DAY_NS + at + np.array([0, 5, 10]), first_id=before_it + 1, step=1)
        hashes, untouched = content_hashes(lake), versions(objects)

        ingested = ingest(lake, recorded(tmp_path / "late.csv", late))
        assert [(each.day, each.rows, each.is_new) for each in ingested.days] == [(FOUR_DAYS[1], 3, True)]
        expected = {(table, "BTC-USD", FOUR_DAYS[i].day) for table, places in reach.items() for i in places}
        new = make_all(lake, ["BTC-USD", "ETH-USD"], FOUR_DAYS)
        assert new == expected, when
        after = content_hashes(lake)
        assert {key for key in after if key[0] in STEPS and after[key] != hashes[key]} == expected, when
        changed = {path for path, found in untouched.items() if versions(objects).get(path) != found}
        assert changed == {"manifests/BTC-USD.json"}, when
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
    lake.delete("recordings/more.csv", "BTC-USD", FOUR_DAYS[3])
    make_all(lake, ["BTC-USD"], FOUR_DAYS)
    assert {key: found for key, found in content_hashes(lake).items() if key in hashes} == hashes
    assert ingest(lake, path).is_new  # its receipt is still there, and does not hide that its days are gone


def test_a_recording_that_changes_while_it_is_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest would be of the old content, the trades of the new one, and no later look would find it."""
    lake = Lake.open(tmp_path / "lake")
    path = recorded(tmp_path / "growing.csv", trades_at(MIDNIGHT + np.arange(1) * NS))
    digest = hashlib.file_digest

    def digest_then_write(*given: Any) -> Any:
        found = digest(*given)
        recorded(path, trades_at(MIDNIGHT + np.arange(2) * NS))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", digest_then_write)
        with pytest.raises(ValueError, match=r"growing\.csv: the file changed while it was read, and is not taken"):
            ingest(lake, path)
    assert lake.products(RECORDINGS) == []
    assert sum(each.rows for each in ingest(lake, path).days) == 2


def test_a_day_whose_recordings_go_goes_too(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    simulate(lake, "BTC-USD", DAY, hours=(9, 10))
    make_all(lake, ["BTC-USD"], [DAY])
    lake.delete("recordings/simulated", "BTC-USD", DAY)
    assert [(each.table, each.why) for each in stale(lake, SPEC)] == [(TRADES, "lost its inputs")]
    assert make_all(lake, ["BTC-USD"], [DAY]) == {(table, "BTC-USD", DAY.day) for table in STEPS}
    assert not [place for table in STEPS for place in lake.partition_keys(table)]
    assert make_trades(lake, "BTC-USD", DAY).missing == (
        "no recording has trades of BTC-USD on 2025-03-05 (UTC): ingest one that has"
    )


def files(lake: Lake) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all files of a lake in a folder, locks apart."""
    root = Path(lake.partitions("recordings")[0].path).parents[2]
    found = {path: path.stat() for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    return {str(path.relative_to(root)): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def versions(objects: Objects) -> dict[str, str]:
    """Return the digest of each object, locks apart."""
    paths = [path for path in objects.paths() if not path.startswith("locks/")]
    held = {path: objects.get(path) for path in paths}
    return {path: hashlib.sha256(found.content).hexdigest() for path, found in held.items() if found is not None}


def content_hashes(lake: Lake) -> dict[tuple[str, str, int], str]:
    return {
        (each.table, each.product_id, each.day.day): each.content_hash
        for table in ("recordings", *STEPS)
        for each in lake.partitions(table)
    }


def ingested(lake: Lake, path: Path, seconds: list[float], price: list[float] | None = None) -> None:
    trades = trades_at(MIDNIGHT + (np.array(seconds) * NS).astype(np.int64))
    ingest(lake, recorded(path, trades if price is None else replace(trades, price=np.array(price))))


def test_a_product_never_seen_is_said(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    steps: tuple[StepResult[Any], ...] = (
        make_trades(lake, "XYZ-USD", DAY),
        make_feature_rows(lake, "XYZ-USD", DAY, SPEC),
        make_training_set(lake, "XYZ-USD", DAY, SPEC),
    )
    for made, said in zip(steps, ("no recording has trades", "no trades", "no feature rows"), strict=True):
        assert (made.partition, made.is_new) == (None, False)
        assert made.missing.startswith(f"{said} of XYZ-USD on 2025-03-05 (UTC)")
    with pytest.raises(
        ValueError, match="no training rows of XYZ-USD from 2025-03-05 to 2025-03-05: ingest or simulate"
    ):
        training_sample(lake, SPEC, ["XYZ-USD"], DAY, DAY)
    with pytest.raises(ValueError, match="a product must be named like BTC-USD"):
        make_trades(lake, "bitcoin", DAY)
    assert not list(tmp_path.iterdir())


def test_an_empty_day_between_two_is_no_partition(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    ingested(lake, tmp_path / "r.csv", [*range(1_000), *range(2 * 86_400, 2 * 86_400 + 1_000)])
    made = [make_trades(lake, "BTC-USD", day).partition for day in days_from(DAY, 3)]
    assert [each is not None for each in made] == [True, False, True]
    assert "no recording has trades" in make_trades(lake, "BTC-USD", DAY + dt.timedelta(days=1)).missing


def test_a_day_with_one_trade_has_a_row_and_nothing_to_learn_from(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    ingested(lake, tmp_path / "r.csv", [43_200])
    make_all(lake, ["BTC-USD"], [DAY])
    assert feature_columns(lake, SPEC, "BTC-USD", DAY).values[:, 0].tolist() == [0]
    assert make_training_set(lake, "BTC-USD", DAY, SPEC).facts.rows == 0
    assert lake.read(TRAINING_SET, "BTC-USD", DAY).num_rows == 0
    with pytest.raises(ValueError, match="no training rows of BTC-USD"):
        training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY)


def test_prices_that_are_all_equal_make_rows_of_no_volatility(tmp_path: Path) -> None:
    """All targets are 0, and reported as 0; the short windows too."""
    lake = Lake.open(tmp_path / "lake")
    ingested(lake, tmp_path / "r.csv", [*range(0, 600, 2)], [100.0] * 300)
    make_all(lake, ["BTC-USD"], [DAY])
    made = make_training_set(lake, "BTC-USD", DAY, SPEC)
    # Of the five seconds up to each of 0, 5, ... the last trade counts: 0, 4, 10, 14, ... A minute after 534 all is
    # known still; the last of the five seconds up to 540 is 540, and a minute after it there is nothing.
    assert made.facts.rows == 1 + 535 // 5
    assert made.facts.zero_target_share == 1.0
    table = lake.read(TRAINING_SET, "BTC-USD", DAY)
    assert set(table["target_volatility"].to_pylist()) == {0.0}
    assert set(table["short_window"].to_pylist()) == {0, 2, 5, 10, 20}
    assert set(table["ret_std"].to_pylist()[1:]) <= {0.0, None}


def test_short_windows_are_of_the_prices_before(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    ingested(lake, tmp_path / "r.csv", [*range(0, 600, 2)])
    make_all(lake, ["BTC-USD"], [DAY])
    rows = lake.read(TRAINING_SET, "BTC-USD", DAY).to_pylist()
    trades = lake.read(TRADES, "BTC-USD", DAY)
    price = dict(zip(trades["trade_id"].to_pylist(), trades["price"].to_pylist(), strict=True))
    target = {row["trade_id"]: row["target_volatility"] for row in rows if not row["short_window"]}
    short = [row for row in rows if row["short_window"] == 5]
    assert len(short) == pytest.approx(len(target) / 4, abs=2)
    for row in short:
        last = [price[row["trade_id"] - 10 * back] for back in range(5, -1, -1)]
        returns = np.diff(np.log(last))
        assert (row["n"], row["ret_mean"]) == (5, pytest.approx(returns.mean(), abs=1e-12))
        assert row["ret_std"] == pytest.approx(returns.std(ddof=1), rel=1e-6)
        assert row["ewma_variance_60"] is None
        assert row["target_volatility"] == target[row["trade_id"]]
    found = training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY, with_short_windows=True)
    assert len(found) == len(rows) > len(training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY))


def test_what_a_sample_has_seen_reaches_into_the_day_after(tmp_path: Path) -> None:
    """A trade a second. The last counted row is at 23:59:55: the row of the next five seconds is at midnight.

    The row's horizon ends at 00:00:55, and the trade then shows a whole horizon.
    """
    lake = Lake.open(tmp_path / "lake")
    ingested(lake, tmp_path / "r.csv", [*range(86_000, 86_800)])
    make_all(lake, ["BTC-USD"], days_from(DAY, 2))
    one = training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY)
    assert (one.event_time[-1], one.last_time) == (MIDNIGHT + 86_395 * NS, MIDNIGHT + 86_455 * NS)
    both = training_sample(lake, SPEC, ["BTC-USD"], DAY, DAY + dt.timedelta(days=1))
    assert both.last_time == MIDNIGHT + 86_799 * NS
    assert (
        len(both) == len(one) + training_sample(lake, SPEC, ["BTC-USD"], *[DAY + dt.timedelta(days=1)] * 2).targets.size
    )


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fills_leaves_the_day_as_it_was(tmp_path: Path, step: str) -> None:
    lake = Lake.open(tmp_path / "lake")
    simulate(lake, "BTC-USD", DAY, hours=(9, 10))
    make_all(lake, ["BTC-USD"], [DAY])
    simulate(lake, "BTC-USD", DAY, hours=(9, 11))
    if step != TRADES:
        make_trades(lake, "BTC-USD", DAY)
    if step == TRAINING_SET:
        make_feature_rows(lake, "BTC-USD", DAY, SPEC)
    before, known = files(lake), content_hashes(lake)
    limit = 60_000 if step == TRAINING_SET else 300_000
    with (
        full_disk(limit),
        pytest.raises(OSError, match=rf"{step}/BTC-USD/2025-03-05 cannot be written .* make room"),
    ):
        make_all(lake, ["BTC-USD"], [DAY])
    assert (files(lake), content_hashes(lake)) == (before, known)
    make_all(lake, ["BTC-USD"], [DAY])
    assert stale(lake, SPEC) == []


MAKE = """
import datetime as dt, os, signal, sys
from offline.lake.store import Lake
from tests.services.test_days import make_all
folder, products, days, kill_before = sys.argv[1:]
put, puts = Lake.put, []
def counted(self, *args):
    puts.append(self)
    if len(puts) == int(kill_before):
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, *args)
Lake.put = counted
make_all(Lake.open(folder), products.split(), [dt.date.fromisoformat(day) for day in days.split()])
"""


def kill_half_way(proof: Proof, tmp_path: Path, products: list[str], hours: tuple[int, int]) -> None:
    """Backfill 14 product-days, killed as partition 10 is about to appear, then at the 15th after the first kill."""
    days = days_from(DAY, 7)
    folder, clean = tmp_path / "killed", tmp_path / "clean"
    for day in days:
        for product in products:
            simulate(Lake.open(folder), product, day, hours=hours)
    shutil.copytree(folder, clean)
    lake = Lake.open(folder)
    started = time.monotonic()
    make_all(Lake.open(clean), products, days)
    proof.saw(clean_run_s=time.monotonic() - started)
    for kill_before in (10, 15):
        command = [
            sys.executable,
            "-c",
            MAKE,
            str(folder),
            " ".join(products),
            " ".join(map(str, days)),
            str(kill_before),
        ]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    kept = {name: found for name, found in files(lake).items() if name.endswith(".parquet")}
    assert len(files(lake)) == len(kept) + len(products)  # and the manifests
    assert sum(len(lake.partitions(table)) for table in STEPS) == 9 + 14
    todo = {(table, p, day.day) for table in STEPS for p in products for day in days}
    todo -= {(place.table, place.product_id, place.day.day) for table in STEPS for place in lake.partition_keys(table)}
    started = time.monotonic()
    assert make_all(lake, products, days) == todo
    proof.saw(rest_s=time.monotonic() - started, made_when_killed="9, then 23 of 42 partitions")
    now = files(lake)
    assert {name: now[name] for name in kept} == kept
    assert len(now) == 42 + len(products)  # a day of trades is that of its recording
    proof.equal(
        sorted(content_hashes(lake).items()), sorted(content_hashes(Lake.open(clean)).items()), "content hashes"
    )


def test_a_backfill_killed_half_way_goes_on_where_it_was(tmp_path: Path, proof: Proof) -> None:
    proof.disturbs("backfill of 14 product-days (2 hours each) killed twice")
    kill_half_way(proof, tmp_path, ["XRP-USD", "DOGE-USD"], (22, 24))


@pytest.mark.acceptance
def test_a_backfill_of_whole_days_killed_half_way_goes_on_where_it_was(tmp_path: Path, proof: Proof) -> None:
    proof.disturbs("backfill of 14 whole product-days killed twice")
    kill_half_way(proof, tmp_path, ["BTC-USD", "ETH-USD"], (0, 24))


STEP = """
import datetime as dt, re, sys
from pathlib import Path
from offline.lake.store import Lake
from offline.leaks.rows import check_rows
from data.features.spec import FeatureSpec
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import ingest
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
lake, day, spec = Lake.open(sys.argv[1]), dt.date(2025, 3, 5), FeatureSpec()
{
    "ingest": lambda: ingest(lake, Path(sys.argv[3])),
    "trades": lambda: make_trades(lake, "BTC-USD", day),
    "feature_rows": lambda: make_feature_rows(lake, "BTC-USD", day, spec),
    "training_set": lambda: make_training_set(lake, "BTC-USD", day, spec),
}[sys.argv[2]]()
# Not `ru_maxrss`: that begins with what the parent had.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) // 1024)
"""


@pytest.mark.acceptance
def test_a_day_of_a_million_trades_is_made_in_little_memory(tmp_path: Path, proof: Proof) -> None:
    """The day before, with the tail to read, is as large."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    proof.disturbs("a day of 1,000,000 trades, each step in a process of its own")
    lake = Lake.open(tmp_path / "lake")
    simulate(lake, "BTC-USD", DAY - dt.timedelta(days=1))
    make_trades(lake, "BTC-USD", DAY - dt.timedelta(days=1))
    times = np.sort(np.random.default_rng(0).integers(0, DAY_NS, 1_000_000))
    path = recorded(tmp_path / "r.csv", trades_at(MIDNIGHT + times))
    for step in ("ingest", *STEPS):
        command = [sys.executable, "-c", STEP, str(tmp_path / "lake"), step, str(path)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        proof.saw(**{f"{step}_mb": peak})
        assert peak < 500
