"""MLflow's server behind the door, for uvicorn."""

from __future__ import annotations

from starlette.types import ASGIApp

from orchestration.local.settings import StackSettings
from orchestration.ui.door import Door


def create_app() -> ASGIApp:
    """Return MLflow's application behind the door.

    MLflow's own guard stays on, and admits pages of every port of this machine; the door admits MLflow's own page.
    """
    from mlflow.server.fastapi_app import app  # noqa: PLC0415 - reads its environment as it is imported

    settings = StackSettings()
    return Door(app, settings.host_names, settings.mlflow_public_url)
