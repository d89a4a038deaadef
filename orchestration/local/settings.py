"""Settings of the local stack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import Field, ValidationInfo, field_validator

from data.files import CHECKOUT
from data.settings import Port, TopicSettings
from monitoring.settings import ExporterSettings
from offline.settings import OfflineSettings
from online.settings import ApiSettings, ForecasterSettings, IngestorSettings
from orchestration.settings import OrchestrationSettings, WebserverSettings

RETIRED = dict.fromkeys(
    ("FEATURE_SERVICE_PORT", "SCORER_PORT"),
    "feature rows and forecasts come from one process now, whose port is FORECASTER_PORT",
)
"""Settings of earlier releases, and their successors."""

STACK_LOCK = "stack.lock"
"""File below VAR_DIR with the process of `make run`, which holds a lock on the file."""
UNFINISHED_RESTORE = "restoring"
"""File below VAR_DIR while a restore exchanges folders; it names the backup. No stack starts beside this file."""


def retired_settings(environment: Mapping[str, str | None]) -> list[str]:
    """Return a sentence for each given setting without effect."""
    return [f"{name} has no effect any more: {reason}" for name, reason in RETIRED.items() if environment.get(name)]


def given_settings() -> dict[str, str | None]:
    """Return the settings of the environment and `.env`; the environment wins."""
    return {**dotenv_values(".env"), **os.environ}


class StackSettings(
    IngestorSettings,
    ForecasterSettings,
    ApiSettings,
    ExporterSettings,
    OfflineSettings,
    OrchestrationSettings,
    WebserverSettings,
    TopicSettings,
):
    """Settings of all parts, and of the stack around the parts: ports, the recording."""

    kafka_port: Port = 9092
    kafka_controller_port: Port = 9093
    mlflow_port: Port = 5000
    prometheus_port: Port = 9090
    alertmanager_port: Port = 9095
    log_max_mb: int = Field(20, ge=1, description="of the log of a part, 10^6 bytes; the lines before go to .previous")
    run_started: float | None = Field(None, description="seconds since 1970 when `make run` was typed")

    @field_validator("*")
    @classmethod
    def _refuse_any_port(cls, value: Any, info: ValidationInfo) -> Any:
        if value == 0 and str(info.field_name).endswith("_port"):
            raise ValueError("the parts of a stack need fixed ports, above 0")
        return value

    @property
    def how_to_forget(self) -> str:
        """Return the way to remove all state, in words. `make reset` does not touch a folder chosen by a person."""
        return "`make reset`" if self.var_dir == CHECKOUT / "var" else f"removing {self.var_dir}"

    @property
    def local_kafka(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"

    @property
    def local_mlflow(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def ports_of_others(self) -> frozenset[int]:
        """Return the ports of all parts but the ingestor, which takes the next free port."""
        names = [name for name in type(self).model_fields if name.endswith("_port") and name != "ingestor_port"]
        return frozenset(getattr(self, name) for name in names)

    @property
    def mlflow_folder(self) -> Path:
        return self.var_dir / "mlflow"

    @property
    def dagster_home(self) -> Path:
        return self.var_dir / "dagster"

    @property
    def starts_kafka(self) -> bool:
        """Whether this stack starts the broker: the settings name no other."""
        ours = (self.local_kafka, f"localhost:{self.kafka_port}")
        return "kafka_bootstrap_servers" not in self.model_fields_set or self.kafka_bootstrap_servers in ours

    @property
    def starts_mlflow(self) -> bool:
        """Whether this stack starts the registry: the settings name no other."""
        ours = (self.local_mlflow, f"http://localhost:{self.mlflow_port}")
        return "mlflow_tracking_uri" not in self.model_fields_set or self.mlflow_tracking_uri in ours

    def environment(self, replay_id: str) -> dict[str, str]:
        """Return the settings of every part, so that all parts agree."""
        # The stack's own broker has a single forecaster, so a restart need not wait for the end of the old session.
        slot = 0 if self.slot is None and self.starts_kafka else self.slot
        ports = ("api_port", "forecaster_port", "exporter_port", "dagster_port", "grafana_port")
        folders = ("dagster_home", "lake_uri", "inbox_dir", "var_dir", "models_dir")
        return {
            **{name.upper(): str(getattr(self, name)) for name in (*ports, *folders, "product_id", "replay_speed")},
            "KAFKA_BOOTSTRAP_SERVERS": self.local_kafka if self.starts_kafka else self.kafka_bootstrap_servers,
            "MLFLOW_TRACKING_URI": self.local_mlflow if self.starts_mlflow else self.mlflow_tracking_uri,
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "REPLAY_ID": replay_id,
            "SLOT": "" if slot is None else str(slot),
        }
