"""Settings of the offline side."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from data.models.settings import RegistrySettings
from data.settings import SECRET_IN_URI

KEY_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE,",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
}
"""Variables of the environment with the key of a filesystem, by the scheme of its URIs. The filesystems read them."""
DEFAULT_TRAIN_MB, LEAST_TRAIN_MB = 3_000, 1_000
_SECRET = re.compile(r"key|secret|token|password|sas", re.IGNORECASE)


def without_key(uri: str, *, setting: str = "LAKE_URI") -> str:
    """Return the URI of a lake or of recordings; refuse a key in it, as Dagster and logs show the URI.

    Args:
        setting: name of the setting with the URI.

    >>> without_key("s3://bucket/lake?region=eu-central-1")
    's3://bucket/lake?region=eu-central-1'

    Raises:
        PydanticCustomError: a ValueError, whose message does not have the URI.
    """
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    login, at, _ = parts.netloc.rpartition("@")
    # abfs://container@account.dfs.core.windows.net and gs://anonymous@bucket have no key.
    has_key = ":" in login or (bool(at) and parts.scheme == "s3")
    if has_key or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        variables = KEY_VARIABLES.get(parts.scheme.replace("abfss", "abfs"), "the environment of the filesystem")
        raise PydanticCustomError(
            SECRET_IN_URI,
            "{setting} must have no login and no key, as Dagster shows the URI: {variables} must have the key",
            {"setting": setting, "variables": variables},
        )
    return uri


class OfflineSettings(RegistrySettings):
    """Registry, feature spec and lake."""

    lake_uri: Annotated[str, AfterValidator(without_key)] = Field(
        default_factory=lambda data: str(data["var_dir"] / "lake"),
        description="a folder, or a URI that begins with file, s3, gs or abfs",
    )
    lake_grace_h: float = Field(
        24.0,
        gt=0,
        description="hours for which the clean-up keeps an object that no manifest names; longer than any run",
    )
    train_max_mb: int = Field(
        DEFAULT_TRAIN_MB,
        ge=LEAST_TRAIN_MB,
        description="memory of a training or a promotion, 10 ** 6 bytes: of more rows, a stratified sample is taken",
    )
    served_keep_days: int | None = Field(
        None, ge=1, description="served records older than this leave the lake; without a value, they stay"
    )
