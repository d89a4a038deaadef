"""The steps of a product-day: equal to the whole stream, done again only where something has changed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest

from data.lake import Lake
from data.spec import FeatureSpec
from data.trades import NS
from offline.backfill import backfill_files
from offline.days import (
    FEATURE_ROWS,
    TRADES,
    TRAINING_SET,
    ingest,
    make_feature_rows,
    make_trades,
    make_training_set,
    training_sample,
)
from offline.samples import sample
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, rough_times, trades_at, without

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
