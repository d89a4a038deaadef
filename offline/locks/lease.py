"""A lock as an object with owner, time of beginning and expiry, for processes of one machine or of many.

A holder renews the lock until the end of the work, so a lock without renewals belongs to a killed process or to a
machine without a network. Another process takes an abandoned lock over: at once, if the owner was a process of this
machine and has ended; else when the lock has not changed while this process looked on for `LEASE_S`. So the clocks of
machines need not agree, and a clock that jumps takes no lock from a live holder. A holder stopped for `LEASE_S` gets an
error from `Lease.check`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct

from offline.lake.objects import Changed, Held, Objects
from offline.locks.owner import Owner, this_process

LEASE_S = 30.0
"""Seconds without renewal after which a lock is taken over."""
RENEW_S = 8.0
"""Seconds between renewals by the holder."""
LONG_AGO = timedelta(minutes=5)
"""A lock whose expiry is longer ago is worth a look of `LEASE_S`, also for a process that would not wait."""
LOOK_S = 0.05
FREE, FAILED = b"{}", b'{"failed": true}'
"""Content without a holder, after finished work and after failed work."""


class Occupied(ValueError):
    """Another process holds the lock."""


class Lock(Struct, frozen=True):
    """Content of a lock's object.

    Attributes:
        token: of one holder; a process may hold a lock several times, one after the other.
        since: time of taking the lock.
        until: time of the next renewal at the latest.
    """

    token: str
    owner: Owner
    since: datetime
    until: datetime


class Lease:
    """A lock held by this process.

    Attributes:
        is_clean: the holder before finished the work, so no rest of a killed holder is left.
    """

    def __init__(self, objects: Objects, path: str, version: str, lock: Lock, is_clean: bool) -> None:
        self._objects, self._path, self._version, self._lock = objects, path, version, lock
        self.is_clean = is_clean
        self._renewed, self._is_lost = time.monotonic(), False

    def check(self) -> None:
        """Return if the lock is held.

        Raises:
            Occupied: the holder was stopped for `LEASE_S`, so another process may hold the lock.
        """
        if self._is_lost or time.monotonic() - self._renewed > LEASE_S:
            raise Occupied(
                f"this process was stopped for so long that another one may hold {self._objects.where(self._path)} "
                "now: run this again"
            )

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lock again and again while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(ended,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(RENEW_S):
            begun = time.monotonic()
            try:
                self._put(_encoded(self._lock))
                self._renewed = begun
            except Changed:
                self._is_lost = True
                return
            except OSError:  # the next try follows after RENEW_S; `check` knows the time of the last success
                continue

    def release(self, content: bytes) -> None:
        """Let other processes take the lock; the lock of another holder stays."""
        with suppress(Changed, OSError):
            self._put(content)

    def _put(self, content: bytes) -> None:
        try:
            self._version = self._objects.put(self._path, content, self._version)
        except Changed:
            held = self._objects.get(self._path)
            lock = _lock_of(held)
            if held is None or lock is None or lock.token != self._lock.token:
                raise
            # The answer to a renewal was lost, and the renewal was not.
            self._version = self._objects.put(self._path, content, held.version)


@contextmanager
def leased(objects: Objects, path: str, wait_s: float = 0.0) -> Iterator[Lease]:
    """Hold a lock while the block runs.

    Args:
        path: of the lock's object.
        wait_s: seconds to wait for another holder.

    Raises:
        Occupied: another process holds the lock, for `wait_s` or longer.
        OSError: the storage does not answer.
    """
    lease, content = _taken(objects, path, time.monotonic() + wait_s), FAILED
    try:
        with lease.renewed():
            yield lease
        content = FREE
    finally:
        lease.release(content)


def _taken(objects: Objects, path: str, deadline: float) -> Lease:
    seen, seen_at, pause, begun = "", 0.0, LOOK_S, time.monotonic()
    owner, since, token = this_process(), datetime.now(UTC), uuid.uuid4().hex
    while True:
        held = objects.get(path)
        if held is not None and held.version != seen:
            seen, seen_at = held.version, time.monotonic()
        lock = _lock_of(held)
        if held is None or lock is None or _is_abandoned(lock, time.monotonic() - seen_at):
            mine = Lock(token, owner, since, since)
            with suppress(Changed):  # another process was faster
                version = objects.put(path, _encoded(mine), held.version if held is not None else None)
                return Lease(objects, path, version, mine, held is not None and held.content == FREE)
        elif time.monotonic() > max(deadline, begun + (LEASE_S + RENEW_S if _looks_abandoned(lock) else 0.0)):
            raise Occupied(
                f"another process holds {objects.where(path)} since {lock.since:%H:%M:%S} UTC ({lock.owner}): wait for "
                f"the end of the process; the lock of a killed process is taken over {LEASE_S:.0f} s later"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def _is_abandoned(lock: Lock, unchanged_s: float) -> bool:
    return lock.owner.is_gone() or unchanged_s > LEASE_S


def _looks_abandoned(lock: Lock) -> bool:
    """Return whether the expiry is long ago, if clocks agree; a live holder's next renewal shows the contrary."""
    return datetime.now(UTC) - lock.until > LONG_AGO


def _lock_of(held: Held | None) -> Lock | None:
    """Return the lock; None if nobody holds the lock, or the content is damaged."""
    if held is None:
        return None
    try:
        return msgspec.json.decode(held.content, type=Lock)
    except msgspec.MsgspecError:
        return None


def _encoded(lock: Lock) -> bytes:
    until = datetime.now(UTC) + timedelta(seconds=LEASE_S)
    return msgspec.json.encode(msgspec.structs.replace(lock, until=until))
