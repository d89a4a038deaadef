"""The loop that feature service and scorer share; what it does on a real broker is in faults/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A stand-in for a client that never comes back from a call: a real one does so only where a connection dies in time.
HANGING = """
import threading
from online import exactly_once
from online.metrics import Metrics

exactly_once.HANG_S = 0.5

class Hanging:
    def init_transactions(self, timeout_s):
        threading.Event().wait()

exactly_once.serve(None, Hanging(), None, lambda: True, Metrics())
"""


def test_a_process_whose_client_hangs_ends_with_code_1_and_says_so() -> None:
    root = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", HANGING], check=False, cwd=root, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "the client hangs in a call to the broker" in ended.stdout + ended.stderr
