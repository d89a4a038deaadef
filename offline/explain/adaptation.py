"""Remaking of a past forecast's adaptation, from the forecasts of the same model before it.

The state of the newest forecast before the last horizon is the starting point. From there on, the model scores each row
again, and the state goes forward with the kernel of the forecaster, up to the wanted forecast. In some of the records
the model may serve, in others the model may be a shadow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from data.features.spec import FeatureSpec
from data.models.served import Scores, ServedModel
from data.stream.codec import decode_records, field_values
from data.stream.published import forecast_of, newest_of, published, versions_of
from data.stream.records import prediction_type
from data.trades import StreamKey
from data.truth.adaptation import PRIOR_HORIZONS, Adaptations, Adapted, RawForecasts, reach_ns
from offline.explain.streams import Stream

STEP = 4_096
"""Offsets to read back from a forecast at first; each next reading is twice as long."""


def records_behind(stream: Stream, offset: int, spec: FeatureSpec) -> list[Any]:
    """Return a forecast and the forecasts behind its adaptations, in order, as far as the topic holds them.

    Args:
        offset: of the forecast on `predictions`.
    """
    decode = msgspec.json.Decoder(prediction_type(spec)).decode
    back = STEP
    while True:
        values, is_all = stream.forecasts_up_to(offset, back)
        records: list[Any] = []
        for record in decode_records(values, decode).records:
            if not records or records[-1].kafka_offset < record.kafka_offset:
                records.append(record)
        if is_all or (records and all(_reach_far_enough(records, each, spec) for each in versions_of(records[-1]))):
            return records
        back *= 2


def scores_of(records: Sequence[Any], model: ServedModel) -> Scores:
    """Return a model's own scores of the feature rows in some forecasts."""
    values = np.column_stack([field_values(records, name, np.float64) for name in model.columns])
    return model.score(values, [each.product_id for each in records])


def adapted_again(records: Sequence[Any], model: ServedModel, spec: FeatureSpec) -> Adapted | None:
    """Return the adaptation of a model's forecast in the last of some records, made again.

    None if forecasts behind the adaptation are gone.

    Args:
        records: see `records_behind`.
        model: a model of the last record.
    """
    digest = model.digest
    first, anchor = _bounds(records, digest, spec)
    cut = max(first, anchor)
    oldest = forecast_of(records[first], digest)
    is_fresh = oldest is not None and (oldest.weight, oldest.judged_horizons) == (PRIOR_HORIZONS, 0)
    if not (is_fresh or _reach_far_enough(records, digest, spec)):
        return None
    states, key = Adaptations(spec), StreamKey("", "")
    if cut > first:
        states.resume(key, published(records[first:cut], digest, spec))
    rows = records[cut:]
    scores = scores_of(rows, model)
    known = published(rows, digest, spec)
    columns = known.event_time, known.price, scores.score, scores.lower, scores.upper, known.teaches
    return states.adapt((key,), RawForecasts(np.zeros(len(rows), np.int32), *columns))


def _bounds(records: Sequence[Any], digest: str, spec: FeatureSpec) -> tuple[int, int]:
    """Return the index of the first forecast since a model forecasts, and of the first one of the last horizon."""
    begin = records[-1].event_time - reach_ns(spec)
    return len(records) - len(newest_of(records, digest)), sum(each.event_time < begin for each in records)


def _reach_far_enough(records: Sequence[Any], digest: str, spec: FeatureSpec) -> bool:
    """Return whether the state before the last horizon can be resumed, or the model began within the horizon."""
    first, anchor = _bounds(records, digest, spec)
    if first > anchor:
        return True
    return anchor > 0 and records[0].event_time < records[anchor - 1].event_time - reach_ns(spec)
