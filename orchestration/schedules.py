"""Schedules: a nightly training of the models, and a replay of recordings (off by default)."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import dagster as dg

from orchestration.assets.models import choose_days
from orchestration.assets.partitions import DayRange
from orchestration.jobs.replay import replay
from orchestration.resources import LakeResource
from orchestration.settings import OrchestrationSettings

TRAINING_SET_TAG = "cryptovol/training_set"
"""Run tag: the version of the training rows for the run."""


def schedules(settings: OrchestrationSettings) -> list[dg.ScheduleDefinition]:
    """Return the schedules with the times from the settings."""

    @dg.schedule(
        job=replay,
        name="replay_recordings",
        cron_schedule=settings.replay_cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Replay REPLAY_RECORDINGS at the times of REPLAY_CRON; off until switched on here.",
    )
    def replay_recordings() -> dg.RunRequest | dg.SkipReason:
        if not settings.scheduled_recordings:
            return dg.SkipReason("REPLAY_RECORDINGS names nothing to replay")
        config = {"recordings": settings.scheduled_recordings}
        return dg.RunRequest(run_config={"ops": {"replay_trades": {"config": config}}})

    @dg.schedule(
        job_name="retrain",
        name="nightly_retrain",
        cron_schedule=settings.retrain_cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Train, test and register both models at the times of RETRAIN_CRON, if training rows have changed "
        "since. Nothing is promoted: a person and the gate decide.",
    )
    def nightly_retrain(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        chosen = choose_days(lake.open(), DayRange())
        if not chosen.days:
            return dg.SkipReason("the lake has no training rows")
        tags = {TRAINING_SET_TAG: chosen.version}
        trained = dg.RunsFilter(job_name="retrain", statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags)
        if runs := context.instance.get_runs(trained, limit=1):
            return dg.SkipReason(f"no training row is new since run {runs[0].run_id}")
        return dg.RunRequest(tags=tags)

    return [replay_recordings, nightly_retrain]
