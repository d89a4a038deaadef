"""Times of the ingestor's sends; with a broker in test_pipeline.py."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition

from data.recordings.readers import Batch
from data.stream.codec import encode_trades
from data.times import NS
from data.trades import StreamKey, Trades
from online.ingestor import PIECE, STAMP, Ingestor
from online.metrics import IngestorMetrics
from online.replay.pace import Pace, Speed, parse_speed
from online.replay.progress import SourceProgress
from online.replay.share import NOTED_AT


@pytest.mark.parametrize(
    ("text", "speed"),
    [("1", Speed(1)), ("10", Speed(10)), ("0.5", Speed(0.5)), ("max", Speed(math.inf)), ("real-time", Speed(1, True))],
)
def test_speeds(text: str, speed: Speed) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_speed_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number above 0, real-time or max, was"):
        parse_speed(text)


def test_pace_at_ten_times_over_two_batches() -> None:
    """0, 1, 5 s and then nothing and 6 s recorded: due after 0, 0.1, 0.5 and 0.6 s."""
    pace = Pace(10, max_wait_s=60)
    first, _ = pace.due(np.array([0, 1, 5]) * NS)
    nothing, _ = pace.due(np.array([], np.int64))
    second, _ = pace.due(np.array([6]) * NS)
    assert [*first, *nothing, *second] == pytest.approx([0, 0.1, 0.5, 0.6])


def test_a_hole_is_waited_for_no_longer_than_allowed_and_is_said() -> None:
    """An hour at 10 times is six minutes: cut to 2 s. The trades behind keep their pace."""
    due, cut = Pace(10, max_wait_s=2).due(np.array([0, 3_600, 3_601]) * NS)
    assert due == pytest.approx([0, 2, 2.1])
    assert cut == {1: 360.0}


def test_a_time_that_falls_is_due_with_the_one_before() -> None:
    due, _ = Pace(1, max_wait_s=60).due(np.array([10, 9.5, 10.5]) * NS)
    assert due == pytest.approx([0, 0, 0.5])


def test_at_max_all_is_due_at_once() -> None:
    due, cut = Pace(math.inf, max_wait_s=1).due(np.array([0, 1_000, 9_000]) * NS)
    assert due.tolist() == [0, 0, 0]
    assert cut == {}


def test_a_source_is_finished_when_each_of_its_products_has_ended() -> None:
    last = {"BTC-USD": (7, 0), "ETH-USD": (9, 0)}
    assert not SourceProgress().is_finished
    assert not SourceProgress(last).is_finished
    assert not SourceProgress(last, {"BTC-USD"}).is_finished
    assert SourceProgress(last, {"BTC-USD", "ETH-USD"}).is_finished


def trades_of(count: int) -> Trades:
    """Trades a millisecond apart, some without size or side."""
    row = np.arange(count)
    return Trades(
        (StreamKey("", "BTC-USD"), StreamKey("", "ETH-USD")),
        (row % 2).astype(np.int32),
        row + 7,
        1_700_000_000 * NS + row * 1_000_000,
        np.zeros(count, np.int64),
        100 + row / 7,
        np.where(row % 3, 0.25, np.nan),
        (row % 3 - 1).astype(np.int8),
    )


def test_a_record_prepared_before_its_time_is_the_record_written_at_its_time() -> None:
    """In pieces, due a tenth of a millisecond apart at ten times the pace."""
    trades, now_ns = trades_of(PIECE + 500), 1_800_000_000_123_456_789

    def batches() -> Generator[Batch]:
        yield Batch(trades, "here.csv", np.arange(len(trades)), [], 0, 1.0)

    producer, always = Producer({"log_level": 0}), lambda: True
    ingestor = Ingestor(producer, IngestorMetrics(), "source-1", "drill", SourceProgress(), always, always)
    pieces = list(ingestor._pieces(batches(), Speed(10), 60))
    assert [len(piece.trades) for piece in pieces] == [PIECE, 500]
    found = [(STAMP + b"%d" % now_ns).join(parts) for piece in pieces for parts in piece.parts]
    keys = tuple(StreamKey("source-1", key.product_id) for key in trades.keys)
    assert found == encode_trades(replace(trades, keys=keys, ingest_time=np.full(len(trades), now_ns)), "drill")
    assert [piece.shares for piece in pieces] == [(0, pytest.approx(2 / 3)), (pytest.approx(2 / 3), 1)]
    assert pieces[1].share(250) == pytest.approx(5 / 6), "half of the second piece"
    due = np.concatenate([piece.due for piece in pieces])
    np.testing.assert_allclose(due, np.arange(len(trades)) * 1e-4, atol=1e-12)


def test_the_share_is_noted_each_5_s_while_the_broker_takes_trades() -> None:
    """The offset of the note is the one of the source's beginning."""
    noted: list[TopicPartition] = []
    producer, always = Producer({"log_level": 0}), lambda: True
    progress = SourceProgress(noted_at=TopicPartition(*NOTED_AT, 41))
    ingestor = Ingestor(producer, IngestorMetrics(), "source-1", "drill", progress, always, always, noted.append)
    for now, delivered, share in (
        (0, 0, 0.1),
        (1, 7, 0.2),
        (5.9, 8, 0.3),
        (6, 8, 0.4),
        (60, 8, 0.5),
        (61, 9, 1.0),
    ):
        ingestor.delivered = delivered
        ingestor._note_share(share, now)
    assert [(each.topic, each.partition, each.offset) for each in noted] == [(*NOTED_AT, 41)] * 3
    assert [each.metadata for each in noted] == ['{"share":0.2}', '{"share":0.4}', '{"share":1.0}']
