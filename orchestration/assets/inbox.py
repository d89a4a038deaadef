"""The inbox of recordings, and the asset `recordings`."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from datetime import date

import dagster as dg
from pydantic import Field

from data.names import check_product_id
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.tally import WARN_SHARE
from offline.days.staging import RECORDINGS, ingest, taken
from offline.lake.remote import is_uri
from offline.lake.store import Lake
from offline.recordings.places import RecordingPlaces
from offline.recordings.prefixes import Recording
from orchestration.assets.partitions import (
    LAKE,
    PRODUCTS,
    code_version,
    partition_of_run,
    report_of_recordings,
)
from orchestration.resources import LakeResource, explained

COLUMNS = "names of columns that no dialect knows, as time=ts,price=px,size=qty; empty: RECORDING_COLUMNS"


class InboxConfig(dg.Config):
    """Source of the recordings."""

    inbox: str = Field(default="", description="a folder or prefix in those of RECORDINGS_DIRS; empty: INBOX_DIR")
    product_id: str = Field(default="BTC-USD", description="for recordings without a product")
    columns: str = Field(default="", description=COLUMNS)


class Inbox(dg.ConfigurableResource):
    """The folder, or the prefix of an object store, with new recordings."""

    path: str
    columns: str = ""

    def recordings(self, places: RecordingPlaces, other: str = "") -> list[Recording]:
        """Return the recordings of the inbox, or of another one, see `RecordingPlaces.recordings`."""
        return places.recordings(other or self.path)


def stage_inbox(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    lake: LakeResource,
    inbox: Inbox,
    places: RecordingPlaces,
    config: InboxConfig,
) -> tuple[list[tuple[str, date]], list[str]]:
    """Stage all recordings in the inbox; return the changed products and days, and the errors of rejected files.

    Raises:
        ValueError: the inbox itself is outside the folders and prefixes, as the run config can name any inbox; or the
            column map is wrong.
        OSError: the inbox is missing, the store does not answer, or the lake cannot be written.
    """
    check_product_id(config.product_id)
    store, first_day = lake.open(), date.fromisoformat(lake.first_day)
    places.check(config.inbox or inbox.path)
    columns = config.columns or inbox.columns
    ColumnMap.parse(columns)
    held, changed, wrong = store.held(), [], []
    for name, place, listed in inbox.recordings(places, config.inbox):
        version = listed if is_uri(place) else ""  # the time of change of a file does not tell the content for sure
        try:
            found = taken(held, name, config.product_id, version, columns) if version else None
            if found is None:
                with places.local(place) as path:
                    found = ingest(store, path, config.product_id, name, first_day, version, columns)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
            context.log.error(f"not taken: {name}: {error}")
            continue
        rows = sum(each.rows for each in found.days)
        rejected = sum(found.rejects.values())
        if found.is_new:
            context.log.info(f"{name}: {rows:,} trades on {len(found.days)} product-days, {rejected:,} rows rejected")
            changed += [(each.product_id, each.day) for each in found.days if each.is_new]
            if rejected > WARN_SHARE * (rows + rejected):
                kind = max(found.rejects, key=lambda reason: found.rejects[reason])
                context.log.warning(f"{name}: {rejected / (rows + rejected):.1%} of the rows are lost, mostly: {kind}")
    add_products(context.instance, store)
    return sorted(set(changed)), wrong


def add_products(instance: dg.DagsterInstance, lake: Lake) -> None:
    """Add all products with recordings in the lake to Dagster's partitions."""
    instance.add_dynamic_partitions(str(PRODUCTS.name), lake.products(RECORDINGS))


def recordings_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    """Return the asset `recordings`."""

    @dg.asset(
        partitions_def=partitions,
        group_name="recordings",
        kinds={"parquet"},
        pool=LAKE,
        code_version=code_version("recordings"),
    )
    def recordings(
        context: dg.AssetExecutionContext,
        config: InboxConfig,
        lake: LakeResource,
        inbox: Inbox,
        recording_places: dg.ResourceParam[RecordingPlaces],
    ) -> dg.MaterializeResult:
        """Stage recorded trades by product and day, from the inbox or the simulator. Each file is read once.

        Materializing any one day here, like the job `ingest`, takes every new file of the inbox.
        """
        with explained():
            changed, wrong = stage_inbox(context, lake, inbox, recording_places, config)
        product_id, day = partition_of_run(context)
        staged = report_of_recordings(lake.open(), product_id, day)
        metadata = {**staged.metadata, "staged now": len(changed), "not taken": len(wrong)}
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(staged.version))

    return recordings
