"""Settings of the offline side."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from data.features.spec import FeatureSpec
from data.models.settings import RegistrySettings


class OfflineSettings(RegistrySettings):
    """Settings from the environment and `.env`, read once in each `main`."""

    lake_uri: str = Field("var/lake", description="a folder, or a URI of any filesystem that pyarrow knows")
    models_dir: Path = Field(Path("var/models"), description="where the forecaster keeps the models that it has loaded")
    window_size: int = Field(50, ge=2, le=10_000, description="returns in the contract window, as online")

    def spec(self) -> FeatureSpec:
        """Return the feature spec with the window size of the settings."""
        return FeatureSpec(window_size=self.window_size)
