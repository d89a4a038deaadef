"""The scorer's stage, fed records by hand; Kafka itself is in test_pipeline.py and faults/."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from data.features import Windows, feature_rows
from data.serving import ServedModel
from data.simulator import simulate_day
from data.spec import FeatureSpec
from data.topics import FEATURES, PREDICTIONS, REJECTED, End, encode, encode_features, prediction_type
from data.trades import StreamKey
from offline.baseline import Baseline
from online.kafka import Incoming
from online.metrics import Metrics
from online.model_watch import ModelVersion
from online.scorer import ScoreStage
from tests.models import BASELINE, model_bytes

SPEC = FeatureSpec()


def stage() -> ScoreStage:
    content = model_bytes()
    model = ServedModel.load(content, spec_id=SPEC.spec_id, digest=hashlib.sha256(content).hexdigest())
    version = ModelVersion(model, "volatility-baseline", "7", "disk")
    return ScoreStage(SPEC, lambda: version, Metrics())


@pytest.fixture(scope="module")
def records() -> list[Incoming]:
    """3,000 feature rows, some of them before the model's half-life is reached, and the end of their source."""
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 8), hours=(10, 11)).take(slice(0, 3_000))
    trades = replace(trades, keys=(StreamKey("s", "BTC-USD"),))
    rows = feature_rows(trades, Windows(SPEC))
    place = np.arange(3_000)
    values = encode_features(rows, SPEC, {trades.keys[0]: "replay"}, place * 0 + 5, place + 100)
    values.append(encode(End("s", "BTC-USD", "replay", "2025-01-01T00:00:00Z", end=True)))
    return [Incoming(FEATURES, 5, i, value, 1_000) for i, value in enumerate(values)]


def served(version: str, baseline: Baseline = BASELINE, **metadata: str) -> ModelVersion:
    model = ServedModel.load(model_bytes(baseline, **metadata), spec_id=SPEC.spec_id)
    return ModelVersion(model, "volatility-ml", version, "registry")


def decoded(found: list[Any], topic: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(value) for where, _, _, value, _ in found if where == topic]


def test_each_row_gives_a_forecast_that_holds_its_row_and_its_model(records: list[Incoming]) -> None:
    found = decoded(stage().process(records), PREDICTIONS)
    assert len(found) == 3_001
    for row, forecast in zip(records, found[:-1], strict=False):
        features = msgspec.json.decode(row.value)
        assert features.items() <= forecast.items()
        assert forecast["version"] == "7"
        assert forecast["digest"] == hashlib.sha256(model_bytes()).hexdigest()
    assert found[-1]["end"] is True
    written = [value for _, _, _, value, _ in stage().process(records)[:-1]]
    assert written[5] == msgspec.json.encode(msgspec.json.decode(written[5], type=prediction_type(SPEC)))
    last = found[-2]
    assert last["missing"] == []
    assert last["score"] == pytest.approx(np.sqrt(4 * last["ewma_variance_300"]), rel=1e-6), "scale 4, all columns"
    assert last["interval"] == pytest.approx([last["score"] * 0.5, last["score"] * 1.5], rel=1e-6)


def test_a_batch_without_rows_counts_nothing_again(records: list[Incoming]) -> None:
    metrics = Metrics()
    content = model_bytes()
    model = ServedModel.load(content, spec_id=SPEC.spec_id)
    version = ModelVersion(model, "volatility-baseline", "7", "disk")
    scorer = ScoreStage(SPEC, lambda: version, metrics)
    for batch in (records[:10], records[-1:]):
        scorer.process(batch)
        scorer.committed()
    written = metrics.registry.get_sample_value("cryptovol_messages_out_total", {"topic": PREDICTIONS})
    assert written == 10


def test_a_score_has_the_same_bytes_in_any_batch(records: list[Incoming]) -> None:
    def without_time(found: list[Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "ts"} for row in decoded(found, PREDICTIONS)]

    shared = stage()
    whole = without_time(shared.process(records))
    for size in (1, 2, 7, 1_000):
        few = records[: min(len(records), 40 * size)]
        parts = [row for at in range(0, len(few), size) for row in shared.process(few[at : at + size])]
        assert without_time(parts) == whole[: len(few)], size


def test_rows_of_another_spec_and_broken_ones_are_rejected(records: list[Incoming]) -> None:
    other = records[0]._replace(value=records[0].value.replace(SPEC.spec_id.encode(), b"0123456789ab"))
    broken = records[1]._replace(value=b'{"source_id": 1}')
    no_time = records[3]._replace(value=records[3].value.replace(b'"ingest_time":"', b'"ingest_time":"x'))
    huge = records[4]._replace(value=records[4].value.replace(b'"n":4,', b'"n":1' + b"0" * 400 + b","))
    found = stage().process([other, broken, records[2], no_time, huge])
    assert [row["trade_id"] for row in decoded(found, PREDICTIONS)] == [
        msgspec.json.decode(records[2].value)["trade_id"]
    ]
    reasons = {row["where"]: row["reason"] for row in decoded(found, REJECTED)}
    assert "of feature spec 0123456789ab" in reasons["features[5]@0"]
    assert "source_id" in reasons["features[5]@1"]
    assert "ingest_time: a time must be UTC" in reasons["features[5]@3"]
    assert "$.n" in reasons["features[5]@4"]


def test_a_row_in_any_form_of_json_gives_the_same_forecast(records: list[Incoming]) -> None:
    """Blanks take a row out of our own layout, so it goes through the general parser."""
    blanks = [record._replace(value=record.value.replace(b',"', b', "')) for record in records]
    mixed = [blank if i % 3 else record for i, (record, blank) in enumerate(zip(records, blanks, strict=True))]
    shared = stage()
    expected = [row | {"ts": None} for row in decoded(shared.process(records), PREDICTIONS)]
    assert [row | {"ts": None} for row in decoded(shared.process(mixed), PREDICTIONS)] == expected


@pytest.mark.parametrize(
    ("event_time", "in_sample"), [("2010-01-09T00:00:00.000000000Z", True), ("2010-01-09T00:00:00.000000001Z", False)]
)
def test_a_row_as_late_as_the_training_data_is_marked(
    records: list[Incoming], event_time: str, in_sample: bool
) -> None:
    """The test model says that its training ended at 2010-01-09T00:00:00Z."""
    row = msgspec.json.decode(records[0].value) | {"event_time": event_time}
    [forecast] = decoded(stage().process([records[0]._replace(value=msgspec.json.encode(row))]), PREDICTIONS)
    assert forecast["in_sample"] is in_sample


def test_a_batch_ends_with_the_model_with_which_it_began_and_the_next_has_the_new_one(records: list[Incoming]) -> None:
    """The second model reads another column, says of itself that it saw the data, and forecasts sqrt(9 * variance)."""
    columns = ("n", "ret_mean", "ret_std", "ewma_variance_60")
    other = replace(BASELINE, columns=columns, scale=9.0)
    first = served("1")
    second = served("2", other, columns=",".join(columns), train_end="2026-01-01T00:00:00Z", variant="ml")
    asked = iter([first, first, second, first])
    scorer = ScoreStage(SPEC, lambda: next(asked), Metrics())  # the first answer is for its start
    rows = records[2_000:2_500]
    for model, column, scale in (
        (first, "ewma_variance_300", 4.0),
        (second, "ewma_variance_60", 9.0),
        (first, "ewma_variance_300", 4.0),
    ):
        found = decoded(scorer.process(rows), PREDICTIONS)
        assert {row["version"] for row in found} == {model.version}
        assert {row["digest"] for row in found} == {model.model.digest}
        assert {row["model_variant"] for row in found} == {model.model.variant}
        assert {row["in_sample"] for row in found} == {model is second}
        assert {tuple(row["missing"]) for row in found} <= {(), (column,)}
        scores = [(row["score"], (scale * row[column]) ** 0.5) for row in found if not row["missing"]]
        assert scores
        for score, expected in scores:
            assert score == pytest.approx(expected, rel=1e-6)
