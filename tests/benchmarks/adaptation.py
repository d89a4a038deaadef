"""Benchmark of adaptation: the forecaster beside itself with a learner that does nothing, and both without a broker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import cast
from unittest.mock import patch

import numpy as np

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.stream import codec
from data.stream.records import Forecaster, Purpose
from data.trades import StreamKey, Trades
from data.truth.adaptation import Adaptations, RawForecasts, teaching
from tests.benchmarks.measure import Row
from tests.benchmarks.streams import UNADAPTED, rates
from tests.benchmarks.unadapted import NoLearner, NoState
from tests.models import model_bytes

SPEC = FeatureSpec()
PAIRS = 9
ALONE = 100_000
"""Trades without a broker."""
BATCH = 2_000


def rows(trades: Trades) -> Sequence[Row]:
    """Measure throughput and processor time with adaptation beside without, in pairs."""
    found = rates(trades, PAIRS, ["", UNADAPTED])
    ratio = statistics.median(ours / other for ours, other in zip(found[""], found[UNADAPTED], strict=True))
    ours, other = alone(trades.take(slice(0, ALONE)))
    return [
        Row(f"throughput with adaptation relative to without, median of {PAIRS} pairs", "times", ratio),
        Row("adapt a forecast and encode the prediction, processor time", "us", ours, {"without adaptation": other}),
    ]


def alone(trades: Trades) -> tuple[float, float]:
    """Return the processor time of a forecast from score to record, with and without adaptation, in us."""
    made = feature_rows(trades, Windows(SPEC))
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    scores = model.score(made.values[:, SPEC.places(model.columns)])
    purposes: dict[StreamKey, Purpose] = dict.fromkeys(trades.keys, "replay")
    texts = codec.encode_features(made, SPEC, purposes, 0, np.arange(len(trades)))
    forecaster = Forecaster(model.variant, "1", model.digest)

    def forecast(learner: Callable[[FeatureSpec], Adaptations], state: type) -> float:
        states = learner(SPEC)
        began = time.process_time()
        with patch.object(codec, "AdaptedBy", state):
            for start in range(0, len(trades), BATCH):
                part = slice(start, start + BATCH)
                some, mine = made.trades.take(part), scores.take(part)
                teaches = teaching(made.values[part], some.event_time, 0, SPEC)
                adapted = states.adapt(some.keys, RawForecasts.of(some, mine, teaches))
                in_sample = np.zeros(len(some), np.bool_)
                codec.encode_predictions(
                    texts[part],
                    0,
                    model.horizon_s,
                    codec.Forecasts(forecaster, mine.score, adapted, in_sample),
                    model.columns,
                    mine.missing,
                )
        return (time.process_time() - began) / len(trades) * 1e6

    with_state = cast(type, vars(codec)["AdaptedBy"])
    took = [(forecast(Adaptations, with_state), forecast(NoLearner, NoState)) for _ in range(PAIRS + 1)][1:]
    return statistics.median(ours for ours, _ in took), statistics.median(other for _, other in took)
