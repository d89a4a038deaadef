"""Server of the project's code for Dagster: `python -m orchestration.code_server`, from the root.

Before the server starts, Dagster's home gets its configuration, and the databases are made or updated: three processes
at once would crash. Open runs of an earlier code server with the same home are marked as failed: the runs were children
of the old server, ended with the server, and would hold their pool forever.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, __version__

from data.files import CHECKOUT
from orchestration.instance.home import LOCATION, enter_home, new_server_id, own_runs, write_workspace
from orchestration.settings import DagsterSettings


def end_lost_runs(home: Path) -> int:
    """Update the databases, mark open runs of an earlier code server as failed, and return their count.

    SQLite lies in the home, so all runs in SQLite are runs of this home. In PostgreSQL, a tag decides.
    """
    tags = own_runs(home, shares_storage=DagsterSettings().shares_storage)
    left = [DagsterRunStatus[name] for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
    version = home / "version"
    with DagsterInstance.get() as instance:
        if not version.exists() or version.read_text() != __version__:
            instance.upgrade(print)
            version.write_text(__version__)
        runs = instance.get_runs(RunsFilter(statuses=left, tags=tags))
        for run in runs:
            instance.report_run_failed(run, "the code server ended while this run went on; launch it again")
    return len(runs)


def main() -> None:
    settings = DagsterSettings()
    parser = argparse.ArgumentParser(prog="python -m orchestration.code_server", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the server asks for no login")
    parser.add_argument("--port", type=int, default=settings.dagster_code_port, help="default: DAGSTER_CODE_PORT")
    arguments = parser.parse_args()
    home = enter_home()
    write_workspace(home, arguments.port)
    if lost := end_lost_runs(home):
        print(f"{lost} runs of a code server that ended are told as failed", flush=True)
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-h", arguments.host, "-p", str(arguments.port),
               "-m", "orchestration.definitions", "-d", str(CHECKOUT), "--location-name", LOCATION,
               "--fixed-server-id", new_server_id(home)]  # fmt: skip
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
