"""Both models: trained on the same rows, judged on the same later rows, and registered. The job `retrain` runs them."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - what trains takes seconds to import, and most processes only serve the definitions

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
from pydantic import Field

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from data.names import ModelRefused, VersionNotFound
from data.trades import NS
from offline.days.steps import TRAINING_SET
from offline.days.training_set import training_sample
from offline.lake.store import Lake
from orchestration.assets import plots
from orchestration.assets.partitions import days_of, table_of
from orchestration.resources import LakeResource, RegistryResource, ending, explained

if TYPE_CHECKING:
    from offline.evaluation.losses_table import Evaluation, LossesRow
    from offline.promotion.register import Candidate
    from offline.samples import Sample


REGISTRY = "registry"
"""Pool of the runs that write to the registry: one run at a time."""
MODELS_GROUP = "models"


class RetrainConfig(dg.Config):
    """Products and days for training and test."""

    products: list[str] = Field(default=[], description="none: all products with training rows")
    first_day: str = Field(default="", description="UTC, as 2025-01-06; empty: the first day")
    last_day: str = Field(default="", description="UTC, as 2025-01-06; empty: the last day")
    test_days: int = Field(
        default=1, ge=1, description="the last days are for the test alone: training ends before them"
    )


@dg.multi_asset(
    name="models",
    specs=[
        dg.AssetSpec(
            "baseline_model",
            deps=["training_set"],
            description="`volatility-baseline`: a calibrated EWMA, and a forecast from the contract alone.",
            group_name=MODELS_GROUP,
            kinds={"scikitlearn", "onnx"},
        ),
        dg.AssetSpec(
            "ml_model",
            deps=["training_set"],
            description="`volatility-ml`: ridge on log variance, corrected to the mean, shrunk to the baseline.",
            group_name=MODELS_GROUP,
            kinds={"scikitlearn", "onnx"},
        ),
        dg.AssetSpec(
            "evaluation",
            deps=["baseline_model", "ml_model", "training_set"],
            description="Both models, the champions and the EWMA as it is, on the same rows after training. Asked with "
            "all columns, a model is given each row as it is; with the contract alone, only `n`, `ret_mean` and "
            "`ret_std`, as by a client who knows no more; with nothing, an `n` of 0, as before the first trade.",
            group_name=MODELS_GROUP,
        ),
        dg.AssetSpec(
            "challenger",
            deps=["evaluation"],
            description="Both models in the registry, with the alias `challenger`: the job `promote` asks the gate.",
            group_name=MODELS_GROUP,
            kinds={"mlflow"},
        ),
    ],
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
    with ending(mlflow):
        yield from _train(context, config, lake, registry, mlflow)


class Chosen(NamedTuple):
    """Training days for one run.

    Attributes:
        days: days with training rows, in order.
        version: hash of the content of all days.
    """

    products: list[str]
    days: list[date]
    partitions: int
    version: str

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


def choose_days(lake: Lake, products: Sequence[str], first_day: str = "", last_day: str = "") -> Chosen:
    """Return the training days of some products (default: all), from the first to the last day (default: all).

    Raises:
        ValueError: see `days_of`.
    """
    first, last = days_of(first_day, last_day)
    found = [
        partition
        for partition in lake.partitions(TRAINING_SET)
        if first <= partition.day <= last and partition.rows and (not products or partition.product_id in products)
    ]
    version = hashlib.sha256("".join(each.content_hash for each in found).encode()).hexdigest()
    names = sorted({each.product_id for each in found})
    return Chosen(names, sorted({each.day for each in found}), len(found), version)


@contextlib.contextmanager
def _telling(uri: str) -> Iterator[None]:
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


def _train(
    context: dg.AssetExecutionContext,
    config: RetrainConfig,
    lake: LakeResource,
    registry: RegistryResource,
    mlflow: Any,
) -> Iterator[dg.MaterializeResult]:
    from offline.models.recipes import split, train_baseline, train_ml
    from offline.promotion.register import register
    from offline.samples import Sample

    store, spec = lake.open(), lake.spec
    with explained():
        chosen = choose_days(store, config.products, config.first_day, config.last_day)
        test_day = chosen.first_test_day(config.test_days)
        train_end = datetime.combine(test_day, datetime.min.time(), UTC)
        until = test_day - timedelta(days=1)
        fitted = training_sample(store, spec, chosen.products, chosen.days[0], until, with_short_windows=True)
        tested = training_sample(store, spec, chosen.products, test_day, chosen.days[-1])
        rows = Sample.join([fitted, tested])
    params = {
        "products": " ".join(chosen.products),
        "first_day": chosen.days[0],
        "train_end": f"{train_end:%Y-%m-%dT%H:%M:%SZ}",
        "last_day": chosen.days[-1],
        "training_set": chosen.version,
    }
    with _telling(registry.uri):
        mlflow.log_params(params)
    context.log.info(
        f"{chosen.partitions} product-days from {chosen.days[0]} to {chosen.days[-1]}, training ends at {train_end}"
    )
    info = mlflow.active_run().info
    links = {"MLflow run": dg.MetadataValue.url(registry.run_url(info.experiment_id, info.run_id))}
    candidates = []
    for asset, train in (("baseline_model", train_baseline), ("ml_model", train_ml)):
        with explained():
            candidate = train(rows, spec, train_end)
        candidates.append(candidate)
        figures = {name: value for name, value in candidate.metrics.items() if name.startswith(("qlike", "coverage"))}
        shown = table_of(("parameter", "value"), candidate.params.items())
        yield dg.MaterializeResult(
            asset_key=asset,
            data_version=dg.DataVersion(candidate.model.digest),
            metadata={
                **figures,
                "rows": len(fitted),
                "digest": candidate.model.digest[:16],
                "parameters": dg.MetadataValue.md(shown),
                **links,
            },
        )
    with explained():
        test = split(rows, train_end, spec).test
        found = _evaluated(registry.uri, candidates, test, spec)
        trained = {candidate.name: candidate.model for candidate in candidates}
        picture = plots.of_test(trained, *_first_product(store, spec, chosen, test_day), spec)
    qlike = {name: line.qlike for name, line in _asked_with_all(found).items()}
    with _telling(registry.uri):
        mlflow.log_metrics({f"qlike_{_plain(name)}": value for name, value in qlike.items()})
    headings = ("forecaster", "asked with", "QLIKE", "MSE of log volatility", "coverage")
    lines = (
        (
            x.forecaster,
            x.asked_with,
            f"{x.qlike:.4f}",
            f"{x.log_mse:.4f}",
            "–" if isnan(x.coverage) else f"{x.coverage:.1%}",
        )
        for x in found.losses
    )
    yield dg.MaterializeResult(
        asset_key="evaluation",
        metadata={
            "forecasts": dg.MetadataValue.md(table_of(headings, lines)),
            **picture,
            **{f"qlike {name}": value for name, value in qlike.items()},
            "rows": found.rows,
            "horizons": found.horizons,
            "zero_target_share": found.zero_target_share,
            "variance_floor": found.variance_floor,
            "from": f"{found.first_time:%Y-%m-%dT%H:%M:%SZ}",
            "to": f"{found.last_time:%Y-%m-%dT%H:%M:%SZ}",
            **links,
        },
    )
    metadata: dict[str, Any] = {}
    for candidate in candidates:
        with explained():
            version = register(registry.uri, candidate)
        context.log.info(f"{candidate.name} version {version} is challenger")
        metadata[candidate.name] = dg.MetadataValue.url(registry.version_url(candidate.name, version))
        metadata[f"version of {candidate.name}"] = int(version)
    digests = "".join(candidate.model.digest for candidate in candidates)
    version = hashlib.sha256(digests.encode()).hexdigest()
    yield dg.MaterializeResult(
        asset_key="challenger", data_version=dg.DataVersion(version), metadata={**metadata, **links}
    )


def _first_product(store: Lake, spec: FeatureSpec, chosen: Chosen, test_day: date) -> tuple[str, "Sample"]:
    """Return the first product with rows to judge in the test, and the product's rows."""
    from offline.evaluation.losses_table import judged_rows

    for product_id in chosen.products:
        if any(each.rows and each.day >= test_day for each in store.partitions(TRAINING_SET, product_id)):
            rows = training_sample(store, spec, [product_id], test_day, chosen.days[-1])
            if len(judged_rows(rows, spec)):
                return product_id, rows
    raise ValueError(f"no product has rows to judge from {test_day} to {chosen.days[-1]}")


def _evaluated(uri: str, candidates: Sequence["Candidate"], test: "Sample", spec: FeatureSpec) -> "Evaluation":
    """Judge the candidates and the champions on the same rows; mark a champion whose training saw some of the rows."""
    from data.models.registry import Registry
    from offline.evaluation.losses_table import evaluate

    judged = {candidate.name: candidate.model for candidate in candidates}
    floor = float(candidates[0].metrics["variance_floor"])
    first = datetime.fromtimestamp(int(test.event_time.min()) / NS, UTC)
    for candidate in candidates:
        champion = Registry(uri).champion(candidate.name)
        if champion is None:
            continue
        try:
            content = Registry(uri).download(candidate.name, champion.version)
            model = ServedModel.load(content, spec_id=spec.spec_id, known_columns=spec.columns)
        except (VersionNotFound, ModelRefused):
            continue  # a missing or refused champion cannot score these rows
        seen = ", which has seen some of these rows" if model.train_end >= first else ""
        judged[f"{candidate.name} version {champion.version}{seen}"] = model
    return evaluate(judged, test, spec, floor)


def _asked_with_all(found: "Evaluation") -> dict[str, "LossesRow"]:
    from offline.evaluation.losses_table import ALL

    return {line.forecaster: line for line in found.losses if line.asked_with == ALL}


def _plain(name: str) -> str:
    """Return a name with characters allowed by MLflow."""
    return "".join(c if c.isalnum() else "_" for c in name)
