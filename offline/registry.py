"""The model registry as the offline side writes it: MLflow."""

# ruff: noqa: PLC0415 - mlflow takes seconds to import, and most callers only ask

from __future__ import annotations

import contextlib
import json
import logging
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from data.serving import OUTPUTS, ModelRefused, ServedModel
from data.trades import Floats

TIMEOUT_S = 5.0


class RegistryError(RuntimeError):
    """MLflow does not answer, refuses, or gives back something else than it was given. The message says what to do."""


class Champion(NamedTuple):
    """What the alias `champion` of a registered model points to."""

    version: str
    spec_id: str | None


@dataclass(frozen=True)
class Candidate:
    """A trained and tested model that may be registered.

    Attributes:
        name: of the registered model.
        model_bytes: the ONNX file.
        model: the same, loaded.
        example: shape (2, k), two rows of input.
        params, metrics: for the run.
    """

    name: str
    model_bytes: bytes
    model: ServedModel
    example: Floats
    params: dict[str, Any]
    metrics: dict[str, float]


def champion_of(uri: str, name: str) -> Champion | None:
    """Return the champion, or None where there is none. Imports nothing, so that asking is fast.

    Raises:
        RegistryError: MLflow does not answer.
    """
    query = urllib.parse.urlencode({"name": name, "alias": "champion"})
    try:
        with urllib.request.urlopen(
            f"{uri}/api/2.0/mlflow/registered-models/alias?{query}", timeout=TIMEOUT_S
        ) as answer:
            version = json.load(answer)["model_version"]
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        if error.code in (400, 404) and ("RESOURCE_DOES_NOT_EXIST" in body or "INVALID_PARAMETER_VALUE" in body):
            return None  # no such model: 404; no such alias: 400
        raise RegistryError(f"MLflow at {uri} answers {error.code}: {body[:200]}") from error
    except (OSError, HTTPException, ValueError, KeyError) as error:
        raise RegistryError(
            f"MLflow does not answer at {uri} ({error}): start it, or set MLFLOW_TRACKING_URI"
        ) from error
    tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
    return Champion(str(version["version"]), tags.get("spec_id"))


def register(uri: str, candidate: Candidate) -> str:
    """Log a run with the model, register it, read it back, make it the champion, and return its version.

    The alias moves last: a failure before leaves the version deleted and the old champion in place.

    Raises:
        RegistryError: MLflow does not answer or fails, or what it serves is not what was registered.
    """
    import mlflow
    import onnx
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    champion_of(uri, candidate.name)  # mlflow itself would try for minutes
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    model = candidate.model
    float32 = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, len(model.columns)), "X")]),
        outputs=Schema([TensorSpec(float32, (-1,), name) for name in OUTPUTS]),
    )
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    version: str | None = None
    try:
        mlflow.set_experiment(candidate.name)
        with mlflow.start_run(run_name=model.digest[:12]) as run:
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
            if not client.search_registered_models(f"name = '{candidate.name}'"):
                client.create_registered_model(candidate.name)
            tags = {
                "digest": model.digest,
                "spec_id": model.spec_id,
                "train_end": f"{model.train_end:%Y-%m-%dT%H:%M:%SZ}",
            }
            tags |= {f"metric.{metric}": f"{value:.6g}" for metric, value in candidate.metrics.items()}
            created = client.create_model_version(
                candidate.name, logged.model_uri, run.info.run_id, tags, model_id=logged.model_id
            )
            version = str(created.version)
            _read_back(candidate, version)
            client.set_registered_model_alias(candidate.name, "champion", version)
    except (MlflowException, ModelRefused, OSError) as error:
        if version is not None:
            with contextlib.suppress(MlflowException):  # what failed first is what is told
                client.delete_model_version(candidate.name, version)
        raise RegistryError(f"{candidate.name} is not registered, MLflow at {uri}: {error}") from error
    return version


def _read_back(candidate: Candidate, version: str) -> None:
    """Load what a reader of the registry gets: the file as MLflow serves it, byte for byte the one that was trained."""
    import mlflow

    with TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(f"models:/{candidate.name}/{version}/model.onnx", dst_path=folder)
        served = Path(path).read_bytes()
    ServedModel.load(served, spec_id=candidate.model.spec_id, digest=candidate.model.digest)
