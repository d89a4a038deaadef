"""Settings of the online processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.models.settings import RegistrySettings
from data.names import PRODUCT_PATTERN, SOURCE_PATTERN
from data.settings import KafkaSettings, PageSettings, Port, ProcessSettings, RecordingSettings
from data.stream.records import Purpose

RESTARTED = {"INGESTOR_RESTARTED": "true"}
"""Environment of an ingestor that replaces a dead ingestor: if the dead ingestor had ended the source, nothing has
failed."""


class OnlineSettings(ProcessSettings, KafkaSettings):
    """Hold the settings of every online process."""


class IngestorSettings(OnlineSettings, RecordingSettings):
    """Hold the settings of the ingestor."""

    product_id: str = Field("BTC-USD", pattern=PRODUCT_PATTERN, description="of recordings that name none")
    replay_speed: str = Field("10", description="1, 10, any number above 0, real-time or max")
    replay_id: str | None = Field(None, pattern=SOURCE_PATTERN, description="resume this source, or start it")
    replay_end_on_stop: bool | None = Field(
        None, description="whether a stopped replay ends its source; without a value: only if nobody could resume it"
    )
    ingestor_restarted: bool = Field(False, description="set by the supervisor that replaces a dead ingestor")
    purpose: Purpose = "replay"
    max_wait_s: float = Field(10.0, ge=0, description="a longer wait between two trades is cut to this")
    ingestor_port: Port = Field(8010, description="metrics; the next free port from here")


class ModelSettings(OnlineSettings, RegistrySettings):
    """Hold the settings of a process that serves models."""

    model_variant: Literal["baseline", "ml"] = Field("ml", description="which champion answers")


class ForecasterSettings(ModelSettings):
    """Hold the settings of the forecaster."""

    slot: int | None = Field(
        None,
        ge=0,
        description="a number: a replica that keeps its identity over restarts; none: any number of replicas",
    )
    forecaster_port: Port = Field(8001, description="metrics; without a slot the next free port")


class ApiSettings(ModelSettings, PageSettings):
    """Hold the settings of the API."""

    api_port: Port = 8000
    api_leave_s: float = Field(
        0.0, ge=0, description="how long `/health/live` answers 503 after SIGTERM before the API stops; for a gateway"
    )
    max_feature_age_s: float = Field(30.0, gt=0, description="an open source whose newest row is older is stale")
