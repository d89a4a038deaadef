"""Prepare Dagster's home, then become the server of our code.

Run `python -m orchestration.local.dagster.home --code-port PORT`. The home gets its configuration. The databases are
made or updated before any other Dagster process runs (three processes that do so at once crash). Runs of an earlier
server are marked as failed: they were children of the old server and ended with it, and as running they would hold
their pool forever.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, __version__

from data.files import CHECKOUT
from orchestration.local.dagster.client import LOCATION, WORKSPACE

CONFIGURATION = CHECKOUT / "orchestration" / "dagster.yaml"


def prepare(home: Path, code_port: int) -> None:
    """Make the home of a stack with its code served on a port of this machine."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CONFIGURATION, home / "dagster.yaml")
    server = {"host": "127.0.0.1", "port": code_port, "location_name": LOCATION}
    (home / WORKSPACE).write_text(json.dumps({"load_from": [{"grpc_server": server}]}))


def end_lost_runs(version: Path) -> int:
    """Update the databases, mark the runs of an earlier code server as failed, and return their count.

    Args:
        version: a file with the Dagster version of the databases.
    """
    left = [DagsterRunStatus[name] for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
    with DagsterInstance.get() as instance:
        if not version.exists() or version.read_text() != __version__:
            instance.upgrade(print)
            version.write_text(__version__)
        runs = instance.get_runs(RunsFilter(statuses=left))
        for run in runs:
            instance.report_run_failed(run, "the code server ended while this run went on; launch it again")
    return len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestration.local.dagster.home", description=main.__doc__)
    parser.add_argument("--code-port", type=int, required=True, help="where the code server listens")
    home, port = Path(os.environ["DAGSTER_HOME"]), parser.parse_args().code_port
    prepare(home, port)
    if lost := end_lost_runs(home / "version"):
        print(f"{lost} runs of a code server that ended are told as failed", flush=True)
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(port),
               "-m", "orchestration.definitions", "-d", str(CHECKOUT), "--location-name", LOCATION]  # fmt: skip
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
