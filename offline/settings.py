"""Settings of the offline side."""

from __future__ import annotations

from pydantic import Field

from data.models.settings import RegistrySettings


class OfflineSettings(RegistrySettings):
    """Registry, feature spec and lake."""

    lake_uri: str = Field(
        default_factory=lambda data: str(data["var_dir"] / "lake"),
        description="a folder, or a URI of any filesystem that pyarrow knows",
    )
    served_keep_days: int | None = Field(
        None, ge=1, description="served records older than this leave the lake; without a value, they stay"
    )
