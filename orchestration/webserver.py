"""Dagster's UI behind the door: `python -m orchestration.webserver`, from the root."""

from __future__ import annotations

import argparse
import signal
import sys

import uvicorn
from dagster import DagsterInstance, __version__
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.app import create_app_from_workspace_process_context

from data.process.running import REFUSED
from data.settings import UnreadableSecret
from offline.settings import OfflineSettings
from orchestration.instance.home import WORKSPACE, enter_home
from orchestration.settings import WebserverSettings
from orchestration.ui.door import Door
from orchestration.ui.pictures import PICTURES, picture_route

STATEMENT_TIMEOUT_MS, POOL_RECYCLE_S, POOL_OVERFLOW = 15_000, 3_600, 20
"""Limits of the connections to Dagster's databases, as in Dagster's own command."""
DRAIN_S = 5
"""How long open requests may take to end after SIGTERM."""


def main() -> int:
    """Serve Dagster's UI behind the door."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.webserver", description=main.__doc__)
    parser.add_argument("-w", "--workspace", help="names the code servers; default: the code server of this machine")
    parser.add_argument("--path-prefix", help="as /dagster; default: the path of DAGSTER_PUBLIC_URL")
    arguments = parser.parse_args()
    try:
        settings = WebserverSettings()
    except UnreadableSecret as error:
        print(error, file=sys.stderr)
        return REFUSED
    if settings.lets_strangers_in:
        print(
            f"DAGSTER_HOST={settings.dagster_host} lets other machines in, and Dagster has no login of its own: set "
            "UI_PASSWORD or UI_PASSWORD_FILE, or leave DAGSTER_HOST at 127.0.0.1",
            file=sys.stderr,
        )
        return REFUSED
    prefix = settings.dagster_path if arguments.path_prefix is None else arguments.path_prefix.rstrip("/")
    home = enter_home()
    configure_loggers(log_level="INFO")
    # uvicorn ends in good order and then raises the signal again: exit code 0, as of every other process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_S, POOL_OVERFLOW)
        code = WorkspaceFileTarget([arguments.workspace or str(home / WORKSPACE)])
        with WorkspaceProcessContext(instance, version=__version__, workspace_load_target=code) as context:
            app = create_app_from_workspace_process_context(context, prefix)
            app.routes.insert(0, picture_route(prefix + PICTURES, OfflineSettings().lake_uri))
            door = Door(
                app,
                settings.host_names,
                settings.dagster_public_url,
                settings.ui_login,
                open_paths={f"{prefix}/server_info"},
            )
            uvicorn.run(
                door,
                host=settings.dagster_host,
                port=settings.dagster_port,
                workers=1,  # WEB_CONCURRENCY of other programs would stop this one
                log_level="warning",
                timeout_graceful_shutdown=DRAIN_S,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
