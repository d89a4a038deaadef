"""The sink on an object store: the tests of a lake in a folder hold there, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.stream.records import FEATURES
from offline.lake.store import Lake
from offline.served import sink as sink_module
from offline.served.compaction import compact
from offline.served.manifest import folder_of, read_manifest
from offline.served.sink import sink
from tests.seaweed import Seaweed
from tests.served import FakeTopic, is_killed, normal, record, records_of
from tests.unit import test_sink as in_a_folder


@pytest.fixture
def lake(seaweed: Seaweed, tmp_path: Path) -> Lake:
    return Lake.open(seaweed.uri(tmp_path.name))


@pytest.mark.parametrize(
    "check",
    [
        in_a_folder.test_records_that_retention_removed_are_a_stated_hole,
        in_a_folder.test_a_topic_made_anew_is_a_new_generation,
        in_a_folder.test_a_second_sink_is_refused,
        in_a_folder.test_a_damaged_manifest_says_what_to_do,
        in_a_folder.test_a_closed_day_becomes_one_file,
        in_a_folder.test_trades_of_finished_days_are_staged_and_no_others,
        in_a_folder.test_a_day_replayed_twice_is_staged_once,
    ],
    ids=lambda check: check.__name__.removeprefix("test_"),
)
def test_as_in_a_folder(check: Callable[[Lake], None], lake: Lake) -> None:
    check(lake)


def test_a_sink_killed_at_any_point_is_continued(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink dies at its nth step of the store, n = 1, 2, ..."""
    monkeypatch.setattr(sink_module, "FLUSH_ROWS", 2)
    at, hour = in_a_folder.AT, in_a_folder.HOUR
    records: list[bytes | None] = [record(FEATURES, i, at + i * hour) for i in range(1, 5)]
    for after in range(1, 60):
        lake, fake = Lake.open(seaweed.uri(f"{tmp_path.name}-{after}")), FakeTopic({0: list(records)})

        def sink_and_compact(lake: Lake = lake, fake: FakeTopic = fake) -> None:
            sink(lake, fake.reader, FEATURES)
            compact(lake, FEATURES, in_a_folder.LATER)

        if not is_killed(lake, after, sink_and_compact):
            break
        sink_and_compact()
        assert records_of(lake, FEATURES) == normal(fake.all(), FEATURES)
        files = {path for path in lake.objects.paths(folder_of(FEATURES)) if path.endswith(".parquet")}
        assert files == {file.path for file in read_manifest(lake, FEATURES).files}
    assert after > 10
