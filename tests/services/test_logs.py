"""Logs never end the writing process."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from data.process.logs import LossyLogStream


class Disk(io.StringIO):
    """A file whose disk may be full."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_lines_that_a_full_disk_does_not_take_are_counted_and_said() -> None:
    disk = Disk()
    log = LossyLogStream(disk)
    log.write("before\n")
    disk.is_full = True
    log.write("lost\n")
    log.write("lost too\n")
    disk.is_full = False
    log.write("after\n")
    log.write("later\n")
    said = '{"event": "2 lines of this log could not be written", "level": "warning"}'
    assert disk.getvalue().splitlines() == ["before", said, "after", "later"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_process_whose_log_is_on_a_full_disk_goes_on() -> None:
    code = """
import structlog
from data.process.logs import configure_logs
from online.settings import OnlineSettings
configure_logs(OnlineSettings())
structlog.get_logger().info("into the void")
print("goes on")
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False, timeout=30
        )
    assert done.stdout == b"goes on\n"


def test_a_signal_in_the_middle_of_a_line_stops_the_process() -> None:
    """The log's lock is held by the interrupted code then."""
    code = """
import os, signal, sys
import structlog
from data.process.running import until_stopped

class Interrupted:
    def write(self, text):
        if "in the middle" in text:
            os.kill(os.getpid(), signal.SIGTERM)
        return sys.stdout.write(text)
    def flush(self):
        sys.stdout.flush()

structlog.configure(logger_factory=structlog.WriteLoggerFactory(Interrupted()))
running = until_stopped()
structlog.get_logger().info("in the middle")
while running():
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, "the forced end of a process that hangs exits with 1"
    assert "in the middle" in done.stdout
