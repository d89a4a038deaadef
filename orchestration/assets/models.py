"""Both models: trained on the same rows, judged on the same later rows, and registered. The job `retrain` runs them."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - what trains takes seconds to import, and most processes only serve the definitions

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import numpy as np
from pydantic import Field

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.times import second_text
from offline.days.steps import TRAINING_SET
from offline.lake.state import Partition
from offline.lake.store import Lake
from orchestration.assets import plots
from orchestration.assets.partitions import DayRange, DaysConfig, table_of
from orchestration.resources import LakeResource, RegistryResource, ending, explained

if TYPE_CHECKING:
    from offline.losses_table import Evaluation
    from offline.models.candidate import Candidate
    from offline.samples import Sample
    from offline.training import Challenger


REGISTRY = "registry"
"""Pool of the runs that write to the registry: one run at a time."""
ASSETS = {"volatility-baseline": "baseline_model", "volatility-ml": "ml_model"}
"""Asset of each registered model."""
TRAINING_SET_TAG = "cryptovol/training_set"
"""Run tag: the version of the training rows for the run."""
Links = dict[str, dg.MetadataValue[Any]]


class RetrainConfig(DaysConfig):
    """Products and days for training and test."""

    test_days: int = Field(
        default=1, ge=1, description="the last days are for the test alone: training ends before them"
    )
    reason: str = Field(
        default="", description="why a model is much better than the calibrated EWMA; without a reason, such is a leak"
    )


@dg.multi_asset(
    name="models",
    specs=[
        dg.AssetSpec(
            "baseline_model",
            deps=["training_set"],
            description="`volatility-baseline`: a calibrated EWMA, and simpler steps for rows with less history.",
            kinds={"scikitlearn", "onnx"},
        ),
        dg.AssetSpec(
            "ml_model",
            deps=["training_set"],
            description="`volatility-ml`: ridge and small trees on ratios of variances, shrunk to the calibrated EWMA.",
            kinds={"scikitlearn", "onnx"},
        ),
        dg.AssetSpec(
            "evaluation",
            deps=["baseline_model", "ml_model", "training_set"],
            description="Both models, the champions and the EWMA as it is, on the same rows after training. Asked with "
            "all columns, a model is given each row as it is; with the contract alone, only `n`, `ret_mean` and "
            "`ret_std`, as by a client who knows no more; with nothing, an `n` of 0, as before the first trade.",
        ),
        dg.AssetSpec(
            "challenger",
            deps=["evaluation"],
            description="Both models in the registry, with the alias `challenger`, a report and a model card of each: "
            "the job `promote` asks the gate.",
            kinds={"mlflow"},
        ),
    ],
    group_name="models",
    pool=REGISTRY,
)
def models(
    context: dg.AssetExecutionContext,
    config: RetrainConfig,
    lake: LakeResource,
    registry: RegistryResource,
    mlflow: dg.ResourceParam[Any],
) -> Iterator[dg.MaterializeResult]:
    """Train both models on the same rows, test both on later rows, and register both."""
    from offline.losses_table import ALL, Evaluation
    from offline.models.candidate import Candidate
    from offline.training import Registered, lake_training, train

    store, spec = lake.open(), lake.spec
    with ending(mlflow), explained(), _explain_loss_of_mlflow(registry.uri):
        days = choose_days(store, config.range())
        test_day = days.first_test_day(config.test_days)
        train_end = datetime.combine(test_day, datetime.min.time(), UTC)
        context.instance.add_run_tags(context.run.run_id, {TRAINING_SET_TAG: days.version})
        rows, made_from, spans, test = lake_training(store, spec, days.partitions, test_day, lake.train_max_mb)
        mlflow.log_params(_params(days, train_end))
        first, last = days.days[0], days.days[-1]
        context.log.info(f"{len(days.partitions)} product-days from {first} to {last}, training ends at {train_end}")
        if made_from.sample is not None:
            context.log.info(f"of more rows than fit into TRAIN_MAX_MB={lake.train_max_mb}, {len(rows):,} are taken")
        run = mlflow.active_run().info
        links: Links = {"MLflow run": dg.MetadataValue.url(registry.run_url(run.experiment_id, run.run_id))}
        trained, challengers = {}, []
        client, reason = Registry(registry.uri), config.reason
        for result in train(client, rows, spec, train_end, made_from, spans=spans, test=test, reason=reason):
            if isinstance(result, Candidate):
                trained[result.name] = result.model
                yield _model_result(result, links)
            elif isinstance(result, Evaluation):
                qlike = {row.forecaster: row.qlike for row in result.losses if row.asked_with == ALL}
                # MLflow allows no other characters in a name.
                mlflow.log_metrics({f"qlike_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": qlike[name] for name in qlike})
                tested = _first_product(rows.after(train_end), spec)
                picture = plots.of_test(lake, store, context.run.run_id, trained, *tested)
                yield _evaluation_result(result, qlike, picture, links)
            elif isinstance(result, Registered):
                context.log.info(f"{result.candidate.name} version {result.version} is challenger")
            else:
                challengers.append(result)
        yield _challengers_result(challengers, registry, run.experiment_id, links)


class TrainingDays(NamedTuple):
    """Training days for one run.

    Attributes:
        days: days with training rows, in order.
        partitions: the training sets, one a product and day.
    """

    products: list[str]
    days: list[date]
    partitions: list[Partition]

    @property
    def version(self) -> str:
        """Hash of the content of all training sets."""
        return hashlib.sha256("".join(each.content_hash for each in self.partitions).encode()).hexdigest()

    def first_test_day(self, test_days: int) -> date:
        """Return the first day of the test, where training ends.

        Raises:
            ValueError: no day is left to train on.
        """
        if len(self.days) <= test_days:
            raise ValueError(
                f"{len(self.days)} days of {', '.join(self.products) or 'no product'} have training rows; training "
                f"needs one at least besides {test_days} for the test: ingest or simulate more days and backfill them"
            )
        return self.days[-test_days]


def choose_days(lake: Lake, wanted: DayRange) -> TrainingDays:
    """Return the training days of a range."""
    found = [each for each in lake.partitions(TRAINING_SET) if each.rows and wanted.has(each.product_id, each.day)]
    names = sorted({each.product_id for each in found})
    return TrainingDays(names, sorted({each.day for each in found}), found)


@contextlib.contextmanager
def _explain_loss_of_mlflow(uri: str) -> Iterator[None]:
    """Turn an error of MLflow's client into a Dagster failure with advice."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise dg.Failure(
            f"MLflow went away at {uri} during the training: {error}. Nothing more is registered: start MLflow, then "
            "launch retrain again",
            allow_retries=False,
        ) from error


def _params(days: TrainingDays, train_end: datetime) -> dict[str, Any]:
    """Return the parameters of the MLflow run: the rows of the training."""
    return {
        "products": " ".join(days.products),
        "first_day": days.days[0],
        "train_end": second_text(train_end),
        "last_day": days.days[-1],
        "training_set": days.version,
    }


def _model_result(candidate: "Candidate", links: Links) -> dg.MaterializeResult:
    params = candidate.params
    return dg.MaterializeResult(
        asset_key=ASSETS[candidate.name],
        data_version=dg.DataVersion(candidate.model.digest),
        metadata={
            **{name: value for name, value in candidate.metrics.items() if name.startswith(("qlike", "coverage"))},
            "rows": params["rows"],
            "digest": candidate.model.digest[:16],
            "parameters": table_of(("parameter", "value"), params.items()),
            **links,
        },
    )


def _evaluation_result(
    found: "Evaluation", qlike: dict[str, float], picture: Links, links: Links
) -> dg.MaterializeResult:
    headings = ("forecaster", "asked with", "QLIKE", "MSE of log volatility", "coverage")
    losses = (
        (name, asked_with, f"{loss:.4f}", f"{log_mse:.4f}", "–" if isnan(coverage) else f"{coverage:.1%}")
        for name, asked_with, loss, log_mse, coverage in found.losses
    )
    return dg.MaterializeResult(
        asset_key="evaluation",
        metadata={
            "forecasts": table_of(headings, losses),
            **picture,
            **{f"qlike {name}": value for name, value in qlike.items()},
            "rows": found.rows,
            "horizons": found.horizons,
            "zero_target_share": found.zero_target_share,
            "variance_floor": found.variance_floor,
            "from": second_text(found.first_time),
            "to": second_text(found.last_time),
            **links,
        },
    )


def _challengers_result(
    challengers: Sequence["Challenger"], registry: RegistryResource, experiment_id: str, links: Links
) -> dg.MaterializeResult:
    from offline.cards.version_texts import CARD, REPORT

    metadata: dict[str, Any] = {}
    client = Registry(registry.uri)
    for candidate, version, texts in challengers:
        name, run_id = candidate.name, client.version(candidate.name, version).run_id
        metadata[name] = dg.MetadataValue.url(registry.version_url(name, version))
        metadata[f"version of {name}"] = int(version)
        metadata[f"report of {name}"] = dg.MetadataValue.url(registry.artifact_url(experiment_id, run_id, REPORT))
        metadata[f"card of {name}"] = dg.MetadataValue.url(registry.artifact_url(experiment_id, run_id, CARD))
        promises = [(promise, f"{value:.4g}") for promise, value in candidate.promises.items()]
        metadata[f"promises of {name}"] = table_of(("promise", "value"), promises)
        metadata[f"text of the card of {name}"] = dg.MetadataValue.md(texts[CARD])
    digests = "".join(each.candidate.model.digest for each in challengers)
    data_version = dg.DataVersion(hashlib.sha256(digests.encode()).hexdigest())
    return dg.MaterializeResult(asset_key="challenger", data_version=data_version, metadata=metadata | links)


def _first_product(test: "Sample", spec: FeatureSpec) -> tuple[str, "Sample"]:
    """Return the first product with rows to judge, and the product's rows."""
    from offline.losses_table import judged_rows

    first = str(np.unique(judged_rows(test, spec).product_id)[0])
    return first, test.take(test.product_id == first)
