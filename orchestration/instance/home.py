"""Prepare Dagster's home: every Dagster process needs the folder at a start.

Standard library and settings alone: the caller becomes another process.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from string import Template

from data.files import CHECKOUT
from data.names import spare_loopback
from data.settings import StateSettings
from orchestration.settings import DagsterSettings

CONFIGURATION = CHECKOUT / "orchestration" / "dagster.yaml"
LOCATION = "cryptovol"
OTHER_RUNS = 9
"""Three replays, a run of each pool, a backfill that waits for its product-months, a clean-up, and a rollback."""
WORKSPACE = "workspace.json"
"""In Dagster's home: names the code server of this machine. JSON is YAML."""
CODE_SERVER_TAG = "cryptovol/code_server"
"""Run tag: the installation of the code server whose child the run is."""
_INSTALLATION = "installation"


def enter_home() -> Path:
    """Make Dagster's home with the project's `dagster.yaml`, and return its path.

    A `dagster.yaml` that is mounted into the home stays: on a cluster, Dagster's chart brings the file.

    `DAGSTER_HOME` names the folder. Without `DAGSTER_HOME` the folder is `dagster` below `VAR_DIR`, and this process
    and all children get `DAGSTER_HOME`.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or StateSettings().var_dir / "dagster").absolute()
    home.mkdir(parents=True, exist_ok=True)
    try:
        _write_whole(home / "dagster.yaml", configuration(DagsterSettings().backfill_runs))
    except OSError as error:
        if error.errno != errno.EBUSY:  # the error of a mount point
            raise
    os.environ["DAGSTER_HOME"] = str(home)
    spare_loopback(os.environ)  # Dagster's processes talk by gRPC, which asks the proxies of the environment
    return home


def configuration(backfill_runs: int) -> str:
    """Return the text of `dagster.yaml` with the numbers of runs, for which Dagster itself takes no variables."""
    numbers = {"BACKFILL_RUNS": backfill_runs, "ALL_RUNS": OTHER_RUNS + backfill_runs}
    return Template(CONFIGURATION.read_text()).substitute(numbers)


def write_workspace(home: Path, port: int) -> None:
    """Write the workspace of a web UI and a daemon on the code server's machine."""
    server = {"host": "127.0.0.1", "port": port, "location_name": LOCATION}
    _write_whole(home / WORKSPACE, json.dumps({"load_from": [{"grpc_server": server}]}))


def installation_of(home: Path) -> str:
    """Return the lasting name of a home's code server; the first call makes the name."""
    with suppress(FileExistsError), (home / _INSTALLATION).open("x") as file:
        file.write(uuid.uuid4().hex)
    return (home / _INSTALLATION).read_text()


def own_runs(home: Path, *, shares_storage: bool) -> dict[str, str]:
    """Return the tags of the runs of a home's code server; empty for a storage without other runs.

    Args:
        shares_storage: whether other installations may have runs in the same storage, as in PostgreSQL.
    """
    return {CODE_SERVER_TAG: installation_of(home)} if shares_storage else {}


def new_server_id(home: Path) -> str:
    """Return an id for a start of a home's code server; Dagster loads the code anew when the id changes."""
    return f"{installation_of(home)}:{uuid.uuid4().hex}"


def installation_in(server_id: str) -> str:
    """Return the installation in the id of a code server.

    >>> installation_in("5f0c:8e21")
    '5f0c'
    """
    return server_id.partition(":")[0]


def _write_whole(path: Path, text: str) -> None:
    """Write a file; other processes may read or write the file at the same time."""
    written = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        written.write_text(text)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
