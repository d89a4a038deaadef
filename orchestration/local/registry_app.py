"""MLflow's server behind the door, for uvicorn."""

from __future__ import annotations

import os

from starlette.types import ASGIApp

from orchestration.local.settings import StackSettings
from orchestration.ui.door import Door


def create_app() -> ASGIApp:
    """Return MLflow's application behind the door.

    MLflow's own guard stays on, and admits pages of every port of this machine; the door admits MLflow's own page.

    This process goes to its folder first, and the part names database and files relative to the folder: as a part of a
    URI, the whole path could hold no `?`, `#` or `%`.
    """
    settings = StackSettings()  # before the folder changes: `.env` lies in the folder of before
    folder = settings.mlflow_folder
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    from mlflow.server.fastapi_app import app  # noqa: PLC0415 - reads its environment as it is imported

    return Door(app, settings.host_names, settings.mlflow_public_url)
