"""The lake gives the records of a stream as their topic did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.models.kept import save_last_good
from data.models.registry import Registry
from data.models.served import ServedModel
from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.clients import Incoming
from data.stream.codec import encode_trades
from data.stream.reader import RecordBlock
from data.stream.records import PREDICTIONS, TRADES, Shadow, partition_of
from data.times import DAY_S, NS
from data.trades import StreamKey, Trades
from offline.explain import remake
from offline.explain.findings import EXPIRED, Explanation
from offline.explain.remake import Explainer
from offline.explain.report import described
from offline.explain.streams import ForecastNotFound
from offline.lake.store import Lake
from offline.served.compaction import compact
from offline.served.kept.begins import Begin
from offline.served.kept.records import kept_records
from offline.served.retention import remove_old
from offline.served.sink import sink
from online.exactly_once.feature_stage import FeatureStage
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from tests.models import model_bytes, model_file
from tests.served import FakeTopic, end, record

DAY_NS = DAY_S * NS
SPEC = FeatureSpec()
KEY = StreamKey("kept", "BTC-USD")
PARTITION = partition_of("BTC-USD")


class FakeTopics:
    """A broker with two topics of one partition, with the methods of `TopicReader`; it keeps no beginnings of sources.

    Attributes:
        topics: by name.
        is_away: every question fails.
    """

    def __init__(self, topics: dict[str, FakeTopic]) -> None:
        self.topics, self.is_away = topics, False

    def __call__(self, *_: object, **__: object) -> FakeTopics:
        return self

    def __enter__(self) -> FakeTopics:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def topic_id(self, topic: str) -> str:
        if self.is_away:
            raise NotRead("no broker answers")
        return self.topics[topic].id

    def partitions(self, topic: str) -> list[int]:
        return self.topics[topic].partitions(topic)

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        return self.topics[topic].span(topic, partition)

    def offset_at(self, topic: str, partition: int, _time_ms: int) -> int:
        return self.span(topic, partition)[0]

    def committed(self, _topic: str, _partitions: object) -> dict[int, tuple[int, str]]:
        return {}

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        return self.topics[topic].read(topic, partition, start, end)

    def expire(self, topic: str, before: int) -> None:
        self.topics[topic].low[PARTITION] = before


def a_day() -> Trades:
    """Five hours with a trade each 2 s: rows of the last hour do not reach back to the first trades."""
    n = 9_000
    rng = np.random.default_rng(3)
    at = (1_700_000_000 + 2 * np.arange(n)) * NS + rng.integers(0, NS, n) // 2
    price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, n)))
    return Trades((KEY,), np.zeros(n, np.int32), np.arange(1, n + 1), at, at, price, np.ones(n), np.zeros(n, np.int8))


def forecast(trades: Trades) -> dict[str, FakeTopic]:
    """Return the topics with some trades and their forecasts, after 700 records of another source."""
    others = {TRADES: [record(TRADES, i + 1, 10**18, "other") for i in range(700)],
              PREDICTIONS: [record(PREDICTIONS, i + 1, 10**18, "other") for i in range(700)]}  # fmt: skip
    texts = encode_trades(trades, "replay")
    incoming = [Incoming(TRADES, PARTITION, 700 + i, text, 1_000) for i, text in enumerate(texts)]
    rows = FeatureStage(SPEC, lambda *_: (), ForecasterMetrics()).process(incoming)
    served = ModelVersion(ServedModel.load(model_bytes(), spec_id=SPEC.spec_id), "volatility-baseline", "1", "disk")
    stage = ScoreStage(SPEC, lambda: served, lambda *_: (), ForecasterMetrics(), tuple)
    scored = [value for *_, value, _ in stage.process(rows.parts)]
    values: dict[str, list[bytes | None]] = {
        TRADES: [*others[TRADES], *texts, end("kept")],
        PREDICTIONS: [*others[PREDICTIONS], *scored, end("kept")],
    }
    return {topic: FakeTopic({PARTITION: each}, block=500) for topic, each in values.items()}


def test_a_forecast_is_explained_alike_from_topics_from_both_and_from_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trades expire in part, then all records do; the topics are made anew, and the broker goes away."""
    trades = a_day()
    topics, lake, models = FakeTopics(forecast(trades)), Lake.open(tmp_path / "lake"), tmp_path / "models"
    save_last_good(models, model_file(version="1"))
    for topic, fake in topics.topics.items():
        sink(lake, fake.reader, topic)
    lake.objects.put("served/begins/kept.json", msgspec.json.encode(Begin("kept", {PARTITION: 700}, "")), None)
    monkeypatch.setattr(remake, "TopicReader", topics)

    def explained(lake: Lake | None) -> list[Explanation]:
        explainer = Explainer(KafkaSettings(), Registry("http://127.0.0.1:9"), models, SPEC, lake)
        return explainer.explain(KEY, [1, 2, 3_000, 5_000, len(trades)])

    def answers(found: list[Explanation]) -> list[Any]:
        said = [described(each, all_trades=True) for each in found]
        return [[each["place"].pop("read_from"), each][1] for each in said]

    found = explained(lake)
    before = answers(found)
    equal = {"trades": "equal", "row": "equal", "score": "equal", "model": "equal"}
    assert all(equal.items() <= {each.part: each.outcome for each in one.findings}.items() for one in found)
    assert {(each.forecast_from, each.trades_from) for each in found} == {("topic", "topic")}
    assert answers(explained(None)) == before

    topics.expire(TRADES, 700 + 4_000)
    found = explained(lake)
    assert answers(found) == before
    assert {(each.forecast_from, each.trades_from) for each in found} == {("topic", "lake")}
    assert {each.exit_code for each in explained(None)} == {EXPIRED}

    topics.expire(PREDICTIONS, 700 + 6_000)
    found = explained(lake)
    assert answers(found) == before
    assert [each.forecast_from for each in found] == ["lake"] * 4 + ["topic"]

    for topic in (TRADES, PREDICTIONS):
        topics.expire(topic, topics.span(topic, PARTITION)[1])
    assert answers(explained(lake)) == before
    with pytest.raises(ForecastNotFound):
        explained(None)

    for topic in (TRADES, PREDICTIONS):
        topics.topics[topic] = FakeTopic({PARTITION: [record(topic, 1, 10**18, "new")]})
        topics.topics[topic].id = "another"
    found = explained(lake)
    assert answers(found) == before
    assert {(each.forecast_from, each.trades_from) for each in found} == {("lake", "lake")}

    topics.is_away = True
    assert answers(explained(lake)) == before
    with pytest.raises(NotRead):
        explained(Lake.open(tmp_path / "empty"))


def test_records_come_from_the_lake_as_they_were_written(tmp_path: Path) -> None:
    """Sixty records of two sources on two days, in files of the sink and in merged files; read from each offset on."""
    values: list[bytes | None] = [
        record(PREDICTIONS, i, DAY_NS * (1 + i // 40) + i, "one" if i % 3 else "two") for i in range(60)
    ]
    values[7] = None
    fake, lake = FakeTopic({3: values}), Lake.open(tmp_path)
    for count in (20, 45, 60):
        part = FakeTopic({3: values[:count]})
        sink(lake, part.reader, PREDICTIONS)
    wanted = {offset: value for offset, value in fake.kept(3) if offset % 3}
    for _ in range(2):
        kept = kept_records(lake, StreamKey("one", "BTC-USD"))
        assert kept.span(PREDICTIONS, 3) == (1, 60), "offset 0 is of the other source"
        for start, stop in [(0, 60), *((i, i + 9) for i in range(60))]:
            blocks = kept.read(PREDICTIONS, 3, start, stop)
            found = {at: value for block in blocks for at, value in zip(block.offsets, block.values, strict=True)}
            expected = {offset: value for offset, value in wanted.items() if start <= offset < stop}
            assert list(found) == sorted(expected)
            assert {o: msgspec.json.decode(v) for o, v in found.items()} == {
                offset: without_absent(value) for offset, value in expected.items()
            }
        assert compact(lake, PREDICTIONS, 100 * DAY_NS) in (0, 2)


def without_absent(value: bytes) -> dict[str, Any]:
    """Return a record's fields; optional fields of a shadow that are absent become null."""
    fields: dict[str, Any] = msgspec.json.decode(value)
    blank = dict.fromkeys(Shadow.__struct_fields__)
    fields["shadow"] = [blank | shadow for shadow in fields["shadow"]]
    return fields


def test_rows_before_removed_ones_are_not_taken_for_the_whole_stream(tmp_path: Path) -> None:
    """Twenty days of a source, the first seven removed for their age: the lake has the stream from day eight on."""
    values: list[bytes | None] = [record(PREDICTIONS, i + 1, DAY_NS * (i + 1)) for i in range(20)]
    lake = Lake.open(tmp_path)
    sink(lake, FakeTopic({3: values}).reader, PREDICTIONS)
    assert kept_records(lake, StreamKey("one", "BTC-USD")).span(PREDICTIONS, 3) == (0, 20)
    assert remove_old(lake, PREDICTIONS, 100 * DAY_NS, 1) == 7
    assert kept_records(lake, StreamKey("one", "BTC-USD")).span(PREDICTIONS, 3) == (7, 20)
