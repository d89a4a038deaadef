"""The whole system, started by `make run`: twice, the second time without a network."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data.files import CHECKOUT
from orchestration.local.supervisor import tree_memory
from tests.faults.stacks import MEMORY_MIB, STACK, beyond_loopback, listening, settings_of
from tests.pipeline import wait_until
from tests.proofs import Proof

LOOPBACK_ONLY = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP) + bytes(22))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Command that runs in a network namespace of its own, brings up loopback, and becomes the stack's command."""


def can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True, timeout=10).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.acceptance
def test_the_stack_comes_up_twice_within_its_memory_and_leaves_no_process(
    tmp_path: Path, jars: list[Path], proof: Proof
) -> None:
    """First forecast, memory, SIGINT. All jars exist at the first start; a model exists at the second start."""
    settings = settings_of(tmp_path / "var")
    proof.disturbs("stack started cold, stopped with SIGINT; started again without a network, stopped")
    start(STACK, settings, tmp_path / "cold.log", "cold", proof, within_s=400)
    if not can_unshare():
        pytest.skip("the second start: no network namespace can be made here")
    start(
        ["unshare", "-n", sys.executable, "-c", LOOPBACK_ONLY, *STACK],
        settings,
        tmp_path / "warm.log",
        "offline",
        proof,
        within_s=120,
    )


def start(command: list[str], settings: dict[str, str], log: Path, name: str, proof: Proof, within_s: float) -> None:
    """Start a stack, wait for the first forecast, measure the memory, stop the stack with SIGINT.

    Each port of the stack is for this machine alone.
    """
    with log.open("w") as output:
        stack = psutil.Popen(command, cwd=CHECKOUT, env=os.environ | settings, stdout=output, stderr=output)
    family: set[psutil.Process] = {stack}
    try:

        def first_forecast() -> re.Match[str] | None:
            assert stack.poll() is None, log.read_text()
            return re.search(r"first forecast (\S+) s after start", log.read_text())

        seconds = wait_until(first_forecast, f"a first forecast: {log.read_text()}", within_s).group(1)
        heaviest, places = 0, set[tuple[str, int]]()
        until = time.monotonic() + 10.0  # memory grows with the first thousands of rows
        while time.monotonic() < until:
            heaviest = max(heaviest, tree_memory(stack.pid) or 0)
            family.update(stack.children(recursive=True))
            places |= listening(stack)
            time.sleep(0.5)
        if command is STACK:  # ports of another network namespace are not visible here
            assert beyond_loopback(places) == []
            expected = {int(settings[f"{part}_PORT"]) for part in ("KAFKA", "MLFLOW", "FORECASTER")}
            assert expected <= {port for _, port in places}
            proof.saw(ports=len(places), ports_beyond_loopback=0)
        stack.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert stack.wait(60) == 0, log.read_text()
        stopped_s = time.monotonic() - asked
        left = [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert not left
        assert len(family) > 6
        mib = heaviest / 2**20
        proof.saw(**{f"{name}_first_forecast_s": float(seconds), f"{name}_mib": mib, f"{name}_stop_s": stopped_s})
        assert mib <= MEMORY_MIB
        assert "Traceback" not in log.read_text()
        assert "did not end" not in log.read_text()  # a run or a part that had to be killed
    finally:
        for each in family:
            if each.is_running():
                each.kill()
