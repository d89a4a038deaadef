"""Sensors: ingest the inbox, ask for a training after drift, publish how trainings end, and report failed runs."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import hashlib
import json
import time
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import httpx

from data.names import is_loopback
from data.settings import KafkaSettings
from data.stream.figures import publish_or_warn
from data.stream.records import Figure
from data.times import NS, to_datetime
from offline.recordings.places import RecordingPlaces
from orchestration.assets.drift import with_loss_since
from orchestration.assets.inbox import Inbox
from orchestration.automation.schedules import retrain_request
from orchestration.jobs.lake import NOT_TAKEN, ingest
from orchestration.resources import DagsterPages, LakeResource, explained
from orchestration.settings import OrchestrationSettings

LOOK_S = 10
AGAIN_S = 600.0
"""Pause between two runs for the same state of the inbox, if the first run failed or was cancelled."""
STATE_TAG = "cryptovol/inbox"
"""Run tag: the state of the inbox for the run."""
WEBHOOK_S = 5.0
RETRAIN_PAUSE_S = 86_400.0
"""Pause between two trainings after drift."""
REASON_TAG = "cryptovol/reason"
"""Run tag: why a training was asked for."""


@dg.sensor(
    job=ingest,
    minimum_interval_seconds=LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ingest new and changed files of INBOX_DIR into the lake, and make the stale days.",
)
def inbox_files(
    context: dg.SensorEvaluationContext, inbox: Inbox, recording_places: dg.ResourceParam[RecordingPlaces]
) -> dg.RunRequest | dg.SkipReason:
    """Request a run for each state of the inbox that two looks have found; retry until a run has done its work.

    A file that changed since the look before may still be incomplete. No clock is asked: files may come from a machine
    with another clock, and a copy may keep an old time.
    """
    with explained():
        found = inbox.recordings(recording_places)
    if not found:
        return dg.SkipReason(f"there are no files in {inbox.path}")
    files = json.dumps({each.name: each.version for each in found})
    state = hashlib.sha256(files.encode()).hexdigest()
    if state != context.cursor:
        context.update_cursor(state)
        return dg.SkipReason(f"{inbox.path} has changed since the last look, and files may still be written to")
    if why_not := _not_again(context.instance, state, time.time()):
        return dg.SkipReason(f"nothing new among {len(found)} files in {inbox.path}: {why_not}")
    return dg.RunRequest(tags={STATE_TAG: state})


def _not_again(instance: dg.DagsterInstance, state: str, now: float) -> str:
    """Return the reason why a state of the inbox needs no run, judged by the newest run; empty: a run is needed."""
    own = dg.RunsFilter(job_name=ingest.name, tags={"dagster/sensor_name": inbox_files.name})
    records = instance.get_run_records(own, limit=1)
    if not records or records[0].dagster_run.tags.get(STATE_TAG) != state:
        return ""
    run, asked = records[0].dagster_run, records[0].create_timestamp.timestamp()
    if run.status not in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        return f"run {run.run_id} takes them or has taken them"
    if _took_the_rest(instance, run.run_id):
        return f"run {run.run_id} has taken what can be read"
    if abs(now - asked) < AGAIN_S:  # a clock that was set back must not keep the inbox waiting for longer
        return f"run {run.run_id} did not take them; another one is asked for {AGAIN_S / 60:g} minutes after it"
    return ""


def _took_the_rest(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Return whether a run failed only because some files are no recordings."""
    failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    causes = (log.dagster_event.step_failure_data.user_failure_data for log in failures if log.dagster_event)
    return any(data is not None and NOT_TAKEN in data.metadata for data in causes)


@dg.sensor(
    job_name="retrain",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ask for a training after drift with loss, at most once a day, as soon as training rows are new.",
)
def drift_retrain(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
    """Request a training after drift with loss: at most once in `RETRAIN_PAUSE_S`, and only on new training rows."""
    now = time.time()
    since, until = now - RETRAIN_PAUSE_S, now + RETRAIN_PAUSE_S
    if not (reports := with_loss_since(context.instance, since)):
        return dg.SkipReason("no report of the last day shows drift with loss")
    # A run from a time when the clock was wrong, days ahead, must not keep trainings back until that day comes.
    asked = dg.RunsFilter(
        tags={"dagster/sensor_name": drift_retrain.name},
        created_after=to_datetime(int(since) * NS),
        created_before=to_datetime(int(until) * NS),
    )
    if runs := context.instance.get_runs(asked, limit=1):
        return dg.SkipReason(f"run {runs[0].run_id} was asked for within a day")
    request = retrain_request(context.instance, lake.open())
    if isinstance(request, dg.SkipReason):
        return request
    report = reports[0].asset_materialization
    reason = f"{report.partition}: drift of {report.metadata['largest'].value} with loss"
    return dg.RunRequest(tags={**request.tags, REASON_TAG: reason})


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Publish whether the last retrain failed, as a figure for the alert RetrainFailing.",
)
def retrain_outcome(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Publish the end of the newest retrain, once; a cancelled run counts as no end.

    Dagster's record of the run is read: a killed run, or a run that failed before the first step, counts as failed.
    """
    ended = dg.RunsFilter(job_name="retrain", statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    records = context.instance.get_run_records(ended, limit=1)
    if not records:
        return dg.SkipReason("no retrain has ended")
    run, at = records[0].dagster_run, records[0].end_time or time.time()
    outcome = "failed" if run.status == dg.DagsterRunStatus.FAILURE else "succeeded"
    if context.cursor == run.run_id:
        return dg.SkipReason(f"run {run.run_id} {outcome}, as published")
    figure = Figure("retrain_failed", {}, float(outcome == "failed"), int(at * NS))
    warnings: list[str] = []
    if not publish_or_warn(KafkaSettings(), [figure], warnings.append):
        return dg.SkipReason(f"run {run.run_id} {outcome}; {warnings[0]}")
    context.update_cursor(run.run_id)
    return dg.SkipReason(f"published: run {run.run_id} {outcome}")


def failure_sensor(settings: OrchestrationSettings) -> dg.SensorDefinition:
    """Return the sensor that reports failed runs, in the daemon's log and to the webhook."""

    @dg.run_failure_sensor(
        name="failed_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Report each failed run: in the daemon's log, and to ALERT_WEBHOOK_URL if set.",
    )
    def failed_runs(context: dg.RunFailureSensorContext, pages: DagsterPages) -> None:
        run = context.dagster_run
        causes = [_reason(event.step_failure_data) for event in context.get_step_failure_events()]
        alert = {
            "job": run.job_name,
            "run_id": run.run_id,
            "url": pages.run_url(run.run_id),
            "error": "; ".join(causes) or _run_reason(context.failure_event),
        }
        context.log.error(f"{alert['job']} failed: {alert['error']}. {alert['url']}")
        if settings.alert_webhook_url:
            _post(settings.alert_webhook_url.get_secret_value(), alert, context)

    return failed_runs


def _reason(failure: Any) -> str:
    """Return the failure description of a step, or the message of the exception."""
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    return str((failure.error.cause or failure.error).message).strip() if failure.error else "it did not say why"


def _run_reason(failure: dg.DagsterEvent) -> str:
    """Return why a run failed before or between its steps: the first error in the chain with a class not of Dagster.

    Our error gives advice; a deeper cause, as `Connection refused`, does not. A run that could not be launched, or was
    ended by hand, has no error.
    """
    data: Any = failure.event_specific_data
    error = None if data is None else data.error
    while error is not None and error.cause is not None and str(error.cls_name).startswith("Dagster"):
        error = error.cause
    return str(error.message).strip() if error is not None else str(failure.message)


def _post(url: str, alert: dict[str, Any], context: dg.RunFailureSensorContext) -> None:
    """Send an alert to the webhook; a silent webhook is logged, without its key, and stops nothing."""
    try:
        answer = httpx.post(url, json=alert, timeout=WEBHOOK_S, trust_env=not is_loopback(url))
        why = "" if answer.is_success else f"it answers {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error)
    if why:
        context.log.warning(f"the webhook at {urlsplit(url).hostname} was not told: {why}")
