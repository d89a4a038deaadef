"""Topics in the lake: each record once, whatever was killed; days merged; finished days as recordings."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.stream.clients import MAX_VALUE
from data.stream.records import FEATURES, PREDICTIONS, TRADES
from data.times import NS
from offline.days.staging import RECORDINGS, ingest, trades_of
from offline.days.trades import make_trades
from offline.lake import parquet
from offline.lake.objects import ANY
from offline.lake.store import Lake
from offline.locks.lease import Occupied
from offline.served import compaction
from offline.served import sink as sink_module
from offline.served.columns import IS_TAKEN, OTHERS, SERVED_TOPICS, columns_of
from offline.served.compaction import compact, mergeable
from offline.served.files import read_rows, rows_to
from offline.served.finished import finished_days, stage_finished
from offline.served.manifest import Hole, folder_of, read_manifest, writing_manifest
from offline.served.rows import served_rows
from offline.served.sink import SinkReport, offsets_behind, sink, sink_figures
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, trades_at
from tests.served import PRODUCT, FakeTopic, end, is_killed, normal, record, records_of

HOUR = 3_600 * NS
AT = MIDNIGHT + 12 * HOUR
LATER = MIDNIGHT + 3 * DAY_NS
"""A wall time at which the days of these tests are closed."""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path)


def mixed(topic: str) -> FakeTopic:
    """Two partitions with rows of two products and days, an end, rejects, and markers of transactions."""
    return FakeTopic(
        {
            0: [
                record(topic, 1, AT),
                record(topic, 2, AT + 1, product_id="ETH-USD"),
                None,
                b"{}",
                record(topic, 3, AT + DAY_NS),
                record(topic, 4, AT + DAY_NS, source_id="../evil"),
                end(),
                b"\xff",
                None,
            ],
            7: [record(topic, 9, AT, product_id="SOL-USD"), None],
        }
    )


@pytest.mark.parametrize("topic", SERVED_TOPICS)
def test_the_lake_holds_each_record_once(lake: Lake, topic: str) -> None:
    fake = mixed(topic)
    assert sink(lake, fake.reader, topic) == SinkReport(topic, rows=4, rejects=3, ends=1, lost=0)
    assert records_of(lake, topic) == normal(fake.all(), topic)
    manifest = read_manifest(lake, topic)
    assert manifest.next == {0: 9, 7: 2}
    assert (manifest.rejects, manifest.ends) == (3, 1)
    assert [(each.source_id, each.product_id) for each in manifest.open_streams] == [
        ("one", "ETH-USD"),
        ("one", "SOL-USD"),
    ]
    assert {file.path for file in manifest.files} == {
        f"served/{topic}/0/0/BTC-USD/2025-03-05/0-0.parquet",
        f"served/{topic}/0/0/ETH-USD/2025-03-05/1-1.parquet",
        f"served/{topic}/0/0/BTC-USD/2025-03-06/4-4.parquet",
        f"served/{topic}/0/0/others/3-7.parquet",
        f"served/{topic}/0/7/SOL-USD/2025-03-05/0-0.parquet",
    }
    assert sink(lake, fake.reader, topic) == SinkReport(topic, 0, 0, 0, 0)
    fake.records[7] += [record(topic, 10, AT, product_id="SOL-USD")]
    assert sink(lake, fake.reader, topic).rows == 1
    assert records_of(lake, topic) == normal(fake.all(), topic)


def test_a_topic_is_read_from_a_lake_behind_a_uri(tmp_path: Path) -> None:
    fake = mixed(FEATURES)
    sink(Lake.open(f"file://{tmp_path}/other"), fake.reader, FEATURES)
    assert records_of(Lake.open(tmp_path / "other"), FEATURES) == normal(fake.all(), FEATURES)


def test_a_sink_killed_at_any_point_is_continued(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink dies at its nth step of the store, n = 1, 2, ...; a file half written stays behind."""
    monkeypatch.setattr(sink_module, "FLUSH_ROWS", 2)
    records: list[bytes | None] = [record(FEATURES, i, AT + i * HOUR) for i in range(1, 8)]

    def leave_half_a_file() -> None:
        folder = lake_at / "served/features/0/0/BTC-USD/2025-03-05"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "0-0.parquet.x").touch()

    def sink_and_compact() -> None:
        sink(own, fake.reader, FEATURES)
        compact(own, FEATURES, LATER)

    for after in range(1, 60):
        lake_at = Path(lake.objects.where(str(after)))
        own, fake = Lake.open(lake_at), FakeTopic({0: list(records)})
        if not is_killed(own, after, sink_and_compact, leave_half_a_file):
            break
        again = Lake.open(lake_at)
        sink(again, fake.reader, FEATURES)
        compact(again, FEATURES, LATER)
        assert records_of(again, FEATURES) == normal(fake.all(), FEATURES)
        assert {path for path in again.objects.paths(folder_of(FEATURES)) if path.endswith(".parquet")} == {
            file.path for file in read_manifest(again, FEATURES).files
        }
    assert after > 10


def test_long_records_are_written_before_they_fill_the_memory(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rejects of 16,384 bytes are 49,152 bytes and their reasons, four are 65,536: the fourth is too much."""
    monkeypatch.setattr(sink_module, "FLUSH_BYTES", 50_000)
    fake = FakeTopic({0: [b"{" * MAX_VALUE] * 10}, block=1)
    assert sink(lake, fake.reader, FEATURES).rejects == 10
    assert [(file.first, file.last) for file in read_manifest(lake, FEATURES).files] == [(0, 3), (4, 7), (8, 9)]
    assert records_of(lake, FEATURES) == fake.all()


@pytest.mark.parametrize("topic", SERVED_TOPICS)
def test_where_a_sink_cuts_files_changes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    """One lake has a file for each of 80 records, the other a file for all of a key; merged, both are the same."""
    records = [each for i in range(1, 41) for each in (record(topic, i, AT + i), b"%d" % i)]
    lakes = whole, cut = Lake.open(tmp_path / "whole"), Lake.open(tmp_path / "cut")
    sink(whole, FakeTopic({0: list(records)}).reader, topic)
    monkeypatch.setattr(sink_module, "FLUSH_BYTES", 1)
    sink(cut, FakeTopic({0: list(records)}, block=1).reader, topic)
    assert [len(read_manifest(each, topic).files) for each in lakes] == [2, 80]
    compact(cut, topic, LATER)
    others, rows = f"served/{topic}/0/0/others/1-79.parquet", f"served/{topic}/0/0/BTC-USD/2025-03-05/0-78.parquet"
    for lake in lakes:
        assert sorted(file.path for file in read_manifest(lake, topic).files) == [rows, others]
    for path, schema in ((others, OTHERS), (rows, columns_of(topic))):
        found, wanted = (read_rows(lake.objects, path, schema) for lake in (cut, whole))
        assert found.to_pylist() == wanted.to_pylist()


def test_long_records_are_merged_in_groups_that_fit_in_memory(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 rejects of 16,384 bytes, two are read at once; two are less than 50,000 bytes, four are more."""
    monkeypatch.setattr(sink_module, "FLUSH_BYTES", 1)
    sink(lake, FakeTopic({0: [b"{" * MAX_VALUE] * 40}, block=1).reader, FEATURES)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 50_000)
    monkeypatch.setattr(compaction, "OTHERS_ROWS", 2)
    assert compact(lake, FEATURES, LATER) == 1
    merged = pa.parquet.read_metadata(tmp_path / "served/features/0/0/others/0-39.parquet")
    assert [merged.row_group(i).num_rows for i in range(merged.num_row_groups)] == [4] * 10


def test_a_file_that_no_manifest_names_is_removed(lake: Lake, tmp_path: Path) -> None:
    fake = mixed(FEATURES)
    garbage = tmp_path / "served/features/0/0/BTC-USD/2025-03-05/0-17.parquet"
    garbage.parent.mkdir(parents=True)
    garbage.write_bytes(b"half")
    sink(lake, fake.reader, FEATURES)
    assert not garbage.exists()


def test_records_that_retention_removed_are_a_stated_hole(lake: Lake) -> None:
    fake = FakeTopic({0: [record(FEATURES, i, AT) for i in range(1, 10)]})
    fake.low[0] = 2
    assert sink(lake, fake.reader, FEATURES).lost == 2
    fake.records[0] += [record(FEATURES, i, AT) for i in range(10, 15)]
    fake.low[0] = 12
    assert sink(lake, fake.reader, FEATURES) == SinkReport(FEATURES, rows=2, rejects=0, ends=0, lost=3)
    assert read_manifest(lake, FEATURES).holes == [Hole(0, 0, 0, 1), Hole(0, 0, 9, 11)]
    assert [offset for _, offset in records_of(lake, FEATURES)] == [*range(2, 9), 12, 13]


def test_a_topic_made_anew_is_a_new_generation(lake: Lake) -> None:
    fake = mixed(FEATURES)
    sink(lake, fake.reader, FEATURES)
    anew = FakeTopic({0: [record(FEATURES, 5, AT)], 7: []})
    with pytest.raises(ValueError, match=r"features\[0\] ends at offset 1, but the lake holds records to offset 9"):
        sink(lake, anew.reader, FEATURES)
    anew.id = "b"
    assert offsets_behind(lake, anew.reader, [FEATURES]) == {FEATURES: 1}
    sink(lake, anew.reader, FEATURES)
    assert records_of(lake, FEATURES) == normal(fake.all(), FEATURES)
    assert records_of(lake, FEATURES, generation=1) == normal(anew.all(), FEATURES)
    rows = served_rows(lake, FEATURES, PRODUCT, *hours(12, 13), columns=["generation", "record_offset", "trade_id"])
    assert rows.to_numpy().tolist() == [[0, 0, 1], [1, 0, 5]]


def test_a_second_sink_is_refused(lake: Lake) -> None:
    fake = mixed(FEATURES)
    with writing_manifest(lake, FEATURES), pytest.raises(Occupied, match="another process holds"):
        sink(lake, fake.reader, FEATURES)
    with writing_manifest(lake, FEATURES) as writer:
        lake.objects.put("served/features/manifest.json", b"{}", ANY)
        with pytest.raises(Occupied, match="one sink at a time"):
            writer.publish(writer.manifest)


def test_a_damaged_manifest_says_what_to_do(lake: Lake) -> None:
    lake.objects.put("served/features/manifest.json", b"{", ANY)
    with pytest.raises(ValueError, match="move the folder served/features away"):
        read_manifest(lake, FEATURES)


def test_a_closed_day_becomes_one_file(lake: Lake) -> None:
    fake = FakeTopic({0: []})
    for start in range(1, 13, 3):
        fake.records[0] += [record(PREDICTIONS, i, AT + (i - 1) * 2 * HOUR) for i in range(start, start + 3)]
        sink(lake, fake.reader, PREDICTIONS)
    before = served_rows(lake, PREDICTIONS, PRODUCT, *hours(0, 48))
    assert compact(lake, PREDICTIONS, AT + 30 * HOUR) == 1  # the day after goes on
    assert compact(lake, PREDICTIONS, AT + 36 * HOUR) == 1
    files = read_manifest(lake, PREDICTIONS).files
    assert [(file.day, file.first, file.last, file.rows, file.parts) for file in files] == [
        (DAY, 0, 5, 6, 2),
        (DAY + dt.timedelta(1), 6, 11, 6, 2),
    ]
    assert records_of(lake, PREDICTIONS) == normal(fake.all(), PREDICTIONS)
    assert served_rows(lake, PREDICTIONS, PRODUCT, *hours(0, 48)).equals(before)
    fake.records[0] += [record(PREDICTIONS, 50, AT, source_id="again")]
    sink(lake, fake.reader, PREDICTIONS)
    assert mergeable(read_manifest(lake, PREDICTIONS), AT + HOUR) == []  # just published
    assert compact(lake, PREDICTIONS, LATER) == 1
    assert records_of(lake, PREDICTIONS) == normal(fake.all(), PREDICTIONS)
    assert len(lake.objects.paths(folder_of(PREDICTIONS))) == 2 + 2  # files; manifest and lock


def hours(begin: int, end: int) -> tuple[dt.datetime, dt.datetime]:
    """Return two times on `DAY`, as hours."""
    start = dt.datetime.combine(DAY, dt.time(), dt.UTC)
    return start + dt.timedelta(hours=begin), start + dt.timedelta(hours=end)


def test_served_rows_are_a_frame_of_a_span_of_event_time(lake: Lake, tmp_path: Path) -> None:
    """The third row's time falls back over midnight: its file is of the day after, its time is of the day."""
    times = [MIDNIGHT, MIDNIGHT + DAY_NS, MIDNIGHT + DAY_NS - 1, MIDNIGHT + DAY_NS + HOUR]
    fake = FakeTopic({0: [record(PREDICTIONS, i, time) for i, time in enumerate(times, 1)]})
    sink(lake, fake.reader, PREDICTIONS)
    frame = served_rows(str(tmp_path), PREDICTIONS, PRODUCT, *hours(0, 24))
    assert frame["trade_id"].tolist() == [1, 3]
    assert str(frame["event_time"].dtype) == "datetime64[ns, UTC]"
    assert frame["event_time"].astype("int64").tolist() == [times[0], times[2]]
    assert frame["ret_std"].isna().all()
    assert [row["version"] for row in frame["shadow"][0]] == ["1"]
    assert list(frame["missing"][0]) == ["ret_std", "x"]
    assert served_rows(lake, PREDICTIONS, PRODUCT, *hours(24, 25), columns=["price"])["price"].tolist() == [2.0]
    assert served_rows(lake, FEATURES, PRODUCT, *hours(0, 24)).empty
    with pytest.raises(ValueError, match="has no column spam; it has generation"):
        served_rows(lake, FEATURES, PRODUCT, *hours(0, 24), columns=["spam"])
    with pytest.raises(ValueError, match="must be aware"):
        served_rows(lake, FEATURES, PRODUCT, dt.datetime(2025, 1, 6), dt.datetime(2025, 1, 7))
    with pytest.raises(ValueError, match="topic must be one of"):
        served_rows(lake, "spam", PRODUCT, *hours(0, 24))


def test_offsets_behind_count_what_the_lake_lacks(lake: Lake) -> None:
    fake = mixed(FEATURES)
    assert offsets_behind(lake, fake.reader, [FEATURES]) == {FEATURES: 11}
    sink(lake, fake.reader, FEATURES)
    found = offsets_behind(lake, fake.reader, [FEATURES])
    assert found == {FEATURES: 0}
    (figure,) = sink_figures(found)
    assert (figure.name, figure.labels, figure.value) == ("sink_offsets_behind", {"topic": "features"}, 0.0)


def served(lake: Lake, *records: bytes, topic: FakeTopic | None = None) -> FakeTopic:
    """Put trades on a topic and into the lake; return the topic."""
    topic = topic or FakeTopic({0: []})
    topic.records[0] += records
    sink(lake, topic.reader, TRADES)
    return topic


def staged_ids(lake: Lake, name: str = "served", day: dt.date = DAY) -> list[int]:
    ids: list[int] = trades_of(lake.read(f"{RECORDINGS}/{name}", PRODUCT, day), PRODUCT).trade_id.tolist()
    return ids


def test_trades_of_finished_days_are_staged_and_no_others(lake: Lake) -> None:
    """`one` goes on to the next day, by 20 trades; `two` is open; `three` is a drill; `four` has ended."""
    topic = served(lake, record(TRADES, 1, AT + 1))
    served(
        lake,
        record(TRADES, 2, AT + 2),
        *(record(TRADES, i, AT + i, source_id="two") for i in (3, 4)),
        *(record(TRADES, i, AT + i, source_id="three", purpose="drill") for i in (5, 6)),
        end("three", purpose="drill"),
        *(record(TRADES, i, AT + i, source_id="four", purpose="live") for i in (7, 8)),
        end("four", purpose="live"),
        *(record(TRADES, i, AT + DAY_NS + i) for i in range(9, 29)),
        topic=topic,
    )
    assert [(each.day, each.sources) for each in finished_days(read_manifest(lake, TRADES))] == [
        (DAY, [(0, "one"), (0, "four")])
    ]
    assert [(each.day, each.rows) for each in stage_finished(lake)][-1] == (DAY, 4)
    assert staged_ids(lake) == [1, 2, 7, 8]
    assert stage_finished(lake) == []
    served(lake, end("two"), end("one"), topic=topic)
    assert {(each.day, each.rows) for each in stage_finished(lake)} == {(DAY, 6), (DAY + dt.timedelta(1), 20)}
    assert staged_ids(lake) == [1, 2, 3, 4, 7, 8]
    assert compact(lake, TRADES, LATER) == 1
    assert stage_finished(lake) == []


def test_a_day_replayed_twice_is_staged_once(lake: Lake) -> None:
    """The second replay has another price for trade 2, and one trade more; the first replay wins."""
    topic = served(lake, *(record(TRADES, i, AT + i * NS) for i in range(1, 400)), end())
    (first,) = stage_finished(lake)
    content = lake.read(f"{RECORDINGS}/served", PRODUCT, DAY)
    more = [record(TRADES, i, AT + i * NS, source_id="two", price=3.0) for i in (1, 2)]
    served(
        lake, *more, *(record(TRADES, i, AT + i * NS, source_id="two") for i in range(3, 400)), end("two"), topic=topic
    )
    assert stage_finished(lake) == []
    assert lake.read(f"{RECORDINGS}/served", PRODUCT, DAY).equals(content)
    served(lake, record(TRADES, 400, AT + 400 * NS, source_id="three"), end("three"), topic=topic)
    assert [each.rows for each in stage_finished(lake)] == [first.rows + 1]


def test_a_source_with_moved_times_is_staged_apart(lake: Lake) -> None:
    served(
        lake,
        *(record(TRADES, i, AT + i * NS) for i in range(1, 400)),
        end(),
        *(record(TRADES, i, AT + i * NS + HOUR, source_id="moved") for i in range(1, 400)),
        end("moved"),
    )
    stage_finished(lake)
    assert staged_ids(lake) == staged_ids(lake, "served-2") == list(range(1, 400))
    made = make_trades(lake, PRODUCT, DAY)
    assert made.facts.id_spaces == 2
    assert made.facts.rows == 2 * 399  # the moved hour follows the first one


def test_files_of_an_earlier_release_are_staged_and_merged(lake: Lake) -> None:
    """They do not tell which trades the forecaster took: here trade 1 came twice."""
    at = [AT + i * NS for i in range(9)]
    topic = served(lake, *(record(TRADES, i, at[i]) for i in (1, 2, 1, 3)))
    manifest = read_manifest(lake, TRADES)
    for file in manifest.files:
        rows = read_rows(lake.objects, file.path, columns_of(TRADES)).drop_columns(IS_TAKEN)
        with rows_to(lake.objects, file.path, rows.schema) as old:
            old.write(*rows.to_batches())
    served(lake, record(TRADES, 4, at[4]), end(), topic=topic)
    assert compact(lake, TRADES, LATER) == 1
    assert served_rows(lake, TRADES, PRODUCT, *hours(0, 24))["is_taken"].isna().tolist() == [True] * 4 + [False]
    stage_finished(lake)
    assert staged_ids(lake) == [1, 2, 3, 4]


def test_a_replay_of_a_recording_of_the_inbox_changes_no_trade(lake: Lake, tmp_path: Path) -> None:
    trades = trades_at(AT + NS * np.arange(1, 300))
    ingest(lake, recorded(tmp_path / "zebra.csv", trades))
    before = make_trades(lake, PRODUCT, DAY).partition
    records = [
        record(TRADES, *each[:2], price=each[2], size=each[3], side={-1: "sell", 0: None, 1: "buy"}[each[4]])
        for each in zip(
            trades.trade_id.tolist(),
            trades.event_time.tolist(),
            trades.price.tolist(),
            trades.size.tolist(),
            trades.side.tolist(),
            strict=True,
        )
    ]
    served(lake, *records, end())
    assert [each.rows for each in stage_finished(lake)] == [len(trades)]
    after = make_trades(lake, PRODUCT, DAY)
    assert before is not None
    assert after.partition is not None
    assert after.partition.content_hash == before.content_hash
    assert after.facts.duplicates == len(trades)


def test_no_recording_takes_the_name_of_the_served_trades(lake: Lake, tmp_path: Path) -> None:
    recording = recorded(tmp_path / "a.csv", trades_at(AT + NS * np.arange(1, 9)))
    for name in ("served", "served-2"):
        with pytest.raises(ValueError, match="is that of trades from the topic"):
            ingest(lake, recording, name=name)
    assert ingest(lake, recording, name="served-monday").days


def test_the_manifest_is_plain_json(lake: Lake, tmp_path: Path) -> None:
    sink(lake, mixed(FEATURES).reader, FEATURES)
    manifest = json.loads((tmp_path / "served/features/manifest.json").read_text())
    assert manifest["next"] == {"0": 9, "7": 2}
