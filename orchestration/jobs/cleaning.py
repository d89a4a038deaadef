"""The job `clean_lake`."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - most processes only serve the definitions

import dagster as dg
from pydantic import Field

from data.models.registry import Registry
from offline.settings import OfflineSettings
from orchestration.resources import LakeResource, RegistryResource, explained

KIND_TAG = {"cryptovol/kind": "clean_lake"}
"""Run tag: in dagster.yaml, one clean-up at a time."""


class CleaningConfig(dg.Config):
    """Age of the objects to remove."""

    grace_h: float | None = Field(
        default=None, gt=0, description="hours for which an unnamed object stays; without a value: LAKE_GRACE_H"
    )


@dg.op(out=dg.Out(dg.Nothing))
def remove_objects(
    context: dg.OpExecutionContext, config: CleaningConfig, lake: LakeResource, registry: RegistryResource
) -> None:
    """Remove the objects of the lake that no manifest names, but for training rows of model versions in use.

    Other runs may read and write meanwhile, and a killed run is harmless.
    """
    from offline.cleaning.versions import clean_lake as clean

    with explained():
        cleaned = clean(lake.open(), Registry(registry.uri), config.grace_h or OfflineSettings().lake_grace_h)
    context.log.info(cleaned.text())


@dg.job(description=remove_objects.__doc__, tags=KIND_TAG)
def clean_lake() -> None:
    remove_objects()
