"""Settings of processes that train, judge or serve models: address and login of the registry."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class RegistrySettings(BaseSettings):
    """Address and login of MLflow, under the names of MLflow's own client."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", pattern="^https?://", description="the MLflow server, for runs and for the registry"
    )
    mlflow_tracking_username: SecretStr | None = None
    mlflow_tracking_password: SecretStr | None = None
    mlflow_tracking_token: SecretStr | None = Field(None, description="used without user name and password")

    def login(self) -> dict[str, str]:
        """Return the variables of the login that have a value, by the names of MLflow's own client."""
        fields = {name.upper(): getattr(self, name) for name in RegistrySettings.model_fields}
        return {name: found.get_secret_value() for name, found in fields.items() if isinstance(found, SecretStr)}
