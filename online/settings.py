"""Settings of the online processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from data.models.settings import RegistrySettings
from data.names import PRODUCT_PATTERN, SOURCE_PATTERN, is_loopback_host
from data.settings import SECRET_IN_URI, KafkaSettings, PageSettings, Port, ProcessSettings, RecordingSettings
from data.stream.records import Purpose
from online.keys.ring import KeyRing

RESTARTED = {"INGESTOR_RESTARTED": "true"}
"""Environment of an ingestor that replaces a dead ingestor: if the dead ingestor had ended the source, nothing has
failed."""


MIN_COOKIE_SECRET = 16
"""Least characters of API_COOKIE_SECRET."""

STRANGERS = (
    "HOST={host} lets other machines in, and the API has no keys: set API_KEYS or API_KEYS_FILE "
    "(`python -m online.keys new NAME` makes a key), leave HOST at 127.0.0.1, or let everybody ask with API_OPEN=true"
)
"""Refusal of an API that would serve other machines without keys."""


def _keys(keys: SecretStr) -> SecretStr:
    """Refuse what is no list of keys, without its text."""
    try:
        KeyRing.parse(keys.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError(SECRET_IN_URI, "{error}", {"error": str(error)}) from None
    return keys


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
    var_max_gb: float = Field(20.0, gt=0, description="cap of VAR_DIR, 10^9 bytes; `/health` warns from 80 % on")
    api_leave_s: float = Field(
        0.0, ge=0, description="how long `/health/live` answers 503 after SIGTERM before the API stops; for a gateway"
    )
    max_feature_age_s: float = Field(30.0, gt=0, description="an open source whose newest row is older is stale")
    api_keys: Annotated[SecretStr, AfterValidator(_keys)] | None = Field(
        None, description="NAME:HASH of each client's key, by `python -m online.keys new NAME`; none: no key is needed"
    )
    api_cookie_secret: Annotated[SecretStr, Field(min_length=MIN_COOKIE_SECRET)] | None = Field(
        None, description="signs logins of the live page, the same for all replicas; none: random at each start"
    )
    api_rate: float = Field(200.0, gt=0, description="requests per second of a key, at each replica")
    api_burst: int = Field(400, ge=1, description="requests of a key at once, at each replica")
    api_metrics_open: bool = Field(True, description="whether `/metrics` of the API needs no key")
    api_open: bool = Field(False, description="whether an API without keys may listen beyond loopback")

    def key_ring(self) -> KeyRing | None:
        """Return the keys of all clients; None: no key is needed."""
        return KeyRing.parse(self.api_keys.get_secret_value()) if self.api_keys else None

    @property
    def api_lets_strangers_in(self) -> bool:
        """Return whether the API would serve other machines without keys, and nobody has said so."""
        return not (self.api_keys or self.api_open or is_loopback_host(self.host))
