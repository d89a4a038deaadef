"""Benchmarks of the codec: records of the topics from columns, and columns from records, on rows made by the kernel."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.stream.codec import (
    Forecasts,
    decode_features,
    decode_trades,
    encode_features,
    encode_predictions,
    encode_trades,
)
from data.stream.records import Forecaster, Purpose
from data.trades import StreamKey, Trades
from data.truth.adaptation import Adaptations, RawForecasts, teaching
from tests.benchmarks.measure import Job, Row, seconds
from tests.models import model_bytes

SPEC = FeatureSpec()
SKIPPED = 50_000
"""Trades before the measured records: at first a row has many nulls, and is shorter than most."""
BATCH = 10_000
"""Records in a call, about as many as a forecaster that is behind takes at once."""


def rows(trades: Trades) -> Sequence[Row]:
    """Measure the time of one record.

    Args:
        trades: at least `SKIPPED` + `BATCH`.
    """
    made = feature_rows(trades.take(slice(0, SKIPPED + BATCH)), Windows(SPEC))
    some = made._replace(trades=made.trades.take(slice(-BATCH, None)), values=made.values[-BATCH:])
    purposes: dict[StreamKey, Purpose] = dict.fromkeys(some.trades.keys, "replay")
    offset = np.arange(BATCH)
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    scores = model.score(made.values[:, [SPEC.columns.index(column) for column in model.columns]])
    raw = RawForecasts.of(made.trades, scores, teaching(made.values, made.trades.event_time, 0, SPEC))
    states = Adaptations(SPEC)
    for part in (slice(0, -BATCH), slice(-BATCH, None)):
        forecasts = RawForecasts(**{name: column[part] for name, column in raw._asdict().items()})
        adapted = states.adapt(made.trades.keys, forecasts)
    forecaster = Forecaster(model.variant, "1", model.digest)
    served = Forecasts(forecaster, forecasts.score, adapted, np.zeros(BATCH, np.bool_))
    missing = scores.missing[-BATCH:]
    trade_records = encode_trades(some.trades, "replay")
    feature_records = encode_features(some, SPEC, purposes, 0, offset)
    ts = time.time_ns()
    jobs: dict[str, Job] = {
        "encode a trade": lambda: encode_trades(some.trades, "replay"),
        "decode a trade": lambda: decode_trades(trade_records),
        "encode a feature row": lambda: encode_features(some, SPEC, purposes, 0, offset),
        "decode a feature row": lambda: decode_features(feature_records, SPEC),
        "encode a prediction, its feature row there": lambda: encode_predictions(
            feature_records,
            ts,
            model.horizon_s,
            served,
            model.columns,
            missing,
        ),
        "the same with three shadows": lambda: encode_predictions(
            feature_records,
            ts,
            model.horizon_s,
            served,
            model.columns,
            missing,
            [served] * 3,
        ),
    }
    return [Row(name, "us", took / BATCH * 1e6) for name, took in seconds(jobs, rounds=9).items()]
