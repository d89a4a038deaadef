"""compose.yaml as Docker Compose reads it, without Docker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from data.files import CHECKOUT

FILE = CHECKOUT / "compose.yaml"
DEPLOY = CHECKOUT / "orchestration" / "deploy"
OURS = ("cryptovol-online", "cryptovol-offline")
"""Images of the Dockerfile, by its targets."""
Service = dict[str, Any]
SECRETS = {"api_keys": f"stack:{'0' * 64}\n", "api_cookie_secret": "s" * 32}
"""Contents for tests of the secrets that have a form."""
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Z_]+)(:[-+])?((?:[^{}]|\{[^{}]*\})*)\})")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with its variables replaced.

    >>> interpolated("${HOST:+https://}${HOST:-http://localhost:${PORT:-8080}} $$x", {})
    'http://localhost:8080 $x'
    >>> interpolated("${HOST:+https://}${HOST:-http://localhost:${PORT:-8080}}", {"HOST": "a.example"})
    'https://a.example'
    """

    def value(found: re.Match[str]) -> str:
        name, operator, word = found.groups()
        if name is None:
            return "$"
        given = variables.get(name, "")
        if operator == ":+":
            return interpolated(word, variables) if given else ""
        return given or (interpolated(word, variables) if operator else "")

    return _VARIABLE.sub(value, text)


def compose(**variables: str) -> dict[str, Any]:
    """Return the file with these variables in the environment, and no others."""
    return dict(_walked(yaml.safe_load(FILE.read_text()), variables))


def _walked(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return interpolated(value, variables)
    if isinstance(value, dict):
        return {key: _walked(part, variables) for key, part in value.items()}
    return [_walked(part, variables) for part in value] if isinstance(value, list) else value


def variables() -> set[str]:
    """Return the names of all variables that the file reads from the environment."""
    text = FILE.read_text()
    return set(re.findall(r"\$\{([A-Z_]+)", text))


def services(**variables: str) -> dict[str, Service]:
    """Return all services by name, also those of a profile."""
    found: dict[str, Service] = compose(**variables)["services"]
    return found


def image_of(service: Service) -> str:
    """Return the name of a service's image without its tag."""
    return str(service["image"]).partition(":")[0]


def is_ours(service: Service) -> bool:
    return image_of(service) in OURS


def runs_once(service: Service) -> bool:
    """Return whether others wait for the end of a service."""
    return bool(service.get("healthcheck", {}).get("disable"))


def words(service: Service) -> list[str]:
    """Return the command of a service as a list of words."""
    command = service.get("command", [])
    return [command] if isinstance(command, str) else list(command)


def modules(service: Service) -> Iterator[str]:
    """Yield the modules that command and health check of a service run by `python -m`."""
    for command in (words(service), service.get("healthcheck", {}).get("test", [])):
        yield from re.findall(r"\bpython -m ([\w.]+)", " ".join(map(str, command)))


def environment(service: Service) -> dict[str, str]:
    """Return the environment of a service; an empty value means the default."""
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def mounts(service: Service) -> list[tuple[str, str]]:
    """Return source and target of each mount of a service."""
    return [
        (source, target.partition(":")[0])
        for source, _, target in (v.partition(":") for v in service.get("volumes", ()))
    ]
