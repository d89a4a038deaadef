"""What fills the disk has bounds, and the API tells before the bounds are reached."""

from __future__ import annotations

import math
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from data.stream.topics.creation import MIN_SEGMENT, retention_config
from online.server import disk
from online.server.disk import DiskWatch, disk_answer, used_bytes
from orchestration.local.supervisor import Part, Watched

GB = 10**9


def test_a_file_counts_once_and_by_what_it_takes_on_the_disk(tmp_path: Path) -> None:
    """A megabyte with two names, in a folder below, and a long file without content, as an index of the broker."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "rows").write_bytes(b"x" * 2**20)
    os.link(tmp_path / "a" / "b" / "rows", tmp_path / "second")
    with (tmp_path / "index").open("wb") as file:
        file.truncate(100 * 2**20)
    (tmp_path / "circle").symlink_to(tmp_path)
    assert 2**20 <= used_bytes(tmp_path, threading.Event()) < 2 * 2**20


def test_a_folder_that_is_missing_takes_nothing(tmp_path: Path) -> None:
    assert used_bytes(tmp_path / "none", threading.Event()) == 0


@pytest.mark.parametrize(
    ("used", "free", "share", "warning"),
    [
        (None, 50 * GB, None, None),
        (7_900_000_000, 50 * GB, 0.79, None),
        (8_000_000_000, 50 * GB, 0.8, "/var has 8.0 GB, 80 % of VAR_MAX_GB=10: docs/operate.md says what may go"),
        (12_000_000_000, 50 * GB, 1.2, "/var has 12.0 GB, 120 % of VAR_MAX_GB=10: docs/operate.md says what may go"),
        (1_000_000_000, 900_000_000, 0.1, "the disk of /var has 0.90 GB left: make room"),
    ],
)
def test_the_answer_warns_before_the_cap_and_before_the_disk_is_full(
    used: int | None, free: int, share: float | None, warning: str | None
) -> None:
    answer = disk_answer(used, 10 * GB, free, Path("/var"))
    assert (answer["ok"], answer["used_share"], answer.get("warning")) == (True, share, warning)
    assert (answer["max_mb"], answer["free_mb"]) == (10_000, free // 10**6)


def test_the_share_of_the_metric_is_whole_when_the_disk_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = DiskWatch(tmp_path, 10**6)
    assert math.isnan(watch.share())
    monkeypatch.setattr(watch, "_used", 250_000)
    assert watch.share() == pytest.approx(0.25)
    monkeypatch.setattr(disk, "WARN_FREE_BYTES", 10**18)
    assert watch.share() == 1.0
    assert "left: make room" in watch.answer()["warning"]


def test_a_log_that_is_too_large_begins_anew_and_its_process_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    watched = Watched(Part("part"), log, [])
    watched.bound_log(10)  # no log yet
    with log.open("ab", buffering=0) as process:
        process.write(b"first\n")
        watched.bound_log(10)
        assert watched.new_lines() == ["first"]
        process.write(b"second line\n")
        watched.bound_log(10)
        assert (log.read_bytes(), log.with_suffix(".previous.log").read_bytes()) == (b"", b"first\nsecond line\n")
        process.write(b"third\n")
    assert log.read_bytes() == b"third\n"
    assert (watched.new_lines(), watched.log_tail()) == (["third"], ["third"])


def test_segments_are_small_enough_for_the_bound_of_a_partition() -> None:
    """The broker removes closed segments alone."""
    config = retention_config(timedelta(days=7), 400_000_000)
    assert (config["retention.bytes"], config["segment.bytes"]) == ("400000000", "100000000")
    assert config["segment.ms"] == str(24 * 3600 * 1000)
    assert retention_config(timedelta(hours=1), 4_000_000)["segment.ms"] == str(3600 * 1000)
    assert retention_config(timedelta(hours=1), 2_000_000)["segment.bytes"] == str(MIN_SEGMENT)
