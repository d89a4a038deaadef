"""The job `sink`: the topics into the lake, and finished days into the table `trades`."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from data.features.spec import FeatureSpec
from offline.days.staging import RECORDINGS, is_served
from offline.days.staleness import stale
from offline.lake.store import Lake
from offline.served.finished import stage_finished
from offline.served.retention import remove_old
from orchestration.assets.inbox import add_products
from orchestration.assets.partitions import (
    DATA_VERSION,
    IS_OURS,
    LAKE,
    DayRange,
    materializations,
    report_of_recordings,
)
from orchestration.assets.served import ASSETS, sink_topics
from orchestration.jobs.lake import make_stale
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
    for day in days:
        context.log.info(f"{day.product_id} {day.day}: {day.rows:,} trades of finished sources")
    recorded = [report_of_recordings(store, day.product_id, day.day) for day in days]
    yield from materializations(context.instance, recorded)
    if config.feeds_trades and (wanted := _stale_range(store, lake.spec)) is not None:
        yield from make_stale(context, store, lake.spec, wanted)
    yield dg.Output(None)


def _stale_range(lake: Lake, spec: FeatureSpec) -> DayRange | None:
    """Return the range of the stale days with served trades, and of the days around; None if none is stale."""
    served = {(key.product_id, key.day) for key in lake.partition_keys(RECORDINGS) if is_served(key.table)}
    found = served & {(each.product_id, each.day) for each in stale(lake, spec)}
    if not found:
        return None
    days = [day for _, day in found]
    a_day = timedelta(days=1)
    return DayRange(frozenset(product_id for product_id, _ in found), min(days) - a_day, max(days) + a_day)


@dg.job(name="sink", description=sink_records.__doc__)
def sink_job() -> None:
    sink_records()
