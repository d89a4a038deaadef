"""Dagster's daemon, which starts runs, schedules and sensors: `python -m orchestration.daemon`, from the root."""

from __future__ import annotations

import argparse
import os
import sys

from orchestration.instance.home import WORKSPACE, enter_home


def main() -> None:
    """Prepare Dagster's home, then become the daemon."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.daemon", description=main.__doc__)
    parser.add_argument("-w", "--workspace", help="names the code servers; default: the code server of this machine")
    workspace = parser.parse_args().workspace
    home = enter_home()
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace or str(home / WORKSPACE)]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
