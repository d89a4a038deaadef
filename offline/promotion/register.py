"""Writes of the model registry, MLflow: versions, aliases, experiments.

Small writes are plain REST through `Registry`. Models are logged with mlflow's own client, which takes seconds to
import.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - mlflow takes seconds to import, and most callers log no model
import contextlib
import logging
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import numpy as np

from data.models.registry import Registry
from data.models.served import OUTPUTS, ServedModel
from data.models.settings import RegistrySettings
from data.names import AlreadyThere, ModelRefused, RegistryError, VersionNotFound, is_loopback, spare_loopback
from data.times import second_text
from offline.models.candidate import Candidate
from offline.promotion.provenance import ROWS_FILE, Provenance

CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default, a client retries for minutes if the server is away
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
STRAY = ("MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI")
"""Variables that would send our models to another run or to another registry; MLFLOW_TRACKING_URI names both."""
REASON = "reason"
"""Tag with the reason for a model that is much better than the calibrated EWMA."""


def prepare_client(registry: Registry) -> None:
    """Set the environment of mlflow's own client: no long retries, the login of the settings, no proxy for loopback,
    no run and no registry of another program.

    Raises:
        RegistryError: MLflow does not answer. The error is raised at once; mlflow's own client would retry.
    """
    registry.call("GET", "registered-models/search", {"max_results": 1}, dict)
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    for name, secret in RegistrySettings().login().items():
        os.environ[name] = secret
        os.environ.pop(f"{name}_FILE", None)  # a secret that is given twice is refused
    for name in STRAY:
        os.environ.pop(name, None)
    spare_loopback(os.environ, *([str(urlsplit(registry.uri).hostname)] if is_loopback(registry.uri) else ()))


def register(
    registry: Registry,
    candidate: Candidate,
    made: Provenance | None = None,
) -> str:
    """Log a run with the model, register a version, set the alias `challenger`, and return the version number.

    The logged file is read back and checked first; then one request creates the version with all tags. The alias
    `champion` does not move: only a promotion moves `champion`. The model's run is nested in an active MLflow run, if
    any.

    Args:
        made: what the model was made from; the gate refuses a version without this description.

    Raises:
        RegistryError: MLflow does not answer or fails, or the file read back differs from the model.
    """
    prepare_client(registry)
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
    mlflow.set_tracking_uri(registry.uri)
    outer = mlflow.active_run()
    try:
        experiment = outer.info.experiment_id if outer else experiment_id(registry, candidate.name)
        with mlflow.start_run(experiment_id=experiment, run_name=model.digest[:12], nested=outer is not None) as run:
            mlflow.log_params(candidate.params)
            mlflow.log_metrics({**candidate.metrics, **candidate.promises})
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
            ServedModel.load(registry.file_at(place), spec_id=model.spec_id, digest=model.digest)
            tags = {
                "digest": model.digest,
                "spec_id": model.spec_id,
                "train_end": second_text(model.train_end),
                "run_id": run.info.run_id,
            }
            tags |= {f"metric.{metric}": f"{value:.6g}" for metric, value in candidate.metrics.items()}
            tags |= {promise: f"{value:.6g}" for promise, value in candidate.promises.items()}
            tags |= {} if made is None else made.tags()
            if made is not None and (listed := made.rows_file()):
                mlflow.log_text(listed, ROWS_FILE)
            tags |= {REASON: candidate.reason} if candidate.reason else {}
            with contextlib.suppress(AlreadyThere):
                registry.call("POST", "registered-models/create", {"name": candidate.name}, dict)
            client = mlflow.MlflowClient(registry.uri)
            created = client.create_model_version(
                candidate.name, logged.model_uri, run.info.run_id, tags, model_id=logged.model_id
            )
            set_alias(registry, candidate.name, "challenger", str(created.version))
    except (MlflowException, ModelRefused, OSError) as error:
        raise RegistryError(
            f"{candidate.name} is not registered, MLflow at {registry.uri}: {error}. When it answers again, train again"
        ) from error
    return str(created.version)


def log_texts(registry: Registry, name: str, version: str, texts: Mapping[str, str]) -> None:
    """Log texts as artifacts of the run of a version.

    Args:
        texts: by path among the artifacts.

    Raises:
        RegistryError: MLflow does not answer or fails.
    """
    prepare_client(registry)
    import mlflow
    from mlflow.exceptions import MlflowException

    run_id, client = registry.version(name, version).run_id, mlflow.MlflowClient(registry.uri)
    try:
        for path, text in texts.items():
            client.log_text(run_id, text, path)
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{name} version {version} has no report, MLflow at {registry.uri}: {error}") from error


def set_alias(registry: Registry, name: str, alias: str, version: str | None) -> None:
    """Set an alias to a version, or delete the alias.

    Args:
        version: a number, as text; None: delete the alias.
    """
    fields = {"name": name, "alias": alias} | ({} if version is None else {"version": version})
    registry.call("DELETE" if version is None else "POST", "registered-models/alias", fields, dict)


def experiment_id(registry: Registry, name: str) -> str:
    """Return the id of an MLflow experiment; a missing experiment is created."""
    with contextlib.suppress(VersionNotFound):
        return find_experiment(registry, name)
    with contextlib.suppress(AlreadyThere):  # another process has created the experiment meanwhile
        registry.call("POST", "experiments/create", {"name": name}, dict)
    return find_experiment(registry, name)


def find_experiment(registry: Registry, name: str) -> str:
    """Return the id of an MLflow experiment.

    Raises:
        VersionNotFound: the experiment does not exist.
        RegistryError: the experiment was deleted, or MLflow does not answer.
    """
    found = registry.call("GET", "experiments/get-by-name", {"experiment_name": name}, dict)["experiment"]
    if found["lifecycle_stage"] != "active":
        raise RegistryError(
            f"the MLflow experiment {name} at {registry.uri} was deleted: `mlflow experiments restore --experiment-id "
            f"{found['experiment_id']}` brings it back"
        )
    return str(found["experiment_id"])
