"""Read the model registry from the online side: plain HTTP with short timeouts."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, NamedTuple

from data.models.served import ModelRefused

NO_CHAMPION_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for the alias of an unknown model, and for an alias that is not set."""
PERMANENT_STATUSES = (400, 404, 410)
"""HTTP statuses that a retry would not change."""


class RegistryError(RuntimeError):
    """The registry does not answer, or its answer cannot be read."""


class NoChampion(RegistryError):
    """The registry answers that a model has no champion."""


class _ErrorStatus(RegistryError):
    """The registry answers with an HTTP error status."""

    def __init__(self, url: str, status: int, body: str) -> None:
        super().__init__(f"{url} answers {status}: {body[:200]}")
        self.status, self.body = status, body


class Champion(NamedTuple):
    """The model version of the alias `champion`: enough to notice a new champion.

    Attributes:
        name: name of the registered model, for example `volatility-baseline`.
        version: a number, as text.
        digest: the SHA-256 that the registry promises for the file; empty if the version has no tag `digest`.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A registered model's file, see `Champion`.

    Attributes:
        model_bytes: the ONNX file, not yet checked.
    """

    name: str
    version: str
    digest: str
    model_bytes: bytes


def champion(tracking_uri: str, name: str, timeout_s: float) -> Champion:
    """Return the champion of a model, with one request, for polling.

    Raises:
        NoChampion: the model does not exist, or has no champion.
        RegistryError: no answer in time, or an answer that cannot be read.
    """
    query = urllib.parse.urlencode({"name": name, "alias": "champion"})
    try:
        found = _get_json(tracking_uri, f"/api/2.0/mlflow/registered-models/alias?{query}", timeout_s)
    except _ErrorStatus as declined:
        # 404 {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=... not found"}
        # 400 {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias champion not found."}
        if any(code in declined.body for code in NO_CHAMPION_CODES):
            raise NoChampion(f"{name} has no champion at {tracking_uri}") from declined
        raise
    # {"model_version": {"name": ..., "version": "3", "tags": [{"key": "digest", "value": "1007e4..."}, ...], ...}}
    try:
        version = found["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
        return Champion(name, str(version["version"]), str(tags.get("digest", "")))
    except (KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"{tracking_uri} answers with a champion of {name} that cannot be read: {error!r}"
        ) from error


def fetch(tracking_uri: str, wanted: Champion, timeout_s: float) -> ModelFile:
    """Return the file of a version.

    Raises:
        ModelRefused: the registry promises no digest, has no file, or keeps the file on another server.
        RegistryError: no answer in time; a retry may succeed.
    """
    what = f"{wanted.name} version {wanted.version}"
    if not wanted.digest:
        raise ModelRefused(f"{what} has no tag `digest`: was it registered by hand?", "digest")
    query = urllib.parse.urlencode({"name": wanted.name, "version": wanted.version})
    try:
        found = _get_json(tracking_uri, f"/api/2.0/mlflow/model-versions/get-download-uri?{query}", timeout_s)
        # {"artifact_uri": "mlflow-artifacts:/1/models/m-438d946803ac476aa3ea6c4ac6db2ada/artifacts"}
        location = urllib.parse.urlsplit(str(found.get("artifact_uri", "")))
        if location.scheme != "mlflow-artifacts":
            reason = (
                f"{what} is kept at {location.geturl()!r}; it must be mlflow-artifacts:/..., which "
                "`mlflow server --artifacts-destination` gives"
            )
            raise ModelRefused(reason, "absent")
        path = urllib.parse.quote(f"{location.path.strip('/')}/model.onnx")
        model_bytes = _get(tracking_uri, f"/api/2.0/mlflow-artifacts/artifacts/{path}", timeout_s)
    except _ErrorStatus as declined:
        if declined.status in PERMANENT_STATUSES:
            raise ModelRefused(f"{what} is not at the registry: {declined}", "absent") from declined
        raise
    return ModelFile(*wanted, model_bytes)


def _get_json(tracking_uri: str, path: str, timeout_s: float) -> dict[str, Any]:
    body = _get(tracking_uri, path, timeout_s)
    try:
        found = json.loads(body)
    except ValueError as error:
        raise RegistryError(f"{tracking_uri}{path} answers with what is no JSON: {body[:80]!r}") from error
    if not isinstance(found, dict):
        raise RegistryError(f"{tracking_uri}{path} answers with JSON that is no object: {body[:80]!r}")
    return found


def _get(tracking_uri: str, path: str, timeout_s: float) -> bytes:
    url = tracking_uri.rstrip("/") + path
    try:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise _ErrorStatus(url, error.code, error.read().decode(errors="replace")) from error
    except (OSError, HTTPException, ValueError) as error:  # refused, timed out, or cut off
        raise RegistryError(f"the model registry does not answer at {tracking_uri}: {error}") from error
