"""Settings of the local stack."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from data.files import CHECKOUT

ROOT = CHECKOUT

RETIRED = {
    "FEATURE_SERVICE_PORT": "feature rows and forecasts come from one process now, whose port is FORECASTER_PORT",
    "SCORER_PORT": "feature rows and forecasts come from one process now, whose port is FORECASTER_PORT",
}
"""Settings of earlier releases, and their successors."""


def retired_settings(environment: Mapping[str, str | None]) -> list[str]:
    """Return a sentence for each given setting that has no effect any more."""
    return [f"{name} has no effect any more: {reason}" for name, reason in RETIRED.items() if environment.get(name)]


def given_settings() -> dict[str, str | None]:
    """Return the settings of the environment and `.env`; the environment wins."""
    return {**dotenv_values(".env"), **os.environ}


class StackSettings(BaseSettings):
    """Settings of the stack: ports, folders, the recording and its speed; from the environment and `.env`."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    kafka_bootstrap_servers: str | None = Field(None, description="a running broker; unset: the local broker")
    mlflow_tracking_uri: str | None = Field(None, description="a running registry; unset: the local registry")
    api_port: int = Field(8000, gt=0, lt=65536)
    forecaster_port: int = Field(8001, gt=0, lt=65536)
    ingestor_port: int = Field(8010, gt=0, lt=65536)
    kafka_port: int = Field(9092, gt=0, lt=65536)
    kafka_controller_port: int = Field(9093, gt=0, lt=65536)
    mlflow_port: int = Field(5000, gt=0, lt=65536)
    dagster_port: int = Field(3001, gt=0, lt=65536)
    dagster_code_port: int = Field(3002, gt=0, lt=65536)
    lake_uri: str | None = Field(None, description="where the lake is; unset: a folder of the stack")
    inbox_dir: Path | None = Field(None, description="recordings for the lake; unset: a folder of the stack")
    var_dir: Path = Path("var")
    recording: str | None = Field(None, description="paths as in a shell; unset: a simulated day")
    product_id: str = "BTC-USD"
    replay_speed: str = "10"
    replay_id: str | None = None
    slot: str | None = Field(None, description="of the forecaster; unset: 0 on the stack's own broker, else none")
    topic_retention_days: float = Field(7.0, gt=0)
    run_started: float | None = Field(None, description="seconds since 1970 when `make run` was typed")

    @field_validator("var_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().resolve()

    @property
    def how_to_forget(self) -> str:
        """Return the way to remove all state, in words. `make reset` does not touch a folder chosen by a person."""
        return "`make reset`" if self.var_dir == ROOT / "var" else f"removing {self.var_dir}"

    @property
    def local_kafka(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"

    @property
    def local_mlflow(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def dagster_home(self) -> Path:
        return self.var_dir / "dagster"

    @property
    def inbox(self) -> Path:
        return (self.inbox_dir or self.var_dir / "inbox").expanduser().resolve()

    @property
    def local_dagster(self) -> str:
        return f"http://127.0.0.1:{self.dagster_port}"

    @property
    def starts_kafka(self) -> bool:
        """Whether this stack starts the broker."""
        return self.kafka_bootstrap_servers in (None, self.local_kafka, f"localhost:{self.kafka_port}")

    @property
    def starts_mlflow(self) -> bool:
        """Whether this stack starts the registry."""
        uri = (self.mlflow_tracking_uri or self.local_mlflow).rstrip("/")
        return uri in (self.local_mlflow, f"http://localhost:{self.mlflow_port}")

    @property
    def recordings(self) -> list[Path]:
        """The recordings to replay; empty: the simulated day."""
        return [Path(path).expanduser().resolve() for path in shlex.split(self.recording or "")]

    def environment(self, replay_id: str) -> dict[str, str]:
        """Return the settings of every part, so that all parts agree."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.local_kafka if self.starts_kafka else str(self.kafka_bootstrap_servers),
            "MLFLOW_TRACKING_URI": self.local_mlflow if self.starts_mlflow else str(self.mlflow_tracking_uri),
            "API_PORT": str(self.api_port),
            "FORECASTER_PORT": str(self.forecaster_port),
            "DAGSTER_PORT": str(self.dagster_port),
            "DAGSTER_HOME": str(self.dagster_home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "LAKE_URI": self.lake_uri or str(self.var_dir / "lake"),
            "INBOX_DIR": str(self.inbox),
            "VAR_DIR": str(self.var_dir),
            "MODELS_DIR": str(self.var_dir / "models"),
            "PRODUCT_ID": self.product_id,
            "REPLAY_SPEED": self.replay_speed,
            "REPLAY_ID": replay_id,
            # The stack's own broker has a single forecaster, so a restart need not wait for the end of the old session.
            "SLOT": self.slot or ("0" if self.starts_kafka else ""),
        }
