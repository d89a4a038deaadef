"""The job `backfill`: find the stale product-months, and submit a run for each."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, cast

import dagster as dg
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from data.names import check_product_id
from offline.days.staging import RECORDINGS
from offline.days.staleness import STEPS, stale
from offline.lake.store import Lake
from orchestration.assets.inbox import add_products
from orchestration.assets.partitions import DATA_VERSION, DayRange, DaysConfig, days_from_first, key_of, version_of
from orchestration.jobs.product_month import (
    PRODUCT_TAG,
    RETRY_TAGS,
    Checked,
    ProductMonth,
    made_month,
    product_month,
)
from orchestration.resources import LakeResource, explained

MONTH_TAG = "cryptovol/month"
KIND_TAG = {"cryptovol/kind": "backfill"}
"""Run tag: in dagster.yaml, one backfill at a time."""
CONFIG = ("product_id", "month", "first_day", "last_day")
"""Fields of `ProductMonthConfig`."""
AT_ONCE = 200
"""Most open runs of a backfill: Dagster's daemon reads the whole queue each second."""
POLL_S = 1.0
PROGRESS_S = 60.0


@dg.op(out=dg.Out(dg.Nothing))
def make_days(context: dg.OpExecutionContext, config: DaysConfig, lake: LakeResource) -> Iterator[Any]:
    """Make the stale trades, feature rows and training sets of a range of days, by a run for each product and month.

    The job waits for its runs, and fails if a run fails; a cancelled job cancels its runs. Content hashes decide: a day
    with unchanged inputs is left alone. So a killed backfill goes on where it stopped, and a second backfill does
    nothing.
    """
    store = lake.open()
    with explained():
        wanted = days_from_first(lake, config)
        for product_id in config.products:
            check_product_id(product_id)
        recorded = store.products(RECORDINGS)
        if unknown := sorted(set(config.products) - set(recorded)):
            raise ValueError(f"the lake has no recordings of {', '.join(unknown)}; it has some of "
                             f"{', '.join(recorded) or 'no product'}")  # fmt: skip
    places = stale_places(context.instance, lake) | _unknown(context.instance, store)
    months = months_of(places, wanted)
    context.log.info(f"{len(months)} product-months are to be made")
    if has_queue(context):
        _await(context, months, config)
    else:
        yield from _make(context, lake, months, wanted)
    if config != DaysConfig():
        with explained():
            left = [each for each in stale(store, lake.spec) if not wanted.has(each.product_id, each.day)]
        if left:
            context.log.info(f"{len(left)} other partitions are stale, as {left[0].table} of {left[0].product_id} "
                             f"{left[0].day}: {left[0].why}. `backfill` without a range makes them.")  # fmt: skip
    yield dg.Output(None)


@dg.job(description=make_days.__doc__, tags=KIND_TAG | RETRY_TAGS)
def backfill() -> None:
    make_days()


def stale_places(instance: dg.DagsterInstance, lake: LakeResource) -> set[tuple[str, date]]:
    """Return the products and days with stale partitions; all products of the lake become partitions of Dagster."""
    store = lake.open()
    with explained():
        add_products(instance, store)
        return {(each.product_id, each.day) for each in stale(store, lake.spec)}


def months_of(places: Iterable[tuple[str, date]], wanted: DayRange) -> list[ProductMonth]:
    """Return the months of products and days in a range.

    The order takes turns between the products: two runs of a product never go on at the same time.
    """
    months = {ProductMonth.of(*place) for place in places if wanted.has(*place)}
    return sorted(months, key=lambda each: (each.first, each.product_id))


def _unknown(instance: dg.DagsterInstance, store: Lake) -> set[tuple[str, date]]:
    """Return the products and days whose present version in the lake is unknown to Dagster."""
    found, event = set(), dg.DagsterEventType.ASSET_MATERIALIZATION
    for step in STEPS:
        known = instance.event_log_storage.get_latest_tags_by_partition(dg.AssetKey(step.table), event, [DATA_VERSION])
        for each in store.partitions(step.table):
            tags = known.get(key_of(each.product_id, each.day), {})
            if tags.get(DATA_VERSION) != version_of(each.content_hash):
                found.add((each.product_id, each.day))
    return found


def make_or_submit(context: dg.OpExecutionContext, lake: LakeResource) -> Checked:
    """Submit a backfill of all stale days, unless one waits in the queue; without a queue, make the days here."""
    if not has_queue(context):
        yield from make_here(context, lake, days_from_first(lake))
    elif months_of(stale_places(context.instance, lake), days_from_first(lake)):
        waiting = dg.RunsFilter(job_name=backfill.name, statuses=[dg.DagsterRunStatus.QUEUED])
        if not any(run.run_config == {} for run in context.instance.get_runs(waiting)):
            context.log.info(f"run {_submit(context, backfill.name, {}, {})} makes the stale days")


def make_here(context: dg.OpExecutionContext, lake: LakeResource, wanted: DayRange) -> Checked:
    """Make the stale months of a range in this run."""
    yield from _make(context, lake, months_of(stale_places(context.instance, lake), wanted), wanted)


def _make(
    context: dg.OpExecutionContext, lake: LakeResource, months: Sequence[ProductMonth], wanted: DayRange
) -> Checked:
    for month in months:
        yield from made_month(context, lake, month, wanted)


def has_queue(context: dg.OpExecutionContext) -> bool:
    """Return whether a code server has launched this run: only then does somebody start a submitted run."""
    return context.run.remote_job_origin is not None


def _submit(context: dg.OpExecutionContext, name: str, config: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Put a run of another job of this code server into the queue, and return the id of the run.

    Args:
        config: run config, as in the launchpad.
    """
    job, run, instance = context.repository_def.get_job(name), context.run, context.instance
    assert run.remote_job_origin is not None
    assert run.job_code_origin is not None
    made = instance.create_run_for_job(
        job,
        run_config=config,
        tags={**job.run_tags, **tags},
        status=dg.DagsterRunStatus.NOT_STARTED,
        remote_job_origin=RemoteJobOrigin(run.remote_job_origin.repository_origin, name),
        job_code_origin=JobPythonOrigin(name, run.job_code_origin.repository_origin),
    )
    nobody = cast("BaseWorkspaceRequestContext", None)  # the daemon launches the run, with a workspace of its own
    instance.submit_run(made.run_id, nobody)
    return made.run_id


def _await(context: dg.OpExecutionContext, months: Sequence[ProductMonth], limits: DaysConfig) -> None:
    """Submit a run for each month, at most `AT_ONCE` open at a time, and wait for the end of all.

    Raises:
        Failure: runs have failed, or were cancelled.
    """
    instance, waiting, failed = context.instance, deque(months), dict[str, ProductMonth]()
    queued = _queued(instance)
    runs: dict[str, ProductMonth] = {}
    told = time.monotonic()
    try:
        while waiting or runs:
            while waiting and len(runs) < AT_ONCE:
                month = waiting.popleft()
                config = (month.product_id, month.month, limits.first_day, limits.last_day)
                run_id = queued.get(config) or _submit(
                    context,
                    product_month.name,
                    {"ops": {"make_month": {"config": dict(zip(CONFIG, config, strict=True))}}},
                    {PRODUCT_TAG: month.product_id, MONTH_TAG: month.month},
                )
                runs[run_id] = month
            time.sleep(POLL_S)
            for run in instance.get_runs(dg.RunsFilter(run_ids=list(runs))):
                if not run.is_finished or run.is_complete_and_waiting_to_retry:
                    continue
                month = runs.pop(run.run_id)
                if retried := run.tags.get("dagster/auto_retry_run_id"):
                    runs[retried] = month
                elif not run.is_success:
                    failed[run.run_id] = month
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                open_ = len(waiting) + len(runs)
                context.log.info(f"{len(months) - open_} of {len(months)} product-months have ended")
    finally:
        for run_id in runs:  # none, unless this run is cancelled
            instance.run_coordinator.cancel_run(run_id)
    if failed:
        run_id, month = next(iter(failed.items()))
        raise dg.Failure(
            f"{len(failed)} of {len(months)} product-months are not made, as {month.product_id} {month.month}: see run "
            f"{run_id}",
            allow_retries=False,
        )


def _queued(instance: dg.DagsterInstance) -> dict[tuple[str, ...], str]:
    """Return the waiting runs of product-months by their config: a run that has begun may have missed a change."""
    waiting = dg.RunsFilter(job_name=product_month.name, statuses=[dg.DagsterRunStatus.QUEUED])
    found = {}
    for run in instance.get_runs(waiting):
        config = cast("dict[str, Any]", run.run_config)["ops"]["make_month"]["config"]
        found[tuple(config.get(name, "") for name in CONFIG)] = run.run_id
    return found
