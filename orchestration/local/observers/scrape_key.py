"""The stack's own key of the API: for Prometheus, and for a person's shell."""

from __future__ import annotations

from pathlib import Path

from online.keys.ring import hash_line, new_key
from orchestration.local.observers.login import kept_secret
from orchestration.local.settings import StackSettings

NAME = "stack"


def key_file(settings: StackSettings) -> Path:
    """Return the path of the generated key."""
    return settings.var_dir / "api-key"


def stack_key(settings: StackSettings) -> str | None:
    """Return the key, kept in a file for the owner alone; None if the API has no keys."""
    if settings.api_keys is None:
        return None
    return kept_secret(key_file(settings), new_key)


def keys_environment(settings: StackSettings) -> dict[str, str]:
    """Return the environment of an API that takes the stack's own key beside the keys of the settings."""
    key = stack_key(settings)
    if key is None or settings.api_keys is None:
        return {}
    keys = f"{settings.api_keys.get_secret_value()},{hash_line(NAME, key)}"
    return {"API_KEYS": keys, "API_KEYS_FILE": ""}
