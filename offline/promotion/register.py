"""Reads and writes of the model registry, MLflow.

Reads and small writes are plain REST with short timeouts, because importing mlflow takes seconds. Models are logged
with mlflow's own client.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - mlflow takes seconds to import, and most callers only ask
import contextlib
import json
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data.models.served import OUTPUTS, ModelRefused, ServedModel
from data.trades import Floats

if TYPE_CHECKING:
    from offline.evaluation.losses_table import Evaluation


TIMEOUT_S = 5.0
API = "/api/2.0/mlflow"
NAMED = 20
"""Maximum number of model names in the error message about an unknown model."""
CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default, a client retries for minutes if the server is away
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RegistryError(RuntimeError):
    """MLflow does not answer, refuses, or returns wrong data. The message says what to do."""


class RegistryAway(RegistryError):
    """MLflow does not answer, or fails (5xx): the request may have been done or not."""


class VersionNotFound(RegistryError):
    """MLflow has no model, version, alias or experiment of the name."""


class AlreadyThere(RegistryError):
    """MLflow already has a model or experiment of the name."""


ERRORS = {
    "RESOURCE_DOES_NOT_EXIST": VersionNotFound,
    "NOT_FOUND": VersionNotFound,
    "RESOURCE_ALREADY_EXISTS": AlreadyThere,
}


class Version(NamedTuple):
    """A registered version.

    Attributes:
        name: of the registered model.
        version: a number, as text.
        tags: see `register`.
        run_id: id of the MLflow run that logged the model; empty for a version registered by hand.
    """

    name: str
    version: str
    tags: dict[str, str]
    run_id: str


@dataclass(frozen=True)
class Candidate:
    """A trained and tested model, ready to register.

    Attributes:
        name: of the registered model.
        model_bytes: the ONNX file.
        model: the loaded `model_bytes`.
        example: shape (2, k), two rows of input.
        params, metrics: for the MLflow run.
        evaluation: the table behind the metrics; None if the model was not judged.
    """

    name: str
    model_bytes: bytes
    model: ServedModel
    example: Floats
    params: dict[str, Any]
    metrics: dict[str, float]
    evaluation: Evaluation | None = None


def champion_of(uri: str, name: str) -> Version | None:
    """Return the champion of a model, or None if the model has no champion.

    Raises:
        RegistryAway: MLflow does not answer.
    """
    try:
        return _held(uri, name, "champion")
    except VersionNotFound:
        return None


def version_of(uri: str, name: str, version: str) -> Version:
    """Return the version of a model with a number or an alias, as `7` or `challenger`.

    Raises:
        VersionNotFound: the model or the version does not exist; the message lists the existing names or numbers.
        RegistryError: MLflow does not answer, or refuses.
    """
    try:
        return _held(uri, name, version)
    except VersionNotFound:
        model = check_model(uri, name)
    # {"name": ..., "latest_versions": [{"version": "3", ...}], "aliases": [{"alias": "champion", "version": "2"}]}
    newest = max((int(each["version"]) for each in model.get("latest_versions", [])), default=None)
    there = ["no version at all" if newest is None else f"its newest is {newest}"]
    there += [f"{each['alias']} is {each['version']}" for each in model.get("aliases", [])]
    what = "version" if version.isdigit() else "alias"
    raise VersionNotFound(f"{name} has no {what} {version} at {uri}; {', '.join(there)}")


def check_model(uri: str, name: str) -> dict[str, Any]:
    """Return MLflow's record of a registered model.

    Raises:
        VersionNotFound: the model does not exist; the message lists the existing models.
        RegistryError: MLflow does not answer, or refuses.
    """
    with contextlib.suppress(VersionNotFound):
        return dict(call(uri, "GET", "registered-models/get", {"name": name})["registered_model"])
    models = call(uri, "GET", "registered-models/search", {"max_results": NAMED + 1}).get("registered_models", [])
    names = [str(each["name"]) for each in models]
    there = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
    raise VersionNotFound(
        f"there is no model {name} at {uri}; {f'there are {there}' if names else 'there is none yet'}"
    )


def _held(uri: str, name: str, version: str) -> Version:
    """Return a version; an error has MLflow's own message."""
    if version.isdigit():
        found = call(uri, "GET", "model-versions/get", {"name": name, "version": version})
    else:
        found = call(uri, "GET", "registered-models/alias", {"name": name, "alias": version})
    # {"model_version": {"name": ..., "version": "3", "run_id": "1fa0...", "tags": [{"key": "digest", "value": ...}]}}
    held = found["model_version"]
    tags = {tag["key"]: tag["value"] for tag in held.get("tags", [])}
    return Version(name, str(held["version"]), tags, held.get("run_id", ""))


def download(uri: str, name: str, version: str) -> bytes:
    """Return the model file of a version, downloaded in the same way as by a forecaster.

    Raises:
        VersionNotFound: the version does not exist, or the file is gone.
        RegistryError: MLflow does not answer, or keeps the file outside its artifact store.
    """
    found = call(uri, "GET", "model-versions/get-download-uri", {"name": name, "version": version})
    return _file_at(uri, found["artifact_uri"])


def call(uri: str, method: str, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to MLflow's REST API, and return the JSON object of the answer.

    Args:
        path: below `API`.
        fields: sent in the query of a GET, and in the body of other methods.

    Raises:
        VersionNotFound, AlreadyThere, RegistryAway, RegistryError: see the classes.
    """
    if method == "GET":
        answer = _request(uri, method, f"{API}/{path}?{urllib.parse.urlencode(fields)}")
    else:
        answer = _request(uri, method, f"{API}/{path}", json.dumps(fields).encode())
    found = None
    with contextlib.suppress(ValueError):
        found = json.loads(answer or b"{}")
    if not isinstance(found, dict):  # another server, or a proxy before MLflow; or the answer was cut off
        raise RegistryAway(
            f"{uri} answers {path} with what is no JSON object, {answer[:60].decode(errors='replace')!r}: is it "
            "MLflow? MLFLOW_TRACKING_URI says where that is"
        )
    return found


def register(uri: str, candidate: Candidate) -> str:
    """Log a run with the model, register a version, set the alias `challenger`, and return the version number.

    The logged file is read back and checked first; then one request creates the version with all tags. The alias
    `champion` does not move: only a promotion moves `champion`. The model's run is nested in an active MLflow run, if
    any.

    Raises:
        RegistryError: MLflow does not answer or fails, or the file read back differs from the model.
    """
    champion_of(uri, candidate.name)  # raises at once if MLflow is away
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    import mlflow
    import onnx
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    model = candidate.model
    float32 = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, len(model.columns)), "X")]),
        outputs=Schema([TensorSpec(float32, (-1,), name) for name in OUTPUTS]),
    )
    mlflow.set_tracking_uri(uri)
    outer = mlflow.active_run()
    try:
        experiment = outer.info.experiment_id if outer else experiment_id(uri, candidate.name)
        with mlflow.start_run(experiment_id=experiment, run_name=model.digest[:12], nested=outer is not None) as run:
            mlflow.log_params(candidate.params)
            mlflow.log_metrics(candidate.metrics)
            logged = mlflow.onnx.log_model(
                onnx.load_from_string(candidate.model_bytes),
                name="model",
                signature=signature,
                input_example={"X": candidate.example.astype(float32)},
                onnx_execution_providers=["CPUExecutionProvider"],
                pip_requirements=["onnxruntime"],
                save_as_external_data=False,  # one file, so that one digest covers all of it
            )
            place = mlflow.get_logged_model(logged.model_id).artifact_location
            ServedModel.load(_file_at(uri, place), spec_id=model.spec_id, digest=model.digest)
            tags = {
                "digest": model.digest,
                "spec_id": model.spec_id,
                "train_end": f"{model.train_end:%Y-%m-%dT%H:%M:%SZ}",
                "run_id": run.info.run_id,
            }
            tags |= {f"metric.{metric}": f"{value:.6g}" for metric, value in candidate.metrics.items()}
            with contextlib.suppress(AlreadyThere):
                call(uri, "POST", "registered-models/create", {"name": candidate.name})
            client = mlflow.MlflowClient(uri)
            created = client.create_model_version(
                candidate.name, logged.model_uri, run.info.run_id, tags, model_id=logged.model_id
            )
            set_alias(uri, candidate.name, "challenger", str(created.version))
    except (MlflowException, ModelRefused, OSError) as error:
        raise RegistryError(
            f"{candidate.name} is not registered, MLflow at {uri}: {error}. When it answers again, train again"
        ) from error
    return str(created.version)


def set_alias(uri: str, name: str, alias: str, version: str | None) -> None:
    """Set an alias to a version, or delete the alias.

    Args:
        version: a number, as text; None: delete the alias.
    """
    if version is None:
        call(uri, "DELETE", "registered-models/alias", {"name": name, "alias": alias})
    else:
        call(uri, "POST", "registered-models/alias", {"name": name, "alias": alias, "version": version})


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an MLflow experiment; a missing experiment is created."""
    with contextlib.suppress(VersionNotFound):
        return find_experiment(uri, name)
    with contextlib.suppress(AlreadyThere):  # another process has created the experiment meanwhile
        call(uri, "POST", "experiments/create", {"name": name})
    return find_experiment(uri, name)


def find_experiment(uri: str, name: str) -> str:
    """Return the id of an MLflow experiment.

    Raises:
        VersionNotFound: the experiment does not exist.
        RegistryError: the experiment was deleted, or MLflow does not answer.
    """
    found = call(uri, "GET", "experiments/get-by-name", {"experiment_name": name})["experiment"]
    if found["lifecycle_stage"] != "active":
        raise RegistryError(
            f"the MLflow experiment {name} at {uri} was deleted: `mlflow experiments restore --experiment-id "
            f"{found['experiment_id']}` brings it back"
        )
    return str(found["experiment_id"])


def _file_at(uri: str, location: str) -> bytes:
    """Return the ONNX file of a model by location, as `mlflow-artifacts:/1/models/m-438d.../artifacts`."""
    place = urllib.parse.urlsplit(location)
    if place.scheme != "mlflow-artifacts":
        raise RegistryError(
            f"a model is kept at {location!r}, where forecasters do not look; it must be mlflow-artifacts:/..., which "
            "`mlflow server --artifacts-destination` gives"
        )
    path = urllib.parse.quote(f"{place.path.strip('/')}/model.onnx")
    return _request(uri, "GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}")


def _request(uri: str, method: str, path: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(
        uri.rstrip("/") + path, body, {"Content-Type": "application/json"} if body else {}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        # {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=... not found"}
        code = next((code for code in ERRORS if code in said), None)
        if code is None and "/registered-models/alias?" in path and "INVALID_PARAMETER_VALUE" in said:
            code = "NOT_FOUND"  # MLflow's answer for a model without the alias
        failed = RegistryAway if error.code >= 500 else RegistryError  # MLflow may do the request, and fail to answer
        kind = ERRORS[code] if code else failed
        raise kind(f"MLflow at {uri} answers {error.code} to {path.partition('?')[0]}: {said[:300]}") from error
    except (OSError, HTTPException) as error:  # refused, timed out, or cut off
        raise RegistryAway(
            f"MLflow does not answer at {uri} ({error}): start it, or set MLFLOW_TRACKING_URI, then do this again"
        ) from error
