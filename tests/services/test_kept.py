"""A forecast is explained alike whether its topics hold it, have lost it in part, or are gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.settings import KafkaSettings
from data.stream.records import PREDICTIONS, TRADES, partition_of
from data.stream.topics.creation import create_topics
from data.trades import StreamKey
from offline.explain.findings import Explanation
from offline.explain.remake import Explainer
from offline.explain.report import described
from offline.explain.streams import ForecastNotFound
from offline.lake.store import Lake
from offline.served.kept.begins import keep_begins, read_begin
from offline.served.sink import sink, topic_reader
from tests.broker import Broker, running_broker
from tests.services.test_explain import (
    AWAY,
    delete_before,
    end_of,
    five_hours,
    made_forecasts,
    note_begin,
    outcomes,
    produce,
)

SPEC = FeatureSpec()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Broker]:
    """Run a broker without services."""
    with running_broker(tmp_path_factory.mktemp("quiet"), jars) as running_one:
        create_topics({"bootstrap.servers": running_one.bootstrap_servers})
        yield running_one


def explain(broker: Broker | None, models: Path, lake: Lake | None, key: StreamKey, *ids: int) -> list[Explanation]:
    settings = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9" if broker is None else broker.bootstrap_servers)
    return Explainer(settings, Registry(AWAY), models, SPEC, lake).explain(key, ids)


def sunk(broker: Broker, folder: Path) -> Lake:
    """Return a lake with all that the topics hold."""
    lake, settings = Lake.open(folder), KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)
    with topic_reader(settings) as reader:
        for topic in (TRADES, PREDICTIONS):
            sink(lake, reader, topic)
    keep_begins(lake, settings)
    return lake


def answer(each: Explanation) -> dict[str, Any]:
    """Return all that an explanation says, but for the places that it was read from."""
    found = described(each, all_trades=True)
    del found["place"]["read_from"]
    return found


def texts(found: list[Explanation]) -> list[str]:
    return [json.dumps(answer(each), sort_keys=True) for each in found]


def test_the_lake_answers_as_the_topics_did_to_the_byte(
    quiet: Broker, models: Path, tmp_path: Path, jars: list[Path]
) -> None:
    """Half of the trades expire, then all, then the broker is another one without data, then there is no broker."""
    trades = five_hours("kept-1", "KEEP-USD")
    n, partition = len(trades), partition_of("KEEP-USD")
    note_begin(quiet, "kept-1", "not a note of recordings")
    begin = end_of(quiet, TRADES, partition)
    produce(quiet, PREDICTIONS, partition, made_forecasts(quiet, trades))
    key, asked = trades.keys[0], [1, 2, 700, 9_000, n]
    lake = sunk(quiet, tmp_path / "lake")
    assert read_begin(lake, "kept-1").offsets[partition] == begin
    found = explain(quiet, models, lake, key, *asked)
    before = texts(found)
    assert all(outcomes(each)["row"] == outcomes(each)["score"] == "equal" for each in found)
    assert texts(explain(quiet, models, None, key, *asked)) == before, "with and without a lake"
    assert {(each.forecast_from, each.trades_from) for each in found} == {("topic", "topic")}

    delete_before(quiet, TRADES, partition, end_of(quiet, TRADES, partition) - n // 2)
    found = explain(quiet, models, lake, key, *asked)
    assert texts(found) == before
    assert [(each.forecast_from, each.trades_from) for each in found] == [("topic", "lake")] * 5
    assert {outcomes(each)["trades"] for each in explain(quiet, models, None, key, 1, n)} == {"expired"}

    for topic in (TRADES, PREDICTIONS):
        delete_before(quiet, topic, partition, end_of(quiet, topic, partition))
    found = explain(quiet, models, lake, key, *asked)
    assert texts(found) == before
    assert {(each.forecast_from, each.trades_from) for each in found} == {("lake", "lake")}
    with pytest.raises(ForecastNotFound):
        explain(quiet, models, None, key, n)

    with running_broker(tmp_path / "other", jars) as other:
        create_topics({"bootstrap.servers": other.bootstrap_servers})
        assert texts(explain(other, models, lake, key, *asked)) == before
        with pytest.raises(ForecastNotFound, match="holds no forecasts at all"):
            explain(other, models, lake, key, n + 1)
    assert texts(explain(None, models, lake, key, *asked)) == before
