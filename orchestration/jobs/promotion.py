"""The jobs `promote` and `rollback`."""

# ruff: noqa: PLC0415 - what promotes takes a second to import, and most processes only serve the definitions
# No `from __future__ import annotations` here: Dagster reads the real types.

import contextlib
import getpass
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from data.models.registry import Registry
from data.settings import KafkaSettings
from offline.lake.objects import Objects
from orchestration.assets.models import REGISTRY
from orchestration.assets.partitions import table_of
from orchestration.resources import DagsterPages, LakeResource, RegistryResource, explained

if TYPE_CHECKING:
    from offline.promotion.ledger import Entry


USUAL_WHY = "launched from Dagster"
"""Default reason in the ledger: no reason to force a promotion."""


class RollbackConfig(dg.Config):
    """Model to roll back."""

    model: str = Field(default="volatility-ml", description="volatility-ml or volatility-baseline")
    who: str = Field(default="", description="for the ledger; empty: this user, and the run")
    why: str = Field(default=USUAL_WHY, description="for the ledger")


class PromoteConfig(RollbackConfig):
    """Model version for the gate."""

    version: str = Field(default="challenger", description="a number, or an alias")
    shadow_horizons: int = Field(
        default=0, ge=0, description="refuse a version with fewer horizons of forecasts as a shadow, on `predictions`"
    )
    force: bool = Field(
        default=False,
        description="promote a refused version, if the version can serve; `why` must give a reason, which is recorded",
    )


@dg.op(pool=REGISTRY)
def promote_model(
    context: dg.OpExecutionContext,
    config: PromoteConfig,
    lake: LakeResource,
    registry: RegistryResource,
    pages: DagsterPages,
) -> None:
    """Ask the gate; if the gate is open, make the version champion, and the online tier answers with it in a second.

    The gate fits the recipe again on the rows of the version's training, and judges on the lake's rows after all
    trainings. A refusal names each failed condition with figures, and is an entry of the ledger.
    """
    from offline.checks.shadows import asked_shadows
    from offline.promotion.inputs import lake_inputs
    from offline.promotion.moves import promote, publish_moves

    if config.force and config.why in ("", USUAL_WHY):
        raise dg.Failure("a forced promotion needs a reason of its own: write it into `why`", allow_retries=False)
    client, kafka = Registry(registry.uri), KafkaSettings()
    with _refusals_explained():
        entry = promote(
            client,
            config.model,
            config.version,
            objects=Objects.open(lake.uri),
            inputs=lake_inputs(lake.uri, lake.spec, lake.train_max_mb),
            spec=lake.spec,
            who=config.who or _who(context),
            why=config.why,
            force=config.force,
            shadows=asked_shadows(config.shadow_horizons, kafka, lake.spec),
            dagster_run_url=pages.run_url(context.run_id),
        )
    _show_entry(context, registry, entry)
    publish_moves(client, config.model, kafka, context.log.warning)


@dg.job(name="promote", description=promote_model.__doc__)
def promote_job() -> None:
    promote_model()


@dg.op  # in no pool: a rollback must not wait for a training; the ledger keeps others out for the second of a rollback
def roll_back_model(
    context: dg.OpExecutionContext,
    config: RollbackConfig,
    lake: LakeResource,
    registry: RegistryResource,
    pages: DagsterPages,
) -> None:
    """Restore the previous champion; a second rollback goes one champion further.

    A rollback that was killed, or lost its answer, is finished by the next rollback, which then goes no further.
    """
    from offline.promotion.moves import publish_moves, roll_back

    client, kafka = Registry(registry.uri), KafkaSettings()
    with _refusals_explained():
        entry = roll_back(
            client,
            config.model,
            objects=Objects.open(lake.uri),
            spec=lake.spec,
            who=config.who or _who(context),
            why=config.why,
            dagster_run_url=pages.run_url(context.run_id),
            warn=context.log.warning,
        )
    _show_entry(context, registry, entry)
    publish_moves(client, config.model, kafka, context.log.warning)


@dg.job(description=roll_back_model.__doc__, tags={"dagster/priority": "1"})
def rollback() -> None:
    roll_back_model()


def _who(context: dg.OpExecutionContext) -> str:
    return f"{getpass.getuser()}, Dagster run {context.run_id[:8]}"


@contextlib.contextmanager
def _refusals_explained() -> Iterator[None]:
    """Turn a refusal into a failure with all conditions, failed conditions first; see also `explained`."""
    from offline.promotion.gate import Refused

    with explained():
        try:
            yield
        except Refused as refused:
            conditions = sorted(refused.conditions, key=lambda condition: condition.is_met)
            rows = ((each.name, "yes" if each.is_met else "NO", each.found, each.allowed) for each in conditions)
            table = table_of(("condition", "met", "found", "allowed"), rows)
            raise dg.Failure(str(refused), metadata={"conditions": table}, allow_retries=False) from None


def _show_entry(context: dg.OpExecutionContext, registry: RegistryResource, entry: "Entry") -> None:
    was = f"version {entry.from_version}" if entry.from_version else "nothing"
    forced = ", forced" if entry.is_forced else ""
    context.log.info(f"{entry.model} version {entry.to_version} is champion, after {was}{forced}")
    context.add_output_metadata(
        {
            "champion": dg.MetadataValue.url(registry.version_url(entry.model, entry.to_version)),
            "version": entry.to_version,
            "before": entry.from_version or "none",
            "ledger entry": dg.MetadataValue.url(registry.run_url(entry.experiment_id, entry.entry_id)),
            "evidence": table_of(("evidence", "value"), entry.evidence.items()),
        }
    )
