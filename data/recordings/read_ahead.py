"""Run a generator in a thread, ahead of its reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.2
"""Seconds between two checks whether to stop, while a reader waits for an item."""
STOP_S = 1.0
"""Seconds that the thread may take to end; a thread that hangs in a read holds only a file, and ends with the process.
"""


@contextmanager
def read_ahead(items: Generator[T], depth: int, running: Callable[[], bool] = lambda: True) -> Iterator[Iterator[T]]:
    """Run a generator in a thread, up to `depth` items ahead, and give an iterator of the items.

    The items end when the generator ends, or when `running` returns False. An error of the generator is raised in place
    of the item. The end of the `with` block closes the generator.
    """
    # A tuple of one item; behind the last item None, or an error of the generator.
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    is_over = threading.Event()

    def make() -> None:
        over: BaseException | None = None
        try:
            with closing(items):
                for item in items:
                    ready.put((item,))
                    if is_over.is_set():
                        return
        except BaseException as error:  # any error is raised again at the reader
            over = error
        ready.put(over)

    def given() -> Iterator[T]:
        while running():
            try:
                found = ready.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found[0]

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        is_over.set()
        while not ready.empty():  # room for the one item that may be in the making, and for the end
            ready.get_nowait()
        thread.join(STOP_S)
