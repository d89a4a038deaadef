"""The live page's streams in memory: points, targets, quality, frames, and the states in words."""

from __future__ import annotations

import time
from itertools import count, pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features.spec import FeatureSpec
from data.stream.records import End
from data.times import NS
from data.trades import Floats, Int64s, StreamKey
from data.truth.counting import counted_rows
from data.truth.targets import target_volatility
from online.live import points as points_module
from online.live import states
from online.live.arrival import Arrivals, Heard
from online.live.points import POINT, LiveStream, ModelName, Ring
from online.live.view import MAX_STREAMS, LiveView
from tests.unit.test_streaming import market

SPEC = FeatureSpec()
ARRIVALS = count(1)


class Row(NamedTuple):
    """A forecast with the fields that the page reads."""

    source_id: str
    product_id: str
    purpose: str
    trade_id: int
    event_time: int
    ingest_time: int
    price: float
    score: float
    interval: tuple[float, float]
    model_variant: str = "ml"
    version: str = "1"
    digest: str = "d"
    in_sample: bool = False


def rows(event_time: Int64s, price: Floats, **more: Any) -> list[Row]:
    names = {"source_id": "a", "product_id": "BTC-USD", "purpose": "replay"} | more
    return [
        Row(trade_id=i, event_time=int(t), ingest_time=i, price=float(p), score=1e-3, interval=(5e-4, 2e-3), **names)
        for i, (t, p) in enumerate(zip(event_time, price, strict=True))
    ]


def followed(records: list[Row], cuts: list[int]) -> dict[str, Any]:
    """Return all that a browser gets of an ended stream that came in batches."""
    stream = LiveStream(1, SPEC)
    for begin, end in pairwise([0, *sorted(cuts), len(records)]):
        if part := records[begin:end]:
            stream.take(part)
    stream.end()
    frame, _ = stream.since(None)
    assert frame is not None
    return frame


@given(st.integers(0, 10_000), st.lists(st.integers(0, 1_500), max_size=20))
def test_judged_points_are_the_counted_rows_with_their_targets(seed: int, cuts: list[int]) -> None:
    event_time, price = market(seed, SPEC)
    counted = counted_rows(event_time, SPEC)
    targets = target_volatility(event_time, price, SPEC)[counted]
    known = ~np.isnan(targets)
    frame = followed(rows(event_time, price), cuts)
    marked = [
        row for row, is_counted in zip(frame["points"]["row"], frame["points"]["counted"], strict=True) if is_counted
    ]
    assert marked == counted.tolist()
    assert frame["judged"]["row"] == counted[known].tolist()
    assert frame["judged"]["realized"] == np.round(1e4 * targets[known], 4).tolist()


@given(st.integers(0, 10_000), st.lists(st.integers(0, 1_500), min_size=1, max_size=20))
def test_frames_add_up_to_the_whole_history(seed: int, cuts: list[int]) -> None:
    """A browser that was there from the start has the same points and targets as a browser that comes at the end."""
    event_time, price = market(seed, SPEC)
    records = rows(event_time, price)
    stream, cursor = LiveStream(1, SPEC), None
    points: list[int] = []
    judged: dict[int, float] = {}
    for begin, end in pairwise([0, *sorted(cuts), len(records)]):
        if not (part := records[begin:end]):
            continue
        stream.take(part)
        frame, cursor = stream.since(cursor)
        assert frame is not None
        assert frame["reset"] == (begin == 0)
        assert frame["tip"]["row"] == [end - 1]
        points += frame["points"]["row"]
        judged |= dict(zip(frame["judged"]["row"], frame["judged"]["realized"], strict=True))
        assert stream.since(cursor) == (None, cursor)
    whole, _ = stream.since(None)
    assert whole is not None
    assert whole["points"]["row"] == points
    assert dict(zip(whole["judged"]["row"], whole["judged"]["realized"], strict=True)) == judged


def test_a_browser_that_lags_gets_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five points stay, one a second: after ten seconds without a frame, the points between are gone."""
    monkeypatch.setattr(points_module, "RECENT_POINTS", 5)
    stream = LiveStream(1, SPEC)
    times = np.arange(40) * NS
    records = rows(times, np.full(40, 100.0))
    stream.take(records[:20])
    first, cursor = stream.since(None)
    stream.take(records[20:23])
    second, cursor = stream.since(cursor)
    stream.take(records[23:])
    third, _ = stream.since(cursor)
    assert [frame and frame["reset"] for frame in (first, second, third)] == [True, False, True]
    assert third is not None
    # Of 0 to 38 s each fifth counts; the last five are kept in any case.
    assert third["points"]["row"] == [0, 5, 10, 15, 20, 25, 30, 34, 35, 36, 37, 38]


def test_quality_by_hand() -> None:
    """Prices at rest, then one return of 1e-3: targets of 0 below the band, and of 1e-3 inside.

    With a floor of (2.5e-4)^2, r of a target 0 is 1/16: 1/16 + ln 16 - 1; r of a target 1e-3 is 1: no loss.
    """
    times = np.arange(1, 201) * NS
    price = np.where(times <= 130 * NS, 100.0, 100.0 * np.exp(1e-3))
    stream = LiveStream(1, SPEC)
    stream.take(rows(times, price))
    found = stream.quality(lambda _: 2.5e-4**2)["all"]
    # Judged: 5, 10, ..., 135 s; the return lies in (t, t + 60] for t of 75 to 130.
    inside = 12 / 27
    assert found is not None
    assert found.horizons == pytest.approx(27 / 12)
    assert (found.coverage, found.below, found.above) == pytest.approx((inside, 1 - inside, 0))
    assert found.qlike == pytest.approx((1 - inside) * (1 / 16 + np.log(16) - 1))
    assert stream.quality(lambda _: None)["all"] == found._replace(qlike=None)


def test_losses_follow_once_the_floor_is_known_though_no_record_is_new() -> None:
    """The registry is asked for a version only while somebody looks: the first frame cannot hold losses."""
    times = np.arange(1, 201) * NS
    view = LiveView(SPEC)
    add(view, *rows(times, np.full(200, 100.0)))
    view.flush(is_live=True)
    first, cursor = view.frame(None, None, lambda _: None)
    assert first is not None
    assert msgspec.json.decode(first)["quality"]["all"]["qlike"] is None
    assert view.frame(None, cursor, lambda _: None) == (None, cursor)
    second, cursor = view.frame(None, cursor, lambda _: 1e-8)
    assert second is not None
    assert msgspec.json.decode(second)["quality"]["all"]["qlike"] > 0
    assert view.frame(None, cursor, lambda _: 1e-8) == (None, cursor)


def test_the_last_hour_is_of_the_newest_model_and_leaves_in_sample_forecasts_out() -> None:
    times = np.arange(1, 9_001) * NS
    records = rows(times, np.full(9_000, 100.0))
    records[:1_000] = [record._replace(in_sample=True) for record in records[:1_000]]
    stream = LiveStream(1, SPEC)
    stream.take(records)
    quality = stream.quality(lambda _: None)
    hour, whole = quality["hour"], quality["all"]
    assert hour is not None and whole is not None
    assert hour.horizons == 60
    assert whole.horizons == pytest.approx((8_935 - 1_000) / 60, abs=0.1)
    stream.take(rows(times + 9_000 * NS, np.full(9_000, 100.0), version="2")[:30])
    assert stream.quality(lambda _: None) == {"hour": None, "all": None}
    assert list(stream.models) == [ModelName("ml", "1"), ModelName("ml", "2")]


def test_a_ring_keeps_the_newest_points_in_order() -> None:
    ring, expected = Ring(1_000), 0
    rng = np.random.default_rng(1)
    for size in rng.integers(0, 400, 60).tolist():
        new = np.zeros(size, POINT)
        new["row"] = np.arange(expected, expected + size)
        ring.append(new)
        expected += size
        assert ring.points["row"].tolist() == list(range(max(0, expected - 1_000), expected))
    assert len(ring._buffer) <= 2_400


def add(view: LiveView, *records: Any) -> None:
    """Add records as they arrive, in one partition."""
    for record in records:
        view.add(record, Heard(next(ARRIVALS), record.ingest_time, 0))
    view._flushed = 0.0
    view.flush(is_live=True)


def frame_of(view: LiveView, wanted: StreamKey | None, cursor: Any = None) -> Any:
    frame, _ = view.frame(wanted, cursor, lambda _: None)
    return frame and msgspec.json.decode(frame)


def test_the_newest_open_stream_is_shown_unless_another_is_wanted() -> None:
    view = LiveView(SPEC)
    times, price = np.arange(1, 4) * NS, np.full(3, 100.0)
    add(view, *rows(times, price), *rows(times, price, source_id="b"))
    assert frame_of(view, None)["stream"]["source_id"] == "b"
    add(view, *rows(times + 3 * NS, price))
    assert frame_of(view, None)["stream"]["source_id"] == "a"
    add(view, End("a", "BTC-USD", "replay", 9, True))
    assert frame_of(view, None)["stream"]["source_id"] == "b"
    assert frame_of(view, StreamKey("a", "BTC-USD"))["stream"]["has_ended"]
    assert frame_of(view, StreamKey("nobody", "BTC-USD"))["stream"]["source_id"] == "b"
    assert [(row["source_id"], row["has_ended"]) for row in view.summary()] == [("b", False), ("a", True)]


def test_a_clock_that_was_ahead_leaves_neither_the_default_stream_nor_a_place() -> None:
    """The ingest times fall by an hour a source, as on a machine whose clock is set back again and again."""
    view = LiveView(SPEC)
    one = np.array([NS]), np.array([100.0])
    for i in range(MAX_STREAMS + 1):
        add(view, *(row._replace(ingest_time=(100 - i) * 3_600 * NS) for row in rows(*one, source_id=f"s{i}")))
        assert frame_of(view, None)["stream"]["source_id"] == f"s{i}"
    assert {row["source_id"] for row in view.summary()} == {f"s{i}" for i in range(1, MAX_STREAMS + 1)}


def test_a_silent_source_of_a_clock_ahead_gets_older_on_the_page() -> None:
    view = LiveView(SPEC)
    add(view, *rows(np.array([NS]), np.array([100.0])))
    key = StreamKey("a", "BTC-USD")
    view._streams[key].newest = view._streams[key].newest._replace(ingest_time=time.time_ns() + 3_600 * NS)
    view._streams[key].seen -= 40
    assert 40 <= view.summary()[0]["age_s"] < 50


def test_places_never_fall_in_a_partition_whatever_clocks_say() -> None:
    """Of two partitions: before the start times compare them, after it arrivals do; older records come last of all."""
    order = Arrivals()
    first = order.newer(0, 10, 500, is_live=False)
    fallen = order.newer(0, 11, 300, is_live=False)
    other = order.newer(1, 900, 400, is_live=False)
    older = order.older(0, 9, 700)
    oldest = order.older(0, 8, 100)
    live = order.newer(1, 901, 1, is_live=True)
    caught_up = order.newer(1, 902, 0, is_live=False)  # after a lost broker
    assert sorted([caught_up, live, other, fallen, first, older, oldest]) == [
        oldest,  # 100
        other,  # 400
        older,  # 500 at most, as is the record behind it
        first,
        fallen,
        live,
        caught_up,
    ]
    assert (fallen.time, older.time) == (500, 500)


def test_streams_are_bounded_and_an_ended_stream_goes_first() -> None:
    view = LiveView(SPEC)
    one = np.array([NS]), np.array([100.0])
    for i in range(MAX_STREAMS):
        add(view, *(row._replace(ingest_time=i) for row in rows(*one, source_id=f"s{i}")))
    add(view, End("s5", "BTC-USD", "replay", 9, True))
    for name in ("new", "newer"):
        add(view, *(row._replace(ingest_time=99) for row in rows(*one, source_id=name)))
    known = {row["source_id"] for row in view.summary()}
    assert known == {f"s{i}" for i in range(MAX_STREAMS)} - {"s5", "s0"} | {"new", "newer"}


def test_latency_is_of_rows_that_came_after_the_start() -> None:
    view = LiveView(SPEC)
    ago = time.time_ns() - NS // 2
    [row] = rows(np.array([NS]), np.array([100.0]))
    view.add(row._replace(ingest_time=ago), Heard(0, ago, 0))
    view._flushed = 0.0
    view.flush(is_live=False)
    assert view.latency() is None
    add(view, row._replace(event_time=2 * NS, ingest_time=ago))
    latency = view.latency()
    assert latency is not None
    assert latency["rows"] == 1
    assert 500 <= latency["p50_ms"] <= 2_500


def test_a_stream_that_fails_costs_no_other() -> None:
    view = LiveView(SPEC)
    good = rows(np.array([NS]), np.array([100.0]), source_id="good")
    [bad] = rows(np.array([NS]), np.array([100.0]), source_id="bad")
    add(view, bad._replace(interval=(1.0,)), *good)  # type: ignore[arg-type] # as a fault of ours would
    assert [row["source_id"] for row in view.summary()] == ["good"]


STREAM = {"product_id": "BTC-USD", "source_id": "a", "has_ended": False, "age_s": 0.1, "event_time": 1.7e12}


@pytest.mark.parametrize(
    ("changes", "written", "behind", "state", "words"),
    [
        ({}, None, 0, "live", "come in"),
        ({"age_s": 42.0}, True, 0, "stale", "42 s old"),
        ({"age_s": 42.0}, None, 1_234, "stale", "1,234 trades wait"),
        ({"age_s": 300.0}, False, 0, "paused", "for 5 min"),
        ({"age_s": 300.0, "has_ended": True}, None, 0, "ended", "2023-11-14T22:13:20Z"),
    ],
)
def test_each_state_of_a_stream_says_what_and_what_to_do(
    changes: dict[str, Any], written: bool | None, behind: int, state: str, words: str
) -> None:
    said = states.of_stream(STREAM | changes, 30.0, written, behind)
    assert said.state == state
    assert words in said.what
    assert (said.advice == "") == (state == "live")


def test_a_broken_part_is_named() -> None:
    assert states.broken(None, None) is None
    away = states.broken("127.0.0.1:9092: timed out", None)
    assert away is not None
    assert away.what == "The broker at 127.0.0.1:9092 does not answer, so no forecast can come in."
    no_topic = states.broken("127.0.0.1:9092 has no topic predictions", None)
    assert no_topic is not None
    assert no_topic.what.startswith("127.0.0.1:9092 has no topic")
    for problem, state in (("asking where predictions ends", "starting"), ("reading predictions: boom", "broken")):
        found = states.broken(None, problem)
        assert found is not None
        assert found.state == state
