"""Small pictures beside the metadata, because people look rather than read."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from data.models.served import ServedModel
from offline.cards.pictures import picture_of_day, picture_of_test
from offline.days.steps import FEATURE_ROWS, StepResult
from offline.lake.objects import ANY
from offline.lake.store import Lake
from orchestration.resources import LakeResource
from orchestration.ui.pictures import FOLDER, file_of_day, file_of_test

if TYPE_CHECKING:
    from offline.samples import Sample

PICTURE = "picture"
"""Name of a picture in the metadata."""


def of_day(
    lake: LakeResource, store: Lake, product_id: str, day: date, made: StepResult[Any]
) -> dict[str, dg.MetadataValue[Any]]:
    """Draw price and volatility of a day with new feature rows, into a file of the lake that the UI shows.

    Return nothing for other days and tables.
    """
    if not made.is_new or made.partition is None or made.partition.table != FEATURE_ROWS or not made.partition.rows:
        return {}
    file = file_of_day(product_id, day.isoformat())
    return _shown(lake, store, file, picture_of_day(store, lake.spec, product_id, day))


def of_test(
    lake: LakeResource, store: Lake, run_id: str, models: Mapping[str, ServedModel], product_id: str, test: "Sample"
) -> dict[str, dg.MetadataValue[Any]]:
    """Draw forecasts beside the realized volatility, over the rows of one product, into a file of the lake.

    Args:
        run_id: of the Dagster run that tests the models.
    """
    return _shown(lake, store, file_of_test(run_id), picture_of_test(models, product_id, test, lake.spec))


def _shown(lake: LakeResource, store: Lake, file: str, png: bytes) -> dict[str, dg.MetadataValue[Any]]:
    """Put a picture into the lake, and return the metadata with its address in the UI."""
    store.objects.put(f"{FOLDER}/{file}", png, ANY)
    return {PICTURE: dg.MetadataValue.md(f"![picture]({lake.pictures_path}/{file})")}
