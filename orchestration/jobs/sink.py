"""The job `sink`: the topics into the lake, and finished days into the table `trades`."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from offline.days.staging import RECORDINGS, is_served
from offline.days.staleness import stale
from offline.served.finished import stage_finished
from offline.served.retention import remove_old
from orchestration.assets.inbox import add_products
from orchestration.assets.partitions import (
    DATA_VERSION,
    IS_OURS,
    LAKE,
    DayRange,
    days_from_first,
    report_of_recordings,
    report_versions,
)
from orchestration.assets.served import ASSETS, sink_topics
from orchestration.jobs.backfill import make_here
from orchestration.resources import LakeResource, explained


class SinkConfig(dg.Config):
    """Use of the served trades, and age of the served records."""

    feeds_trades: bool = Field(
        default=True, description="trades of finished days become recordings of the lake, and their days are made"
    )
    keep_days: int | None = Field(
        default=None, ge=1, description="remove served records that are older, in days; without a value, none"
    )


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def sink_records(context: dg.OpExecutionContext, config: SinkConfig, lake: LakeResource) -> Iterator[Any]:
    """Take the new records of all topics into the lake, once each, and make the days that sources have finished.

    A killed run is continued by the next run. Drills feed no day. Days that are too old are removed.
    """
    store = lake.open()
    with explained():
        sunk = sink_topics(context, store)
    for each in sunk:
        version = {DATA_VERSION: each.version, IS_OURS: "true"}
        yield dg.AssetMaterialization(each.asset, metadata=each.metadata, tags=version)
    with explained():
        days = stage_finished(store) if config.feeds_trades else []
        if (keep_days := config.keep_days) is not None:
            for topic in ASSETS:
                rows = remove_old(store, topic, time.time_ns(), keep_days, feeds_trades=config.feeds_trades)
                context.log.info(f"{topic}: {rows:,} records older than {keep_days} days were removed")
        add_products(context.instance, store)
    possible = days_from_first(lake)
    for day in days:
        context.log.info(f"{day.product_id} {day.day}: {day.rows:,} trades of finished sources")
        if not possible.has(day.product_id, day.day):
            context.log.warning(f"{day.product_id} {day.day} is not made: LAKE_FIRST_DAY is {possible.first}")
    recorded = [
        report_of_recordings(store, day.product_id, day.day) for day in days if possible.has(day.product_id, day.day)
    ]
    report_versions(context, recorded)
    if config.feeds_trades and (wanted := _stale_range(lake)) is not None:
        yield from make_here(context, lake, wanted)
    yield dg.Output(None)


def _stale_range(lake: LakeResource) -> DayRange | None:
    """Return the range of the stale days with served trades, and of the days around; None if none is stale."""
    store, possible = lake.open(), days_from_first(lake)
    served = {(key.product_id, key.day) for key in store.partition_keys(RECORDINGS) if is_served(key.table)}
    found = {key for key in served & {key[:2] for key in stale(store, lake.spec)} if possible.has(*key)}
    if not found:
        return None
    days = [day for _, day in found]
    a_day = timedelta(days=1)
    first = max(min(days) - a_day, possible.first)
    return DayRange(frozenset(product_id for product_id, _ in found), first, max(days) + a_day)


@dg.job(name="sink", description=sink_records.__doc__)
def sink_job() -> None:
    sink_records()
