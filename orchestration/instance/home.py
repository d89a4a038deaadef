"""Prepare Dagster's home, the folder that every Dagster process needs at its start.

Standard library and settings alone: the caller becomes another process.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

from data.files import CHECKOUT
from data.settings import StateSettings

CONFIGURATION = CHECKOUT / "orchestration" / "dagster.yaml"
LOCATION = "cryptovol"
WORKSPACE = "workspace.json"
"""In Dagster's home: names the code server of this machine. JSON is YAML."""
_INSTALLATION = "installation"


def enter_home() -> Path:
    """Make Dagster's home with the project's `dagster.yaml`, and return its path.

    `DAGSTER_HOME` names the folder; without it the folder is `dagster` below `VAR_DIR`, and the environment of this
    process, and so of its children, gets the name.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or StateSettings().var_dir / "dagster").absolute()
    home.mkdir(parents=True, exist_ok=True)
    _write_whole(home / "dagster.yaml", CONFIGURATION.read_text())
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def write_workspace(home: Path, port: int) -> None:
    """Write the workspace of a web UI and a daemon on the code server's machine."""
    server = {"host": "127.0.0.1", "port": port, "location_name": LOCATION}
    _write_whole(home / WORKSPACE, json.dumps({"load_from": [{"grpc_server": server}]}))


def installation_of(home: Path) -> str:
    """Return the lasting name of the code server with this home; the first call makes the name."""
    with suppress(FileExistsError), (home / _INSTALLATION).open("x") as file:
        file.write(uuid.uuid4().hex)
    return (home / _INSTALLATION).read_text()


def _write_whole(path: Path, text: str) -> None:
    """Write a file that other processes may read or write at the same time."""
    written = path.with_name(f"{path.name}.{os.getpid()}")
    written.write_text(text)
    written.replace(path)
