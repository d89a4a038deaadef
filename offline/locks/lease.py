"""A lock as an object with owner, time of beginning and expiry, for processes of one machine or of many.

The holder renews the lock while it works, so a lock without renewal is of a process that was killed or cut off. Such a
lock is taken over: at once, if the process is of this machine and has ended; else when the lock has not changed for
`LEASE_S`, by the clock of the process that waits, so clocks of machines need not agree. A holder that was stopped for
so long finds out by `Lease.check`.
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
"""A lock that expired longer ago is taken over at once: clocks of machines differ by less."""
LOOK_S = 0.05
FREE = b"{}"


class Occupied(ValueError):
    """Another process holds the lock."""


class Lock(Struct, frozen=True):
    """Content of a lock's object.

    Attributes:
        token: of one holder; a process may hold a lock more than once, one time after the other.
        since: time of taking the lock.
        until: time of the next renewal at the latest.
    """

    token: str
    owner: Owner
    since: datetime
    until: datetime


class Lease:
    """A lock that this process holds."""

    def __init__(self, objects: Objects, path: str, version: str, lock: Lock) -> None:
        self._objects, self._path, self._version, self._lock = objects, path, version, lock
        self._renewed, self._is_lost, self._ended = time.monotonic(), False, threading.Event()

    def check(self) -> None:
        """Return if this process still holds the lock.

        Raises:
            Occupied: the process was stopped for so long that another process may hold the lock now.
        """
        if self._is_lost or time.monotonic() - self._renewed > LEASE_S:
            raise Occupied(
                f"this process was stopped for so long that another one may hold {self._objects.where(self._path)} "
                "now: run this again"
            )

    def renew_until_released(self) -> None:
        """Renew the lock again and again, until the lock is released or lost; a thread runs this method."""
        while not self._ended.wait(RENEW_S):
            begun = time.monotonic()
            try:
                self._put(_encoded(self._lock))
                self._renewed = begun
            except Changed:
                self._is_lost = True
                return
            except OSError:  # asked again after RENEW_S; `check` knows the time of the last success
                continue

    def release(self, renewing: threading.Thread) -> None:
        """Let others take the lock; a lock that cannot be released, or is another's by now, is left."""
        self._ended.set()
        renewing.join()
        with suppress(Changed, OSError):
            self._put(FREE)

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
    lease = _taken(objects, path, time.monotonic() + wait_s)
    renewing = threading.Thread(target=lease.renew_until_released, name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        lease.release(renewing)


def _taken(objects: Objects, path: str, deadline: float) -> Lease:
    seen, seen_at, pause = "", 0.0, LOOK_S
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
                return Lease(objects, path, version, mine)
        elif time.monotonic() > deadline:
            raise Occupied(
                f"another process holds {objects.where(path)} since {lock.since:%H:%M:%S} UTC ({lock.owner}): wait for "
                f"the end of the process; the lock of a killed process is taken over {LEASE_S:.0f} s later"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def _is_abandoned(lock: Lock, unchanged_s: float) -> bool:
    return lock.owner.is_gone() or unchanged_s > LEASE_S or datetime.now(UTC) - lock.until > LONG_AGO


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
