"""Logs never end the writing process."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from data.process.logs import LossyLogStream, configure_logs
from online.settings import OnlineSettings


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


def test_a_text_from_outside_writes_neither_lines_nor_commands_into_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a recording could forge a line, or move a terminal's cursor. A stack trace keeps its lines."""
    monkeypatch.setenv("LOG_FORMAT", "text")
    configure_logs(OnlineSettings())
    log = structlog.get_logger()
    log.warning("rejected\n2026", where="a\n2026 [info] all is well", text="\x1b[2J\r\x07")
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("failed")
    first, *others = capsys.readouterr().err.splitlines()
    assert "rejected\\n2026" in first
    assert "'a\\n2026 [info] all is well'" in first
    assert "\\x1b[2J\\r\\x07" in first
    assert first.isprintable()
    assert "ValueError: wrong" in others


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
