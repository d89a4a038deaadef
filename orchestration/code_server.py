"""Server of the project's code for Dagster: `python -m orchestration.code_server`, from the root.

Before it starts, Dagster's home gets its configuration, and the databases are made or updated (three processes that do
so at once crash). Open runs of an earlier code server of this home are marked as failed: they were children of the old
server and ended with it, and as running they would hold their pool forever.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, __version__

from data.files import CHECKOUT
from orchestration.instance.home import LOCATION, enter_home, installation_of, write_workspace
from orchestration.instance.launcher import CODE_SERVER_TAG
from orchestration.settings import DagsterSettings


def end_lost_runs(home: Path) -> int:
    """Update the databases, mark the runs of an earlier code server of this home as failed, and return their count.

    The SQLite databases lie in the home, so all runs in them are of this home. In PostgreSQL, the tag decides.
    """
    tags = {CODE_SERVER_TAG: installation_of(home)} if DagsterSettings().dagster_pg_host else None
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
    parser.add_argument("--host", default="127.0.0.1", help="address that the server listens on; it asks for no login")
    parser.add_argument("--port", type=int, default=settings.dagster_code_port, help="default: DAGSTER_CODE_PORT")
    arguments = parser.parse_args()
    home = enter_home()
    write_workspace(home, arguments.port)
    if lost := end_lost_runs(home):
        print(f"{lost} runs of a code server that ended are told as failed", flush=True)
    # Dagster loads the code anew when the id changes, so each start has an id of its own.
    server_id = f"{installation_of(home)}:{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-h", arguments.host, "-p", str(arguments.port),
               "-m", "orchestration.definitions", "-d", str(CHECKOUT), "--location-name", LOCATION,
               "--fixed-server-id", server_id]  # fmt: skip
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
