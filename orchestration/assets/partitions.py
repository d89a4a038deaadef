"""Products and days as Dagster's partitions, and the lake's versions for Dagster: content hashes."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import hashlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import dagster as dg
import msgspec
from dagster._core.events import DagsterEvent, StepMaterializationData
from pydantic import Field

from data.times import time_text
from offline.days.staging import MEANING as RECORDINGS_MEANING
from offline.days.staging import RECORDINGS, StagedNotes
from offline.days.staleness import STEPS
from offline.days.steps import TRADES, StepResult
from offline.lake.store import Lake
from orchestration.assets import plots
from orchestration.resources import LakeResource

PRODUCTS = dg.DynamicPartitionsDefinition(name="product")

SAME_DAY, DAY_BEFORE, DAY_AFTER = 0, -1, 1
INPUTS: Mapping[str, Mapping[str, int]] = {
    "recordings": {},
    "trades": {"recordings": SAME_DAY},
    "trades_head": {"trades": SAME_DAY},
    "trades_tail": {"trades": SAME_DAY},
    "feature_rows": {"trades": SAME_DAY, "trades_tail": DAY_BEFORE},
    "training_set": {"feature_rows": SAME_DAY, "trades_head": DAY_AFTER},
}
"""Inputs of each asset of a product and day: the input asset of the same product, and the offset of the day."""
SHOWN_RECORDINGS = 3
"""Recordings in the metadata of a day: names of 200 characters, and a database that keeps each event for ever."""
VERSION_DIGITS = 16
"""Of a content hash: a version is compared with the version before of the same partition alone."""
NOTHING = "none"
"""Data version without any content."""
NEVER_SEEN = "1"
"""Event of a missing input: without any event, Dagster would not notice when the input comes."""
CODE_VERSION, DATA_VERSION = "dagster/code_version", "dagster/data_version"
IS_OURS = "dagster/data_version_is_user_provided"
INPUT_VERSION, INPUT_EVENT = "dagster/input_data_version/", "dagster/input_event_pointer/"


def product_days(first_day: date) -> dg.MultiPartitionsDefinition:
    """Return the partitions of a product and a UTC day: from the first day to today."""
    days = dg.DailyPartitionsDefinition(first_day.isoformat(), timezone="UTC", end_offset=1)
    return dg.MultiPartitionsDefinition({"product": PRODUCTS, "day": days})


class ReportedVersion(NamedTuple):
    """Version of one asset's product and day, as reported to Dagster.

    Attributes:
        version: hash of the content, or `NOTHING`.
    """

    asset: str
    product_id: str
    day: date
    version: str
    metadata: dict[str, Any]


def day_of(field: str, text: str) -> date:
    """Parse a day from a config field.

    Raises:
        ValueError: the text is no day; the message names the field.

    >>> day_of("first_day", "2025-01-06")
    datetime.date(2025, 1, 6)
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{field} is written as 2025-01-06, was {text!r}") from None


class DayRange(NamedTuple):
    """Products and days; by default all."""

    products: frozenset[str] = frozenset()
    first: date = date.min
    last: date = date.max

    def has(self, product_id: str, day: date) -> bool:
        return self.first <= day <= self.last and (not self.products or product_id in self.products)


class DaysConfig(dg.Config):
    """Products and days of a job."""

    products: list[str] = Field(default=[], description="none: all products of the lake")
    first_day: str = Field(default="", description="UTC, as 2025-01-06; empty: the first day")
    last_day: str = Field(default="", description="UTC, as 2025-01-06; empty: the last day")

    def range(self) -> DayRange:
        """Return the range of days; an empty end is unlimited.

        Raises:
            ValueError: an end is no day, or the first comes after the last.
        """
        first = day_of("first_day", self.first_day) if self.first_day else date.min
        last = day_of("last_day", self.last_day) if self.last_day else date.max
        if first > last:
            raise ValueError(f"first_day must not come after last_day, were {first} and {last}")
        return DayRange(frozenset(self.products), first, last)


def days_from_first(lake: LakeResource, config: DaysConfig | None = None) -> DayRange:
    """Return the range of days of a config, from the lake's first day on.

    Args:
        config: by default all days.

    Raises:
        ValueError: as of `DaysConfig.range`, or the first day comes before the lake's first day.
    """
    found = config.range() if config else DayRange()
    if config and config.first_day:
        lake.check_day(found.first)
    return found._replace(first=max(found.first, date.fromisoformat(lake.first_day)))


def mapping_of(offset: int) -> dg.MultiPartitionMapping:
    """Return the mapping to the same product of the day with an offset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the mappings themselves: there are no others
        of_day = dg.TimeWindowPartitionMapping(
            start_offset=offset, end_offset=offset, allow_nonexistent_upstream_partitions=True
        )
        return dg.MultiPartitionMapping(
            {
                "product": dg.DimensionPartitionMapping("product", dg.IdentityPartitionMapping()),
                "day": dg.DimensionPartitionMapping("day", of_day),
            }
        )


def key_of(product_id: str, day: date) -> dg.MultiPartitionKey:
    return dg.MultiPartitionKey({"product": product_id, "day": day.isoformat()})


def partition_of_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> tuple[str, date]:
    """Return product and day of a run's partition."""
    day, _, product_id = context.partition_key.partition("|")  # Dagster sorts the dimensions by name
    return product_id, date.fromisoformat(day)


def report_of_recordings(lake: Lake, product_id: str, day: date) -> ReportedVersion:
    """Return the version of the staged recordings of a product and day: the version changes when a recording does."""
    staged = [each for each in lake.partitions_on(RECORDINGS, product_id, day) if each.rows]
    hashes = "".join(each.content_hash for each in staged)
    version = hashlib.sha256(hashes.encode()).hexdigest()[:VERSION_DIGITS] if staged else NOTHING
    first = [(each.notes_as(StagedNotes).name, f"{each.rows:,}") for each in staged[:SHOWN_RECORDINGS]]
    metadata = {
        "dagster/row_count": sum(each.rows for each in staged),
        "recordings": len(staged),
        "first recordings": table_of(("recording", "rows"), first),
    }
    return ReportedVersion("recordings", product_id, day, version, metadata)


def version_of(content_hash: str) -> str:
    """Return Dagster's version of a content hash."""
    return content_hash[:VERSION_DIGITS]


def report_of(
    lake: LakeResource, store: Lake, table: str, product_id: str, day: date, made: StepResult[Any]
) -> list[ReportedVersion]:
    """Return the versions made by a step; for trades, also the versions of head and tail for the days around."""
    partition = made.partition
    version = version_of(partition.content_hash) if partition else NOTHING
    metadata = _metadata(made) | plots.of_day(lake, store, product_id, day, made)
    report = [ReportedVersion(table, product_id, day, version, metadata)]
    if table == TRADES:
        for asset, seen in (("trades_head", "head_hash"), ("trades_tail", "tail_hash")):
            version = version_of(getattr(made.facts, seen) if partition else "") or NOTHING
            report.append(ReportedVersion(asset, product_id, day, version, {}))
    return report


def _metadata(made: StepResult[Any]) -> dict[str, Any]:
    """Return the number of rows, and the facts that are not 0; short, as the database keeps each event for ever."""
    partition = made.partition
    if partition is None:
        return {"dagster/row_count": 0, "missing": made.missing}
    shown_elsewhere = ("rows", "head_hash", "tail_hash", "spec_id")
    facts = {
        name: time_text(value) if name.endswith("_time") else value  # the UI's numbers do not hold ns since 1970
        for name, value in msgspec.structs.asdict(made.facts).items()
        if name not in shown_elsewhere and value
    }
    return {"dagster/row_count": partition.rows, "facts": facts}


def input_tags(instance: dg.DagsterInstance, asset: str, product_id: str, day: date) -> dict[str, str]:
    """Return Dagster's tags for an asset's inputs: their versions now, and the events with these versions."""
    tags = {}
    for name, offset in INPUTS[asset].items():
        record = _latest(instance, name, product_id, day + timedelta(days=offset))
        version = None if record is None else (record.event_log_entry.tags or {}).get(DATA_VERSION)
        tags[f"{INPUT_VERSION}{name}"] = version or NOTHING
        tags[f"{INPUT_EVENT}{name}"] = NEVER_SEEN if record is None else str(record.storage_id)
    return tags


def report_versions(context: dg.OpExecutionContext, versions: Iterable[ReportedVersion]) -> None:
    """Report each version that is unknown to Dagster, and so keep Dagster's view of stale assets right.

    An event that an op yields has 500 bytes about its step, which say nothing for an op of its own run.
    """
    for materialization in _materializations(context.instance, versions):
        event = DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=context.job_name,
            event_specific_data=StepMaterializationData(materialization),
        )
        context.instance.report_dagster_event(event, context.run_id, logging.DEBUG)


def _materializations(
    instance: dg.DagsterInstance, versions: Iterable[ReportedVersion]
) -> Iterator[dg.AssetMaterialization]:
    for each in versions:
        tags = input_tags(instance, each.asset, each.product_id, each.day)
        tags |= {DATA_VERSION: each.version, IS_OURS: "true", CODE_VERSION: code_version(each.asset)}
        record = _latest(instance, each.asset, each.product_id, each.day)
        if record is not None and _versions(record.event_log_entry.tags or {}) == _versions(tags):
            continue
        key = key_of(each.product_id, each.day)
        yield dg.AssetMaterialization(each.asset, partition=key, metadata=each.metadata, tags=tags)


def code_version(asset: str) -> str:
    """Return the code version of an asset; head and tail share the version of the trades."""
    meanings = {RECORDINGS: RECORDINGS_MEANING, **{step.table: step.meaning for step in STEPS}}
    return meanings[TRADES if asset.startswith(TRADES) else asset]


def _latest(instance: dg.DagsterInstance, asset: str, product_id: str, day: date) -> Any:
    return instance.get_latest_data_version_record(dg.AssetKey(asset), False, key_of(product_id, day))


def _versions(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the versions among an event's tags, without the pointers to input events."""
    ours = (DATA_VERSION, CODE_VERSION)
    return {name: value for name, value in tags.items() if name in ours or name.startswith(INPUT_VERSION)}


def table_of(headings: Sequence[str], rows: Iterable[Iterable[object]]) -> dg.MarkdownMetadataValue:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))


LAKE = "lake"
"""Pool of the runs that write to the lake: one run at a time."""
