"""The topics in the lake: assets, one for each topic."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import dagster as dg

from data.settings import KafkaSettings
from data.stream.figures import publish_or_warn
from data.stream.records import FEATURES, PREDICTIONS, TRADES
from offline.lake.store import Lake
from offline.served.compaction import compact
from offline.served.kept.begins import keep_begins
from offline.served.manifest import folder_of, read_manifest
from offline.served.sink import offsets_behind, sink, sink_figures, topic_reader
from orchestration.assets.partitions import LAKE
from orchestration.resources import LakeResource, explained

ASSETS: Final[Mapping[str, str]] = {
    TRADES: "served_trades",
    FEATURES: "served_features",
    PREDICTIONS: "served_predictions",
}
"""Asset of each topic."""


class SunkTopic(NamedTuple):
    """New state of a topic in the lake, as reported to Dagster.

    Attributes:
        version: changes with the records in the lake.
    """

    asset: str
    version: str
    metadata: dict[str, Any]


def sink_topics(context: dg.OpExecutionContext | dg.AssetExecutionContext, lake: Lake) -> list[SunkTopic]:
    """Take the new records of all topics into the lake, merge closed days, and publish how far the lake is behind.

    Raises:
        NotRead, ValueError, OSError: see `offline.served.sink.sink`.
    """
    settings = KafkaSettings()  # not as a resource: Dagster shows a resource's fields, and these have passwords
    sunk = []
    with topic_reader(settings) as reader:
        for topic, asset in ASSETS.items():
            done = sink(lake, reader, topic)
            merged = compact(lake, topic, time.time_ns())
            context.log.info(f"{topic}: {done.rows:,} rows are new, {merged} days were merged")
            if done.lost:
                context.log.warning(f"{topic}: {done.lost:,} offsets were removed from the topic before they were read")
            manifest = read_manifest(lake, topic)
            rows = sum(file.rows for file in manifest.files if file.day is not None)
            offsets = f"{manifest.topic_id} {sorted(manifest.next.items())}"
            metadata = {
                "dagster/row_count": rows,
                "rows now": done.rows,
                "rejects": manifest.rejects,
                "files": len(manifest.files),
                "days merged now": merged,
                "lost offsets": sum(hole.last - hole.first + 1 for hole in manifest.holes),
                "folder": folder_of(topic),
            }
            sunk.append(SunkTopic(asset, hashlib.sha256(offsets.encode()).hexdigest(), metadata))
        behind = offsets_behind(lake, reader)
    keep_begins(lake, settings)
    publish_or_warn(settings, sink_figures(behind), context.log.warning)
    return sunk


@dg.multi_asset(
    name="served",
    specs=[
        dg.AssetSpec(
            asset,
            description=f"All records of the topic `{topic}`, once each; `offline.served.rows.served_rows` reads them.",
            group_name="served",
            kinds={"kafka", "parquet"},
        )
        for topic, asset in ASSETS.items()
    ],
    pool=LAKE,
)
def served(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult]:
    """Take the new records of all topics into the lake, as the job `sink` does."""
    with explained():
        sunk = sink_topics(context, lake.open())
    for each in sunk:
        yield dg.MaterializeResult(
            asset_key=each.asset, metadata=each.metadata, data_version=dg.DataVersion(each.version)
        )
