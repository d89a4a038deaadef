"""The place of a partition whose offset was lost, found from the topics."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from data.features.spec import FeatureSpec
from data.simulator.day import simulate_day
from data.stream.clients import Incoming
from data.stream.codec import encode, encode_trades
from data.stream.reader import RecordBlock, TopicReader
from data.stream.records import FEATURES, TRADES, End
from data.trades import StreamKey, Trades
from online.exactly_once.feature_stage import FeatureColumns, FeatureStage
from online.exactly_once.loop import LostPlace
from online.exactly_once.lost_offsets import check_never_read, find_place
from online.exactly_once.offset_note import read_note, short_name
from online.metrics import ForecasterMetrics

SPEC = FeatureSpec()
PARTITION = 5


class Topics:
    """Stands in for `TopicReader`: one partition of each topic, from its oldest offset on.

    Attributes:
        committed: the note of the lost offset.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[bytes]] = {}
        self.low: dict[str, int] = {}
        self.committed = ""

    def span(self, topic: str, _: int) -> tuple[int, int]:
        return self.low.get(topic, 0), len(self.records.get(topic, ()))

    def read(self, topic: str, _: int, start: int, end: int) -> Iterator[RecordBlock]:
        start = max(start, self.low.get(topic, 0))
        if start < end:
            yield RecordBlock(list(range(start, end)), list(self.records[topic][start:end]))


def find(topics: Topics, *, anew: bool = False) -> tuple[int, str] | None:
    return find_place(cast(TopicReader, topics), SPEC, PARTITION, anew=anew)


def stream(source_id: str) -> Trades:
    trades = simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, 100))
    return replace(trades, keys=(StreamKey(source_id, "ETH-USD"),))


def end(source_id: str) -> bytes:
    return encode(End(source_id, "ETH-USD", "replay", 1_741_186_800_000_000_000, end=True))


@pytest.fixture
def topics() -> Topics:
    """100 trades and the end of `gone`, 100 trades and the end of `over`, 100 trades of `open`; all processed."""
    trades = [encode_trades(stream(name), "replay") for name in ("gone", "over", "open")]
    topics = Topics()
    topics.records[TRADES] = [*trades[0], end("gone"), *trades[1], end("over"), *trades[2]]
    stage = FeatureStage(SPEC, lambda *_: (), ForecasterMetrics())
    messages = [Incoming(TRADES, PARTITION, offset, text, 0) for offset, text in enumerate(topics.records[TRADES])]
    topics.records[FEATURES] = []
    for part in stage.process(messages).parts:
        topics.records[FEATURES].extend(part.texts if isinstance(part, FeatureColumns) else [part.text])
    topics.committed = stage.note(PARTITION, 302)
    return topics


def named(*source_ids: str) -> list[bytes]:
    return [short_name(StreamKey(source_id, "ETH-USD")) for source_id in source_ids]


@pytest.mark.parametrize("anew", [False, True])
def test_windows_that_can_be_made_again_are_kept_also_where_a_new_segment_is_allowed(
    topics: Topics, anew: bool
) -> None:
    """The command finds the place and the note that the forecaster had committed."""
    assert find(topics, anew=anew) == (302, topics.committed)


def test_ended_sources_stay_ended_where_windows_start_anew(topics: Topics) -> None:
    """The end of `gone` stands on features alone, the end of `over` on both topics; the trades of `open` partly."""
    topics.low[TRADES] = 150
    topics.records[FEATURES][-1] = topics.records[FEATURES][-1].replace(b'"n":', b'"n":1')
    with pytest.raises(LostPlace, match="With `--anew`, each open stream starts a new segment"):
        find(topics)
    found = find(topics, anew=True)
    assert found is not None
    offset, note = found
    assert offset == 302
    assert read_note(note, offset) == ({}, named("gone", "over"))


def test_a_partition_whose_rows_have_expired_begins_at_its_oldest_trade_if_told_so(topics: Topics) -> None:
    """The forecaster refuses the partition and names the command: the command must not answer "nothing is lost"."""
    topics.low = {FEATURES: len(topics.records[FEATURES]), TRADES: 250}
    with pytest.raises(LostPlace, match="its rows have expired"):
        check_never_read(cast(TopicReader, topics), PARTITION)
    with pytest.raises(LostPlace, match=r"its rows have expired: nothing tells up to where.* offset 250"):
        find(topics)
    assert find(topics, anew=True) == (250, "")


def test_a_partition_that_was_never_read_has_no_place(topics: Topics) -> None:
    topics.records[FEATURES] = []
    check_never_read(cast(TopicReader, topics), PARTITION)
    assert find(topics) is find(topics, anew=True) is None
