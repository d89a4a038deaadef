"""Small pictures beside the metadata, because people look rather than read."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import base64
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from offline.cards.pictures import picture_of_day, picture_of_test
from offline.days.steps import FEATURE_ROWS, StepResult
from offline.lake.objects import ANY
from offline.lake.store import Lake
from orchestration.resources import LakeResource
from orchestration.ui.pictures import FOLDER, picture_file

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
    file = picture_file(product_id, day.isoformat())
    store.objects.put(f"{FOLDER}/{file}", picture_of_day(store, lake.spec, product_id, day), ANY)
    return {PICTURE: dg.MetadataValue.md(f"![picture]({lake.pictures_path}/{file})")}


def of_test(
    models: Mapping[str, ServedModel], product_id: str, test: "Sample", spec: FeatureSpec
) -> dict[str, dg.MetadataValue[Any]]:
    """Show forecasts beside the realized volatility, over the rows of one product."""
    png = base64.b64encode(picture_of_test(models, product_id, test, spec)).decode()
    return {PICTURE: dg.MetadataValue.md(f"![picture](data:image/png;base64,{png})")}
