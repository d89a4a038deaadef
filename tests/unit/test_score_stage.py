"""The score stage, fed rows by hand; Kafka itself is in test_pipeline.py and faults/."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.simulator.day import simulate_day
from data.stream.codec import encode, encode_features
from data.stream.records import PREDICTIONS, End, prediction_type
from data.trades import StreamKey
from offline.models.cascade import Cascade
from online.exactly_once.feature_stage import EndedStream, FeatureColumns
from online.exactly_once.loop import Record
from online.exactly_once.score_stage import ScoreStage
from online.model_watch import ModelVersion
from tests.models import BASELINE, baseline, model_bytes

SPEC = FeatureSpec()
KEY = StreamKey("s", "BTC-USD")
END = encode(End(*KEY, "replay", 1_735_689_600_000_000_000, end=True))


def stage() -> ScoreStage:
    content = model_bytes()
    model = ServedModel.load(content, spec_id=SPEC.spec_id, digest=hashlib.sha256(content).hexdigest())
    version = ModelVersion(model, "volatility-baseline", "7", "disk")
    return ScoreStage(SPEC, lambda: version)


@pytest.fixture(scope="module")
def rows() -> FeatureRows:
    """3,000 feature rows, some of them before the model's half-life is reached."""
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 8), hours=(10, 11)).take(slice(0, 3_000))
    return feature_rows(replace(trades, keys=(KEY,)), Windows(SPEC))


def columns(rows: FeatureRows, part: slice) -> FeatureColumns:
    """Return some rows as the feature stage hands them on."""
    trades, values = rows.trades.take(part), rows.values[part]
    place = np.arange(3_000)[part]
    texts = encode_features(FeatureRows(trades, values, rows.status[part]), SPEC, {KEY: "replay"}, 5, place)
    product_ids, times = ["BTC-USD"] * len(texts), [1_000] * len(texts)
    return FeatureColumns(5, texts, product_ids, times, trades, values, {KEY: "replay"})


def served(version: str, fitted: Cascade = BASELINE, **metadata: str) -> ModelVersion:
    model = ServedModel.load(model_bytes(fitted, **metadata), spec_id=SPEC.spec_id)
    return ModelVersion(model, "volatility-ml", version, "registry")


def decoded(found: list[Any], topic: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(value) for where, _, _, value, _ in found if where == topic]


def test_each_row_gives_a_forecast_that_holds_its_row_and_its_model(rows: FeatureRows) -> None:
    part = columns(rows, slice(None))
    records = stage().process([part, EndedStream(5, END, "BTC-USD", 2_000)])
    found = decoded(records, PREDICTIONS)
    assert len(found) == len(records) == 3_001
    for text, forecast in zip(part.texts, found[:-1], strict=True):
        assert msgspec.json.decode(text).items() <= forecast.items()
        assert forecast["version"] == "7"
        assert forecast["digest"] == hashlib.sha256(model_bytes()).hexdigest()
    assert {record[1:3] for record in records} == {(5, "BTC-USD")}
    assert [records[i][4] for i in (0, -1)] == [1_000, 2_000]
    assert records[-1][3] == END
    written = records[5][3]
    assert written == msgspec.json.encode(msgspec.json.decode(written, type=prediction_type(SPEC)))
    last = found[-2]
    assert last["missing"] == []
    assert last["score"] == pytest.approx(np.sqrt(4 * last["ewma_variance_300"]), rel=1e-6), "scale 4, all columns"
    assert last["interval"] == pytest.approx([last["score"] * 0.5, last["score"] * 1.5], rel=1e-6)


def test_ends_stand_between_the_rows_before_and_behind_them(rows: FeatureRows) -> None:
    end = EndedStream(5, END, "BTC-USD", 2_000)
    parts: list[FeatureColumns | EndedStream] = [
        end,
        columns(rows, slice(0, 2)),
        end,
        columns(rows, slice(2, 3)),
        columns(rows, slice(3, 4)),
    ]
    found = decoded(stage().process(parts), PREDICTIONS)
    assert [record.get("kafka_offset", "end") for record in found] == ["end", 0, 1, "end", 2, 3]


def test_ends_alone_need_no_model_run() -> None:
    assert decoded(stage().process([EndedStream(5, END, "BTC-USD", 1)]), PREDICTIONS) == [msgspec.json.decode(END)]
    assert stage().process([]) == []


def test_a_score_has_the_same_bytes_in_any_batch(rows: FeatureRows) -> None:
    def without_time(found: list[Record]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "ts"} for row in decoded(found, PREDICTIONS)]

    shared = stage()
    whole = without_time(shared.process([columns(rows, slice(None))]))
    for size in (1, 2, 7, 1_000):
        few = min(3_000, 40 * size)
        slices = [slice(at, min(at + size, few)) for at in range(0, few, size)]
        parts = [row for each in slices for row in without_time(shared.process([columns(rows, each)]))]
        assert parts == whole[:few], size


@pytest.mark.parametrize(
    ("event_time", "in_sample"), [("2010-01-09T00:00:00.000000000Z", True), ("2010-01-09T00:00:00.000000001Z", False)]
)
def test_a_row_as_late_as_the_training_data_is_marked(rows: FeatureRows, event_time: str, in_sample: bool) -> None:
    """The test model says that its training ended at 2010-01-09T00:00:00Z."""
    part = columns(rows, slice(0, 1))
    time_ns = np.array([event_time[:-1]], "M8[ns]").view(np.int64)
    part = part._replace(trades=replace(part.trades, event_time=time_ns))
    [forecast] = decoded(stage().process([part]), PREDICTIONS)
    assert forecast["in_sample"] is in_sample


def test_a_batch_ends_with_the_model_with_which_it_began_and_the_next_has_the_new_one(rows: FeatureRows) -> None:
    """The second model reads another column, says of itself that it saw the data, and forecasts sqrt(9 * variance)."""
    other = baseline("ewma_variance_60", 9.0)
    first = served("1")
    second = served("2", other, train_end="2026-01-01T00:00:00Z", variant="ml")
    asked = iter([first, first, second, first])
    scores_of = ScoreStage(SPEC, lambda: next(asked))  # the first answer is for its start
    part = columns(rows, slice(2_000, 2_500))
    for model, column, scale in (
        (first, "ewma_variance_300", 4.0),
        (second, "ewma_variance_60", 9.0),
        (first, "ewma_variance_300", 4.0),
    ):
        found = decoded(scores_of.process([part]), PREDICTIONS)
        assert {row["version"] for row in found} == {model.version}
        assert {row["digest"] for row in found} == {model.model.digest}
        assert {row["model_variant"] for row in found} == {model.model.variant}
        assert {row["in_sample"] for row in found} == {model is second}
        assert {tuple(row["missing"]) for row in found} <= {(), (column,)}
        scores = [(row["score"], (scale * row[column]) ** 0.5) for row in found if not row["missing"]]
        assert scores
        for score, expected in scores:
            assert score == pytest.approx(expected, rel=1e-6)
