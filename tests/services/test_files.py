"""Commands with much output end quietly when their reader ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from data.files import CHECKOUT, READER_GONE


@pytest.mark.parametrize(
    ("module", "arguments"), [("data.stream.records", []), ("data.recordings", ["nothing.csv", "--json"])]
)
def test_a_command_whose_reader_is_gone_ends_without_a_stack_of_calls(module: str, arguments: list[str]) -> None:
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()  # before it has imported what it needs, and so before it prints
        assert process.stderr is not None
        assert process.stderr.read().decode() == ""
        assert process.wait(60) == READER_GONE


def test_the_exit_code_of_a_command_that_is_read_stays() -> None:
    command = [sys.executable, "-m", "data.recordings", "nothing.csv", "--json"]
    read = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False)
    assert (read.returncode, read.stderr) == (2, b"")
    assert b"nothing.csv" in read.stdout
