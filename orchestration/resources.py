"""Resources of assets and jobs: the lake, the registry, and the MLflow run of a Dagster run."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - mlflow takes 3 s and 225 MB to import: only runs that train pay for it

import contextlib
import logging
from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.names import NotRead, RegistryError
from offline.days.staging import check_first_day
from offline.lake.store import Lake
from offline.settings import DEFAULT_TRAIN_MB

logger = logging.getLogger(__name__)


class LakeResource(dg.ConfigurableResource):
    """The lake and the feature spec of the lake's rows.

    Attributes:
        train_max_mb: memory of a training or a promotion, 10 ** 6 bytes.
        first_day: of Dagster's partitions, UTC, as 2010-01-01.
        pictures_path: path of the pictures in the Dagster UI.
    """

    uri: str
    window_size: int = 50
    train_max_mb: int = DEFAULT_TRAIN_MB
    first_day: str = "2010-01-01"
    pictures_path: str = "/pictures"

    def open(self) -> Lake:
        return Lake.open(self.uri)

    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec(window_size=self.window_size)

    def check_day(self, day: date) -> None:
        """Raise ValueError for a day before the first day."""
        check_first_day(day, date.fromisoformat(self.first_day))


class RegistryResource(dg.ConfigurableResource):
    """The MLflow server.

    Attributes:
        public_url: of the server in links.
    """

    uri: str
    public_url: str

    def run_url(self, experiment_id: str, run_id: str) -> str:
        return f"{self.public_url}/#/experiments/{experiment_id}/runs/{run_id}"

    def artifact_url(self, experiment_id: str, run_id: str, path: str) -> str:
        return f"{self.run_url(experiment_id, run_id)}/artifacts/{path}"

    def version_url(self, model: str, version: str) -> str:
        return f"{self.public_url}/#/models/{model}/versions/{version}"


class DagsterPages(dg.ConfigurableResource):
    """Links to pages of the Dagster UI."""

    url: str

    def run_url(self, run_id: str) -> str:
        return f"{self.url}/runs/{run_id}"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn an expected error into a Dagster failure with advice for a person, without a stack of calls."""

    try:
        yield
    except (ValueError, OSError, RegistryError, NotRead) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@dg.resource(config_schema={"experiment_name": str, "mlflow_tracking_uri": str, "dagster_url": str})
def mlflow_run(init: dg.InitResourceContext) -> Iterator[Any]:
    """Yield the MLflow run of this Dagster run, made by dagster-mlflow; leak no MLflow state in or out.

    Raises:
        RegistryError: MLflow does not answer. The error is raised at once; MLflow's own client would retry for minutes.
    """
    from offline.promotion.register import prepare_client

    config = init.resource_config
    assert init.run is not None
    prepare_client(Registry(config["mlflow_tracking_uri"]))
    import mlflow
    from dagster_mlflow import mlflow_tracking

    while mlflow.active_run():
        mlflow.end_run("KILLED")
    tags = {"dagster_run_url": f"{config['dagster_url']}/runs/{init.run.run_id}"}
    settings = {key: config[key] for key in ("experiment_name", "mlflow_tracking_uri")} | {"extra_tags": tags}
    own = init.replace_config(settings)
    try:
        with contextlib.contextmanager(mlflow_tracking.resource_fn)(own) as handle:
            yield handle
    finally:
        while mlflow.active_run():
            _end(mlflow, "FINISHED")


def _end(mlflow: Any, status: str) -> None:
    """Close the active MLflow run; without an answer from MLflow, only the client here closes the run."""
    try:
        mlflow.end_run(status)
    except Exception:  # any error of the client: the run's result, or its failure, is settled already
        logger.warning("the MLflow run stays open there", exc_info=True)


@contextlib.contextmanager
def ending(mlflow: Any) -> Iterator[None]:
    """Close the MLflow run as the block ends: finished, failed, or killed if the Dagster run was cancelled.

    Raise the error of the block, also if MLflow is away and the MLflow run stays open.
    """
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _end(mlflow, status)
