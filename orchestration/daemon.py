"""Dagster's daemon, which starts runs, schedules and sensors: `python -m orchestration.daemon`, from the root."""

from __future__ import annotations

import argparse
import os
import sys

from orchestration.instance.home import WORKSPACE, enter_home

LAUNCH_S = 300
"""Limit for a code server to start the process of a run. Dagster gives a busy machine 60 s, then fails the run."""


def main() -> None:
    """Prepare Dagster's home, then become the daemon."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.daemon", description=main.__doc__)
    parser.add_argument("-w", "--workspace", help="names the code servers; default: the code server of this machine")
    workspace = parser.parse_args().workspace
    home = enter_home()
    os.environ.setdefault("DAGSTER_GRPC_TIMEOUT_SECONDS", str(LAUNCH_S))
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace or str(home / WORKSPACE)]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
