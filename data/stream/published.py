"""Read the published forecasts of a version, of the served one or of a shadow, to resume an adaptation from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import msgspec
import numpy as np

from data.features.spec import FeatureSpec
from data.stream.codec import field_values
from data.stream.records import AdaptedBy, Int64, Time
from data.truth.adaptation import Published, shortest_ewma


def published_type(spec: FeatureSpec) -> type[Any]:
    """Return the type of a forecast's record with the fields of `published` alone; earlier releases lack some."""
    number = float | None
    state: list[Any] = [("raw_score", number, None), *((name, number, None) for name in AdaptedBy.__struct_fields__)]
    named: list[Any] = [("digest", str | None, None), ("in_sample", bool | None, None)]
    interval = tuple[float, float]
    shadow: Any = msgspec.defstruct("PublishedShadow", [("interval", interval | None, None), *named, *state], gc=False)
    row: list[Any] = [("source_id", str), ("product_id", str), ("event_time", Time), ("price", float)]
    row += [("kafka_offset", Int64), ("interval", interval), (shortest_ewma(spec), number)]
    return msgspec.defstruct(
        "PublishedForecast", [*row, *named, *state, ("shadow", list[shadow], [])], gc=False, kw_only=True
    )


def versions_of(record: Any) -> list[str]:
    """Return the digest of each model that forecast in a record, and published its adaptation; the served one first."""
    return [each.digest for each in (record, *record.shadow) if _has_state(each)]


def forecast_of(record: Any, digest: str) -> Any | None:
    """Return the forecast of a model in a record: the record itself or a shadow; None without a state of adaptation."""
    return next((each for each in (record, *record.shadow) if each.digest == digest and _has_state(each)), None)


def newest_of(records: Sequence[Any], digest: str) -> Sequence[Any]:
    """Return the newest records of a stream, back to the last record without a forecast of a model.

    A model that missed a row starts afresh: the row might have ended a horizon.
    """
    known = sum(1 for _ in takewhile(lambda record: forecast_of(record, digest) is not None, reversed(records)))
    return records[len(records) - known :]


def published(records: Sequence[Any], digest: str, spec: FeatureSpec) -> Published:
    """Return the columns of a model's forecasts of one stream.

    Args:
        records: of `published_type` or `prediction_type`, in order, each with a forecast of the model.
    """
    forecasts: list[Any] = [forecast_of(record, digest) for record in records]
    states = {name: field_values(forecasts, name, np.float64) for name in ("raw_score", *AdaptedBy.__struct_fields__)}
    ends = np.array([each.interval for each in forecasts], np.float64)
    pairs = zip(records, forecasts, strict=True)
    known = [not each.in_sample and getattr(record, shortest_ewma(spec)) is not None for record, each in pairs]
    return Published(
        **states,
        event_time=field_values(records, "event_time", np.int64),
        price=field_values(records, "price", np.float64),
        lower=ends[:, 0],
        upper=ends[:, 1],
        teaches=np.array(known, np.bool_),
    )


def _has_state(forecast: Any) -> bool:
    """Return whether a forecast was published with its adaptation, which those of earlier releases lack."""
    return forecast.raw_score is not None and forecast.digest is not None
