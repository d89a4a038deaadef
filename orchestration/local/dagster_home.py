"""Dagster's home, made ready alone, before anything of Dagster runs: `python -m orchestration.local.dagster_home`.

Its configuration is put there, its databases are made or brought up to date (three processes that do it at once
crash), and runs that a killed stack left behind are told as failed: as running, they would hold their place forever.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, __version__

from orchestration.local.dagster_client import LOCATION, WORKSPACE

CONFIGURATION = Path(__file__).resolve().parents[1] / "dagster.yaml"


def prepare(home: Path, code_port: int) -> None:
    """Make the home of a stack whose code is served on a port of this machine."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CONFIGURATION, home / "dagster.yaml")
    server = {"host": "127.0.0.1", "port": code_port, "location_name": LOCATION}
    (home / WORKSPACE).write_text(json.dumps({"load_from": [{"grpc_server": server}]}))


def end_lost_runs(version: Path) -> int:
    """Bring the databases up to date, tell the runs of an earlier stack as failed, and return how many there were.

    Args:
        version: a file that says which Dagster the databases were made for.
    """
    left = RunsFilter(
        statuses=[
            DagsterRunStatus.NOT_STARTED,
            DagsterRunStatus.STARTING,
            DagsterRunStatus.STARTED,
            DagsterRunStatus.CANCELING,
        ]
    )
    with DagsterInstance.get() as instance:
        if not version.exists() or version.read_text() != __version__:
            instance.upgrade(print)
            version.write_text(__version__)
        runs = instance.get_runs(left)
        for run in runs:
            instance.report_run_failed(run, "the stack was killed while this run went on; launch it again")
    return len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestration.local.dagster_home", description=main.__doc__)
    parser.add_argument("--code-port", type=int, required=True, help="where the code server listens")
    home = Path(os.environ["DAGSTER_HOME"])
    prepare(home, parser.parse_args().code_port)
    if lost := end_lost_runs(home / "version"):
        print(f"{lost} runs of a stack that was killed are told as failed")


if __name__ == "__main__":
    main()
