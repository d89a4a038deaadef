"""What the offline side needs from outside."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from data.features.spec import FeatureSpec


class OfflineSettings(BaseSettings):
    """Read once in each `main`, from the environment and `.env`."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", pattern="^https?://", description="the MLflow server, for runs and for the registry"
    )
    lake_uri: str = Field("var/lake", description="a folder, or a URI of any filesystem that pyarrow knows")
    models_dir: Path = Field(Path("var/models"), description="where the forecaster keeps the models that it has loaded")
    window_size: int = Field(50, ge=2, le=10_000, description="returns in the contract window, as online")

    def spec(self) -> FeatureSpec:
        return FeatureSpec(window_size=self.window_size)
