"""Compute forecasts again from the topics, the registry and the recordings; report missing or different parts."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import math
import re
import shutil
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from data.features.admission import TAKEN
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.registry import Registry
from data.models.served import ServedModel
from data.recordings.readers import read_trades, write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.clients import Incoming
from data.stream.codec import encode, encode_trades
from data.stream.origin import MAX_NOTE, Origin, read_origin, recording_of, write_origin
from data.stream.reader import RecordBlock, TopicReader
from data.stream.records import ADAPTATION_FIELDS, PARTITIONS, PREDICTIONS, TRADES, End, partition_of, with_time_texts
from data.stream.topics.creation import create_topics
from data.times import NS
from data.trades import StreamKey, Trades
from offline.explain import bisection, streams
from offline.explain.__main__ import main
from offline.explain.bisection import BadRecord, ForecastSearch
from offline.explain.findings import DIFFERENT, EXPIRED, NOT_FOUND, Explanation, Finding, FoundModel
from offline.explain.recordings import find_in_recordings
from offline.explain.remake import Explainer, served_under
from offline.explain.report import described, rendered
from offline.explain.streams import ForecastNotFound
from offline.promotion.ledger import Entry
from online.exactly_once.feature_stage import FeatureStage
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from tests.broker import Broker, running_broker
from tests.models import baseline, model_bytes
from tests.pipeline import await_end, replay, running

SPEC = FeatureSpec()
AWAY = "http://127.0.0.1:9"
"""Address without a listener."""


def set_limit(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    """Set a limit of the search in both modules that use the limit."""
    for module in (bisection, streams):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def simulated(product_id: str, n: int, source_id: str = "") -> Trades:
    trades = simulate_day(product_id, dt.date(2025, 3, 6), hours=(14, 16)).take(slice(0, n))
    return replace(trades, keys=(StreamKey(source_id, product_id),))


def explainer(broker: Broker, models: Path, registry: str = AWAY) -> Explainer:
    return Explainer(KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers), Registry(registry), models, SPEC)


def outcomes(explanation: Explanation) -> dict[str, str]:
    return {finding.part: finding.outcome for finding in explanation.findings}


def said(explanation: Explanation, part: str) -> str:
    return next(finding.said for finding in explanation.findings if finding.part == part)


def run_to_end(environ: dict[str, str], folder: Path, source_id: str, *recordings: Path, **settings: str) -> None:
    ingestor = replay(environ, folder, source_id, *recordings, **settings)
    with running(ingestor):
        assert ingestor.process.wait(60) == 0, ingestor.log.read_text()


def produce(
    broker: Broker, topic: str, partition: int, values: list[bytes], producer: Producer | None = None
) -> list[int]:
    """Write records to a partition; return their offsets."""
    producer = producer or Producer({"bootstrap.servers": broker.bootstrap_servers})
    offsets: list[int] = []

    def delivered(error: Any, message: Message) -> None:
        assert error is None, error
        offsets.append(message.offset() or 0)

    for value in values:
        producer.produce(topic, value, b"key", partition, on_delivery=delivered)
    assert producer.flush(30) == 0
    return offsets


def made_forecasts(
    broker: Broker,
    trades: Trades,
    change: Callable[[dict[str, Any]], None] | None = None,
    partition: int | None = None,
    shadows: tuple[ModelVersion, ...] = (),
) -> list[bytes]:
    """Write the trades of one stream; return the forecaster's records for them, each forecast `change`d."""
    partition = partition_of(trades.keys[0].product_id) if partition is None else partition
    texts = encode_trades(trades, "replay")
    offsets = produce(broker, TRADES, partition, texts)
    incoming = [Incoming(TRADES, partition, *each, 1_000) for each in zip(offsets, texts, strict=True)]
    made = FeatureStage(SPEC, lambda *_: (), ForecasterMetrics()).process(incoming)
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    served = ModelVersion(model, "volatility-baseline", "1", "disk")
    stage = ScoreStage(SPEC, lambda: served, lambda *_: (), ForecasterMetrics(), lambda: shadows)
    values = [value for *_, value, _ in stage.process(made.parts)]
    if change is not None:
        records = [msgspec.json.decode(value) for value in values]
        for record in records:
            change(record)
        values = [encode(record) for record in records]
    return values


def write_forecasts(
    broker: Broker,
    trades: Trades,
    change: Callable[[dict[str, Any]], None] | None = None,
    partition: int | None = None,
) -> list[int]:
    """Write a stream's trades and forecasts by hand, as the forecaster would; return the offsets of the forecasts."""
    partition = partition_of(trades.keys[0].product_id) if partition is None else partition
    return produce(broker, PREDICTIONS, partition, made_forecasts(broker, trades, change, partition))


def note_begin(broker: Broker, source_id: str, note: str = "") -> None:
    """Commit the beginning of a source, as the ingestor does: at the end of all partitions."""
    places = [TopicPartition(TRADES, partition, end_of(broker, TRADES, partition)) for partition in range(PARTITIONS)]
    places[0] = TopicPartition(TRADES, 0, places[0].offset, note)
    config = {"bootstrap.servers": broker.bootstrap_servers, "group.id": f"ingestor-{source_id}"}
    consumer = Consumer(config | {"enable.auto.commit": False})
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


def delete_before(broker: Broker, topic: str, partition: int, offset: int) -> None:
    """Let the records before an offset expire."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result()


def end_of(broker: Broker, topic: str, partition: int) -> int:
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)) as reader:
        return reader.span(topic, partition)[1]


def five_hours(source_id: str, product_id: str, seed: int = 3) -> Trades:
    """A trade a second: the rows of the last hour do not reach back to the first trades."""
    n = 5 * 3_600
    rng = np.random.default_rng(seed)
    return Trades(
        (StreamKey(source_id, product_id),),
        np.zeros(n, np.int32),
        np.arange(1, n + 1),
        (1_700_000_000 + np.arange(n)) * NS + rng.integers(0, NS, n) // 2,
        np.full(n, 1_700_000_000 * NS),
        100 * np.exp(np.cumsum(rng.normal(0, 1e-4, n))),
        np.ones(n),
        np.zeros(n, np.int8),
    )


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Broker]:
    """Run a broker without services: services would make their own forecasts from trades written by hand."""
    with running_broker(tmp_path_factory.mktemp("quiet"), jars) as running_one:
        create_topics({"bootstrap.servers": running_one.bootstrap_servers})
        yield running_one


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 simulated trades, each on a line, in two segments; some times fall by up to a second."""
    trades = simulated("SOL-USD", 4_000)
    event_time = trades.event_time.copy()
    event_time[2_500:] += 400 * NS
    event_time[100:2_400:97] -= NS // 2
    path = tmp_path_factory.mktemp("recordings") / "explained.csv"
    write_csv(path, [replace(trades, event_time=event_time)])
    return path


@pytest.fixture(scope="module")
def explained(
    broker: Broker, online: dict[str, str], recording: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Run the recording through the real processes, and yield the forecasts."""
    run_to_end(online, tmp_path_factory.mktemp("logs"), "explained", recording)
    return await_end(broker.bootstrap_servers, "explained")


def test_50_random_forecasts_are_made_again_to_the_byte(
    broker: Broker, models: Path, recording: Path, explained: list[dict[str, Any]]
) -> None:
    """Includes the first forecast of each segment, without a return; lines count from 1, the header is line 1."""
    ids = [record["trade_id"] for record in explained]
    assert len(ids) == 4_000
    chosen = [*np.random.default_rng(5).choice(4_000, 50, replace=False).tolist(), 0, 1, 2_499, 2_500, 2_501, 3_999]
    found = explainer(broker, models).explain(StreamKey("explained", "SOL-USD"), [ids[i] for i in chosen])
    for i, each in zip(chosen, found, strict=True):
        expected = dict.fromkeys(("model", "trades", "row", "score", "recording"), "equal")
        assert expected.items() <= outcomes(each).items(), each.findings
        assert msgspec.json.decode(encode(each.prediction)) == explained[i]
        assert each.remade["score"] == explained[i]["score"]
        assert each.recorded is not None
        assert (each.recorded.file, each.recorded.line) == (str(recording), i + 2)
        assert each.window is not None
        assert each.window.trade_id[-1] == ids[i]
        assert len(each.window) == (i + 1 if i < 2_500 else i - 2_499), "from the start of its segment"
    assert found[50].prediction.n == found[53].prediction.n == 0


def test_a_replay_in_real_time_has_moved_times_and_it_is_said(
    broker: Broker, online: dict[str, str], models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "moved.csv"
    trades = simulated("SOL-USD", 200)
    write_csv(path, [trades])
    run_to_end(online, tmp_path, "moved", path, REPLAY_SPEED="real-time", MAX_WAIT_S="0.001")
    records = await_end(broker.bootstrap_servers, "moved")
    (each,) = explainer(broker, models).explain(StreamKey("moved", "SOL-USD"), [int(trades.trade_id[150])])
    shift = records[0]["event_time"] - int(trades.event_time[0])
    assert f"time moved by {shift // NS:+,} s" in said(each, "recording")
    assert outcomes(each)["row"] == outcomes(each)["score"] == outcomes(each)["recording"] == "equal"


def test_a_recording_that_changed_or_is_gone_is_said_and_the_rest_is_shown(
    broker: Broker, online: dict[str, str], models: Path, tmp_path: Path
) -> None:
    """First the second of two files changes, then the first goes: a trade in a whole file is still found."""
    trades = simulated("SOL-USD", 300)
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path, rows in zip(paths, (slice(0, 150), slice(150, 300)), strict=True):
        write_csv(path, [trades.take(rows)])
    run_to_end(online, tmp_path, "changing", *paths)
    await_end(broker.bootstrap_servers, "changing")
    ids = [int(trades.trade_id[i]) for i in (10, 299)]
    key = StreamKey("changing", "SOL-USD")
    one, two = explainer(broker, models).explain(key, ids)
    assert [said(one, "recording"), said(two, "recording")] == [f"{paths[0]}:12", f"{paths[1]}:151"]

    with paths[1].open("a") as file:
        file.write("\n")
    one, two = explainer(broker, models).explain(key, ids)
    assert outcomes(one)["recording"] == "equal"
    assert outcomes(two) == outcomes(one) | {"recording": "expired"}
    assert said(two, "recording") == f"{paths[1]} has changed since it was replayed"

    paths[0].unlink()
    one, _ = explainer(broker, models).explain(key, ids)
    assert said(one, "recording") == f"{paths[0]} is gone"
    assert one.remade["score"] == one.prediction.score


def test_a_model_that_is_gone_or_another_is_said_and_the_row_is_still_made_again(
    broker: Broker, models: Path, explained: list[dict[str, Any]], tmp_path: Path
) -> None:
    key, trade_id = StreamKey("explained", "SOL-USD"), explained[100]["trade_id"]
    (each,) = explainer(broker, tmp_path).explain(key, [trade_id])
    assert (outcomes(each)["model"], outcomes(each)["score"], outcomes(each)["row"]) == ("expired", "expired", "equal")
    assert "MLflow does not answer" in said(each, "model")
    assert each.exit_code == EXPIRED

    digest = explained[100]["digest"]
    (tmp_path / "volatility-baseline").mkdir()
    (tmp_path / "volatility-baseline" / f"{digest}.onnx").write_bytes(model_bytes(coverage="0.8"))
    (each,) = explainer(broker, tmp_path).explain(key, [trade_id])
    assert outcomes(each)["model"] == "different"
    assert f"the registry promised {digest}" in said(each, "model")
    assert each.exit_code == DIFFERENT


@pytest.mark.parametrize(
    ("field", "part"),
    [
        *(("score", "score"), ("raw_score", "score"), ("weighted_sum", "score"), ("offset_low", "score")),
        *(("ret_std", "row"), ("ewma_variance_60", "row"), ("price", "row")),
    ],
)
def test_a_number_that_is_off_by_its_last_bit_is_found(quiet: Broker, models: Path, field: str, part: str) -> None:
    trades = simulated("SOL-USD", 1_500, f"tampered-{field}")

    def change(record: dict[str, Any]) -> None:
        if record["trade_id"] == trades.trade_id[1_400]:
            record[field] = math.nextafter(record[field], math.inf)

    write_forecasts(quiet, trades, change)
    wanted = trades.trade_id[[1_399, 1_400]].tolist()
    good, bad = explainer(quiet, models).explain(trades.keys[0], wanted)
    assert outcomes(good)["row"] == outcomes(good)["score"] == "equal"
    assert outcomes(bad)[part] == "different"
    assert f"{field} is {getattr(bad.prediction, field)} in the record, made again" in said(bad, part)
    assert bad.exit_code == DIFFERENT
    assert outcomes(good)["recording"] == "expired", "written by hand: nobody has noted where it came from"


def test_the_shadows_of_a_forecast_are_made_again(quiet: Broker, models: Path, tmp_path: Path) -> None:
    """The challenger's file is in the folder `other` alone; the forecast that serves is made again without the file."""
    shutil.copytree(models, tmp_path / "other")
    content = model_bytes(baseline(scale=0.7), variant="ml")
    model = ServedModel.load(content, spec_id=SPEC.spec_id)
    (tmp_path / "other" / "volatility-ml").mkdir()
    (tmp_path / "other" / "volatility-ml" / f"{model.digest}.onnx").write_bytes(content)
    trades = simulated("SOL-USD", 3_000, "shadowed")
    wanted = trades.trade_id[[0, 2_800, 2_900]].tolist()

    def change(record: dict[str, Any]) -> None:
        if record["trade_id"] == wanted[2]:
            record["shadow"][0]["weight"] = math.nextafter(record["shadow"][0]["weight"], 0)

    values = made_forecasts(quiet, trades, change, shadows=(ModelVersion(model, "volatility-ml", "5", "registry"),))
    produce(quiet, PREDICTIONS, partition_of("SOL-USD"), values)
    first, good, bad = explainer(quiet, tmp_path / "other").explain(trades.keys[0], wanted)
    assert outcomes(first)["shadow"] == outcomes(good)["shadow"] == "equal"
    assert good.remade["shadow"][0].judged_horizons > 0
    assert said(good, "shadow") == "score, interval and adaptation of volatility-ml version 5"
    assert "by volatility-ml version 5" in rendered(good, all_trades=False)
    assert (outcomes(bad)["shadow"], outcomes(bad)["score"], bad.exit_code) == ("different", "equal", DIFFERENT)
    json.dumps(described(good, all_trades=False))
    (gone,) = explainer(quiet, models).explain(trades.keys[0], wanted[1:2])
    assert (outcomes(gone)["shadow"], outcomes(gone)["score"], gone.exit_code) == ("expired", "equal", EXPIRED)


def test_a_forecast_of_an_earlier_release_is_the_models_own(quiet: Broker, models: Path) -> None:
    """Before the first judged forecast, the published score is the model's own, with and without adaptation."""
    trades = simulated("SOL-USD", 200, "earlier")

    def change(record: dict[str, Any]) -> None:
        assert record.pop("judged_horizons") == 0
        for name in ADAPTATION_FIELDS[:-1]:
            del record[name]

    write_forecasts(quiet, trades, change)
    (each,) = explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[150])])
    assert (outcomes(each)["row"], outcomes(each)["score"]) == ("equal", "equal")


def test_an_adaptation_whose_forecasts_are_gone_is_expired(quiet: Broker, models: Path) -> None:
    """The forecasts up to the first judged one are not on the topic, as if they had expired."""
    trades = simulated("SOL-USD", 3_000, "headless")
    partition = partition_of("SOL-USD")
    forecasts = made_forecasts(quiet, trades)
    records = [msgspec.json.decode(value) for value in forecasts]
    first = next(i for i, record in enumerate(records) if record["judged_horizons"] > 0)
    produce(quiet, PREDICTIONS, partition, forecasts[first:])
    wanted = trades.trade_id[[first + 1, 2_999]].tolist()
    young, old = explainer(quiet, models).explain(trades.keys[0], wanted)
    assert outcomes(young)["score"] == "expired"
    assert outcomes(old)["score"] == "equal", "more than a horizon later"


def test_a_forecast_of_another_trade_is_found(quiet: Broker, models: Path) -> None:
    trades = simulated("SOL-USD", 20, "misplaced")

    def change(record: dict[str, Any]) -> None:
        record["kafka_offset"] += int(record["trade_id"] == trades.trade_id[5])

    write_forecasts(quiet, trades, change)
    (each,) = explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[5])])
    assert outcomes(each)["trades"] == "different"
    assert said(each, "trades").endswith(f"is trade {trades.trade_id[6]}")


UNREADABLE: list[tuple[dict[str, Any], str]] = [
    ({"score": None}, "Expected `float`, got `null` - at `$.score`"),
    ({"score": "high"}, "Expected `float`, got `str` - at `$.score`"),
    ({"interval": [None, 1.0]}, "Expected `float`, got `null` - at `$.interval[0]`"),
    ({"n": -1}, "Expected `int` >= 0 - at `$.n`"),
    ({"shadow": [{"score": 1.0}]}, "Object missing required field `model_variant` - at `$.shadow[0]`"),
    ({"ewma_variance_60": ...}, "Object missing required field `ewma_variance_60`"),
    ({"kafka_offset": "17"}, "Expected `int`, got `str` - at `$.kafka_offset`"),
    ({"event_time": 7_258_118_400_000_000_000}, "Expected `int` <= 7258118399999999999 - at `$.event_time`"),
    ({"ts": "now"}, "Expected `int`, got `str` - at `$.ts`"),
]
"""Changes of a record (... is left out), and the reason why the record cannot be read then."""


def test_a_record_that_cannot_be_read_is_told_with_its_place(
    quiet: Broker, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = simulated("SOL-USD", 20, "unreadable")
    ids = trades.trade_id.tolist()

    def change(record: dict[str, Any]) -> None:
        if (row := ids.index(record["trade_id"])) < len(UNREADABLE):
            for name, value in UNREADABLE[row][0].items():
                record[name] = value
                if value is ...:
                    del record[name]

    write_forecasts(quiet, trades, change)
    partition = partition_of("SOL-USD")
    first = end_of(quiet, PREDICTIONS, partition) - len(ids)
    for row, (_, reason) in enumerate(UNREADABLE):
        with pytest.raises(BadRecord) as told:
            explainer(quiet, models).explain(trades.keys[0], [ids[row]])
        assert str(told.value).startswith(f"{PREDICTIONS}[{partition}]@{first + row} cannot be read: {reason}")
    (whole,) = explainer(quiet, models).explain(trades.keys[0], [ids[len(UNREADABLE)]])
    assert outcomes(whole)["row"] == outcomes(whole)["score"] == "equal"

    asked = ("unreadable", "SOL-USD", str(ids[0]))
    assert run(monkeypatch, quiet, models, *asked) == DIFFERENT
    assert capsys.readouterr().err.startswith(f"error: {PREDICTIONS}[{partition}]@{first} cannot be read: ")
    assert run(monkeypatch, quiet, models, *asked, "--json") == DIFFERENT
    assert json.loads(capsys.readouterr().out)["outcome"] == "different"


@pytest.mark.parametrize(
    ("field", "value", "part", "says"),
    [
        ("kafka_partition", 3, "trades", "is no trade of this stream, which stands in partition 5"),
        ("kafka_offset", 2**63 - 1, "trades", "is no trade of this stream"),
        (
            "ingest_time",
            1_741_269_600_000_000_001,
            "row",
            "ingest_time is 2025-03-06T14:00:00.000000001Z in the",
        ),
        ("purpose", "live", "row", "purpose is live in the record, made again replay"),
        ("digest", "ab\0", "model", "embedded null byte"),
        ("model_variant", "ml\0", "model", "embedded null byte"),
    ],
)
def test_a_record_that_says_anything_else_than_its_trade_or_model_is_answered(
    quiet: Broker, models: Path, field: str, value: Any, part: str, says: str
) -> None:
    trades = simulated("SOL-USD", 3, f"says-another-{field}")

    def change(record: dict[str, Any]) -> None:
        if record["trade_id"] == trades.trade_id[1]:
            record[field] = value

    write_forecasts(quiet, trades, change)
    (each,) = explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[1])])
    assert outcomes(each)[part] == "different"
    assert says in said(each, part)


def test_trades_that_the_stream_did_not_take_change_nothing(quiet: Broker, models: Path) -> None:
    """A repeated id, and a time falling by more than a second, lie on the topic between the other trades."""
    trades = simulated("SOL-USD", 400, "late-rows")
    order = np.sort(np.concatenate([np.arange(400), [50, 51, 200]]))
    mixed = trades.take(order)
    late = mixed.event_time.copy()
    late[310] -= 5 * NS
    mixed = replace(mixed, event_time=late)
    write_forecasts(quiet, mixed)
    rows = feature_rows(mixed, Windows(SPEC))
    assert len(rows.values) == 399
    found = explainer(quiet, models).explain(trades.keys[0], rows.trades.trade_id.tolist())
    assert {outcomes(each)["row"] for each in found} == {"equal"}
    assert found[-1].window is not None
    assert len(found[-1].window) == 399


def test_what_comes_after_an_end_is_not_taken(quiet: Broker, models: Path) -> None:
    """Forecasts of trades after an end come from an earlier release, in which a stream could begin anew."""
    trades = simulated("SOL-USD", 200, "twice-ended")
    write_forecasts(quiet, trades.take(slice(0, 100)))
    end = encode(End("twice-ended", "SOL-USD", "replay", NS, end=True))
    for topic in (TRADES, PREDICTIONS):
        produce(quiet, topic, partition_of("SOL-USD"), [end])
    write_forecasts(quiet, trades.take(slice(100, 200)))
    found = explainer(quiet, models).explain(trades.keys[0], trades.trade_id[[99, 100, 150]].tolist())
    assert outcomes(found[0])["row"] == "equal"
    assert [outcomes(each)["trades"] for each in found] == ["equal", "different", "different"]
    assert [said(each, "trades").partition(" is ")[2] for each in found[1:]] == [
        "a trade that its stream does not take"
    ] * 2


def test_a_stream_begins_with_its_first_forecast(quiet: Broker, models: Path) -> None:
    """Trades from a time with too many open sources lie on the topic, and no row has seen them."""
    trades = simulated("SOL-USD", 150, "refused-first")
    produce(quiet, TRADES, partition_of("SOL-USD"), encode_trades(trades.take(slice(0, 50)), "replay"))
    write_forecasts(quiet, trades.take(slice(50, 150)))
    found = explainer(quiet, models).explain(trades.keys[0], trades.trade_id[[50, 60, 149]].tolist())
    assert [outcomes(each)["row"] for each in found] == ["equal"] * 3
    assert [len(each.window) for each in found if each.window is not None] == [1, 11, 100]


def test_what_the_topic_no_longer_keeps_is_said_and_the_rest_is_shown(quiet: Broker, models: Path) -> None:
    """Five hours with a trade a second, the first half hour deleted: a row that reaches into the deleted part cannot be
    computed, the last rows can; the forecast of a deleted trade is still scored again.
    """
    trades = five_hours("kept", "KEPT-USD")
    n = len(trades)
    write_forecasts(quiet, trades)
    partition = partition_of("KEPT-USD")
    high = end_of(quiet, TRADES, partition)
    cut = high - n + 1_800
    delete_before(quiet, TRADES, partition, cut)
    gone, reaches_back, whole = explainer(quiet, models).explain(trades.keys[0], [1_000, 5_000, n])
    assert (
        said(gone, "trades")
        == f"{TRADES}[{partition}]@{high - n + 999} is no longer kept, the oldest offset there is {cut}"
    )
    assert outcomes(gone)["score"] == "equal"
    assert outcomes(reaches_back)["trades"] == "expired"
    assert "begins before" in said(reaches_back, "trades")
    assert (outcomes(whole)["row"], outcomes(whole)["score"]) == ("equal", "equal")
    assert whole.window is not None
    assert 14_340 <= len(whole.window) <= 14_400, "239 closed blocks and the open one"
    assert {each.exit_code for each in (gone, reaches_back, whole)} == {EXPIRED}


def test_expired_forecasts_do_not_matter_while_the_trades_are_kept(quiet: Broker, models: Path) -> None:
    """Retention takes whole files of a topic, and forecasts are four times as long as trades."""
    trades = simulated("OLD-USD", 400, "old-forecasts")
    note_begin(quiet, "old-forecasts")
    offsets = write_forecasts(quiet, trades)
    delete_before(quiet, PREDICTIONS, partition_of("OLD-USD"), offsets[100])
    found = explainer(quiet, models).explain(trades.keys[0], trades.trade_id[[100, 101, 399]].tolist())
    assert [outcomes(each)["row"] for each in found] == ["equal"] * 3
    assert [len(each.window) for each in found if each.window is not None] == [101, 102, 400]
    with pytest.raises(ForecastNotFound, match=f"from trade {trades.trade_id[100]} to {trades.trade_id[399]}$"):
        explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[99])])


def test_after_a_hole_of_retention_rows_begin_with_the_first_trade_that_was_read(quiet: Broker, models: Path) -> None:
    """Trades expire before the forecaster reads them: the windows begin anew, with n = 0, and the row before is gone.

    The kept trades are explained until the first of them has expired too.
    """
    trades = simulated("HOLE-USD", 300, "hole")
    partition = partition_of("HOLE-USD")
    write_forecasts(quiet, trades.take(slice(0, 100)))
    produce(quiet, TRADES, partition, encode_trades(trades.take(slice(100, 150)), "replay"))
    hole = end_of(quiet, TRADES, partition)
    delete_before(quiet, TRADES, partition, hole)
    write_forecasts(quiet, trades.take(slice(150, 300)))
    asked = trades.trade_id[[99, 150, 151, 299]].tolist()
    found = explainer(quiet, models).explain(trades.keys[0], asked)
    assert [outcomes(each).get("row") for each in found] == [None, "equal", "equal", "equal"]
    assert outcomes(found[0])["trades"] == "expired"
    assert [len(each.window) for each in found if each.window is not None] == [1, 2, 150]

    delete_before(quiet, TRADES, partition, hole + 1)
    found = explainer(quiet, models).explain(trades.keys[0], asked)
    assert [outcomes(each)["trades"] for each in found] == ["expired"] * 4
    assert {each.exit_code for each in found} == {EXPIRED}


def window_of(trades: Trades, row: int) -> list[int]:
    """Return the ids of the trades behind the row of an accepted trade, trade by trade."""
    taken: list[tuple[int, int, int]] = []
    newest = -1
    for trade_id, event_time in zip(trades.trade_id.tolist(), trades.event_time.tolist(), strict=True):
        if (not taken or trade_id > taken[-1][0]) and event_time >= newest - NS:
            newest = max(newest, event_time)
            taken.append((trade_id, event_time, newest))
    last = next(i for i, trade in enumerate(taken) if trade[0] == trades.trade_id[row])
    block_ns = SPEC.block_steps * SPEC.grid_step_s * NS
    open_block = (taken[last][2] // NS - 1) * NS // block_ns
    oldest = (open_block - SPEC.lookback_steps // SPEC.block_steps + 1) * block_ns
    first = max(i for i in range(last + 1) if taken[i][2] <= oldest and i <= last - SPEC.window_size)
    while taken[first][1] < taken[first][2]:
        first -= 1
    return [trade_id for trade_id, _, _ in taken[first : last + 1]]


def test_trades_are_judged_as_the_stream_judged_them_wherever_the_reading_begins(
    quiet: Broker, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three trades two count at the time of the first. Behind each lie a duplicate at another price, and a trade too
    late for the counted time of the trade, though not for the trade's own time. Reading begins as near as possible to
    the start of a row's grid: with each block one block later.
    """
    monkeypatch.setattr(streams, "STEP", 1)
    base = five_hours("judged", "JUDGE-USD")
    counts_as = np.repeat(base.event_time[::3], 3)
    fallen = np.tile(np.array([0, 900, 800]) * 1_000_000, len(base) // 3)
    base = replace(base, trade_id=base.trade_id * 10, event_time=counts_as - fallen)
    wrong = replace(base, price=base.price * 1.5)
    late = replace(wrong, trade_id=base.trade_id + 5, event_time=counts_as - 1_100_000_000)
    order = np.argsort(np.tile(np.arange(len(base)), 3), kind="stable")
    trades = Trades.join([base, wrong, late]).take(order)
    rows = feature_rows(trades, Windows(SPEC))
    assert np.array_equal(np.flatnonzero(rows.status == TAKEN), np.arange(0, len(trades), 3)), "the base alone"
    write_forecasts(quiet, trades)
    for row in range(len(trades) - 3 * 61 * 8, len(trades), 3 * 61):
        (each,) = explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[row])])
        assert outcomes(each)["row"] == "equal", each.findings
        assert each.window is not None
        assert each.window.trade_id.tolist() == window_of(trades, row)


def test_a_stream_that_begins_again_after_a_stray_time_is_explained_on_both_sides(quiet: Broker, models: Path) -> None:
    """Trade 150 is a day ahead and taken; 20 trades behind are too late, and trade 171 begins a segment."""
    trades = simulated("STRAY-USD", 300, "stray")
    event_time = trades.event_time.copy()
    event_time[150] += 86_400 * NS
    trades = replace(trades, event_time=event_time)
    write_forecasts(quiet, trades)
    found = explainer(quiet, models).explain(trades.keys[0], trades.trade_id[[149, 150, 171, 172, 299]].tolist())
    assert [outcomes(each)["row"] for each in found] == ["equal"] * 5
    windows = [each.window.trade_id.tolist() for each in found if each.window is not None]
    ids = trades.trade_id.tolist()
    assert windows == [ids[:150], ids[150:151], ids[171:172], ids[171:173], ids[171:300]]
    for rejected in (151, 170):
        with pytest.raises(ForecastNotFound):
            explainer(quiet, models).explain(trades.keys[0], [ids[rejected]])


def test_rows_at_the_edge_of_what_is_kept_are_expired_or_equal_and_never_different(quiet: Broker, models: Path) -> None:
    """The oldest kept trade counts at the time of an expired trade, the next is too late for the counted time, and the
    third begins a segment.
    """
    trades = simulated("EDGE-USD", 200, "edge")
    event_time = trades.event_time.copy()
    event_time[50] = event_time[49] - 9 * NS // 10
    event_time[51] = event_time[50] - NS // 5
    event_time[52:] += 400 * NS
    trades = replace(trades, event_time=event_time)
    write_forecasts(quiet, trades)
    partition = partition_of("EDGE-USD")
    delete_before(quiet, TRADES, partition, end_of(quiet, TRADES, partition) - 150)
    rows = [49, 50, *range(52, 200)]
    found = explainer(quiet, models).explain(trades.keys[0], trades.trade_id[rows].tolist())
    assert [outcomes(each)["trades"] for each in found] == ["expired"] * 2 + ["equal"] * 148
    assert [outcomes(each)["row"] for each in found[2:]] == ["equal"] * 148
    assert [len(each.window) for each in found[2:] if each.window is not None] == list(range(1, 149))


def test_streams_that_are_mixed_in_a_partition_are_told_apart(
    quiet: Broker, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sources with the same trade ids: a source all over the partition, a rare source, and a late source with a
    beginning known to the broker.
    """
    for name in ("NEAR", "READ_ON"):
        set_limit(monkeypatch, name, 5)
    rng = np.random.default_rng(8)
    places = [rng.random(900), rng.random(40), 0.6 + 0.2 * rng.random(300)]
    mixed: list[tuple[float, int, int, bytes]] = []
    for source, place in enumerate(places):
        if source == 2:
            note_begin(quiet, "mixed-2")
        trades = simulated("MIX-USD", len(place), f"mixed-{source}")
        values = made_forecasts(quiet, trades)
        mixed += zip(np.sort(place).tolist(), [source] * len(place), trades.trade_id.tolist(), values, strict=True)
    mixed.sort()
    offsets = produce(quiet, PREDICTIONS, partition_of("MIX-USD"), [value for *_, value in mixed])
    for source in range(3):
        mine = [(trade_id, offset) for (_, of, trade_id, _), offset in zip(mixed, offsets, strict=True) if of == source]
        key = StreamKey(f"mixed-{source}", "MIX-USD")
        chosen = [mine[0], mine[-1], *(mine[i] for i in rng.choice(len(mine), 5).tolist())]
        found = [explainer(quiet, models).explain(key, [trade_id])[0] for trade_id, _ in chosen]
        assert [each.kafka_offset for each in found] == [offset for _, offset in chosen]
        assert {outcomes(each)["row"] for each in found} == {"equal"}
        some = mine[:: len(mine) // 20]
        together = explainer(quiet, models).explain(key, [trade_id for trade_id, _ in some])
        assert [each.kafka_offset for each in together] == [offset for _, offset in some]
        assert {outcomes(each)["row"] for each in together} == {"equal"}
        with pytest.raises(ForecastNotFound, match=f"from trade {mine[0][0]} to {mine[-1][0]}$"):
            explainer(quiet, models).explain(key, [mine[-1][0] + 1])


def test_what_was_aborted_is_no_forecast(quiet: Broker, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction is aborted first, with other scores, and the markers take offsets."""
    for name in ("NEAR", "READ_ON"):
        set_limit(monkeypatch, name, 5)
    trades = simulated("ABORT-USD", 600, "aborted")
    values = made_forecasts(quiet, trades)
    unseen = [value.replace(b'"score":', b'"score":1') for value in values]
    nobody = [re.sub(rb'"trade_id":\d+', b'"trade_id":7', value) for value in values[:20]]
    producer = Producer({"bootstrap.servers": quiet.bootstrap_servers, "transactional.id": "aborted"})
    producer.init_transactions(30)
    partition, offsets = partition_of("ABORT-USD"), []
    for start in range(0, len(values), 40):
        producer.begin_transaction()
        produce(quiet, PREDICTIONS, partition, unseen[start : start + 40] + nobody, producer)
        producer.abort_transaction(30)
        producer.begin_transaction()
        offsets += produce(quiet, PREDICTIONS, partition, values[start : start + 40], producer)
        producer.commit_transaction(30)
    assert offsets[-1] - offsets[0] > 600 + 14 * 20
    for row in (0, 39, 40, 41, 299, 599):
        (each,) = explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[row])])
        assert (outcomes(each)["row"], outcomes(each)["score"]) == ("equal", "equal")
        assert each.kafka_offset == offsets[row]
    with pytest.raises(ForecastNotFound):
        explainer(quiet, models).explain(trades.keys[0], [7])


def test_forecasts_whose_ids_do_not_rise_are_found_by_reading_all(
    quiet: Broker, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second half of a stream was written first: its rows are computed again from the records before them."""
    trades = simulated("ODD-USD", 200, "odd")
    write_forecasts(quiet, trades.take(slice(100, 200)))
    write_forecasts(quiet, trades.take(slice(0, 100)))
    first, second = explainer(quiet, models).explain(trades.keys[0], trades.trade_id[[50, 150]].tolist())
    assert said(first, "trades").endswith("is a trade that its stream does not take")
    assert outcomes(second)["row"] == "equal"
    assert capsys.readouterr().err.endswith("offsets are read, as trade ids of the stream do not rise\n")


def test_only_the_newest_records_are_read_to_say_what_there_is(
    quiet: Broker, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limit(monkeypatch, "LOOK", 10)
    write_forecasts(quiet, simulated("NEW-USD", 50, "newest"))
    with pytest.raises(ForecastNotFound) as told:
        explainer(quiet, models).explain(StreamKey("newest", "OTHER-USD"), [1])
    assert str(told.value) == (
        "source newest has no forecast of OTHER-USD; it has some of NEW-USD "
        "(only the newest 10 records of each partition were looked at)"
    )


class FakePartition:
    """Fake of the readers of a `predictions` partition: `values` by their offsets; other offsets are markers.

    Attributes:
        read_records: count of records read so far.
    """

    def __init__(self, values: dict[int, bytes], end: int) -> None:
        self._offsets, self._values, self._end = sorted(values), values, end
        self.read_records = 0

    def span(self, _topic: str, _partition: int) -> tuple[int, int]:
        return 0, self._end

    def read(self, _topic: str, _partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        at = bisect_left(self._offsets, start)
        while at < len(self._offsets) and self._offsets[at] < end:
            offsets = [offset for offset in self._offsets[at : at + 100] if offset < end]
            self.read_records += len(offsets)
            yield RecordBlock(offsets, [self._values[offset] for offset in offsets])
            at += 100


OTHER = b'{"source_id":"other","product_id":"A-B","trade_id":1}'
MINE = StreamKey("mine", "A-B")


def of_mine(trade_id: int) -> bytes:
    return b'{"source_id":"mine","product_id":"A-B","trade_id":%d}' % trade_id


def look(values: dict[int, bytes], end: int, start: int = 0) -> tuple[FakePartition, ForecastSearch]:
    topic: Any = FakePartition(values, end)
    forecasts = ForecastSearch(topic, topic, MINE, 0, start)
    assert forecasts.look()
    return topic, forecasts


@pytest.mark.parametrize("seed", range(30))
def test_each_forecast_is_found_among_those_of_other_streams(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No absent forecast is found either. Streams begin late, end early, pause or are rare, between markers. The
    beginning of the stream is known, or a newest record belongs to the stream.
    """
    for name, value in {"NEAR": 20, "LOOK": 150, "READ_ON": 50, "LONG": 1_000}.items():
        set_limit(monkeypatch, name, value)
    rng = np.random.default_rng(seed)
    end = 10_000
    begins, stops = np.sort(rng.integers(0, end, 2)).tolist()
    pause = np.sort(rng.integers(begins, stops + 1, 2))
    is_mine = rng.random(end) < rng.choice([0.9, 0.1, 0.02, 0.003])
    is_mine[:begins] = is_mine[stops:] = is_mine[slice(*pause) if seed % 3 == 0 else slice(0, 0)] = False
    is_mine[[begins, end - 1 if seed % 2 else begins]] = True
    values = dict.fromkeys(np.flatnonzero(rng.random(end) < 0.9).tolist(), OTHER)
    trade_id, at = 0, {}
    for offset in np.flatnonzero(is_mine).tolist():
        trade_id += int(rng.integers(1, 4))
        values[offset], at[trade_id] = of_mine(trade_id), offset
    if seed % 5 == 0:
        values[max(at.values()) + 1] = encode(End(*MINE, "replay", NS, end=True))
    asked = set(rng.choice(list(at), min(len(at), 40), replace=False).tolist())
    absent = set(range(trade_id + 3)) - set(at)
    start = 0 if seed % 2 else max(begins - 100, 0)
    _, forecasts = look(values, end, start)
    for trade_id in asked | set(rng.permutation(sorted(absent))[:40].tolist()):
        found = forecasts.find({trade_id})
        assert {each.trade_id: each.offset for each in found.values()} == (
            {trade_id: at[trade_id]} if trade_id in at else {}
        )
    _, forecasts = look(values, end, start)
    together = forecasts.find(asked | absent)
    assert {each.trade_id: each.offset for each in together.values()} == {trade_id: at[trade_id] for trade_id in asked}
    first, last = forecasts.first_and_last()
    assert (first.offset in at.values(), last.offset) == (True, max(at.values()))
    assert forecasts.are_in_order(first, last)


def test_a_stream_that_begins_long_after_its_source_is_found() -> None:
    """The source begins at 100,000, the stream 50,000 later, and the stream has a forecast in a hundred for 5,000."""
    mine = np.arange(150_000, 155_000, 100)
    values = dict.fromkeys(range(1_000_000), OTHER) | {offset: of_mine(offset) for offset in mine.tolist()}
    topic, forecasts = look(values, 1_000_000, start=100_000)
    assert forecasts.find({153_300})[153_300].offset == 153_300
    assert topic.read_records < 200_000


def test_few_records_are_read_for_a_forecast_of_a_long_stream() -> None:
    """A million forecasts, half of them of the stream, which pauses for 300,000; forecasts at both ends of the pause
    and of the stream are found too, by reading a hundredth.
    """
    mine = np.concatenate([np.arange(100_000, 400_000, 2), np.arange(700_000, 900_000, 2)])
    values = dict.fromkeys(range(1_000_000), OTHER) | {offset: of_mine(offset) for offset in mine.tolist()}
    for trade_id in (100_000, 123_456, 399_998, 700_000, 700_002, 899_998):
        topic, forecasts = look(values, 1_000_000)
        before = topic.read_records
        assert forecasts.find({trade_id})[trade_id].offset == trade_id
        assert topic.read_records - before < 200_000, trade_id


def run(monkeypatch: pytest.MonkeyPatch, broker: Broker, models: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["explain", *arguments])
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    monkeypatch.setenv("MODELS_DIR", str(models))
    return main()


def test_the_command_prints_all_of_it(
    broker: Broker,
    models: Path,
    recording: Path,
    explained: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = explained[1_000]
    asked = ("explained", "SOL-USD", str(record["trade_id"]))
    assert run(monkeypatch, broker, models, *asked) == EXPIRED, "the ledger is away"
    text = capsys.readouterr().out
    for expected in (
        f"{record['score']} in [{record['interval'][0]}, {record['interval'][1]}]",
        record["digest"],
        f"coinbase-trades[{record['kafka_partition']}]@{record['kafka_offset']}",
        f"{recording}:1002",
        str(record["ewma_variance_60"]),
    ):
        assert expected in text

    assert run(monkeypatch, broker, models, *asked, "--json", "--trades") == EXPIRED
    found = json.loads(capsys.readouterr().out)
    assert found["prediction"] == with_time_texts(record)
    assert found["trades"]["count"] == len(found["trades"]["all"]) == 1_001
    assert found["place"]["recording"] == {"file": str(recording), "line": 1_002}
    assert found["outcome"] == "expired"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ("explained", "SOL-USD", "0"),
            "source explained has no forecast of SOL-USD trade 0; it has forecasts of it from trade ",
        ),
        (("explained", "ETH-USD", "1"), "source explained has no forecast of ETH-USD; it has some of SOL-USD"),
        (("nobody", "SOL-USD", "1"), "there is no source nobody; SOL-USD is forecast in "),
        (("nobody", "NO-NE", "1"), "there is no forecast nobody/NO-NE; there are some of "),
    ],
)
def test_a_forecast_that_is_not_there_is_answered_with_what_is(
    broker: Broker,
    models: Path,
    explained: list[dict[str, Any]],
    asked: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, broker, models, *asked) == NOT_FOUND
    assert said in capsys.readouterr().err
    assert run(monkeypatch, broker, models, *asked, "--json") == NOT_FOUND
    assert said in json.loads(capsys.readouterr().out)["said"]


def test_a_stream_in_a_partition_of_somebody_elses_choice_is_found(quiet: Broker, models: Path) -> None:
    """The stream's producer hashes keys in another way."""
    trades = simulated("SOL-USD", 30, "elsewhere")
    write_forecasts(quiet, trades, partition=(partition_of("SOL-USD") + 1) % 12)
    (each,) = explainer(quiet, models).explain(trades.keys[0], [int(trades.trade_id[20])])
    assert outcomes(each)["row"] == "equal"


def test_a_note_names_as_many_recordings_as_it_has_room_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"recording-{i}.csv" for i in range(200)]
    for path in paths:
        path.write_text(path.name)
    note = write_origin(paths, "ETH-USD", "10")
    assert len(note.encode()) <= MAX_NOTE
    origin = read_origin(note)
    assert len(origin.recordings) + origin.left_out == 200
    assert origin.recordings[0] == recording_of(paths[0])
    assert len(write_origin(paths[: len(origin.recordings) + 1], "ETH-USD", "10").encode()) <= MAX_NOTE
    assert read_origin(write_origin(paths[:2], "ETH-USD", "10")) == Origin(
        [recording_of(path) for path in paths[:2]], 0, "ETH-USD", "10"
    )


@pytest.mark.parametrize(
    ("note", "says"),
    [
        ("", "the broker has no note on the source's recordings"),
        ("by hand", "note on the source's recordings cannot be read: JSON is malformed"),
        ("{}", "note on the source's recordings cannot be read: Object missing required field"),
    ],
)
def test_a_source_without_a_note_that_can_be_read_has_no_recording(note: str, says: str) -> None:
    model = FoundModel("volatility-ml", None, "", Finding("model", "expired", "gone"))
    each = Explanation(None, 9, 0, model)
    find_in_recordings([each], "SOL-USD", note)
    assert outcomes(each) == {"recording": "expired"}
    assert says in said(each, "recording")


OWN = "source_id,product_id,trade_id,event_time,ingest_time,price,size,side"
EXCHANGE = (
    '{"type":"ticker","product_id":"SOL-USD","trade_id":%s,"time":"%s","price":"%s","last_size":"2","side":"buy"}'
)
AT = [f"2025-03-06T14:00:00.0000{microseconds:02}Z" for microseconds in range(60)]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        # The id stands in a longer number, as a price, and as the id of another product.
        ([OWN, f",SOL-USD,12344,{AT[1]},,12345,123456,buy", f",ETH-USD,12345,{AT[2]},,5,2,buy"], 5),
        # A line with the same id is late for the one before it, and so is no trade.
        ([OWN, f",SOL-USD,12344,{AT[1]},,5,2,buy", ",SOL-USD,12345,2025-03-06T13:00:00Z,,5,2,buy"], 5),
        ([OWN, "", f",SOL-USD,12344,{AT[1]},,12345.5,2,buy", "no trade 12345"], 6),
        ([EXCHANGE % (12344, AT[1], "5"), "", '{"type":"subscriptions","id":12345}'], 5),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_line_of_a_trade_is_found_without_parsing_the_others(
    lines: list[str], line: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = EXCHANGE % (12345, AT[30], "5") if lines[0].startswith("{") else f",SOL-USD,12345,{AT[30]},,5,2,buy"
    again = mine.replace(AT[30], AT[31])
    path = tmp_path / f"recording{suffix}"
    text = "\n".join([*lines, "", mine, again]).encode() + b"\n"
    path.write_bytes(gzip.compress(text) if suffix else text)
    with monkeypatch.context() as patched:
        patched.setattr("offline.explain.recordings.MOST_LINES", 0)
        assert recorded_line(path, AT[30]) == ("equal", f"{path}:{line}"), "all lines are parsed"
    with monkeypatch.context() as patched:
        patched.setattr("offline.explain.recordings._read_recordings", lambda *_: ({}, "all lines are parsed"))
        assert recorded_line(path, AT[30]) == ("equal", f"{path}:{line}")
    outcome, said_of_it = recorded_line(path, AT[32])
    assert outcome == "different"
    assert said_of_it.startswith(f"{path}:{line}: event_time is ")


def recorded_line(path: Path, event_time: str) -> tuple[str, str]:
    """Look for trade 12345 of SOL-USD, 2 at 5, in a recording; return the outcome."""
    ns, one = np.array([event_time[:-1]], "M8[ns]").view(np.int64), np.ones(1)
    key = (StreamKey("s", "SOL-USD"),)
    trade = Trades(key, np.zeros(1, np.int32), np.array([12_345]), ns, ns, one * 5, one * 2, np.ones(1, np.int8))
    model = FoundModel("volatility-ml", None, "", Finding("model", "expired", "gone"))
    each = Explanation(SimpleNamespace(trade_id=12_345), 5, 0, model, trade=trade)
    find_in_recordings([each], "SOL-USD", write_origin([path], "SOL-USD", "10"))
    return outcomes(each)["recording"], said(each, "recording")


def test_a_recording_without_ids_is_read_line_by_line(tmp_path: Path) -> None:
    """The id is the position in the source, and no line holds the id."""
    path = tmp_path / "bare.csv"
    rows = [f"2025-03-06T14:{i // 600:02}:{i // 10 % 60:02}.{i % 10}Z,5,2" for i in range(13_000)]
    rows[99] = f"{AT[0]},12345,2"
    path.write_text("\n".join(["timestamp,price,volume", *rows]) + "\n")
    trade = list(read_trades(path, product_id="SOL-USD"))[-1].trades
    at = int(np.flatnonzero(trade.trade_id == 12_345)[0])
    model = FoundModel("volatility-ml", None, "", Finding("model", "expired", "gone"))
    each = Explanation(SimpleNamespace(trade_id=12_345), 5, 0, model, trade=trade.take(slice(at, at + 1)))
    find_in_recordings([each], "SOL-USD", write_origin([path], "SOL-USD", "10"))
    assert (outcomes(each)["recording"], said(each, "recording")) == ("equal", f"{path}:12346")


def test_a_recording_is_known_by_its_size_and_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "big"
    content = bytes(200_000)
    path.write_bytes(content)
    before = recording_of(path)
    assert before.size == 200_000
    path.write_bytes(content[:-1] + b"x")
    assert recording_of(path).digest != before.digest
    path.write_bytes(b"x" + content[1:])
    assert recording_of(path).digest != before.digest
    path.write_bytes(content)
    assert recording_of(path) == before
    path.write_bytes(b"short")
    assert recording_of(path).digest == hashlib.sha256(b"short").hexdigest()[:16]
    path.unlink()
    assert recording_of(path).size is None


START = dt.datetime(2025, 3, 6, 14, 0, tzinfo=dt.UTC)


def entry(
    seconds: float, to_version: str, action: Any = "promote", model: str = "volatility-ml", **fields: Any
) -> Entry:
    """Return an entry with an alias moved 0.2 s after the intent was written."""
    begun = START + dt.timedelta(seconds=seconds)
    at = fields.pop("at", begun + dt.timedelta(seconds=0.2))
    columns: dict[str, Any] = {"digest": f"digest {to_version}"} | fields
    return Entry(
        entry_id=f"run-{seconds}",
        action=action,
        model=model,
        from_version=None,
        to_version=to_version,
        digest=columns["digest"],
        who="me",
        why="why",
        is_forced=False,
        begun=begun,
        at=at,
    )


def a_forecast(seconds: float, version: str) -> Any:
    ts = int((START.timestamp() + seconds) * 1000) * 1_000_000
    return SimpleNamespace(model_variant="ml", version=version, digest=f"digest {version}", ts=ts)


LEDGER = [entry(0, "1"), entry(5, "9", model="volatility-baseline"), entry(10, "2"), entry(20, "1", "rollback")]


@pytest.mark.parametrize(
    ("seconds", "version", "entry_id", "says"),
    [
        (5, "1", "run-0", "promote at 2025-03-06T14:00:00.200000Z"),
        (10.1, "2", "run-10", "promote"),  # the forecaster was faster than the note that the alias had moved
        (10.7, "1", "run-0", "version 2 was on its way, 0.7 s before"),
        (15, "2", "run-10", "promote"),
        (25, "1", "run-20", "rollback"),
    ],
)
def test_a_forecast_served_under_the_newest_entry_that_names_its_version(
    seconds: float, version: str, entry_id: str, says: str
) -> None:
    found, finding = served_under(LEDGER, a_forecast(seconds, version))
    assert found is not None
    assert (found.entry_id, finding.outcome) == (entry_id, "equal")
    assert says in finding.said


def test_a_version_that_the_ledger_does_not_know_or_knows_as_another_file_is_said() -> None:
    found, finding = served_under(LEDGER, a_forecast(5, "2"))
    assert (found, finding.outcome) == (None, "expired")
    assert "no entry before 2025-03-06T14:00:05" in finding.said
    assert served_under([entry(0, "1", at=None)], a_forecast(5, "1"))[1].outcome == "expired", "it never moved"
    assert served_under("MLflow is away", a_forecast(5, "1"))[1] == ("promotion", "expired", "MLflow is away")
    assert served_under([entry(0, "1", digest="another")], a_forecast(5, "1"))[1].outcome == "different"
