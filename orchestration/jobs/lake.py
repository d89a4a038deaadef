"""The jobs of the lake: `ingest`, `simulate` and `backfill`."""


# No `from __future__ import annotations` here: Dagster reads the real types.

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from data.features.spec import FeatureSpec
from data.names import check_product_id
from data.recordings.folders import RecordingFolders
from offline.days.staging import RECORDINGS, simulate
from offline.days.staleness import STEPS, stale
from offline.days.steps import TRADES
from offline.lake.store import Lake
from orchestration.assets.checks import CHECKS, CheckVerdict, check_result
from orchestration.assets.inbox import Inbox, InboxConfig, add_products, stage_inbox
from orchestration.assets.partitions import (
    LAKE,
    DayRange,
    DaysConfig,
    day_of,
    materializations,
    report_of,
    report_of_recordings,
)
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
    recording_folders: dg.ResourceParam[RecordingFolders],
) -> Iterator[Any]:
    """Take all recordings in the inbox into the lake, each once, and make the days that follow from them.

    An unreadable file is logged and left out; the rest is taken. A file already read and unchanged costs only a look.
    """
    store = lake.open()
    with explained():
        changed, wrong = stage_inbox(context, store, inbox, recording_folders, config)
    yield from materializations(context.instance, (report_of_recordings(store, *place) for place in changed))
    context.log.info(f"{len(changed)} product-days are new or have changed")
    if config.then_backfill:
        yield from make_stale(context, store, lake.spec, DayRange())
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
    """Take simulated days into the lake, as if they had been recorded."""
    store = lake.open()
    with explained():
        first = day_of("first_day", config.first_day)
        if len(config.hours) != 2:
            raise ValueError(f"hours are two, as [0, 24]: the first, and the one to end before; were {config.hours}")
        begin, end = config.hours
        for number in range(config.days):
            day = first + timedelta(days=number)
            for product_id in config.products:
                found = simulate(store, product_id, day, config.seed, (begin, end))
                rows = sum(each.rows for each in found.days)
                context.log.info(f"{product_id} {day}: {rows:,} trades{'' if found.is_new else ', there already'}")
                add_products(context.instance, store)
                yield from materializations(context.instance, [report_of_recordings(store, product_id, day)])
    if config.then_backfill:
        yield from make_stale(context, store, lake.spec, DayRange())
    yield dg.Output(None)


@dg.job(name="simulate", description=simulate_days.__doc__)
def simulate_job() -> None:
    simulate_days()


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def make_days(context: dg.OpExecutionContext, config: DaysConfig, lake: LakeResource) -> Iterator[Any]:
    """Make the stale trades, feature rows and training sets of a range of days.

    Content hashes decide: a day with unchanged inputs is left alone. So a killed backfill goes on where it stopped, and
    a second backfill does nothing.
    """
    with explained():
        wanted = config.range()
        for product_id in config.products:
            check_product_id(product_id)
        store = lake.open()
        recorded = store.products(RECORDINGS)
        if unknown := sorted(set(config.products) - set(recorded)):
            raise ValueError(f"the lake has no recordings of {', '.join(unknown)}; it has some of "
                             f"{', '.join(recorded) or 'no product'}")  # fmt: skip
    yield from make_stale(context, store, lake.spec, wanted)
    yield dg.Output(None)


def make_stale(
    context: dg.OpExecutionContext, lake: Lake, spec: FeatureSpec, wanted: DayRange
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Make stale partitions, one table after the other, and report each product-day to Dagster as soon as it is made.

    Partitions in the lake but unknown to Dagster (a run was killed in between) are reported too.
    """
    instance = context.instance
    add_products(instance, lake)
    places = sorted({(p.product_id, p.day) for p in lake.partition_keys(RECORDINGS) if wanted.has(p.product_id, p.day)})
    context.log.info(f"{len(places)} product-days have recordings")
    with explained():
        recorded = [report_of_recordings(lake, *place) for place in places]
    yield from materializations(instance, recorded)
    found: dict[str, list[CheckVerdict]] = {name: [] for name in CHECKS}
    for step in STEPS:
        table = step.table
        with explained():
            todo = [each for each in stale(lake, spec, table) if wanted.has(each.product_id, each.day)]
        context.log.info(f"{table}: {len(todo)} of {len(places)} product-days are to be made")
        for count, each in enumerate(todo, 1):
            began = time.monotonic()
            with explained():
                made = step(lake, each.product_id, each.day, spec)
            rows = made.partition.rows if made.partition else 0
            context.log.info(
                f"{table} {each.product_id} {each.day}: {rows:,} rows in {time.monotonic() - began:.1f} s, since it "
                f"{each.why} ({count} of {len(todo)})"
            )
            yield from materializations(instance, report_of(lake, spec, table, each.product_id, each.day, made))
            if table == TRADES:
                for name, check in CHECKS.items():
                    found[name].append(check(lake, each.product_id, each.day, made))
        others = set(places) - {(each.product_id, each.day) for each in todo}
        for product_id, day in sorted(others):
            made = step.stored(lake, product_id, day)
            yield from materializations(instance, report_of(lake, spec, table, product_id, day, made))
    for name, results in found.items():
        if results:
            yield dg.AssetCheckEvaluation(**check_result(name, results)._asdict())
    if wanted == DayRange():
        return  # everything was wanted: no partition is left
    left = [each for each in stale(lake, spec) if not wanted.has(each.product_id, each.day)]
    if left:
        context.log.info(f"{len(left)} other partitions are stale, as {left[0].table} of {left[0].product_id} "
                         f"{left[0].day}: {left[0].why}. `backfill` without a range makes them.")  # fmt: skip


@dg.job(description=make_days.__doc__)
def backfill() -> None:
    make_days()
