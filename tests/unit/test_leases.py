"""A lock as an object: one holder, released at the end, taken over from a process that is gone."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import msgspec
import pytest

from offline.lake.objects import ANY, Objects
from offline.locks import lease as module
from offline.locks.lease import Lock, Occupied, leased
from offline.locks.owner import Owner, this_process

PATH = "locks/a.json"
HERE = this_process()
ELSEWHERE = Owner("other", "other machine", 7, "1")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(tmp_path)


def leave(objects: Objects, owner: Owner, *, expired: timedelta = timedelta(0)) -> None:
    """Put the lock of another holder, which never renews the lock."""
    now = datetime.now(UTC)
    objects.put(PATH, msgspec.json.encode(Lock("theirs", owner, now, now - expired)), ANY)


def test_a_lock_has_one_holder_at_a_time(objects: Objects) -> None:
    with (
        leased(objects, PATH),
        pytest.raises(Occupied, match=rf"another process holds .*a\.json .*process {os.getpid()}"),
        leased(objects, PATH),
    ):
        pass
    with leased(objects, PATH), leased(objects, "locks/b.json"):
        pass


def test_a_block_that_fails_releases_the_lock_and_the_next_holder_is_told(objects: Objects) -> None:
    with pytest.raises(KeyError), leased(objects, PATH):
        raise KeyError
    with leased(objects, PATH) as lease:
        assert not lease.is_clean
    with leased(objects, PATH) as lease:
        assert lease.is_clean
    leave(objects, HERE._replace(started="before"))
    with leased(objects, PATH) as lease:
        assert not lease.is_clean


def test_one_who_waits_gets_the_lock(objects: Objects) -> None:
    """Eight threads take turns: no two are in the block at once."""
    inside, most, turns = 0, 0, []

    def work(number: int) -> None:
        nonlocal inside, most
        with leased(objects, PATH, wait_s=30):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            turns.append(number)
            inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, sorted(turns)) == (1, [*range(8)])


def test_the_lock_of_an_ended_process_of_this_machine_is_taken_over_at_once(objects: Objects) -> None:
    gone = HERE._replace(started="before")  # the id belongs to a later process by now
    leave(objects, gone)
    with leased(objects, PATH):
        pass


def test_the_lock_of_another_machine_is_taken_over_when_it_has_not_changed_for_long(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(objects, ELSEWHERE)
    with pytest.raises(Occupied, match="process 7 of other"), leased(objects, PATH):
        pass
    monkeypatch.setattr(module, "LEASE_S", 0.3)
    begun = time.monotonic()
    with leased(objects, PATH, wait_s=5):
        assert time.monotonic() - begun >= 0.3


def test_a_lock_that_expired_long_ago_is_taken_over_after_a_look_by_a_process_that_does_not_wait(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_S", 0.3)
    leave(objects, ELSEWHERE, expired=timedelta(minutes=6))
    begun = time.monotonic()
    with leased(objects, PATH):
        assert time.monotonic() - begun >= 0.3


def test_a_clock_that_is_an_hour_ahead_takes_no_lock_from_a_live_holder(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the second process, the lock of the first one expired an hour ago; the first one renews the lock."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Ahead:
            return cls.fromtimestamp(time.time() + 3_600, tz)

    monkeypatch.setattr(module, "RENEW_S", 0.05)
    with leased(objects, PATH) as lease:
        monkeypatch.setattr(module, "LEASE_S", 0.4)
        monkeypatch.setattr(module, "_looks_abandoned", lambda lock: Ahead.now(UTC) - lock.until > module.LONG_AGO)
        with pytest.raises(Occupied), leased(objects, PATH):
            pass
        lease.check()


def test_a_holder_renews_its_lock(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process waits for longer than a lease, and takes nothing over."""
    monkeypatch.setattr(module, "LEASE_S", 0.4)
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    with leased(objects, PATH) as lease:
        with pytest.raises(Occupied), leased(objects, PATH, wait_s=1.0):
            pass
        lease.check()


def test_a_holder_that_lost_its_lock_finds_out_and_leaves_the_lock_to_the_new_holder(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.02)
    with leased(objects, PATH) as lease:
        leave(objects, ELSEWHERE)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                lease.check()
            except Occupied:
                break
        with pytest.raises(Occupied, match="stopped for so long"):
            lease.check()
    held = objects.get(PATH)
    assert held is not None
    assert b"theirs" in held.content


def test_a_holder_that_could_not_renew_for_long_finds_out(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    with leased(objects, PATH) as lease:
        lease.check()
        monkeypatch.setattr(module, "LEASE_S", 0.0)
        with pytest.raises(Occupied, match="stopped for so long"):
            lease.check()


def test_a_damaged_lock_is_nobodys(objects: Objects) -> None:
    objects.put(PATH, b"{", ANY)
    with leased(objects, PATH):
        pass


def test_a_process_is_known_by_its_start() -> None:
    assert not HERE.is_gone()
    assert HERE._replace(pid=2**22 + 1).is_gone()
    assert not ELSEWHERE.is_gone()
