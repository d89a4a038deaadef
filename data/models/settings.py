"""Settings to train, judge or serve models: the registry and its login, the kept models, and the feature spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from data.features.spec import FeatureSpec
from data.settings import Folder, StateSettings


class RegistrySettings(StateSettings):
    """Address and login of MLflow, the folder of the last good models, and the feature spec of all models."""

    mlflow_tracking_uri: Annotated[str, AfterValidator(lambda uri: uri.rstrip("/"))] = Field(
        "http://127.0.0.1:5000", pattern="^https?://", description="the MLflow server, for runs and for the registry"
    )
    mlflow_tracking_username: SecretStr | None = None
    mlflow_tracking_password: SecretStr | None = None
    mlflow_tracking_token: SecretStr | None = Field(None, description="used without user name and password")
    models_dir: Folder = Field(
        default_factory=lambda data: data["var_dir"] / "models",
        description="keeps the last good models for times without a registry",
    )
    window_size: int = Field(50, ge=2, le=10_000, description="returns in the contract window")

    def login(self) -> dict[str, str]:
        """Return the variables of the login that have a value, by the names of MLflow's own client."""
        fields = {name.upper(): getattr(self, name) for name in RegistrySettings.model_fields}
        return {name: found.get_secret_value() for name, found in fields.items() if isinstance(found, SecretStr)}

    def spec(self) -> FeatureSpec:
        """Return the feature spec of these settings."""
        return FeatureSpec(window_size=self.window_size)
