"""What is made ahead arrives in order, whole or with its error, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from data.recordings.read_ahead import read_ahead
from tests.pipeline import wait_until


def always() -> bool:
    return True


def test_items_come_in_order_and_no_more_than_the_depth_is_made_ahead() -> None:
    """3 lie ready and a fourth waits for a place; each one taken makes room for one."""
    made: list[int] = []

    def numbers() -> Generator[int]:
        for number in range(10):
            made.append(number)
            yield number

    with read_ahead(numbers(), 3, always) as items:
        wait_until(lambda: len(made) == 4, "what is made before any is asked for")
        assert next(items) == 0
        wait_until(lambda: len(made) == 5, "one more")
        assert made == [0, 1, 2, 3, 4]
        assert list(items) == list(range(1, 10))


def test_an_error_is_raised_in_its_place() -> None:
    def numbers() -> Generator[int]:
        yield 1
        yield 2
        raise ValueError("line 3: price must be above 0")

    got = []
    with read_ahead(numbers(), 10, always) as items, pytest.raises(ValueError, match="line 3"):
        for item in items:
            got.append(item)
    assert got == [1, 2]


def test_left_early_the_generator_is_closed_also_where_it_waits_for_room() -> None:
    closed = threading.Event()

    def numbers() -> Generator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with read_ahead(numbers(), 2, always) as items:
        assert next(items) == 1
    assert closed.is_set()
    assert "read ahead" not in {thread.name for thread in threading.enumerate()}


def test_a_stop_ends_the_items_also_while_none_comes() -> None:
    stopped, comes = threading.Event(), threading.Event()

    def numbers() -> Generator[int]:
        yield 1
        comes.wait(30)
        yield 2

    with read_ahead(numbers(), 2, lambda: not stopped.is_set()) as items:
        assert next(items) == 1
        stopped.set()
        assert list(items) == []
        comes.set()
