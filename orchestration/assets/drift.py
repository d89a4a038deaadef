"""Drift of a product's served rows against the champion's training: hour by hour, computed and shown by Evidently."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - mlflow and pandas take seconds to import, and most processes only serve the definitions

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import msgspec

from data.features.spec import FeatureSpec
from data.files import CHECKOUT, replacing
from data.models.registry import Registry, Version
from data.settings import KafkaSettings
from data.stream.figures import publish_or_warn
from data.stream.records import Figure
from data.times import NS, to_datetime
from monitoring.drift.files import BAD_FRAMES, CURRENT, FINDINGS, HTML, REFERENCE
from monitoring.drift.hours import HOUR_NS
from monitoring.drift.verdict import Findings
from offline.frames.serving import newest_forecasts
from offline.lake.store import Lake
from offline.promotion.provenance import Provenance
from orchestration.assets.partitions import PRODUCTS, table_of
from orchestration.resources import LakeResource, RegistryResource, explained

EXPERIMENT = "drift"
"""Experiment in MLflow: a run for each product, with the newest report, and a report for each hour that drifts."""
SOURCE, JUDGED, INGESTED, WITH_LOSS = "source", "newest hour, ns", "newest ingest time, ns", "drift with loss"
"""Metadata of a materialization: see `LastReport`, and whether drift came with loss."""
REPORT_S = 600.0
"""Limit for the process that makes a report."""


class DriftFolder(dg.ConfigurableResource):
    """Folder of the frames and reports of each product."""

    path: str


@dg.multi_asset(
    name="drift",
    specs=[
        dg.AssetSpec(
            "drift",
            deps=["served_predictions"],
            description="Drift of the served rows of a product in the hours since the last report, against the rows "
            "that the champion was trained on. At most ten days of event time are judged; of a new source, the newest "
            "day. Drift alone is a note. Drift with loss asks for a retrain.",
            group_name="served",
            kinds={"evidently", "mlflow"},
            skippable=True,
        )
    ],
    partitions_def=PRODUCTS,
)
def drift(
    context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource, drift_folder: DriftFolder
) -> Iterator[dg.MaterializeResult]:
    """Judge the full hours of served rows that no report has judged; without any, make nothing."""
    store, product_id = lake.open(), context.partition_key
    folder = Path(drift_folder.path) / product_id
    with explained():
        last = last_report(context.instance, product_id)
        served = newest_forecasts(store, lake.spec, product_id, last.source_id, last.hour)
        if served is None:
            context.log.info(f"the lake has no served forecasts of {product_id}")
            return
        client = Registry(registry.uri)
        version = client.version(f"volatility-{served.model_variant}", served.version)
        try:
            reference = _reference(store, lake.spec, client, version, product_id, folder)
        except ValueError as error:
            context.log.warning(f"no drift report: {error}")
            return
        served.frame.to_parquet(folder / CURRENT)
        found = judge(folder, reference, last.hour if last.source_id == served.source_id else 0)
        if isinstance(found, str):
            context.log.info(found)
            return
        url = _log_to_mlflow(registry, product_id, folder / HTML, found)
    at = time.time_ns()
    publish_or_warn(KafkaSettings(), figures_of(found, product_id, at), context.log.warning)
    if found.drift:
        context.log.warning(f"{product_id} drifts: {found.named} in the hour from {to_datetime(found.shown)}")
    ratios = ((each.view, each.column, f"{each.ratio:.2f}") for each in found.ratios)
    yield dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.url(url),
            "hour": str(to_datetime(found.shown)),
            "champion": f"{version.name} version {version.version}",
            "drift": found.drift,
            "loss": found.loss,
            WITH_LOSS: found.with_loss,
            "largest": found.named,
            "largest ratio": found.largest,
            "ratios": table_of(("view", "column", "ratio"), ratios),
            "hours": found.hours,
            SOURCE: served.source_id,
            JUDGED: str(found.newest),  # the UI's numbers do not hold ns since 1970
            INGESTED: str(served.ingest_time),
        }
    )


class LastReport(NamedTuple):
    """What the last report of a product has judged.

    Attributes:
        hour: begin of the newest judged hour, ns since 1970.
        ingest_time: of the newest row, ns since 1970.
    """

    source_id: str
    hour: int
    ingest_time: int


def last_report(instance: dg.DagsterInstance, product_id: str) -> LastReport:
    """Return what the last report has judged; an empty source and 0 without a report."""
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("drift"), asset_partitions=[product_id]), limit=1
    )
    materialized = found.records[0].asset_materialization if found.records else None
    if materialized is None:
        return LastReport("", 0, 0)
    source_id, hour, ingested = (str(materialized.metadata[name].value) for name in (SOURCE, JUDGED, INGESTED))
    return LastReport(source_id, int(hour), int(ingested))


def _reference(
    lake: Lake, spec: FeatureSpec, registry: Registry, version: Version, product_id: str, folder: Path
) -> Path:
    """Return the file of the rows that a version was trained on; made once for each version.

    Raises:
        ValueError: the training had no rows of the product, or the rows are gone or have changed.
        RegistryError: MLflow does not answer or fails.
    """
    from data.models.served import ServedModel
    from offline.frames.training import training_frame

    made = Provenance.of_version(registry, version)
    if made is None:
        raise ValueError(f"{version.name} version {version.version} does not name its training rows")
    path = folder / f"{version.digest[:16]}-{spec.spec_id}.parquet"
    if not path.exists():
        file = registry.fetch(version)
        model = ServedModel.load(file.model_bytes, spec_id=spec.spec_id, digest=file.digest, known_columns=spec.columns)
        frame = training_frame(lake, spec, made.rows, product_id, model)
        with replacing(path) as parquet:
            frame.to_parquet(parquet)
    return path


def judge(folder: Path, reference: Path, after: int) -> Findings | str:
    """Run Evidently in a process of its own: importing Evidently takes 340 MB, which no other process should keep.

    Args:
        folder: holds the current rows.
        after: begin of the newest hour that was judged before, ns since 1970.

    Returns:
        What the new hours show; or the reason why nothing can be judged.

    Raises:
        OSError: the process failed.
    """
    (folder / REFERENCE).unlink(missing_ok=True)
    (folder / REFERENCE).symlink_to(reference.name)
    command = [sys.executable, "-m", "monitoring.drift", str(folder), "--after", str(after)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=REPORT_S, check=False)
    last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    if done.returncode == BAD_FRAMES:
        return last[0]
    if done.returncode:
        raise OSError(f"the drift report failed: {last[0]}")
    return msgspec.json.decode((folder / FINDINGS).read_bytes(), type=Findings)


def figures_of(found: Findings, product_id: str, at: int) -> Iterable[Figure]:
    """Return the figures of a report for the topic `figures`.

    Args:
        at: when the report was made, ns since 1970.
    """
    own = {"product_id": product_id}
    for each in found.ratios:
        yield Figure("drift_ratio", own | {"column": each.column, "view": each.view}, each.ratio, at)
    yield Figure("drift_alarm", own, float(found.drift), at)
    yield Figure("drift_loss_alarm", own, float(found.loss), at)
    yield Figure("drift_with_loss", own, float(found.with_loss), at)
    yield Figure("drift_report_timestamp_seconds", own, at / NS, at)


def _log_to_mlflow(registry: RegistryResource, product_id: str, html: Path, found: Findings) -> str:
    """Keep a report and its ratios in the MLflow run of the product, and return the link to the report.

    Raises:
        RegistryError: MLflow does not answer, or the experiment was deleted.
    """
    from offline.promotion.register import experiment_id, prepare_client

    server = Registry(registry.uri)
    prepare_client(server)
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, number = MlflowClient(registry.uri), experiment_id(server, EXPERIMENT)
    runs = client.search_runs([number], f"tags.product_id = '{product_id}'", max_results=1)
    run_id = (
        runs[0] if runs else client.create_run(number, tags={"product_id": product_id}, run_name=product_id)
    ).info.run_id
    hour = found.shown // HOUR_NS
    measured = [
        Metric(f"{each.view}/{each.column}", each.ratio, found.shown // 1_000_000, hour) for each in found.ratios
    ]
    client.log_batch(run_id, metrics=measured)
    client.log_artifact(run_id, str(html))
    if found.drift:
        named = html.with_name(f"{to_datetime(found.shown):%Y-%m-%dT%H}.html")
        named.write_bytes(html.read_bytes())
        client.log_artifact(run_id, str(named))
        named.unlink()
    return registry.artifact_url(number, run_id, html.name)


def with_loss_since(instance: dg.DagsterInstance, since: float) -> list[Any]:
    """Return the reports of drift with loss since a time, newest first, as Dagster's event records.

    Args:
        since: seconds since 1970.
    """
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("drift"), after_timestamp=since), limit=200
    )
    return [
        record
        for record in found.records
        if record.asset_materialization is not None and record.asset_materialization.metadata[WITH_LOSS].value
    ]
