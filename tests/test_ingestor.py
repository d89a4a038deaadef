"""When the ingestor sends what; on a broker it is in test_pipeline.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data.trades import NS
from online.ingestor import Place
from online.pace import Pace, Speed, parse_speed


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
    """0, 1, 5 s and then 6 s recorded, begun at 100 s: due at 100, 100.1, 100.5 and 100.6."""
    pace = Pace(10, max_wait_s=60, start=100)
    first, _ = pace.due(np.array([0, 1, 5]) * NS)
    second, _ = pace.due(np.array([6]) * NS)
    assert [*first, *second] == pytest.approx([100, 100.1, 100.5, 100.6])


def test_a_hole_is_waited_for_no_longer_than_allowed_and_is_said() -> None:
    """An hour at 10 times is six minutes: cut to 2 s. What follows keeps its pace."""
    due, cut = Pace(10, max_wait_s=2, start=0).due(np.array([0, 3_600, 3_601]) * NS)
    assert due == pytest.approx([0, 2, 2.1])
    assert cut == {1: 360.0}


def test_a_time_that_falls_is_due_with_the_one_before() -> None:
    due, _ = Pace(1, max_wait_s=60, start=0).due(np.array([10, 9.5, 10.5]) * NS)
    assert due == pytest.approx([0, 0, 0.5])


def test_at_max_all_is_due_at_once() -> None:
    due, cut = Pace(math.inf, max_wait_s=1, start=7).due(np.array([0, 1_000, 9_000]) * NS)
    assert due.tolist() == [7, 7, 7]
    assert cut == {}


def test_a_source_is_finished_when_each_of_its_products_has_ended() -> None:
    last = {"BTC-USD": (7, 0), "ETH-USD": (9, 0)}
    assert not Place().is_finished
    assert not Place(last).is_finished
    assert not Place(last, {"BTC-USD"}).is_finished
    assert Place(last, {"BTC-USD", "ETH-USD"}).is_finished
