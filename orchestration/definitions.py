"""Define everything Dagster serves, in `make run` or with `python -m orchestration.dev`."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import dagster as dg

from offline.settings import OfflineSettings
from orchestration.assets.checks import parity
from orchestration.assets.drift import DriftFolder, drift
from orchestration.assets.inbox import Inbox, recordings_asset
from orchestration.assets.models import models
from orchestration.assets.partitions import product_days
from orchestration.assets.product_days import product_day_assets
from orchestration.assets.served import served
from orchestration.automation.schedules import schedules
from orchestration.automation.sensors import drift_retrain, failure_sensor, inbox_files, retrain_outcome
from orchestration.drills.job import drill, drill_results
from orchestration.jobs.backfill import backfill
from orchestration.jobs.cleaning import clean_lake, forget_runs
from orchestration.jobs.lake import ingest, simulate_job
from orchestration.jobs.product_month import product_month
from orchestration.jobs.promotion import promote_job, rollback
from orchestration.jobs.replay import replay
from orchestration.jobs.sink import sink_job
from orchestration.resources import DagsterPages, LakeResource, RegistryResource, mlflow_run
from orchestration.settings import OrchestrationSettings
from orchestration.ui.pictures import PICTURES

EXPERIMENT = "training"
"""Experiment in MLflow: one run for each Dagster run that trains, and a child run for each model."""


@dg.definitions
def definitions() -> dg.Definitions:
    """Read the settings and wire all assets, jobs, schedules and sensors."""
    settings, offline = OrchestrationSettings(), OfflineSettings()
    settings.make_inbox()
    uri = offline.mlflow_tracking_uri
    partitions = product_days(settings.lake_first_day)
    retrain = dg.define_asset_job(
        "retrain",
        selection=dg.AssetSelection.assets("baseline_model", "ml_model", "evaluation", "challenger"),
        description="Train both models on the training rows of all days but the last, test them on the last, compare "
        "them with the champions on the same rows, and register them as challengers. Nothing is promoted.",
    )
    return dg.Definitions(
        assets=[served, drift, recordings_asset(partitions), *product_day_assets(partitions), models, drill_results],
        asset_checks=[parity],
        jobs=[
            replay,
            drill,
            ingest,
            simulate_job,
            sink_job,
            backfill,
            product_month,
            clean_lake,
            forget_runs,
            retrain,
            promote_job,
            rollback,
        ],
        schedules=schedules(settings, offline.served_keep_days),
        sensors=[inbox_files, drift_retrain, retrain_outcome, failure_sensor(settings)],
        resources={
            "lake": LakeResource(
                uri=offline.lake_uri,
                window_size=offline.window_size,
                train_max_mb=offline.train_max_mb,
                first_day=settings.lake_first_day.isoformat(),
                pictures_path=settings.dagster_path + PICTURES,
            ),
            "inbox": Inbox(path=str(settings.inbox_dir), columns=settings.recording_columns),
            # Without a config of its own: the limit must not be part of what a run is launched with.
            "recording_places": dg.ResourceDefinition.hardcoded_resource(settings.recording_places),
            "drift_folder": DriftFolder(path=str(settings.var_dir / "drift")),
            "registry": RegistryResource(uri=uri, public_url=offline.mlflow_url),
            "pages": DagsterPages(url=settings.dagster_url),
            "mlflow": mlflow_run.configured(
                {"experiment_name": EXPERIMENT, "mlflow_tracking_uri": uri, "dagster_url": settings.dagster_url}
            ),
        },
        executor=dg.in_process_executor,
    )
