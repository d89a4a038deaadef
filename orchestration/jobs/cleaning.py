"""The jobs `clean_lake` and `forget_runs`."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - most processes only serve the definitions

import time

import dagster as dg
from pydantic import Field

from data.models.registry import Registry
from data.times import DAY_S, NS, to_datetime
from offline.settings import OfflineSettings
from orchestration.resources import LakeResource, RegistryResource, explained
from orchestration.settings import OrchestrationSettings

KIND_TAG = {"cryptovol/kind": "clean_lake"}
"""Run tag: in dagster.yaml, one clean-up at a time."""

MOVES = ("retrain", "promote", "rollback")
"""Jobs whose runs stay: the ledger and the versions of models have links to them."""
MANY = 200
"""A run with more results than this stays: to look each one up takes longer than the run is worth."""
PAGE = 200


class CleaningConfig(dg.Config):
    """Age of the objects to remove."""

    grace_h: float | None = Field(
        default=None, gt=0, description="hours for which an unnamed object stays; without a value: LAKE_GRACE_H"
    )


@dg.op(out=dg.Out(dg.Nothing))
def remove_objects(
    context: dg.OpExecutionContext, config: CleaningConfig, lake: LakeResource, registry: RegistryResource
) -> None:
    """Remove the objects of the lake that no manifest names, but for training rows of model versions in use.

    Other runs may read and write meanwhile, and a killed run is harmless.
    """
    from offline.cleaning.versions import clean_lake as clean

    with explained():
        cleaned = clean(lake.open(), Registry(registry.uri), config.grace_h or OfflineSettings().lake_grace_h)
    context.log.info(cleaned.text())


@dg.job(description=remove_objects.__doc__, tags=KIND_TAG)
def clean_lake() -> None:
    remove_objects()


class ForgetConfig(dg.Config):
    """Age of the runs to forget."""

    keep_days: int | None = Field(
        default=None, ge=2, description="days for which an ended run stays; without a value: RUNS_KEEP_DAYS"
    )


@dg.op(out=dg.Out(dg.Nothing))
def remove_runs(context: dg.OpExecutionContext, config: ForgetConfig) -> None:
    """Forget ended runs with their events and logs, but for the newest result of each asset and partition.

    Runs of retrain, promote and rollback stay.
    """
    keep_days = config.keep_days or OrchestrationSettings().runs_keep_days
    before_ns = time.time_ns() - keep_days * DAY_S * NS
    count = forget_ended(context.instance, before_ns)
    context.log.info(f"{count:,} runs of more than {keep_days} days ago are forgotten")


def forget_ended(instance: dg.DagsterInstance, before_ns: int) -> int:
    """Delete ended runs that began before a time, see `remove_runs`; return how many.

    Args:
        before_ns: wall time, ns since 1970.
    """
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    old = dg.RunsFilter(statuses=ended, created_before=to_datetime(before_ns))
    count, cursor = 0, None
    while runs := instance.get_runs(old, cursor=cursor, limit=PAGE):  # newest first, after the cursor
        stay = [run for run in runs if run.job_name in MOVES or _has_newest_result(instance, run.run_id)]
        for run in runs:
            if run not in stay:
                instance.compute_log_manager.delete_logs(prefix=[run.run_id])
                instance.delete_run(run.run_id)
                count += 1
        if not stay:
            continue
        cursor = stay[-1].run_id
    return count


def _has_newest_result(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Return whether an asset or partition has its newest result from a run, or the run has too many to look up."""
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    if len(logs) > MANY:
        return True
    for log in logs:
        made = log.asset_materialization
        assert made is not None
        partitions = None if made.partition is None else [made.partition]
        same = dg.AssetRecordsFilter(made.asset_key, asset_partitions=partitions)
        if instance.fetch_materializations(same, limit=1).records[0].event_log_entry.run_id == run_id:
            return True
    return False


@dg.job(description=remove_runs.__doc__)
def forget_runs() -> None:
    remove_runs()
