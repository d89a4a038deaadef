"""The feature stage, fed records by hand; Kafka itself is in test_pipeline.py and faults/."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.spec import FeatureSpec
from data.simulator.day import simulate_day
from data.stream.clients import Incoming
from data.stream.codec import encode, encode_trades
from data.stream.reader import RecordBlock
from data.stream.records import FEATURES, REJECTED, TRADES, End
from data.trades import StreamKey, Trades
from online.exactly_once.feature_stage import MAX_SOURCES, FeatureStage
from online.exactly_once.loop import Record
from online.exactly_once.offset_note import MAX_ENDED, MAX_NOTE, MAX_STREAMS, NAME_BYTES
from online.metrics import ForecasterMetrics

SPEC = FeatureSpec()
PARTITION = 3


class FakeTopic:
    """One partition of `coinbase-trades`, in a list: a stand-in for the broker, without transactions."""

    def __init__(self) -> None:
        self.records: list[Incoming] = []

    def add(self, *values: bytes) -> None:
        for value in values:
            self.records.append(Incoming(TRADES, PARTITION, len(self.records), value, 1_000))

    def read(self, partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        assert partition == PARTITION
        for at in range(start, end, 100):
            records = self.records[at : min(at + 100, end)]
            yield RecordBlock([record.offset for record in records], [record.value for record in records])


def stage_on(topic: FakeTopic) -> FeatureStage:
    return FeatureStage(SPEC, topic.read, ForecasterMetrics())


@cache
def _simulated(product_id: str) -> Trades:
    return simulate_day(product_id, dt.date(2025, 3, 6), hours=(10, 11))


def source(source_id: str, n: int, product_id: str = "BTC-USD") -> Trades:
    trades = _simulated(product_id).take(slice(0, n))
    return replace(trades, keys=(StreamKey(source_id, product_id),))


def records_of(trades: Trades) -> list[bytes]:
    return encode_trades(trades, "drill")


def end_of(source_id: str, product_id: str = "BTC-USD") -> bytes:
    return encode(End(source_id, product_id, "drill", 1_735_689_600_000_000_000, end=True))


def values(records: list[Record], topic: str = FEATURES) -> list[Any]:
    return [msgspec.json.decode(value) for where, _, _, value, _ in records if where == topic]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 399), max_size=6), st.integers(0, 3))
def test_a_restart_anywhere_writes_what_was_still_to_write(cuts: list[int], seed: int) -> None:
    """Three sources in turns: `b` ends, and a record of `a` comes a second time.

    After each batch the stage is thrown away, and another stage is restored from the note: the records equal the
    records of a stage without an interruption.
    """
    rng = np.random.default_rng(seed)
    topic = FakeTopic()
    queues = [records_of(source(name, 130)) for name in ("a", "b", "c")]
    queues[0].insert(60, queues[0][10])  # an id that has passed
    queues[1].append(end_of("b"))
    turns = np.repeat(np.arange(3), [len(queue) for queue in queues])
    rng.shuffle(turns)
    mixed = [iter(queue) for queue in queues]
    topic.add(*(next(mixed[turn]) for turn in turns))
    expected = stage_on(topic).process(topic.records).records
    places = sorted({0, *(cut for cut in cuts if cut < len(topic.records)), len(topic.records)})
    found: list[Record] = []
    note = ""
    for start, stop in pairwise(places):
        stage = stage_on(topic)
        stage.restore(PARTITION, start, note, low=0)
        found.extend(stage.process(topic.records[start:stop]).records)
        note = stage.note(PARTITION, stop)
    for topic_name in (FEATURES, REJECTED):
        assert values(found, topic_name) == values(expected, topic_name)


def test_each_trade_gives_a_row_with_its_place_and_an_end_goes_on() -> None:
    topic = FakeTopic()
    topic.add(*records_of(source("a", 3)), end_of("a"))
    rows = values(stage_on(topic).process(topic.records).records)
    assert [row["kafka_offset"] for row in rows] == [0, 1, 2, 3]
    assert {row["kafka_partition"] for row in rows} == {PARTITION}
    assert [row["n"] for row in rows[:3]] == [0, 1, 2]
    assert rows[0]["ret_mean"] is None
    assert {row["spec_id"] for row in rows[:3]} == {SPEC.spec_id}
    assert rows[3] == msgspec.json.decode(end_of("a")) | {"kafka_partition": PARTITION, "kafka_offset": 3}


def test_what_comes_after_an_end_is_rejected_in_any_batch_and_after_a_restart() -> None:
    """The trades are from a writer that was frozen while another finished the source; a second end is rejected."""
    topic = FakeTopic()
    trades = records_of(source("a", 20))
    topic.add(*trades[:10], end_of("a"), *trades[10:], end_of("a"), records_of(source("b", 1))[0])
    whole = stage_on(topic).process(topic.records).records
    stage = stage_on(topic)
    single = [record for incoming in topic.records for record in stage.process([incoming]).records]
    restarted = stage_on(topic)
    restarted.restore(PARTITION, 11, first_note(topic, 11), low=0)
    after = restarted.process(topic.records[11:]).records
    assert sorted(whole) == sorted(single)
    assert [row.get("n") for row in values(whole)] == [*range(10), None, 0]
    assert [row["n"] for row in values(after)] == [0]
    for records in (whole, after):
        assert [row["reason"] for row in values(records, REJECTED)] == ["its source has ended"] * 11


def first_note(topic: FakeTopic, offset: int) -> str:
    """Return the note of a stage that has processed all records before an offset."""
    stage = stage_on(topic)
    stage.process(topic.records[:offset])
    return stage.note(PARTITION, offset)


def test_the_oldest_ends_are_forgotten_first() -> None:
    """More sources end than are remembered, by 1: the first source may begin anew, the second source may not."""
    topic = FakeTopic()
    names = [f"s{i}" for i in range(MAX_ENDED + 1)]
    for name in names:
        topic.add(records_of(source(name, 1))[0], end_of(name))
    topic.add(*(records_of(source(name, 2))[1] for name in names[:2]))
    records = stage_on(topic).process(topic.records).records
    assert [row["source_id"] for row in values(records, REJECTED)] == ["s1"]
    assert values(records)[-1]["source_id"] == "s0"


def test_trades_that_were_removed_unread_start_each_stream_anew_and_lose_no_end() -> None:
    """An open stream begins anew with n = 0, an ended stream stays ended; a restart gives the same."""
    topic = FakeTopic()
    trades = records_of(source("a", 30))
    topic.add(end_of("b"), *trades[:10])
    stage = stage_on(topic)
    stage.process(topic.records)
    note = stage.note(PARTITION, 11)
    topic.add(*trades[10:], records_of(source("b", 1))[0])
    stage.cut(PARTITION)
    restarted = stage_on(topic)
    restarted.restore(PARTITION, 11, note, low=21)
    for each in (stage, restarted):
        records = each.process(topic.records[21:]).records
        assert [row["n"] for row in values(records)] == [*range(10)]
        assert [row["source_id"] for row in values(records, REJECTED)] == ["b"]


def test_what_is_not_taken_is_rejected_with_its_place() -> None:
    topic = FakeTopic()
    trades = records_of(source("a", 5))
    no_price = trades[0].replace(b'"price":', b'"price":-')
    bad_name = trades[0].replace(b"BTC-USD", b"btcusd")
    bad_time = trades[0].replace(b'"event_time":', b'"event_time":-')
    huge_id = trades[0].replace(b'"trade_id":', b'"trade_id":1' + b"0" * 30)
    topic.add(trades[0], b"\xff", no_price, bad_name, bad_time, trades[0], huge_id, trades[1])
    records = stage_on(topic).process(topic.records).records
    assert [row["kafka_offset"] for row in values(records)] == [0, 7]
    rejected = {row["where"]: row["reason"] for row in values(records, REJECTED)}
    said = {
        1: "malformed",
        2: ">= 1e-100",
        3: "product_id must match",
        4: "Expected `int` >= 0 - at `$.event_time`",
        5: "already taken or passed",
        6: "trade_id",
    }
    assert rejected.keys() == {f"{TRADES}[{PARTITION}]@{offset}" for offset in said}
    for offset, reason in said.items():
        assert reason in rejected[f"{TRADES}[{PARTITION}]@{offset}"]


def test_the_65th_open_source_is_refused_until_one_has_ended() -> None:
    topic = FakeTopic()
    trades = {name: records_of(source(name, 2)) for name in [*(f"s{i}" for i in range(MAX_SOURCES)), "late"]}
    topic.add(*(pair[0] for pair in trades.values()), trades["s0"][1], end_of("s0"), trades["late"][1])
    records = stage_on(topic).process(topic.records).records
    assert len(values(records)) == MAX_SOURCES + 3
    [refused] = values(records, REJECTED)
    assert refused["source_id"] == "late"
    assert "64 sources are open in this partition" in refused["reason"]


def test_the_note_of_all_streams_that_may_be_open_fits_what_brokers_take_and_restores_them() -> None:
    """64 sources with five products each: the 301st stream is refused, also after a restart."""
    topic = FakeTopic()
    sources = [f"replay-20250101T000000Z-{i:04x}" for i in range(MAX_SOURCES)]
    for place in range(2):
        for source_id, product_id in product(sources, ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USD")):
            topic.add(records_of(source(source_id, 2, product_id))[place])
    half = len(topic.records) // 2
    stage = stage_on(topic)
    refused = values(stage.process(topic.records[:half]).records, REJECTED)
    assert len(refused) == MAX_SOURCES * 5 - MAX_STREAMS
    assert "300 products of sources are open" in refused[0]["reason"]
    note = stage.note(PARTITION, half)
    assert len(note) <= MAX_NOTE - MAX_ENDED * NAME_BYTES * 5 // 4
    restarted = stage_on(topic)
    restarted.restore(PARTITION, half, note, low=0)
    assert restarted.note(PARTITION, half) == note
    expected = values(stage.process(topic.records[half:]).records)
    assert len(expected) == MAX_STREAMS
    assert values(restarted.process(topic.records[half:]).records) == expected


def test_a_source_that_was_refused_does_not_come_in_by_a_restart() -> None:
    """The refused source is on the topic before open sources: read from the topic alone, it would displace one."""
    topic = FakeTopic()
    names = [f"s{i}" for i in range(MAX_SOURCES)]
    topic.add(*(records_of(source(name, 1))[0] for name in names), *records_of(source("late", 3)))
    stage = stage_on(topic)
    stage.process(topic.records)
    end = len(topic.records)
    restarted = stage_on(topic)
    restarted.restore(PARTITION, end, stage.note(PARTITION, end), low=0)
    topic.add(records_of(source("late", 4))[3], *(records_of(source(name, 2))[1] for name in names))
    records = restarted.process(topic.records[end:]).records
    assert [row["source_id"] for row in values(records, REJECTED)] == ["late"]
    assert [row["n"] for row in values(records)] == [1] * MAX_SOURCES


@pytest.mark.parametrize("note", ["AAAA", "old:1f other:2a", "☃", "AAAAA.AAAAA", "..."])
def test_a_note_that_is_none_is_said_and_stops_nothing(note: str, capsys: pytest.CaptureFixture[str]) -> None:
    topic = FakeTopic()
    topic.add(*records_of(source("a", 2)))
    metrics = ForecasterMetrics()
    stage = FeatureStage(SPEC, topic.read, metrics)
    stage.restore(PARTITION, 1, note, low=0)
    assert metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "window_incomplete"}) == 1
    assert "windows start empty" in capsys.readouterr().out
    assert [row["n"] for row in values(stage.process(topic.records[1:]).records)] == [0]


def test_the_marker_of_another_writers_transaction_is_no_lost_trade() -> None:
    """A marker takes an offset, and no reader sees the marker."""
    topic = FakeTopic()
    topic.add(*records_of(source("a", 30)))
    topic.records = [record._replace(offset=record.offset + record.offset // 15) for record in topic.records]
    assert [record.offset for record in topic.records[14:16]] == [14, 16]
    stage = stage_on(topic)
    stage.process(topic.records)
    metrics = ForecasterMetrics()

    def read(partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        for record in topic.records:
            if start <= record.offset < end:
                yield RecordBlock([record.offset], [record.value])

    FeatureStage(SPEC, read, metrics).restore(PARTITION, 31, stage.note(PARTITION, 31), low=0)
    assert metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "window_incomplete"}) == 0


def test_a_topic_that_lost_what_a_window_needs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    topic = FakeTopic()
    topic.add(*records_of(source("a", 30)))
    stage = stage_on(topic)
    stage.process(topic.records)
    note = stage.note(PARTITION, 30)
    metrics = ForecasterMetrics()
    shortened = FeatureStage(SPEC, lambda partition, start, end: topic.read(partition, max(start, 10), end), metrics)
    shortened.restore(PARTITION, 30, note, low=10)
    lost = metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "window_incomplete"})
    assert lost == 1
    assert "no longer holds" in capsys.readouterr().out
