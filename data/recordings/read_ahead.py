"""Work done in a thread before it is asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

LOOK_S = 0.2
"""How often whoever waits for an item looks whether to stop."""
STOP_S = 1.0
"""How long the thread may take to end; one that hangs in a read ends with the process, for it holds but a file."""


class _Made(NamedTuple, Generic[T]):
    item: T


class _Over(NamedTuple):
    error: BaseException | None


@contextmanager
def read_ahead(items: Generator[T], depth: int, running: Callable[[], bool] = lambda: True) -> Iterator[Iterator[T]]:
    """Give the items of a generator, which runs in a thread, up to `depth` items ahead.

    They end where the generator ends, or where `running` says stop; what it raises is raised in the place of the item.
    When the block is left, the generator is closed.
    """
    ready: queue.Queue[_Made[T] | _Over] = queue.Queue(depth)
    wanted = threading.Event()
    wanted.set()

    def make() -> None:
        over = _Over(None)
        try:
            with closing(items):
                for item in items:
                    ready.put(_Made(item))
                    if not wanted.is_set():
                        return
        except BaseException as error:  # whatever it is, it is raised where the items are used
            over = _Over(error)
        ready.put(over)

    def given() -> Iterator[T]:
        while running():
            try:
                found = ready.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if isinstance(found, _Made):
                yield found.item
            elif found.error is not None:
                raise found.error
            else:
                return

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        wanted.clear()
        while not ready.empty():  # room for the one item that may be in the making, and for the end
            ready.get_nowait()
        thread.join(STOP_S)
