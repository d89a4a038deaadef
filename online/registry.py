"""The model registry as the online side reads it: plain HTTP with short timeouts, and the last good model on disk."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, NamedTuple

import structlog

from data.serving import ModelRefused, ServedModel
from data.spec import FeatureSpec
from online.settings import ModelSettings

log = structlog.get_logger()

BASELINE = "volatility-baseline"
TIMEOUT_S = 2.0
"""For one request to the registry, which answers in some 20 ms."""
RETRY_S = 0.5
NO_CHAMPION_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers when it is asked for the alias of a model that it does not have, and for one that is not set."""


class RegistryError(RuntimeError):
    """The registry does not answer, or not with what it should."""


class NoChampion(RegistryError):
    """The registry answers that this model has no champion."""


class NoModel(RuntimeError):
    """Neither the registry nor the disk holds a model that may serve. The message says what each of them said."""


class Champion(NamedTuple):
    """What the alias `champion` points to: enough to see that it has moved."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A registered model's file.

    Attributes:
        name: of the registered model, as `volatility-baseline`.
        version: a number, as text.
        digest: the SHA-256 that the registry promises for the file.
        model_bytes: the ONNX file, not yet checked.
    """

    name: str
    version: str
    digest: str
    model_bytes: bytes


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model that may serve, checked and warm.

    Attributes:
        name, version: of the registered model.
        origin: where the file came from.
        remarks: what an operator should know: why it is not the wanted champion from the registry; empty if it is.
    """

    model: ServedModel
    name: str
    version: str
    origin: Literal["registry", "disk"]
    remarks: tuple[str, ...]


def champion(tracking_uri: str, name: str, timeout_s: float) -> Champion:
    """Ask which version is champion: one request, for polling.

    Raises:
        NoChampion: there is no such model, or it has no champion.
        RegistryError: no answer in time, or none that can be read.
    """
    query = urllib.parse.urlencode({"name": name, "alias": "champion"})
    found = _get_json(tracking_uri, f"/api/2.0/mlflow/registered-models/alias?{query}", timeout_s)
    # {"model_version": {"name": ..., "version": "3", "tags": [{"key": "digest", "value": "1007e4..."}, ...], ...}}
    try:
        version = found["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
        return Champion(name, str(version["version"]), tags["digest"])
    except (KeyError, TypeError) as error:
        raise RegistryError(
            f"{tracking_uri}: the champion of {name} has no {error}: was it registered by hand?"
        ) from error


def fetch(tracking_uri: str, wanted: Champion, timeout_s: float) -> ModelFile:
    """Return the file of a version.

    Raises:
        RegistryError: no answer in time, or the file is not kept by the registry's own server.
    """
    query = urllib.parse.urlencode({"name": wanted.name, "version": wanted.version})
    found = _get_json(tracking_uri, f"/api/2.0/mlflow/model-versions/get-download-uri?{query}", timeout_s)
    # {"artifact_uri": "mlflow-artifacts:/1/models/m-438d946803ac476aa3ea6c4ac6db2ada/artifacts"}
    location = urllib.parse.urlsplit(str(found.get("artifact_uri", "")))
    if location.scheme != "mlflow-artifacts":
        raise RegistryError(
            f"{wanted.name} version {wanted.version} is kept at {location.geturl()!r}; it must be "
            "mlflow-artifacts:/..., which `mlflow server --artifacts-destination` gives"
        )
    path = urllib.parse.quote(f"{location.path.strip('/')}/model.onnx")
    model_bytes = _get(tracking_uri, f"/api/2.0/mlflow-artifacts/artifacts/{path}", timeout_s)
    return ModelFile(wanted.name, wanted.version, wanted.digest, model_bytes)


def fetch_champion(tracking_uri: str, name: str, timeout_s: float) -> ModelFile:
    """Return the champion's file, see `champion` and `fetch`."""
    return fetch(tracking_uri, champion(tracking_uri, name, timeout_s), timeout_s)


def save_last_good(folder: Path, version: ModelFile) -> None:
    """Keep a model that was loaded and answered, for a start without the registry.

    The file is named by its digest and written before the note that points to it, so that a reader, or a process that
    saves at the same time, never meets half of a model.
    """
    place = folder / version.name
    place.mkdir(parents=True, exist_ok=True)
    _write(place / f"{version.digest}.onnx", version.model_bytes)
    note = {"name": version.name, "version": version.version, "digest": version.digest}
    _write(place / "last_good.json", json.dumps(note).encode())


def load_last_good(folder: Path, name: str) -> ModelFile | None:
    """Return the model kept last, or None if there is none.

    Raises:
        ModelRefused: what is kept cannot be read, or is not what was saved.
    """
    note_path = folder / name / "last_good.json"
    try:
        note = json.loads(note_path.read_bytes())
        version, digest = str(note["version"]), str(note["digest"])
        model_bytes = (folder / name / f"{digest}.onnx").read_bytes()
    except FileNotFoundError as error:
        if not note_path.exists():
            return None
        raise ModelRefused(f"{note_path} points to a file that is gone: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{note_path} cannot be read: {error!r}") from error
    found = hashlib.sha256(model_bytes).hexdigest()
    if found != digest:
        raise ModelRefused(f"{folder / name}: the file's SHA-256 is {found}, saved was {digest}")
    return ModelFile(name, version, digest, model_bytes)


def resolve_model(
    tracking_uri: str, variant: Literal["baseline", "ml"], folder: Path, spec: FeatureSpec, timeout_s: float
) -> ModelVersion:
    """Return the model that answers at a start, checked and warm.

    That is the wanted variant's champion; else the last good one of that variant, unless the registry says that it has
    no champion; else the same for the baseline. What came from the registry is kept as the last good one.

    Raises:
        NoModel: none of them may serve.
    """
    remarks: list[str] = []
    registry_answers = True
    for name in dict.fromkeys((f"volatility-{variant}", BASELINE)):
        if registry_answers:
            try:
                version = fetch_champion(tracking_uri, name, timeout_s)
                model = _load(version, spec)
            except NoChampion as error:
                remarks.append(str(error))
                continue
            except RegistryError as error:
                remarks.append(str(error))
                registry_answers = False
            except ModelRefused as error:
                remarks.append(f"{name} version {version.version} from the registry is refused: {error}")
            else:
                try:
                    save_last_good(folder, version)
                except OSError as error:
                    remarks.append(f"{name} version {version.version} serves, but cannot be kept in {folder}: {error}")
                return ModelVersion(model, name, version.version, "registry", tuple(remarks))
        try:
            kept = load_last_good(folder, name)
            if kept is None:
                remarks.append(f"{folder / name} holds no last good model")
                continue
            return ModelVersion(_load(kept, spec), name, kept.version, "disk", tuple(remarks))
        except ModelRefused as error:
            remarks.append(f"{name} from {folder} is refused: {error}")
    raise NoModel("; ".join(remarks) + ". `python -m offline.training` registers a first model")


def await_model(settings: ModelSettings, running: Callable[[], bool]) -> ModelVersion | None:
    """Return the model that answers as soon as there is one, or None if `running` says stop before.

    What keeps it waiting, and why it is not the wanted model, is logged once, not at every attempt.
    """
    said = ""
    while running():
        try:
            found = resolve_model(
                settings.mlflow_tracking_uri, settings.model_variant, settings.models_dir, settings.spec(), TIMEOUT_S
            )
        except NoModel as error:
            if str(error) != said:
                said = str(error)
                log.warning("no model yet", reason=said)
            time.sleep(RETRY_S)
            continue
        for remark in found.remarks:
            log.warning(remark)
        log.info("model", name=found.name, version=found.version, digest=found.model.digest[:12], origin=found.origin)
        return found
    return None


def _load(version: ModelFile, spec: FeatureSpec) -> ServedModel:
    return ServedModel.load(
        version.model_bytes, spec_id=spec.spec_id, digest=version.digest, known_columns=spec.columns
    )


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
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        # 404 {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=... not found"}
        # 400 {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias champion not found."}
        if "/registered-models/alias?" in path and any(code in body for code in NO_CHAMPION_CODES):
            name = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)["name"][0]
            raise NoChampion(f"{name} has no champion at {tracking_uri}") from error
        raise RegistryError(f"{url} answers {error.code}: {body[:200]}") from error
    except (OSError, HTTPException, ValueError) as error:  # refused, timed out, or cut off
        raise RegistryError(f"the model registry does not answer at {tracking_uri}: {error}") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(content)
            file.flush()
        except OSError:  # a full disk would keep the torso for ever
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
