"""The inbox of recordings, and the asset `recordings`."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from datetime import date
from pathlib import Path

import dagster as dg
from pydantic import Field

from data.names import check_product_id
from data.recordings.folders import RecordingFolders
from data.recordings.tally import WARN_SHARE
from offline.days.staging import RECORDINGS, ingest
from offline.lake.store import Lake
from orchestration.assets.partitions import (
    LAKE,
    PRODUCTS,
    code_version,
    partition_of_run,
    report_of_recordings,
)
from orchestration.resources import LakeResource, explained


class InboxConfig(dg.Config):
    """Source of the recordings."""

    inbox: str = Field(default="", description="a folder in those of RECORDINGS_DIRS; empty: INBOX_DIR")
    product_id: str = Field(default="BTC-USD", description="for recordings without a product")


class Inbox(dg.ConfigurableResource):
    """The folder with new recordings."""

    path: str

    def files(self, folder: str = "") -> list[tuple[str, Path]]:
        """Return the recordings in the folder, with their paths below the folder as names.

        Hidden files are left out: they may be incomplete.

        Raises:
            Failure: the folder is missing; a missing folder must not look like an empty folder.
        """
        root = Path(folder or self.path).expanduser()
        if not root.is_dir():
            raise dg.Failure(f"the inbox: there is no folder {root}", allow_retries=False)
        found = [(path.relative_to(root), path) for path in sorted(root.rglob("*")) if path.is_file()]
        return [(name.as_posix(), path) for name, path in found if not any(part.startswith(".") for part in name.parts)]


def stage_inbox(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    lake: LakeResource,
    inbox: Inbox,
    folders: RecordingFolders,
    config: InboxConfig,
) -> tuple[list[tuple[str, date]], list[str]]:
    """Stage all recordings in the inbox; return the changed products and days, and the errors of rejected files.

    Raises:
        ValueError: the inbox itself is outside the folders; the run config can name any inbox.
    """
    check_product_id(config.product_id)
    store, first_day = lake.open(), date.fromisoformat(lake.first_day)
    folders.real_path(config.inbox or inbox.path)
    changed, wrong = [], []
    for name, path in inbox.files(config.inbox):
        try:
            found = ingest(store, folders.real_path(path), config.product_id, name, first_day)
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
        recording_folders: dg.ResourceParam[RecordingFolders],
    ) -> dg.MaterializeResult:
        """Stage recorded trades by product and day, from the inbox or the simulator. Each file is read once.

        Materializing any one day here, like the job `ingest`, takes every new file of the inbox.
        """
        with explained():
            changed, wrong = stage_inbox(context, lake, inbox, recording_folders, config)
        product_id, day = partition_of_run(context)
        staged = report_of_recordings(lake.open(), product_id, day)
        metadata = {**staged.metadata, "staged now": len(changed), "not taken": len(wrong)}
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(staged.version))

    return recordings
