"""Old days of served records leave the lake: whole, once nothing needs them, whatever was killed."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.stream.records import FEATURES, PREDICTIONS, TRADES
from data.times import NS
from offline.frames.serving import MOST_HOURS
from offline.lake.store import Lake
from offline.served import retention as retention_module
from offline.served.columns import SERVED_TOPICS
from offline.served.finished import stage_finished
from offline.served.manifest import folder_of, read_manifest
from offline.served.retention import READ_DAYS, removable, remove_old
from offline.served.sink import SinkReport, sink
from tests.days import DAY, DAY_NS, MIDNIGHT
from tests.served import FakeTopic, end, is_killed, normal, record, records_of

KEEP_DAYS = 30
AT = MIDNIGHT + 12 * 3_600 * NS
NOW = MIDNIGHT + (KEEP_DAYS + 20) * DAY_NS
"""Wall time: records that were published before the start of `DAY` + 20 days are too old."""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path)


def days_of(lake: Lake, topic: str) -> list[int]:
    """Return the days that the manifest names, as days after `DAY`."""
    return sorted({(file.day - DAY).days for file in read_manifest(lake, topic).files if file.day is not None})


def daily(topic: str, *days: int, **more: Any) -> list[bytes | None]:
    """Return a record at noon of each day, published at once."""
    return [record(topic, day + 1, AT + day * DAY_NS, **more) for day in days]


def taken(lake: Lake, topic: str, *records: bytes | None) -> FakeTopic:
    fake = FakeTopic({0: list(records)})
    sink(lake, fake.reader, topic)
    return fake


@pytest.mark.parametrize("topic", SERVED_TOPICS)
def test_old_days_leave_and_are_not_read_again(lake: Lake, topic: str) -> None:
    """A day of two files is removed whole, and rejects stay. Days up to 19 are old; twelve days up to the last stay."""
    fake = taken(lake, topic, *daily(topic, 0, 1, 19, 20, 40), b"{}", end())
    fake.records[0] += [*daily(topic, 0, source_id="two"), end("two")]
    sink(lake, fake.reader, topic)
    stage_finished(lake)
    before = records_of(lake, topic)
    assert remove_old(lake, topic, NOW, KEEP_DAYS) == 4
    assert days_of(lake, topic) == [20, 40]
    manifest = read_manifest(lake, topic)
    assert (manifest.removed, manifest.rejects, manifest.ends) == (4, 1, 2)
    left = {place: value for place, value in before.items() if place not in {(0, each) for each in (0, 1, 2, 7)}}
    assert records_of(lake, topic) == left
    assert {path for path in lake.objects.paths(folder_of(topic)) if path.endswith(".parquet")} == {
        file.path for file in manifest.files
    }
    assert sink(lake, fake.reader, topic) == SinkReport(topic, 0, 0, 0, 0)
    assert remove_old(lake, topic, NOW, KEEP_DAYS) == 0
    assert remove_old(lake, topic, NOW + 365 * DAY_NS, KEEP_DAYS) == 1, "day 40 is the newest"


def test_the_age_is_that_of_the_publication(lake: Lake) -> None:
    """One record of day 19 was published yesterday, and keeps its whole day."""
    new = NOW - DAY_NS
    late = daily(FEATURES, 19, source_id="late", ingest_time=new)
    taken(lake, FEATURES, *daily(FEATURES, 0, 1, 19, 40), *late)
    assert remove_old(lake, FEATURES, NOW, KEEP_DAYS) == 2
    assert days_of(lake, FEATURES) == [19, 40]


def test_days_that_a_drift_report_may_read_stay(lake: Lake) -> None:
    """Of a product that is silent for long: the days up to its newest record, drills apart."""
    drill = daily(PREDICTIONS, 25, source_id="drill", purpose="drill")
    taken(lake, PREDICTIONS, *daily(PREDICTIONS, 0, 7, 8, 14, 20), *drill)
    remove_old(lake, PREDICTIONS, NOW + 365 * DAY_NS, KEEP_DAYS)
    assert days_of(lake, PREDICTIONS) == [8, 14, 20]
    assert dt.timedelta(hours=MOST_HOURS + 24) <= READ_DAYS


def test_a_day_of_trades_stays_until_it_is_staged(lake: Lake) -> None:
    """Day 0 is staged; on day 1 a source is open; a drill on day 2 is never staged."""
    fake = taken(
        lake,
        TRADES,
        *daily(TRADES, 0, source_id="over"),
        end("over"),
        *daily(TRADES, 1, source_id="open"),
        *daily(TRADES, 2, source_id="drill", purpose="drill"),
        *daily(TRADES, 40),
    )
    assert remove_old(lake, TRADES, NOW, KEEP_DAYS) == 1, "nothing but the drill"
    assert days_of(lake, TRADES) == [0, 1, 40]
    stage_finished(lake)
    assert remove_old(lake, TRADES, NOW, KEEP_DAYS) == 1
    assert days_of(lake, TRADES) == [1, 40]
    assert stage_finished(lake) == [], "a removed day is not staged again"
    fake.records[0] += [end("open")]
    sink(lake, fake.reader, TRADES)
    assert [each.day for each in stage_finished(lake)] == [DAY + dt.timedelta(1)]
    assert remove_old(lake, TRADES, NOW, KEEP_DAYS) == 1


def test_trades_that_train_no_model_leave_by_their_age(lake: Lake) -> None:
    taken(lake, TRADES, *daily(TRADES, 0, 40))
    assert remove_old(lake, TRADES, NOW, KEEP_DAYS) == 0
    assert remove_old(lake, TRADES, NOW, KEEP_DAYS, feeds_trades=False) == 1


def test_a_removal_killed_at_any_step_is_continued(tmp_path: Path) -> None:
    """Each step of the store is the last one, in turn. A reader of the manifest always sees whole days."""
    seen = set()
    for after in range(1, 30):
        own = Lake.open(tmp_path / str(after))
        fake = taken(own, FEATURES, *daily(FEATURES, 0, 0, 1, 19, 40))
        fake.records[0] += daily(FEATURES, 0, source_id="two")
        sink(own, fake.reader, FEATURES)
        if not is_killed(own, after, partial(remove_old, own, FEATURES, NOW, KEEP_DAYS)):
            break
        again = Lake.open(tmp_path / str(after))
        seen.add((tuple(days_of(again, FEATURES)), len(records_of(again, FEATURES))))
        remove_old(again, FEATURES, NOW, KEEP_DAYS)
        sink(again, fake.reader, FEATURES)
        assert records_of(again, FEATURES) == {(0, 4): normal(fake.all(), FEATURES)[0, 4]}
        assert [path for path in again.objects.paths(folder_of(FEATURES)) if path.endswith(".parquet")] == [
            file.path for file in read_manifest(again, FEATURES).files
        ]
    assert seen == {((0, 1, 19, 40), 6), ((40,), 1)}
    assert after > 5


def test_nothing_is_written_while_nothing_is_old(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(lake, FEATURES, *daily(FEATURES, 20, 40))
    monkeypatch.setattr(retention_module, "writing_manifest", None)
    assert removable(lake, read_manifest(lake, FEATURES), NOW, KEEP_DAYS) == []
    assert remove_old(lake, FEATURES, NOW, KEEP_DAYS) == 0
