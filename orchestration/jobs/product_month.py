"""The job `product_month`: a run makes the stale days of a product and a month."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import time
from calendar import monthrange
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, NamedTuple, Self

import dagster as dg
from pydantic import Field

from data.names import check_product_id
from offline.days.staging import RECORDINGS
from offline.days.staleness import STEPS
from offline.days.steps import TRADES, days_before
from offline.lake.store import Lake
from orchestration.assets.checks import CHECKS, CheckVerdict, check_result
from orchestration.assets.partitions import (
    PRODUCTS,
    DayRange,
    DaysConfig,
    days_from_first,
    report_of,
    report_of_recordings,
    report_versions,
)
from orchestration.resources import LakeResource, explained

PRODUCT_TAG = "cryptovol/product"
"""Run tag: in dagster.yaml, one run of each product at a time."""
KIND_TAG = {"cryptovol/kind": "product_month"}
"""Run tag: in dagster.yaml, `BACKFILL_RUNS` at a time."""
RETRY_TAGS = {"dagster/max_retries": "2", "dagster/retry_strategy": "ALL_STEPS"}
"""Run tags: a run whose process was killed begins again."""
A_DAY = timedelta(days=1)

Checked = Iterator[dg.AssetCheckEvaluation]


class ProductMonth(NamedTuple):
    """A product and a month.

    Attributes:
        first: first day of the month, UTC.
    """

    product_id: str
    first: date

    @classmethod
    def of(cls, product_id: str, day: date) -> Self:
        """Return the month of a day."""
        return cls(product_id, day.replace(day=1))

    @classmethod
    def parse(cls, product_id: str, month: str) -> Self:
        """Return a product and a month.

        Raises:
            ValueError: the product has no valid name, or the month is none.

        >>> ProductMonth.parse("BTC-USD", "2025-01").last
        datetime.date(2025, 1, 31)
        """
        check_product_id(product_id)
        try:
            return cls(product_id, date.fromisoformat(f"{month}-01"))
        except ValueError:
            raise ValueError(f"month is written as 2025-01, was {month!r}") from None

    @property
    def month(self) -> str:
        return f"{self.first:%Y-%m}"

    @property
    def last(self) -> date:
        return self.first.replace(day=monthrange(self.first.year, self.first.month)[1])


class ProductMonthConfig(dg.Config):
    """A product and a month, and the days that count."""

    product_id: str = Field(description="as BTC-USD")
    month: str = Field(description="UTC, as 2025-01")
    first_day: str = Field(default="", description="UTC, as 2025-01-06; empty: no limit")
    last_day: str = Field(default="", description="UTC, as 2025-01-06; empty: no limit")


@dg.op(out=dg.Out(dg.Nothing))
def make_month(context: dg.OpExecutionContext, config: ProductMonthConfig, lake: LakeResource) -> Iterator[Any]:
    """Make the stale trades, feature rows and training sets of a product and month.

    The job `backfill` submits such runs. Content hashes decide: a day with unchanged inputs is left alone.
    """
    with explained():
        month = ProductMonth.parse(config.product_id, config.month)
        limits = DaysConfig(first_day=config.first_day, last_day=config.last_day)
        wanted = days_from_first(lake, limits)
    yield from made_month(context, lake, month, wanted)
    yield dg.Output(None)


def made_month(context: dg.OpExecutionContext, lake: LakeResource, month: ProductMonth, wanted: DayRange) -> Checked:
    """Make the stale days of a month, table by table, and report the product-days of a table as soon as they are put.

    A changed trade reaches into the days around. So the run makes the stale days within reach of the month, too, and
    the trades that these days see. No other run needs to end first, and the order of the runs changes no row.

    The days of a table come into the manifest by one put, as the manifest may be of years; afterwards they are reported
    to Dagster. So no report names rows that the lake lacks, and a killed run loses its days of one table at most. Days
    before one that cannot be made are put, too.

    Days of the month in the lake but unknown to Dagster (a run was killed in between) are reported too.

    Yields:
        The checks of the made trades.
    """
    instance, store, product_id = context.instance, lake.open(), month.product_id
    instance.add_dynamic_partitions(str(PRODUCTS.name), [product_id])
    back = timedelta(days=days_before(lake.spec))
    first, last = month.first - A_DAY, month.last + back
    seen = [day for day in _days(store, product_id) if wanted.has(product_id, day)]
    own = {day for day in seen if month.first <= day <= month.last}
    with explained():
        recorded = [report_of_recordings(store, product_id, day) for day in sorted(own)]
    report_versions(context, recorded)
    verdicts: dict[str, list[CheckVerdict]] = {name: [] for name in CHECKS}
    for step in STEPS:
        begin, end = (first - back, last + A_DAY) if step.table == TRADES else (first, last)
        days, began, rows, new = [day for day in seen if begin <= day <= end], time.monotonic(), 0, 0
        is_new = dict[date, bool]()
        with explained(), store.batch(in_part=True) as batch:
            for day in days:
                is_new[day] = step(batch, product_id, day, lake.spec).is_new
        for day in days:
            if not is_new[day] and day not in own:
                continue
            made = step.stored(batch, product_id, day)._replace(is_new=is_new[day])
            report_versions(context, report_of(lake, batch, step.table, product_id, day, made))
            if made.is_new:
                rows, new = rows + (made.partition.rows if made.partition else 0), new + 1
                if step.table == TRADES:
                    for name, check in CHECKS.items():
                        verdicts[name].append(check(batch, product_id, day, made))
        context.log.info(
            f"{step.table} of {product_id} in {month.month}: {new} of {len(days)} days were made, {rows:,} rows in "
            f"{time.monotonic() - began:.1f} s"
        )
    for name, results in verdicts.items():
        if results:
            yield dg.AssetCheckEvaluation(**check_result(name, results)._asdict())


def _days(store: Lake, product_id: str) -> list[date]:
    """Return the sorted days of a product with recordings, or with rows made of recordings that are gone."""
    tables = (RECORDINGS, *(step.table for step in STEPS))
    return sorted({key.day for table in tables for key in store.partition_keys(table, product_id)})


@dg.job(description=make_month.__doc__, tags=KIND_TAG | RETRY_TAGS)
def product_month() -> None:
    make_month()
