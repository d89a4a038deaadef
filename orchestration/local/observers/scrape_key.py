"""The stack's own key of the API: for Prometheus, and for a person's shell."""

from __future__ import annotations

from pathlib import Path

from online.keys.ring import hash_line, new_key
from orchestration.local.settings import StackSettings

NAME = "stack"


def key_file(settings: StackSettings) -> Path:
    """Return the path of the generated key."""
    return settings.var_dir / "api-key"


def stack_key(settings: StackSettings) -> str | None:
    """Return the key, kept in a file for the owner alone; None if the API has no keys."""
    if settings.api_keys is None:
        return None
    path = key_file(settings)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"{new_key()}\n")
    return path.read_text().strip()


def keys_environment(settings: StackSettings) -> dict[str, str]:
    """Return the environment of an API that takes the stack's own key beside the keys of the settings."""
    key = stack_key(settings)
    if key is None or settings.api_keys is None:
        return {}
    keys = f"{settings.api_keys.get_secret_value()},{hash_line(NAME, key)}"
    return {"API_KEYS": keys, "API_KEYS_FILE": ""}
