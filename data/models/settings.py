"""Settings to train, judge or serve models: the registry and its login, the kept models, and the feature spec."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from data.features.spec import FeatureSpec
from data.settings import SECRET_IN_URI, Folder, PublicUrl, StateSettings


def _without_login(uri: str) -> str:
    """Return the URI without a slash at the end; refuse a login, as logs and the live page show the URI."""
    if "@" in urlsplit(uri).netloc:
        reason = (
            "user name and password belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not in the URI"
        )
        raise PydanticCustomError(SECRET_IN_URI, reason)
    return uri.rstrip("/")


class RegistrySettings(StateSettings):
    """Address and login of MLflow, the folder of the last good models, and the feature spec of all models."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    mlflow_tracking_uri: Annotated[str, AfterValidator(_without_login)] = Field(
        "http://127.0.0.1:5000", pattern="^https?://", description="the MLflow server, for runs and for the registry"
    )
    model_max_mb: int = Field(
        64, ge=1, description="maximum size of a model file, 10 ** 6 bytes; a larger one is refused"
    )
    mlflow_public_url: PublicUrl | None = Field(None, description="of MLflow in links; none: the server's address")
    mlflow_tracking_username: SecretStr | None = None
    mlflow_tracking_password: SecretStr | None = None
    mlflow_tracking_token: SecretStr | None = Field(None, description="used without user name and password")
    models_dir: Folder = Field(
        default_factory=lambda data: data["var_dir"] / "models",
        description="keeps the last good models for times without a registry",
    )
    window_size: int = Field(50, ge=2, le=10_000, description="returns in the contract window")

    @property
    def mlflow_url(self) -> str:
        """MLflow in links."""
        return self.mlflow_public_url or self.mlflow_tracking_uri

    def login(self) -> dict[str, str]:
        """Return the variables of the login that have a value, by the names of MLflow's own client."""
        fields = {name.upper(): getattr(self, name) for name in RegistrySettings.model_fields}
        return {name: found.get_secret_value() for name, found in fields.items() if isinstance(found, SecretStr)}

    def spec(self) -> FeatureSpec:
        """Return the feature spec of these settings."""
        return FeatureSpec(window_size=self.window_size)
