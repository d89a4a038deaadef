"""From a recording to forecasts through the real broker and the real processes."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its types forget three of them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.recordings.readers import read_trades, write_csv
from data.simulator.day import simulate_day
from data.stream.records import FEATURES, REJECTED, TRADES
from data.times import NS
from tests.broker import Broker
from tests.pipeline import Process, await_end, environment, read_topic, replay, running

SPEC = FeatureSpec()


def run_to_end(process: Process, expected: int = 0) -> str:
    with running(process):
        assert process.process.wait(60) == expected, process.log.read_text()
    return process.log.read_text()


def columns_of(records: list[dict[str, Any]]) -> np.ndarray:
    """Return the feature columns as the topic has them, NaN for null: JSON keeps every bit of a double."""
    return np.array([[record[name] for name in SPEC.columns] for record in records], np.float64)


def check_source(broker: Broker, source_id: str, recording: Path) -> list[dict[str, Any]]:
    """Check that each trade is once on each topic, and that its row has the bytes of the kernel over the recording."""
    predictions = await_end(broker.bootstrap_servers, source_id)
    trades = [r for r in read_topic(broker.bootstrap_servers, TRADES, source_id) if "end" not in r]
    features = [r for r in read_topic(broker.bootstrap_servers, FEATURES, source_id) if "end" not in r]
    windows = Windows(SPEC)
    made = [feature_rows(batch.trades, windows) for batch in read_trades(recording)]
    ids = np.concatenate([rows.trades.trade_id for rows in made]).tolist()
    for records in (trades, features, predictions):
        assert [record["trade_id"] for record in records] == ids
    expected = np.concatenate([rows.values for rows in made])
    assert columns_of(features).tobytes() == expected.tobytes()
    assert columns_of(predictions).tobytes() == expected.tobytes()
    places = [(record["kafka_partition"], record["kafka_offset"]) for record in predictions]
    assert len(set(places)) == len(places)
    return predictions


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 simulated trades, the kernel's lookback not yet full."""
    path = tmp_path_factory.mktemp("recordings") / "simulated.csv"
    write_csv(path, [simulate_day("BTC-USD", dt.date(2025, 3, 3), hours=(14, 15)).take(slice(0, 20_000))])
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 simulated trades."""
    path = tmp_path_factory.mktemp("recordings") / "short.csv"
    write_csv(path, [simulate_day("BTC-USD", dt.date(2025, 3, 4), hours=(14, 15)).take(slice(0, 2_000))])
    return path


def test_a_recording_becomes_forecasts_each_trade_once(
    broker: Broker, online: dict[str, str], recording: Path, tmp_path: Path
) -> None:
    run_to_end(replay(online, tmp_path, "once", recording))
    predictions = check_source(broker, "once", recording)
    assert all(0 < p["interval"][0] < p["score"] < p["interval"][1] for p in predictions)
    assert {p["model_variant"] for p in predictions} == {"baseline"}
    assert {p["in_sample"] for p in predictions} == {False}, "trained up to 2010"
    assert predictions[0]["missing"] == ["ret_mean", "ret_std", "ewma_variance_300"]
    assert predictions[-1]["missing"] == []


def test_the_real_recording_of_4337_trades_replayed_twice_is_two_sources(
    broker: Broker, online: dict[str, str], shared: Path, tmp_path: Path
) -> None:
    path = shared / "coinbase_trades_btcusd_20251117.csv"
    for source_id in ("real-1", "real-2"):
        run_to_end(replay(online, tmp_path, source_id, path))
        assert len(check_source(broker, source_id, path)) == 4_337


def test_two_holes_make_three_segments_and_hold_nothing_up(
    broker: Broker, online: dict[str, str], shared: Path, tmp_path: Path
) -> None:
    """The Exchange recording at 60 times its pace: holes of 35.3 and 5.4 hours are cut to a second."""
    path = shared / "coinbase_exchange_ticker_btcusd_20251112-13.ndjson.gz"
    log = run_to_end(replay(online, tmp_path, "holes", path, REPLAY_SPEED="60", MAX_WAIT_S="1"))
    assert log.count("would_wait_s") == 2
    predictions = check_source(broker, "holes", path)
    assert len(predictions) == 2_824
    starts = [i for i, p in enumerate(predictions) if p["n"] == 0]
    assert starts == [0, 44, 1_834], "the lines of its control messages, 1, 46 and 1,837, less themselves"
    assert all(predictions[start]["ret_mean"] is None for start in starts)


def test_a_killed_replay_goes_on_after_its_last_delivered_trade(
    broker: Broker, online: dict[str, str], short: Path, tmp_path: Path
) -> None:
    """`real-time` moves all times by a whole number of seconds; a resumed replay must find the number again."""
    settings = {"REPLAY_SPEED": "real-time", "MAX_WAIT_S": "0.03"}
    process = replay(online, tmp_path, "killed", short, **settings)
    for _ in range(3):
        before = len(read_topic(broker.bootstrap_servers, TRADES, "killed"))
        with running(process):
            while len(read_topic(broker.bootstrap_servers, TRADES, "killed")) < before + 200:
                assert process.process.poll() is None, process.log.read_text()
            process.kill()
    run_to_end(process)
    trades = [r for r in read_topic(broker.bootstrap_servers, TRADES, "killed") if "end" not in r]
    recorded = next(read_trades(short)).trades
    assert [r["trade_id"] for r in trades] == recorded.trade_id.tolist()
    shift = trades[0]["event_time"] - int(recorded.event_time[0])
    assert shift % NS == 0
    assert [r["event_time"] for r in trades] == (recorded.event_time + shift).tolist()


def test_sigterm_delivers_what_was_read_and_a_finished_source_is_refused(
    broker: Broker, online: dict[str, str], short: Path, tmp_path: Path
) -> None:
    process = replay(online, tmp_path, "stopped", short, REPLAY_SPEED="10")
    with running(process):
        process.await_log('"event": ?"replay"')
        while not read_topic(broker.bootstrap_servers, TRADES, "stopped"):
            assert process.process.poll() is None
        assert process.stop() == 0
    sent = int(process.await_log(r'"trades": ?(\d+)').group(1))
    assert len(read_topic(broker.bootstrap_servers, TRADES, "stopped")) == sent, "delivered, and no end record"
    run_to_end(replay(online, tmp_path, "stopped", short))
    check_source(broker, "stopped", short)
    assert "has ended" in run_to_end(replay(online, tmp_path, "stopped", short), expected=2)


def test_rows_that_are_no_trades_are_kept_with_their_place(
    broker: Broker, online: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(
        "timestamp,price,volume\n"
        "2025-01-01T00:00:00.0Z,100.0,1\n"
        "2025-01-01T00:00:01.0Z,-5,1\n"
        "2025-01-01T00:00:02.0Z,101.0,1\n"
        "2024-12-31T23:59:00.0Z,102.0,1\n"
    )
    interrupted = replay(online, tmp_path, "bad-rows", path, REPLAY_SPEED="0.1")
    with running(interrupted):  # its rejects are out, the trade at 2 s is not
        while not read_topic(broker.bootstrap_servers, TRADES, "bad-rows"):
            assert interrupted.process.poll() is None
        interrupted.kill()
    run_to_end(replay(online, tmp_path, "bad-rows", path))
    predictions = await_end(broker.bootstrap_servers, "bad-rows")
    assert [p["trade_id"] for p in predictions] == [1, 3], "the position counts rejected rows too"
    records = read_topic(broker.bootstrap_servers, REJECTED, "bad-rows")
    rejected = {r["where"]: r["reason"] for r in records}
    assert len(records) == len(rejected), "said once, though the replay was resumed"
    assert sorted(where.rsplit(":", 1)[1] for where in rejected) == ["3", "5"]
    assert any("-5" in reason for reason in rejected.values())
    assert any("falls by more than 1 s" in reason for reason in rejected.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"", "empty"),
        (b"hello, world\n", "timestamp,price,volume"),
        (b"timestamp,price,volume\n2025-01-01 00:00:00,100,1\n", "no row is a trade: 1 rows are rejected"),
    ],
)
def test_a_file_without_trades_is_refused_with_what_is_read(
    online: dict[str, str], tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(content)
    assert said in run_to_end(replay(online, tmp_path, f"none-{len(content)}", path), expected=2)


def test_a_source_does_not_go_on_with_another_recording(
    broker: Broker, online: dict[str, str], short: Path, tmp_path: Path
) -> None:
    """A longer list with the first recording in front is a continuation."""
    first, other, more = (tmp_path / f"{name}.csv" for name in ("first", "other", "more"))
    lines = short.read_text().splitlines(keepends=True)
    for path, part in ((first, lines[:801]), (other, [lines[0], *lines[400:]]), (more, [lines[0], *lines[801:]])):
        path.write_text("".join(part))
    process = replay(online, tmp_path, "other-input", first, REPLAY_SPEED="10")
    with running(process):
        while not read_topic(broker.bootstrap_servers, TRADES, "other-input"):
            assert process.process.poll() is None
        assert process.stop() == 0
    before = len(read_topic(broker.bootstrap_servers, TRADES, "other-input"))
    said = run_to_end(replay(online, tmp_path, "other-input", other), expected=2)
    assert f"recording 1 of its start is {first}" in said
    assert f"{other} is another one" in said
    assert len(read_topic(broker.bootstrap_servers, TRADES, "other-input")) == before, "nothing was sent"
    run_to_end(replay(online, tmp_path, "other-input", first, more))
    check_source(broker, "other-input", short)


def test_a_restart_finds_its_source_whole_only_with_its_own_recordings(
    online: dict[str, str], short: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("".join(short.read_text().splitlines(keepends=True)[:401]))
    run_to_end(replay(online, tmp_path, "whole", short))
    restarted = {"INGESTOR_RESTARTED": "true"}
    assert "replay ended" in run_to_end(replay(online, tmp_path, "whole", short, **restarted))
    assert "this source has ended" in run_to_end(replay(online, tmp_path, "whole", other, **restarted), expected=2)
    assert "this source has ended" in run_to_end(replay(online, tmp_path, "whole", short), expected=2)


def test_a_broker_that_refuses_every_record_is_told_at_once(
    broker: Broker, models: Path, short: Path, tmp_path: Path
) -> None:
    """At the pace of its recording the replay would take 20 minutes; nothing counts as sent."""
    limited = ConfigResource(ConfigResource.Type.TOPIC, TRADES)
    client = AdminClient({"bootstrap.servers": broker.bootstrap_servers})

    def limit(size: str | None) -> None:
        change = AlterConfigOpType.SET if size else AlterConfigOpType.DELETE
        limited.incremental_configs = [ConfigEntry("max.message.bytes", size, incremental_operation=change)]
        for future in client.incremental_alter_configs([limited]).values():
            future.result()

    limit("100")
    try:
        process = replay(environment(broker.bootstrap_servers, models), tmp_path, "refused", short, REPLAY_SPEED="1")
        said = run_to_end(process, expected=1)
    finally:
        limit(None)
    assert "the broker refuses what is sent" in said
    assert re.search(r'"trades": ?0\b', said)
    assert not read_topic(broker.bootstrap_servers, TRADES, "refused")


def test_a_source_whose_beginning_the_broker_forgot_goes_on_where_the_topic_ends(
    broker: Broker, online: dict[str, str], short: Path, tmp_path: Path
) -> None:
    process = replay(online, tmp_path, "no-beginning", short, REPLAY_SPEED="10")
    with running(process):
        while len(read_topic(broker.bootstrap_servers, TRADES, "no-beginning")) < 20:
            assert process.process.poll() is None
        assert process.stop() == 0
    client = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    client.delete_consumer_groups(["ingestor-no-beginning"])["ingestor-no-beginning"].result()
    said = run_to_end(replay(online, tmp_path, "no-beginning", short))
    assert "no beginning of this source is known" in said
    check_source(broker, "no-beginning", short)
