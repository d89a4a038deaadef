"""The score stage, fed rows by hand; Kafka itself is in test_pipeline.py and faults/."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.simulator.day import simulate_day
from data.stream.codec import encode, encode_features
from data.stream.reader import RecordBlock
from data.stream.records import ADAPTATION_FIELDS, PREDICTIONS, End, prediction_type
from data.trades import StreamKey
from data.truth.adaptation import reach_ns
from offline.explain.adaptation import adapted_again
from offline.models.cascade import Cascade
from online.exactly_once.feature_stage import EndedStream, FeatureColumns, StreamTail
from online.exactly_once.loop import Record
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from tests.models import BASELINE, baseline, model_bytes

SPEC = FeatureSpec()
KEY = StreamKey("s", "BTC-USD")
END = encode(End(*KEY, "replay", 1_735_689_600_000_000_000, end=True))


def stage() -> ScoreStage:
    content = model_bytes()
    model = ServedModel.load(content, spec_id=SPEC.spec_id, digest=hashlib.sha256(content).hexdigest())
    version = ModelVersion(model, "volatility-baseline", "7", "disk")
    return ScoreStage(SPEC, lambda: version, lambda *_: (), ForecasterMetrics())


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
    records = stage().process([part, EndedStream(5, END, KEY, 2_000)])
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
    assert last["raw_score"] == pytest.approx(np.sqrt(4 * last["ewma_variance_300"]), rel=1e-6), "scale 4, all columns"
    assert last["interval"] == pytest.approx([last["score"] * 0.5, last["score"] * 1.5], rel=1e-6)
    scale = last["weighted_sum"] / last["weight"]
    assert last["score"] == pytest.approx(last["raw_score"] * scale**0.5)
    assert scale != 1
    assert [found[0][name] for name in ADAPTATION_FIELDS[1:]] == [60, 60, 0, 0, 0]


def test_a_forecast_of_an_earlier_release_has_no_adaptation_and_is_readable(rows: FeatureRows) -> None:
    [record] = stage().process([columns(rows, slice(0, 1))])
    fields = msgspec.json.decode(record[3])
    older = msgspec.json.encode({name: value for name, value in fields.items() if name not in ADAPTATION_FIELDS})
    read = msgspec.json.decode(older, type=prediction_type(SPEC))
    assert read.score == fields["score"]
    assert {getattr(read, name) for name in ADAPTATION_FIELDS} == {None}


def test_ends_stand_between_the_rows_before_and_behind_them(rows: FeatureRows) -> None:
    end = EndedStream(5, END, KEY, 2_000)
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
    assert decoded(stage().process([EndedStream(5, END, KEY, 1)]), PREDICTIONS) == [msgspec.json.decode(END)]
    assert stage().process([]) == []


def test_a_score_has_the_same_bytes_in_any_batch(rows: FeatureRows) -> None:
    def without_time(found: list[Record]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "ts"} for row in decoded(found, PREDICTIONS)]

    whole = without_time(stage().process([columns(rows, slice(None))]))
    for size in (1, 2, 7, 1_000):
        few, shared = min(3_000, 400 * size), stage()
        slices = [slice(at, min(at + size, few)) for at in range(0, few, size)]
        parts = [row for each in slices for row in without_time(shared.process([columns(rows, each)]))]
        assert parts == whole[:few], size


def test_a_young_forecast_is_made_again_with_the_prior_of_its_product(rows: FeatureRows) -> None:
    """The first row has no return: the score is the root of the product's prior, 4e-6, and not of all products'."""
    version = served("1", replace(BASELINE, priors={"": 1e-6, "BTC-USD": 4e-6}))
    scores_of = ScoreStage(SPEC, lambda: version, lambda *_: (), ForecasterMetrics())
    (_, _, _, text, _) = scores_of.process([columns(rows, slice(0, 1))])[0]
    record = msgspec.json.decode(text, type=prediction_type(SPEC))
    again = adapted_again([record], version.model, SPEC)
    assert again is not None
    assert again.score[0] == record.score == pytest.approx(2e-3)


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
    scores_of = ScoreStage(
        SPEC, lambda: next(asked), lambda *_: (), ForecasterMetrics()
    )  # the first answer is for its start
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
        scores = [(row["raw_score"], (scale * row[column]) ** 0.5) for row in found if not row["missing"]]
        assert scores
        for score, expected in scores:
            assert score == pytest.approx(expected, rel=1e-6)


class PublishedTopic:
    """One partition of `predictions`, in a list; its first records may be hidden from the first looks.

    Attributes:
        aborted: offsets that aborted transactions have among the newest.
        read_rows: number of records in all blocks that were read.
    """

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.looks = self.aborted = self.read_rows = 0
        self.shown: Iterator[int] = iter(())  # by look, how many records are visible

    def read(self, partition: int, since_ms: int, most: int | None) -> Iterator[RecordBlock]:
        assert (partition, since_ms) == (5, 0)
        self.looks += 1
        count = next(self.shown, len(self.values))
        for at in range(0 if most is None else max(0, count - max(0, most - self.aborted)), count, 100):
            values = self.values[at : min(at + 100, count)]
            self.read_rows += len(values)
            yield RecordBlock(list(range(at, at + len(values))), values)


def tail(rows: FeatureRows, end: int) -> StreamTail:
    """Return the tail of the stream before a row."""
    times = rows.trades.event_time
    first = int(np.searchsorted(times[:end], times[end - 1] - reach_ns(SPEC)))
    return StreamTail(0, first, end - 1)


def equal_but_for_time(found: list[Record]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "ts"} for row in decoded(found, PREDICTIONS)]


def resumed(topic: PublishedTopic, tails: dict[StreamKey, StreamTail], metrics: ForecasterMetrics) -> ScoreStage:
    again = ScoreStage(SPEC, stage()._serving, topic.read, metrics)
    again.restore(5, tails)
    return again


@pytest.mark.parametrize("aborted", [0, 2_000])
@pytest.mark.parametrize("end", [1, 2, 700, 1_500, 2_999])
def test_a_stage_resumed_from_the_topic_goes_on_with_the_same_bytes(rows: FeatureRows, end: int, aborted: int) -> None:
    """Where aborted transactions fill the end of the topic, the forecasts are found by their time."""
    whole = stage().process([columns(rows, slice(None))])
    topic = PublishedTopic()
    topic.aborted = aborted
    topic.values = [record[3] for record in whole[:end]]
    metrics = ForecasterMetrics()
    again = resumed(topic, {KEY: tail(rows, end)}, metrics)
    assert equal_but_for_time(again.process([columns(rows, slice(end, None))])) == equal_but_for_time(whole[end:])
    needed = end - tail(rows, end).first
    assert topic.read_rows <= (2 * needed + 100 if not aborted else end + 100), "not the topic from its begin"
    assert metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "adaptation_incomplete"}) == 0


def test_a_stage_waits_for_forecasts_that_are_not_visible_yet(rows: FeatureRows) -> None:
    whole = stage().process([columns(rows, slice(None))])
    topic = PublishedTopic()
    topic.values, topic.shown = [record[3] for record in whole[:1_500]], iter((0, 1_400))
    again = resumed(topic, {KEY: tail(rows, 1_500)}, ForecasterMetrics())
    assert topic.looks == 3
    assert equal_but_for_time(again.process([columns(rows, slice(1_500, None))])) == equal_but_for_time(whole[1_500:])


def test_expired_forecasts_are_counted_and_their_stream_starts_afresh(
    rows: FeatureRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("online.exactly_once.resumption.VISIBLE_S", 0.0)
    metrics = ForecasterMetrics()
    again = resumed(PublishedTopic(), {KEY: tail(rows, 1_500)}, metrics)
    [first] = decoded(again.process([columns(rows, slice(1_500, 1_501))]), PREDICTIONS)
    assert first["weight"] == 60
    assert metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "adaptation_incomplete"}) == 1


def test_a_dropped_partition_and_an_ended_stream_start_afresh(rows: FeatureRows) -> None:
    some = stage()
    part = columns(rows, slice(None))
    first = equal_but_for_time(some.process([part]))
    assert first[-1]["judged_horizons"] > 0
    some.drop(5)
    assert equal_but_for_time(some.process([part, EndedStream(5, END, KEY, 1), part]))[:3_000] == first
    assert equal_but_for_time(some.process([EndedStream(5, END, KEY, 1), part]))[1:] == first


def beside(served_by: ModelVersion, *shadows: ModelVersion) -> ScoreStage:
    return ScoreStage(SPEC, lambda: served_by, lambda *_: (), ForecasterMetrics(), lambda: shadows)


FIRST = served("1")
SECOND = served("2", baseline("ewma_variance_60", 9.0), train_end="2026-01-01T00:00:00Z", variant="ml")
THIRD = served("3", baseline(scale=0.7))

OWN = ("score", "interval", *ADAPTATION_FIELDS, "model_variant", "version", "digest", "in_sample")
"""Fields of a forecast that do not depend on the other models of its record."""


def own(forecast: dict[str, Any]) -> dict[str, Any]:
    return {name: forecast[name] for name in OWN}


def test_a_shadow_forecasts_in_the_same_record_what_it_would_forecast_alone(rows: FeatureRows) -> None:
    """The second model is in-sample and never learns; the others learn, each from its own forecasts."""
    part = columns(rows, slice(None))
    records = beside(FIRST, SECOND, THIRD).process([part])
    together = decoded(records, PREDICTIONS)
    for place, model in enumerate((FIRST, SECOND, THIRD)):
        alone = decoded(beside(model).process([part]), PREDICTIONS)
        assert [each["shadow"] for each in alone] == [[]] * 3_000
        mine = [each if place == 0 else each["shadow"][place - 1] for each in together]
        assert list(map(own, mine)) == list(map(own, alone))
        assert (mine[-1]["judged_horizons"] > 0) is (model is not SECOND)
    for _, _, _, written, _ in records[::100]:
        assert written == msgspec.json.encode(msgspec.json.decode(written, type=prediction_type(SPEC)))
    assert [len(each["shadow"]) for each in together] == [2] * 3_000


def test_the_forecast_that_serves_has_the_same_bytes_with_shadows_and_without(rows: FeatureRows) -> None:
    part = columns(rows, slice(None))
    alone = equal_but_for_time(beside(FIRST).process([part]))
    together = equal_but_for_time(beside(FIRST, SECOND, THIRD).process([part]))
    assert [each | {"shadow": []} for each in together] == alone


def test_a_shadow_with_the_file_of_another_model_is_not_scored_twice(rows: FeatureRows) -> None:
    again, third_again = served("8"), served("9", baseline(scale=0.7))
    [forecast] = decoded(beside(FIRST, again, THIRD, third_again).process([columns(rows, slice(1))]), PREDICTIONS)
    assert [each["digest"] for each in forecast["shadow"]] == [THIRD.model.digest]


def test_a_promoted_shadow_goes_on_with_its_adaptation(rows: FeatureRows) -> None:
    alone = decoded(beside(THIRD).process([columns(rows, slice(None))]), PREDICTIONS)
    serving = [FIRST]
    shadows: list[tuple[ModelVersion, ...]] = [(THIRD,)]
    stage = ScoreStage(SPEC, lambda: serving[0], lambda *_: (), ForecasterMetrics(), lambda: shadows[0])
    before = decoded(stage.process([columns(rows, slice(0, 2_500))]), PREDICTIONS)
    serving[0] = THIRD  # the shadow of before is still in the tuple
    after = decoded(stage.process([columns(rows, slice(2_500, 2_800))]), PREDICTIONS)
    shadows[0] = ()
    after += decoded(stage.process([columns(rows, slice(2_800, None))]), PREDICTIONS)
    assert {each["version"] for each in before} == {"1"}
    assert [own(each["shadow"][0]) for each in before] + [own(each) for each in after] == list(map(own, alone))
    assert [each["shadow"] for each in after] == [[]] * 500


class Failing:
    """A model whose next answers can be spoiled."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self.answer: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def score(self, *given: Any) -> Any:
        return self.answer(self._model.score(*given))


def raises(_: object) -> None:
    raise RuntimeError("no memory for the shadow")


def without_a_number(scores: Any) -> Any:
    return replace(scores, upper=np.full(len(scores.upper), np.nan))


@pytest.mark.parametrize(
    ("spoil", "reason"), [(raises, "no memory for the shadow"), (without_a_number, "500 of 500 scores are not finite")]
)
def test_a_failing_shadow_is_counted_costs_no_forecast_and_starts_afresh(
    rows: FeatureRows, spoil: Any, reason: str
) -> None:
    model: Any = Failing(THIRD.model)
    metrics = ForecasterMetrics()
    failing = ModelVersion(model, "volatility-ml", "3", "registry")
    stage = ScoreStage(SPEC, lambda: FIRST, lambda *_: (), metrics, lambda: (failing, SECOND))
    slices = [slice(0, 1_000), slice(1_000, 1_500), slice(1_500, 2_000), slice(2_000, 3_000)]
    found = []
    with capture_logs() as logged:
        for part, answer in zip(slices, (lambda scores: scores, spoil, spoil, lambda scores: scores), strict=True):
            model.answer = answer
            found.append(decoded(stage.process([columns(rows, part)]), PREDICTIONS))
    alone = decoded(beside(FIRST).process([columns(rows, slice(None))]), PREDICTIONS)
    assert [own(each) for part in found for each in part] == list(map(own, alone))
    versions = [{tuple(shadow["version"] for shadow in each["shadow"]) for each in part} for part in found]
    assert versions == [{("3", "2")}, {("2",)}, {("2",)}, {("3", "2")}]
    assert found[3][0]["shadow"][0]["weight"] == 60
    assert (
        metrics.registry.get_sample_value(
            "cryptovol_shadow_failures_total", {"model_variant": "baseline", "version": "3"}
        )
        == 2
    )
    [line] = logged
    assert reason in line["reason"]


@pytest.mark.parametrize("end", [1, 700, 1_500, 2_999])
def test_shadows_resumed_from_the_topic_go_on_with_the_same_bytes(rows: FeatureRows, end: int) -> None:
    """In the newest 100 records another model serves: each model goes on from its own forecasts."""
    serving = [FIRST]
    whole = ScoreStage(SPEC, lambda: serving[0], lambda *_: (), ForecasterMetrics(), lambda: (THIRD, SECOND, FIRST))
    cut = max(0, end - 100)
    first = whole.process([columns(rows, slice(0, cut))])
    serving[0] = THIRD
    first += whole.process([columns(rows, slice(cut, end))])
    topic = PublishedTopic()
    topic.values = [record[3] for record in first]
    again = ScoreStage(SPEC, lambda: THIRD, topic.read, ForecasterMetrics(), lambda: (FIRST, SECOND))
    again.restore(5, {KEY: tail(rows, end)})
    rest = columns(rows, slice(end, None))
    expected, found = (equal_but_for_time(each.process([rest])) for each in (whole, again))
    assert [each | {"shadow": []} for each in found] == [each | {"shadow": []} for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert sorted(one["shadow"], key=str) == sorted(other["shadow"], key=str)


def test_a_shadow_that_missed_a_row_before_a_start_starts_afresh_behind_the_row(rows: FeatureRows) -> None:
    shadows: list[tuple[ModelVersion, ...]] = [(THIRD,)]
    whole = ScoreStage(SPEC, lambda: FIRST, lambda *_: (), ForecasterMetrics(), lambda: shadows[0])
    first = whole.process([columns(rows, slice(0, 1_400))])
    shadows[0] = ()
    first += whole.process([columns(rows, slice(1_400, 1_401))])
    shadows[0] = (THIRD,)
    first += whole.process([columns(rows, slice(1_401, 1_500))])
    topic = PublishedTopic()
    topic.values = [record[3] for record in first]
    again = ScoreStage(SPEC, lambda: FIRST, topic.read, ForecasterMetrics(), lambda: (THIRD,))
    again.restore(5, {KEY: tail(rows, 1_500)})
    rest = columns(rows, slice(1_500, None))
    assert equal_but_for_time(again.process([rest])) == equal_but_for_time(whole.process([rest]))


def test_the_shadow_of_a_record_is_made_again(rows: FeatureRows) -> None:
    records = beside(FIRST, SECOND, THIRD).process([columns(rows, slice(None))])
    read = [msgspec.json.decode(record[3], type=prediction_type(SPEC)) for record in records]
    for end in (1, 1_000, 3_000):
        for place, model in enumerate((SECOND, THIRD)):
            again = adapted_again(read[:end], model.model, SPEC)
            assert again is not None
            shadow = read[end - 1].shadow[place]
            assert (again.score[-1], (again.lower[-1], again.upper[-1])) == (shadow.score, shadow.interval)
            assert again.weighted_sum[-1] == shadow.weighted_sum
