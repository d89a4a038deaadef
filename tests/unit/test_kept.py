"""The lake gives the records of a stream as their topic did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from data.stream.records import PREDICTIONS, Shadow
from data.times import DAY_S, NS
from data.trades import StreamKey
from offline.lake.store import Lake
from offline.served.compaction import compact
from offline.served.kept.records import kept_records
from offline.served.retention import remove_old
from offline.served.sink import sink
from tests.served import FakeTopic, record

DAY_NS = DAY_S * NS


def test_records_come_from_the_lake_as_they_were_written(tmp_path: Path) -> None:
    """Sixty records of two sources on two days, in files of the sink and in merged files; read from each offset on."""
    values: list[bytes | None] = [
        record(PREDICTIONS, i, DAY_NS * (1 + i // 40) + i, "one" if i % 3 else "two") for i in range(60)
    ]
    values[7] = None
    fake, lake = FakeTopic({3: values}), Lake.open(tmp_path)
    for count in (20, 45, 60):
        part = FakeTopic({3: values[:count]})
        sink(lake, part.reader, PREDICTIONS)
    wanted = {offset: value for offset, value in fake.kept(3) if offset % 3}
    for _ in range(2):
        kept = kept_records(lake, StreamKey("one", "BTC-USD"))
        assert kept.span(PREDICTIONS, 3) == (1, 60), "offset 0 is of the other source"
        for start, end in [(0, 60), *((i, i + 9) for i in range(60))]:
            blocks = kept.read(PREDICTIONS, 3, start, end)
            found = {offset: value for block in blocks for offset, value in zip(*block, strict=True)}
            expected = {offset: value for offset, value in wanted.items() if start <= offset < end}
            assert list(found) == sorted(expected)
            assert {o: msgspec.json.decode(v) for o, v in found.items()} == {
                offset: without_absent(value) for offset, value in expected.items()
            }
        assert compact(lake, PREDICTIONS, 100 * DAY_NS) in (0, 2)


def without_absent(value: bytes) -> dict[str, Any]:
    """Return a record's fields; optional fields of a shadow that are absent become null."""
    fields: dict[str, Any] = msgspec.json.decode(value)
    blank = dict.fromkeys(Shadow.__struct_fields__)
    fields["shadow"] = [blank | shadow for shadow in fields["shadow"]]
    return fields


def test_rows_before_removed_ones_are_not_taken_for_the_whole_stream(tmp_path: Path) -> None:
    """Twenty days of a source, the first seven removed for their age: the lake has the stream from day eight on."""
    values: list[bytes | None] = [record(PREDICTIONS, i + 1, DAY_NS * (i + 1)) for i in range(20)]
    lake = Lake.open(tmp_path)
    sink(lake, FakeTopic({3: values}).reader, PREDICTIONS)
    assert kept_records(lake, StreamKey("one", "BTC-USD")).span(PREDICTIONS, 3) == (0, 20)
    assert remove_old(lake, PREDICTIONS, 100 * DAY_NS, 1) == 7
    assert kept_records(lake, StreamKey("one", "BTC-USD")).span(PREDICTIONS, 3) == (7, 20)
