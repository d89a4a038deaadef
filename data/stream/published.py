"""Read published forecasts as columns, to resume an adaptation from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from data.features.spec import FeatureSpec
from data.stream.records import AdaptedBy
from data.truth.adaptation import Published, shortest_ewma, version_number


def published_type(spec: FeatureSpec) -> type[Any]:
    """Return the type of a forecast's record with the fields of `published` alone; earlier releases lack some."""
    number = float | None
    fields: list[Any] = [("source_id", str), ("product_id", str), ("event_time", int), ("price", float)]
    fields += [("kafka_offset", int), ("interval", tuple[float, float]), ("digest", str), ("in_sample", bool)]
    fields += [("raw_score", number, None), *((name, number, None) for name in AdaptedBy.__struct_fields__)]
    return msgspec.defstruct("PublishedForecast", [*fields, (shortest_ewma(spec), number, None)], gc=False)


def published(records: Sequence[Any], spec: FeatureSpec) -> Published:
    """Return the columns of forecasts of one stream.

    Args:
        records: of `published_type` or `prediction_type`, in order, each with a state of adaptation.
    """
    floats = ("price", "raw_score", *AdaptedBy.__struct_fields__)
    columns: dict[str, Any] = {name: np.array([getattr(r, name) for r in records], np.float64) for name in floats}
    ends = np.array([record.interval for record in records], np.float64)
    known = [not record.in_sample and getattr(record, shortest_ewma(spec)) is not None for record in records]
    return Published(
        **columns,
        event_time=np.array([record.event_time for record in records], np.int64),
        lower=ends[:, 0],
        upper=ends[:, 1],
        teaches=np.array(known, np.bool_),
        version=np.array([version_number(record.digest) for record in records], np.int64),
    )
