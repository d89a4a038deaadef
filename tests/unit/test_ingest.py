"""Recordings in the lake: a whole recording or nothing, cut into products and days, rejects kept."""

from __future__ import annotations

import datetime as dt
import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features.spec import FeatureSpec
from data.simulator.day import simulate_day
from data.times import NS, time_texts
from data.trades import Trades
from offline.days.staging import Staged, ingest, receipt_of, recording_table, simulate
from offline.days.staleness import stale
from offline.days.trades import make_trades
from offline.lake.cleaning import clean
from offline.lake.objects import Objects
from offline.lake.store import Lake
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, trades_at
from tests.unit.test_bars import candle, candles
from tests.unit.test_lake import full_disk, names_below

NEXT = DAY + dt.timedelta(days=1)
HEAD = "source_id,product_id,trade_id,event_time,ingest_time,price,size,side\n"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake")


def at(*seconds: float, product_id: str = "BTC-USD") -> Trades:
    return trades_at(MIDNIGHT + (np.array(seconds) * NS).astype(np.int64), product_id)


def test_products_and_days_become_partitions(lake: Lake, tmp_path: Path) -> None:
    """The day follows the time that a trade counts as: 86,399.5 s after 86,400 s counts as 86,400 s."""
    one, two = at(5, 86_399, 86_400, 86_399.5, 90_000), at(6, product_id="ETH-USD")
    found = ingest(lake, recorded(tmp_path / "r.csv", Trades.join([one, two])))
    assert found.days == [
        Staged("BTC-USD", DAY, 2, True),
        Staged("BTC-USD", NEXT, 3, True),
        Staged("ETH-USD", DAY, 1, True),
    ]
    assert (found.name, found.rejects, found.is_new) == ("r.csv", {}, True)
    table = lake.read("recordings/r.csv", "BTC-USD", NEXT)
    assert table["trade_id"].to_pylist() == [21, 31, 41]
    assert (table["event_time"].to_numpy().astype(np.int64) - MIDNIGHT).tolist() == [
        86_400 * NS,
        86_399_500_000_000,
        90_000 * NS,
    ]
    assert table["size"].to_pylist() == one.size[2:].tolist()
    assert table["side"].to_pylist() == one.side[2:].tolist()


def test_unknown_sizes_and_sides_stay_unknown(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("timestamp,price,volume\n2025-03-05T00:00:01Z,100,\n2025-03-05T00:00:02Z,101,0.5\n")
    ingest(lake, tmp_path / "r.csv", "ETH-EUR")
    made = make_trades(lake, "ETH-EUR", DAY)
    table = lake.read("trades", "ETH-EUR", DAY)
    assert table["size"].to_pylist() == [None, 0.5]
    assert table["side"].to_pylist() == [0, 0]
    assert table["trade_id"].to_pylist() == [1, 2]
    assert table["recording"].to_pylist() == ["r.csv"] * 2
    assert made.facts.has_ids is False


def test_rejects_are_counted_and_kept(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    lines = [
        ",BTC-USD,1,2025-03-05T00:00:01Z,,100,1,buy",
        ",BTC-USD,2,2025-03-05T00:00:02Z,,-3,1,buy",
        ",BTC-USD,3,2025-03-05T00:00:03Z,,x,1,buy",
        ",BTC-USD,1,2025-03-05T00:00:04Z,,100,1,buy",
    ]
    path.write_text(HEAD + "\n".join(lines) + "\n")
    found = ingest(lake, path)
    assert found.rejects == {"price must be a finite number above 0": 2, "trade id was already taken or passed": 1}
    rejects = receipt_of(lake, "r.csv").rejects
    assert rejects is not None
    kept = pyarrow.parquet.read_table(tmp_path / "lake" / rejects.path)
    assert kept["line"].to_pylist() == [3, 4, 5]
    assert kept["reason"][0].as_py() == "price must be a finite number above 0, was '-3'"
    assert kept["text"].to_pylist() == lines[1:]
    assert ingest(lake, path) == found._replace(is_new=False, days=[Staged("BTC-USD", DAY, 1, False)])


def kept_rejects(lake: Lake, folder: Path, name: str = "r.csv") -> pa.Table:
    rejects = receipt_of(lake, name).rejects
    assert rejects is not None
    return pyarrow.parquet.read_table(folder / "lake" / rejects.path)


def test_a_block_without_a_trade_keeps_its_rejects(lake: Lake, tmp_path: Path) -> None:
    """More than 1 MiB of bad rows, which is a block of the reader, between two trades."""
    bad = ["2025-03-05T00:00:02Z,none,1"] * 60_000
    lines = ["2025-03-05T00:00:01Z,100,1", *bad, "2025-03-05T00:00:03Z,101,1"]
    (tmp_path / "r.csv").write_text("timestamp,price,volume\n" + "\n".join(lines) + "\n")
    found = ingest(lake, tmp_path / "r.csv")
    assert found.days == [Staged("BTC-USD", DAY, 2, True)]
    assert found.rejects == {"price must be a finite number above 0": 60_000}
    kept = kept_rejects(lake, tmp_path)
    assert kept["line"].to_pylist()[:10_001] == list(range(3, 10_004))
    assert (sum(kept["rows"].to_pylist()), kept["last_line"].to_pylist()[-1]) == (60_000, 60_002)
    assert (kept["text"][9_999].as_py(), kept["text"][10_000].as_py()) == ("2025-03-05T00:00:02Z,none,1", "")


def test_a_recording_without_a_trade_keeps_its_rejects_and_is_not_taken(lake: Lake, tmp_path: Path) -> None:
    """The rows that an older content of the same name gave stay, and a clean-up keeps both kinds of rejects."""
    path, head = tmp_path / "r.csv", "timestamp,price,volume\n"
    path.write_text(head + "2025-01-01,1,1\nnever,2,1\n")
    with pytest.raises(ValueError, match=r"no row is a trade: 2 rows are rejected.*the lake keeps the rejects in"):
        ingest(lake, path)
    receipt = receipt_of(lake, "r.csv")
    assert (receipt.products, receipt.rejects) == ([], None)
    path.write_text(head + "2025-03-05T00:00:01Z,100,1\n2025-03-05T00:00:01Z,-1,1\n")
    assert ingest(lake, path).days == [Staged("BTC-USD", DAY, 1, True)]
    assert receipt_of(lake, "r.csv").refused is None
    path.write_text(head + "2025-03-05T00:00:01Z,,1\n2025-03-05T00:00:01Z,x,7\n")
    with pytest.raises(ValueError, match="no row is a trade"):
        ingest(lake, path)
    receipt = receipt_of(lake, "r.csv")
    assert receipt.refused is not None
    assert kept_rejects(lake, tmp_path)["text"].to_pylist() == ["2025-03-05T00:00:01Z,-1,1"]
    kept = pyarrow.parquet.read_table(tmp_path / "lake" / receipt.refused.path)
    assert kept["line"].to_pylist() == [2, 3]
    assert kept["text"].to_pylist() == ["2025-03-05T00:00:01Z,,1", "2025-03-05T00:00:01Z,x,7"]
    assert kept["reason"].to_pylist() == [f"price must be a finite number above 0, was {text!r}" for text in ("", "x")]
    assert [each.rows for each in lake.partitions("recordings/r.csv")] == [1]
    clean(lake, 0, time.time_ns() + 10**15)
    assert all(lake.objects.info(each.path) is not None for each in receipt.objects)


def test_a_damaged_recording_keeps_the_rejects_before_the_damage(lake: Lake, tmp_path: Path) -> None:
    lines = [f"2025-03-05T00:{i // 60 % 60:02}:{i % 60:02}.{i:06}Z,{100 + i},1" for i in range(3_600)]
    lines[1] = "never,1,1"
    packed = gzip.compress(("timestamp,price,volume\n" + "\n".join(lines) + "\n").encode())
    (tmp_path / "r.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"the gzip ends early.*the lake keeps the rejects in"):
        ingest(lake, tmp_path / "r.csv.gz")
    receipt = receipt_of(lake, "r.csv.gz")
    assert receipt.rejects is None
    assert receipt.refused is not None
    assert pyarrow.parquet.read_table(tmp_path / "lake" / receipt.refused.path)["line"].to_pylist() == [3]
    assert lake.partitions("recordings/r.csv.gz") == []


def test_a_recording_is_known_by_name_and_content(lake: Lake, tmp_path: Path) -> None:
    path = recorded(tmp_path / "r.csv", at(1, 2))
    assert ingest(lake, path).is_new
    assert not ingest(lake, path).is_new
    assert ingest(lake, path, name="another name").is_new
    recorded(path, at(1, 2, 3, 86_401))
    assert ingest(lake, path).days == [Staged("BTC-USD", DAY, 3, True), Staged("BTC-USD", NEXT, 1, True)]
    before = [each.path for each in lake.partitions("recordings/r.csv")]
    recorded(path, at(1, 2, 3, 86_402))  # the first day is as before
    assert ingest(lake, path).days == [Staged("BTC-USD", DAY, 3, False), Staged("BTC-USD", NEXT, 1, True)]
    after = [each.path for each in lake.partitions("recordings/r.csv")]
    assert [one == other for one, other in zip(after, before, strict=True)] == [True, False]
    assert sorted(lake.tables("recordings")) == ["recordings/another%20name", "recordings/r.csv"]


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 201, "記" * 23])
def test_a_name_must_be_one(name: str) -> None:
    with pytest.raises(ValueError, match="a recording is named by 1 to 200 characters, not dots alone"):
        recording_table(name)


@pytest.mark.parametrize("name", ["x" * 200, "記" * 22])
def test_the_longest_name_can_be_written(lake: Lake, tmp_path: Path, name: str) -> None:
    """A character of three bytes counts as nine."""
    assert ingest(lake, recorded(tmp_path / "r.csv", at(1)), name=name).is_new
    assert make_trades(lake, "BTC-USD", DAY).facts.rows == 1


def test_a_recording_cannot_take_the_place_of_simulated_days(lake: Lake, tmp_path: Path) -> None:
    simulate(lake, "BTC-USD", NEXT, hours=(0, 1))
    path = recorded(tmp_path / "simulated", at(1))
    with pytest.raises(ValueError, match=r"the name 'simulated' is that of all simulated days: .*d another one"):
        ingest(lake, path)
    assert [each.day for each in lake.partitions("recordings")] == [NEXT]
    assert ingest(lake, path, name="mine").is_new


def test_any_name_stays_in_the_lake(lake: Lake, tmp_path: Path) -> None:
    ingest(lake, recorded(tmp_path / "r.csv", at(1)), name="../../tür?.csv")
    assert make_trades(lake, "BTC-USD", DAY).facts.rows == 1
    assert lake.read("trades", "BTC-USD", DAY)["recording"].to_pylist() == ["../../tür?.csv"]
    assert not list(tmp_path.glob("*ü*"))


@pytest.mark.parametrize("what", ["damaged", "none", "bars", "missing"])
def test_what_is_no_recording_leaves_nothing(lake: Lake, tmp_path: Path, what: str) -> None:
    path = tmp_path / "r.csv.gz"
    whole = gzip.compress(recorded(tmp_path / "whole.csv", at(*range(30_000))).read_bytes())
    said = {"damaged": "whole rows", "none": "holds no trades", "bars": "holds bars", "missing": "does not exist"}[what]
    if what == "damaged":
        path.write_bytes(whole[: len(whole) // 2])
    elif what == "none":
        path.write_bytes(b"\x89PNG")
    elif what == "bars":
        path = candles(tmp_path, candle(1_605_000_000), candle(1_604_999_940))
    with pytest.raises(ValueError, match=said):
        ingest(lake, path)
    assert names_below(tmp_path / "lake") == []


def test_a_recording_of_many_days_is_staged_whole_or_not_at_all(lake: Lake, tmp_path: Path) -> None:
    """The disk is full on the last of five days."""
    rng = np.random.default_rng(0)
    times = np.sort(np.concatenate([rng.integers(0, 4 * DAY_NS, 4_000), rng.integers(4 * DAY_NS, 5 * DAY_NS, 60_000)]))
    path = recorded(tmp_path / "r.csv", trades_at(MIDNIGHT + times))
    with full_disk(200_000), pytest.raises(OSError, match=r"2025-03-09 cannot be written .* make room"):
        ingest(lake, path)
    assert lake.partitions("recordings") == []
    assert [clean(lake, 0, time.time_ns()).removed for _ in range(2)] == [0, 4]
    assert names_below(tmp_path / "lake") == []
    assert len(ingest(lake, path).days) == 5


def test_a_disk_that_fills_with_rejects_leaves_all_of_the_recording_as_it_was(lake: Lake, tmp_path: Path) -> None:
    """Rejects are written last: new days must not appear without rejects, nor hide that old days must come back."""
    path = recorded(tmp_path / "r.csv", at(5, 90_000))
    good = path.read_text()
    old = ingest(lake, path)
    before = lake.partitions("recordings")
    bad = "".join(f"{i},what is no trade {i * 7919 % 100_003}\n" for i in range(20_000))
    path.write_text(HEAD + good.removeprefix(HEAD).replace(",100", ",200") + bad)
    with full_disk(50_000), pytest.raises(OSError, match=r"rejects/r.csv cannot be written .* make room"):
        ingest(lake, path)
    assert lake.partitions("recordings") == before
    path.write_text(good)
    assert ingest(lake, path) == old._replace(days=[each._replace(is_new=False) for each in old.days], is_new=False)


def test_a_staged_day_that_is_another_or_lost_is_staged_again(lake: Lake, tmp_path: Path) -> None:
    """The clean-up notices that an object is lost."""
    path = recorded(tmp_path / "r.csv", at(5, 90_000))
    ingest(lake, path)
    good = lake.partitions("recordings")
    other = lake.read("recordings/r.csv", "BTC-USD", NEXT)
    lake.write("recordings/r.csv", "BTC-USD", DAY, other.to_batches(), other.schema, good[1].notes)
    for lose in (False, True):
        if lose:
            Path(good[0].path).unlink()
            assert clean(lake, 0, time.time_ns()).lost == [("recordings/r.csv", "BTC-USD", DAY)]
        found = ingest(lake, path)
        assert [each.is_new for each in found.days] == [True, False]
        assert lake.partitions("recordings") == good
        assert lake.read("recordings/r.csv", "BTC-USD", DAY).num_rows == 1


def test_a_killed_ingest_is_not_taken(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before, between and after the manifests of two products: other content may come next."""
    both = Trades.join([at(1, 2), at(1, 2, product_id="ETH-USD")])
    path = recorded(tmp_path / "r.csv", both)
    put = type(lake.objects).put
    left: list[None] = []

    def killed(objects: Objects, path: str, content: bytes, expected: Any) -> str:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return put(objects, path, content, expected)

    for puts, taken in ((1, []), (2, ["BTC-USD"]), (2, ["BTC-USD", "ETH-USD"])):
        left[:] = [None] * puts
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(type(lake.objects), "put", killed)
            ingest(lake, path)
        assert lake.products("recordings") == taken
        assert receipt_of(lake, "r.csv").rejects is None
    recorded(path, at(3, product_id="ETH-USD"))
    assert ingest(lake, path).is_new
    assert [(each.product_id, each.rows) for each in lake.partitions("recordings")] == [("ETH-USD", 1)]


def test_a_day_of_one_recording_is_one_object_for_both_tables(lake: Lake, tmp_path: Path) -> None:
    ingest(lake, recorded(tmp_path / "r.csv", at(1, 2, 3)))
    made = make_trades(lake, "BTC-USD", DAY)
    assert made.partition is not None
    assert [each.path for each in lake.partitions("recordings")] == [made.partition.path]


def test_a_recording_that_loses_its_ids_makes_its_day_stale(lake: Lake, tmp_path: Path) -> None:
    """The rows keep their numbers, but the numbers are no ids any more."""
    trades = trades_at(MIDNIGHT + np.arange(3) * NS, step=1)
    trades.side[:] = 0
    path = recorded(tmp_path / "r.csv", trades)
    ingest(lake, path)
    assert make_trades(lake, "BTC-USD", DAY).facts.has_ids is True
    lines = zip(time_texts(trades.event_time), trades.price.tolist(), trades.size.tolist(), strict=True)
    path.write_text("timestamp,price,volume\n" + "".join(f"{time},{price!r},{size!r}\n" for time, price, size in lines))
    before = lake.partitions("recordings")
    ingest(lake, path)
    after = lake.partitions("recordings")
    assert [each.content_hash for each in after] == [each.content_hash for each in before]
    (found,) = stale(lake, FeatureSpec(), "trades")
    assert found.why == "recording r.csv is gone, recording r.csv, without ids is new"
    assert make_trades(lake, "BTC-USD", DAY).facts.has_ids is False
    assert stale(lake, FeatureSpec(), "trades") == []


def test_simulated_days_are_one_recording_and_another_seed_replaces_a_day(lake: Lake) -> None:
    for day in (DAY, NEXT):
        assert simulate(lake, "XRP-USD", day, hours=(9, 10)).is_new
    assert not simulate(lake, "XRP-USD", DAY, hours=(9, 10)).is_new
    expected = simulate_day("XRP-USD", DAY, 1, (9, 10))
    assert simulate(lake, "XRP-USD", DAY, seed=1, hours=(9, 10)).days == [Staged("XRP-USD", DAY, len(expected), True)]
    assert lake.tables("recordings") == ["recordings/simulated"]
    assert [place.day for place in lake.partition_keys("recordings/simulated")] == [DAY, NEXT]
    facts = make_trades(lake, "XRP-USD", DAY).facts
    assert (facts.recordings, facts.rows, facts.fallen) == (1, len(expected), 0)
    assert lake.read("trades", "XRP-USD", DAY)["price"].to_pylist() == expected.price.tolist()
