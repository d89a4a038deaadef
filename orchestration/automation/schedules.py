"""Schedules: topics into the lake, its clean-up, drift, a nightly training, and a replay (off by default)."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import time
from functools import partial

import dagster as dg

from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.figures import publish_or_warn
from offline.frames.serving import newest_ingest_time
from offline.lake.store import Lake
from offline.served.columns import SERVED_TOPICS
from offline.served.compaction import mergeable
from offline.served.manifest import read_manifest
from offline.served.retention import removable
from offline.served.sink import offsets_behind, sink_figures, topic_reader
from orchestration.assets.drift import last_report
from orchestration.assets.inbox import add_products
from orchestration.assets.models import TRAINING_SET_TAG, RetrainConfig, choose_days
from orchestration.assets.partitions import PRODUCTS, DayRange
from orchestration.jobs.cleaning import clean_lake, forget_runs
from orchestration.jobs.replay import replay
from orchestration.jobs.sink import SinkConfig, sink_job
from orchestration.resources import LakeResource
from orchestration.settings import OrchestrationSettings

_schedule = partial(dg.schedule, execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.RUNNING)


def retrain_request(instance: dg.DagsterInstance, lake: Lake) -> dg.RunRequest | dg.SkipReason:
    """Request a training if training rows have changed since the last training that succeeded."""
    chosen, test_days = choose_days(lake, DayRange()), RetrainConfig().test_days
    if not chosen.days:
        return dg.SkipReason("the lake has no training rows")
    if len(chosen.days) <= test_days:
        return dg.SkipReason(f"the lake has training rows of {len(chosen.days)} day, and needs {test_days + 1}")
    tags = {TRAINING_SET_TAG: chosen.version}
    trained = dg.RunsFilter(job_name="retrain", statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags)
    if (newest := _newest_run(instance, trained)) is not None:
        return dg.SkipReason(f"no training row is new since run {newest.run_id}")
    return dg.RunRequest(tags=tags)


def _newest_run(instance: dg.DagsterInstance, wanted: dg.RunsFilter) -> dg.DagsterRun | None:
    return next(iter(instance.get_runs(wanted, limit=1)), None)


def _no_sink(instance: dg.DagsterInstance, lake: Lake, behind: int, config: SinkConfig) -> str:
    """Return the reason why no run of the sink is needed; empty: a run is needed."""
    newest = _newest_run(instance, dg.RunsFilter(job_name=sink_job.name))
    if newest is not None and not newest.is_finished:
        return f"run {newest.run_id} is at work"
    has_failed = newest is not None and not newest.is_success
    if behind or has_failed:
        return ""
    now_ns, keep_days = time.time_ns(), config.keep_days
    for manifest in (read_manifest(lake, each) for each in SERVED_TOPICS):
        if mergeable(manifest, now_ns):
            return ""
        if keep_days and removable(lake, manifest, now_ns, keep_days, feeds_trades=config.feeds_trades):
            return ""
    return "the lake holds all records of the topics"


def schedules(settings: OrchestrationSettings, served_keep_days: int | None = None) -> list[dg.ScheduleDefinition]:
    """Return the schedules with the times from the settings.

    Args:
        served_keep_days: see `SinkConfig.keep_days`.
    """
    sink_config = SinkConfig(feeds_trades=settings.sink_feeds_trades, keep_days=served_keep_days)

    @_schedule(
        job=replay,
        name="replay_recordings",
        cron_schedule=settings.replay_cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Replay REPLAY_RECORDINGS at the times of REPLAY_CRON; off until switched on here. While a replay "
        "of this schedule goes on or waits, no run is launched.",
    )
    def replay_recordings(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if not settings.scheduled_recordings:
            return dg.SkipReason("REPLAY_RECORDINGS names nothing to replay")
        own = dg.RunsFilter(job_name=replay.name, tags={"dagster/schedule_name": "replay_recordings"})
        newest = _newest_run(context.instance, own)
        if newest is not None and not newest.is_finished:
            return dg.SkipReason(f"run {newest.run_id} of this schedule goes on")
        recordings = [str(path) for path in settings.scheduled_recordings]
        config = {"recordings": recordings, "speed": settings.replay_schedule_speed}
        return dg.RunRequest(run_config={"ops": {"replay_trades": {"config": config}}})

    @_schedule(
        job_name="retrain",
        name="nightly_retrain",
        cron_schedule=settings.retrain_cron,
        description="Train, test and register both models at the times of RETRAIN_CRON, if training rows have changed "
        "since. Nothing is promoted: a person and the gate decide.",
    )
    def nightly_retrain(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        return retrain_request(context.instance, lake.open())

    @_schedule(
        job=sink_job,
        name="sink_served",
        cron_schedule=settings.sink_cron,
        description="Take new records of the topics into the lake at the times of SINK_CRON. Without new records, "
        "closed days and old days, no run is launched.",
    )
    def sink_served(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        store, kafka = lake.open(), KafkaSettings()
        try:
            with topic_reader(kafka) as reader:
                behind = offsets_behind(store, reader)
        except NotRead as error:
            return dg.SkipReason(str(error))
        publish_or_warn(kafka, sink_figures(behind), context.log.warning)
        if reason := _no_sink(context.instance, store, sum(behind.values()), sink_config):
            return dg.SkipReason(reason)
        config = sink_config.model_dump(exclude_none=True)
        return dg.RunRequest(run_config={"ops": {"sink_records": {"config": config}}})

    @_schedule(
        target="drift",
        name="hourly_drift",
        cron_schedule=settings.drift_cron,
        description="Judge the drift of each product at the times of DRIFT_CRON. Without new served rows, no run is "
        "launched.",
    )
    def hourly_drift(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> list[dg.RunRequest] | dg.SkipReason:
        store = lake.open()
        add_products(context.instance, store)
        new = [
            product_id
            for product_id in context.instance.get_dynamic_partitions(str(PRODUCTS.name))
            if newest_ingest_time(store, product_id) > last_report(context.instance, product_id).ingest_time
        ]
        if not new:
            return dg.SkipReason("no served row is new since the last reports")
        return [dg.RunRequest(partition_key=product_id) for product_id in new]

    @_schedule(
        job=clean_lake,
        name="daily_clean",
        cron_schedule=settings.clean_cron,
        description="Remove what no manifest of the lake names at the times of CLEAN_CRON, LAKE_GRACE_H hours later. "
        "While a clean-up is at work, and in an empty lake, no run is launched.",
    )
    def daily_clean(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        if not lake.open().product_ids():
            return dg.SkipReason("the lake has no manifests")
        newest = _newest_run(context.instance, dg.RunsFilter(job_name=clean_lake.name))
        if newest is not None and not newest.is_finished:
            return dg.SkipReason(f"run {newest.run_id} is at work")
        return dg.RunRequest()

    @_schedule(
        job=forget_runs,
        name="daily_forget",
        cron_schedule=settings.clean_cron,
        description="Forget Dagster's runs that ended RUNS_KEEP_DAYS ago, at the times of CLEAN_CRON.",
    )
    def daily_forget() -> dg.RunRequest:
        return dg.RunRequest()

    return [replay_recordings, nightly_retrain, hourly_drift, daily_clean, daily_forget, sink_served]
