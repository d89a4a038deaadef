"""The jobs `ingest` and `simulate`: recordings and simulated days come into the lake."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby
from typing import Any

import dagster as dg
from pydantic import Field

from offline.days.staging import simulate
from offline.recordings.places import RecordingPlaces
from orchestration.assets.inbox import Inbox, InboxConfig, add_products, stage_inbox
from orchestration.assets.partitions import LAKE, day_of, days_from_first, report_of_recordings, report_versions
from orchestration.jobs.backfill import make_here, make_or_submit
from orchestration.resources import LakeResource, explained

NOT_TAKEN = "not taken"
"""Metadata of an ingest that failed only because of files that are no recordings: the rest is in the lake."""


class IngestConfig(InboxConfig):
    """Recordings to ingest into the lake."""

    then_backfill: bool = Field(default=True, description="afterwards, make all stale days")


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def ingest_inbox(
    context: dg.OpExecutionContext,
    config: IngestConfig,
    lake: LakeResource,
    inbox: Inbox,
    recording_places: dg.ResourceParam[RecordingPlaces],
) -> Iterator[Any]:
    """Take all recordings in the inbox into the lake, each once, and have a run of `backfill` make the stale days.

    An unreadable file is logged and left out; the rest is taken. A file already read and unchanged costs only a look.
    """
    store = lake.open()
    with explained():
        changed, wrong = stage_inbox(context, lake, inbox, recording_places, config)
    report_versions(context, (report_of_recordings(store, *place) for place in changed))
    context.log.info(f"{len(changed)} product-days are new or have changed")
    if config.then_backfill:
        yield from make_or_submit(context, lake)
    if wrong:
        not_taken = "1 file is" if len(wrong) == 1 else f"{len(wrong)} files are"
        raise dg.Failure(
            f"{not_taken} not taken, the rest is: {wrong[0]}",
            metadata={NOT_TAKEN: dg.MetadataValue.md("\n".join(f"- {each}" for each in wrong))},
            allow_retries=False,
        )
    yield dg.Output(None)


@dg.job(description=ingest_inbox.__doc__)
def ingest() -> None:
    ingest_inbox()


class SimulateConfig(dg.Config):
    """Simulated days for the lake."""

    products: list[str] = Field(default=["BTC-USD", "ETH-USD"], description="as BTC-USD; any name is simulated")
    first_day: str = Field(default="2010-01-04", description="UTC; by default before anyone traded bitcoin")
    days: int = Field(default=7, ge=1, le=366, description="from the first day on, for each product")
    seed: int = Field(default=0, ge=0, description="of the market: another seed gives other trades on the same days")
    hours: list[int] = Field(default=[0, 24], description="first hour of each day, and the hour of its end")
    then_backfill: bool = Field(default=True, description="afterwards, make all stale days")


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def simulate_days(context: dg.OpExecutionContext, config: SimulateConfig, lake: LakeResource) -> Iterator[Any]:
    """Take simulated days into the lake, as if they had been recorded, and make the stale days in the same run."""
    store = lake.open()
    with explained():
        first = day_of("first_day", config.first_day)
        lake.check_day(first)
        if len(config.hours) != 2:
            raise ValueError(f"hours are two, as [0, 24]: the first, and the one to end before; were {config.hours}")
        begin, end = config.hours
        days = [first + timedelta(days=number) for number in range(config.days)]
        for product_id in config.products:
            for _, days_of_month in groupby(days, lambda day: (day.year, day.month)):
                month = list(days_of_month)
                with store.batch(in_part=True) as batch:  # one put of the manifest; the reports come afterwards
                    for day in month:
                        found = simulate(batch, product_id, day, config.seed, (begin, end))
                        rows = sum(each.rows for each in found.days)
                        there = "" if found.is_new else ", there already"
                        context.log.info(f"{product_id} {day}: {rows:,} trades{there}")
                add_products(context.instance, store)
                report_versions(context, (report_of_recordings(batch, product_id, day) for day in month))
    if config.then_backfill:
        yield from make_here(context, lake, days_from_first(lake))
    yield dg.Output(None)


@dg.job(name="simulate", description=simulate_days.__doc__)
def simulate_job() -> None:
    simulate_days()
