"""Small pictures for the metadata, because people look rather than read."""

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
from offline.lake.store import Lake

if TYPE_CHECKING:
    from offline.samples import Sample

PICTURE = "picture"
"""Name of a picture in the metadata."""


def of_day(
    lake: Lake, spec: FeatureSpec, product_id: str, day: date, made: StepResult[Any]
) -> dict[str, dg.MetadataValue[Any]]:
    """Show price and volatility of a day with new feature rows; return nothing for other days and tables."""
    if not made.is_new or made.partition is None or made.partition.table != FEATURE_ROWS or not made.partition.rows:
        return {}
    return _shown(picture_of_day(lake, spec, product_id, day))


def of_test(
    models: Mapping[str, ServedModel], product_id: str, test: "Sample", spec: FeatureSpec
) -> dict[str, dg.MetadataValue[Any]]:
    """Show forecasts beside the realized volatility, over the rows of one product."""
    return _shown(picture_of_test(models, product_id, test, spec))


def _shown(png: bytes) -> dict[str, dg.MetadataValue[Any]]:
    return {PICTURE: dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")}
