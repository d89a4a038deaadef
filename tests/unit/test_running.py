"""A process notices that the wall clock was set back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from data.process import running


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that lets a process see some wall times, one a second; it returns the number of looks."""

    def see(*wall: float) -> int:
        passed = 0
        ended, seen = threading.Event(), threading.Event()
        times: Iterator[float] = iter(wall)

        def sleep(_: float) -> None:
            nonlocal passed
            passed += 1
            if passed == len(wall):
                seen.set()
                threading.Event().wait()  # this thread looks no more

        def end() -> None:
            ended.set()
            seen.set()

        clock = SimpleNamespace(time=lambda: next(times), monotonic=lambda: float(passed), sleep=sleep)
        monkeypatch.setattr(running, "time", clock)
        running.end_if_set_back(end)
        assert seen.wait(10.0)
        return passed if ended.is_set() else 0

    return see


@pytest.mark.parametrize(
    "wall",
    [
        (100.0, 101.0, 102.0),
        (100.0, 3_701.0, 3_702.0),  # set forward by an hour
        (100.0, 98.5, 97.0),  # twice back by 2.5 s
    ],
)
def test_a_clock_that_runs_or_is_set_forward_or_is_corrected_by_seconds_ends_nothing(
    looks: Callable[..., int], wall: tuple[float, ...]
) -> None:
    assert looks(*wall) == 0


def test_a_clock_that_is_set_back_ends_the_process(looks: Callable[..., int]) -> None:
    """Forward by an hour at the first look, and back at the second."""
    assert looks(100.0, 3_701.0, 102.0, 103.0) == 2
