"""Restarts of both stages: the forecasts equal the forecasts of an undisturbed run, adaptation included."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.models.served import ServedModel
from data.stream.reader import RecordBlock
from data.stream.records import PREDICTIONS
from online.exactly_once.feature_stage import FeatureStage
from online.exactly_once.score_stage import ScoreStage
from online.forecaster import Forecasting
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from tests.models import model_bytes
from tests.unit.test_feature_stage import PARTITION, SPEC, FakeTopic, end_of, records_of, source

MODEL = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
VERSION = ModelVersion(MODEL, "volatility-baseline", "1", "disk")


class Pipeline:
    """Both stages between two topics in lists."""

    def __init__(self, trades: FakeTopic) -> None:
        self.trades, self.predictions, self.metrics = trades, list[bytes](), ForecasterMetrics()
        self.start()

    def start(self) -> None:
        scores = ScoreStage(SPEC, lambda: VERSION, self.read, self.metrics)
        self.stage = Forecasting(FeatureStage(SPEC, self.trades.read, self.metrics), scores, self.metrics)

    def read(self, partition: int, since_ms: int, most: int | None) -> Iterator[RecordBlock]:
        assert (partition, since_ms) == (PARTITION, 0), "simulated trades have no ingest time"
        for at in range(max(0, len(self.predictions) - (most or len(self.predictions))), len(self.predictions), 1_000):
            values = self.predictions[at : at + 1_000]
            yield RecordBlock(list(range(at, at + len(values))), values)

    def process(self, start: int, stop: int) -> None:
        records, _ = self.stage.process(self.trades.records[start:stop])
        self.predictions += [value for topic, _, _, value, _ in records if topic == PREDICTIONS]

    def forecasts(self) -> list[dict[str, Any]]:
        records = map(msgspec.json.decode, self.predictions)
        return [{name: value for name, value in record.items() if name != "ts"} for record in records]


def mixed_topic(seed: int) -> FakeTopic:
    """Return the mixed trades of three sources: the second source ends, the third begins late."""
    rng = np.random.default_rng(seed)
    queues = [records_of(source(name, n, "ETH-USD")) for name, n in (("a", 2_500), ("b", 2_000), ("c", 1_500))]
    queues[1].append(end_of("b", "ETH-USD"))
    turns = np.repeat(np.arange(3), [len(queue) for queue in queues])
    rng.shuffle(turns)
    turns = np.concatenate([turns[turns < 2][:1_000], turns[turns == 2], turns[turns < 2][1_000:]])
    mixed = [iter(queue) for queue in queues]
    topic = FakeTopic()
    topic.add(*(next(mixed[turn]) for turn in turns))
    return topic


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 5_999), min_size=1, max_size=5), st.integers(0, 3))
def test_a_restart_anywhere_leaves_the_forecasts_of_an_undisturbed_run(cuts: list[int], seed: int) -> None:
    topic = mixed_topic(seed)
    undisturbed = Pipeline(topic)
    undisturbed.process(0, len(topic.records))
    expected = undisturbed.forecasts()
    assert max(each.get("judged_horizons", 0) for each in expected) > 1
    disturbed = Pipeline(topic)
    for start, stop in pairwise(sorted({0, *cuts, len(topic.records)})):
        note = disturbed.stage.note(PARTITION, start)
        disturbed.start()
        disturbed.stage.restore(PARTITION, start, note, low=0)
        disturbed.process(start, stop)
    assert disturbed.forecasts() == expected
    assert disturbed.metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "adaptation_incomplete"}) == 0


def test_an_aborted_batch_leaves_no_trace_in_the_adaptation() -> None:
    """The loop drops and restores a partition after an aborted transaction, and reads the records again."""
    topic = mixed_topic(1)
    undisturbed, disturbed = Pipeline(topic), Pipeline(topic)
    undisturbed.process(0, len(topic.records))
    disturbed.process(0, 3_000)
    note, kept = disturbed.stage.note(PARTITION, 3_000), len(disturbed.predictions)
    disturbed.process(3_000, 4_500)
    del disturbed.predictions[kept:]
    disturbed.stage.drop(PARTITION)
    disturbed.stage.restore(PARTITION, 3_000, note, low=0)
    disturbed.process(3_000, len(topic.records))
    assert disturbed.forecasts() == undisturbed.forecasts()


def test_a_cut_partition_starts_afresh() -> None:
    topic = FakeTopic()
    topic.add(*records_of(source("a", 2_500)))
    pipeline = Pipeline(topic)
    pipeline.process(0, 2_400)
    assert pipeline.forecasts()[-1]["judged_horizons"] > 0
    pipeline.stage.cut(PARTITION)
    pipeline.process(2_400, 2_500)
    found = pipeline.forecasts()[2_400]
    assert (found["n"], found["weight"]) == (0, 60)
