"""Rejects on a real broker: refused by the forecaster, listed, shown, and sent again by `python -m online.rejects`."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.codec import encode, encode_trades
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, TRADES, End, partition_of
from data.trades import StreamKey
from online.rejects.__main__ import main
from online.rejects.kept import Kept, RejectsReader
from online.rejects.resend import plan, replayer, send
from tests.broker import Broker
from tests.pipeline import await_end, read_topic, wait_until

PRODUCT = "SOL-USD"
TRADES_SENT = 200
LATE = 40
"""Trades of the source that come after its end."""


@pytest.fixture
def settings(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    return KafkaSettings()


class Refused:
    """A source whose last trades, and a record that is no trade, came after its end."""

    def __init__(self, broker: Broker, source_id: str) -> None:
        self.broker, self.source_id = broker, source_id
        day = simulate_day(PRODUCT, dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, TRADES_SENT))
        values = encode_trades(replace(day, keys=(StreamKey(source_id, PRODUCT),)), "replay")
        end = encode(End(source_id, PRODUCT, "replay", 1_741_183_200_000_000_000, end=True))
        self.late = values[-LATE:]
        nonsense = self.late[0].replace(b'"price":', b'"prize":')
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        for value in (*values[:-LATE], end, *self.late, nonsense):
            producer.produce(TRADES, value, PRODUCT, partition_of(PRODUCT))
        assert producer.flush(30) == 0

    def await_rejects(self, settings: KafkaSettings, count: int) -> list[Kept]:
        def found() -> list[Kept] | None:
            mine = [kept for kept in rejects_of(settings) if self.source_id in kept.reject.text]
            return mine if len(mine) >= count else None

        rejects: list[Kept] = wait_until(found, f"{count} rejects of {self.source_id}")
        return rejects


def rejects_of(settings: KafkaSettings) -> list[Kept]:
    with TopicReader(settings) as reader:
        return list(RejectsReader(reader).read())


@pytest.fixture
def refused(
    online: dict[str, str], broker: Broker, request: pytest.FixtureRequest, settings: KafkaSettings
) -> Iterator[Refused]:
    del online
    source = Refused(broker, re.sub(r"\W+", "-", request.node.name)[:60])
    source.await_rejects(settings, LATE + 1)
    yield source


def test_late_trades_are_replayed_once_as_a_source_with_rows_of_its_own(
    refused: Refused, settings: KafkaSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record without a price is left out, stays, and is sent when it is repaired."""
    chosen = ["--source", refused.source_id]
    assert main(["replay", *chosen, "--dry-run"]) == 0
    assert f"would send {LATE} trades as 1 sources" in capsys.readouterr().out
    assert main(["replay", *chosen]) == 0
    said = capsys.readouterr().out
    assert f"sent {LATE} trades as 1 sources" in said
    assert "left out 1 rejects" in said
    [again] = re.findall(r"as (rejects-\S+-1)$", said, re.MULTILINE)
    rows = await_end(refused.broker.bootstrap_servers, again)
    assert [row["trade_id"] for row in rows] == [json.loads(value)["trade_id"] for value in refused.late]

    assert main(["replay", *chosen]) == 0
    said = capsys.readouterr().out
    assert "sent 0 trades" in said
    assert f"{LATE}  replayed before" in said
    assert len(read_topic(refused.broker.bootstrap_servers, FEATURES, again)) == LATE + 1  # with the end


def test_a_repaired_list_is_sent_and_what_is_refused_again_is_kept_again(
    refused: Refused, settings: KafkaSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rejects are repaired to the same trade: the forecaster refuses the second of them once more."""
    [nonsense] = [kept for kept in rejects_of(settings) if refused.source_id in kept.reject.text
                  and b'"prize"' in (kept.reject.original or b"")]  # fmt: skip
    assert main(["show", nonsense.id]) == 0
    shown = capsys.readouterr().out
    assert '"prize":' in shown
    assert "Object missing required field `price`" in shown
    assert main(["list", "--source", refused.source_id, "--newest", "1000", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    mended = [each for each in document["rejects"] if each["id"] == nonsense.id]
    first = next(each for each in document["rejects"] if each["trade"].get("trade_id") == mended[0]["trade"]["trade_id"]
                 and each["id"] != nonsense.id)  # fmt: skip
    mended[0]["trade"]["price"] = 7.0
    repaired = tmp_path / "repaired.json"
    repaired.write_text(json.dumps({"rejects": [*mended, first]}))

    assert main(["replay", "--repaired", str(repaired)]) == 0
    [again] = re.findall(r"as (rejects-\S+-1)$", capsys.readouterr().out, re.MULTILINE)
    rows = await_end(refused.broker.bootstrap_servers, again)
    assert len(rows) == 1
    refused_again = [kept for kept in rejects_of(settings) if kept.reject.source_id == again]
    assert [kept.reject.reason for kept in refused_again] == ["trade id was already taken or passed"]
    assert main(["replay", "--source", again]) == 0
    assert "sent 0 trades" in capsys.readouterr().out
    assert main(["list", "--again", "--source", again]) == 0
    assert "1  trade id was already taken or passed" in capsys.readouterr().out


def test_a_replay_that_another_one_overtook_sends_nothing(refused: Refused, settings: KafkaSettings) -> None:
    first = replayer(settings)
    mine = [kept for kept in rejects_of(settings) if kept.reject.source_id == refused.source_id]
    made = plan(mine, "rejects-overtaken", {})
    assert made.trades == LATE
    second = replayer(settings)
    with pytest.raises(KafkaException) as fenced:
        send(made, first)
    assert fenced.value.args[0].code() in (
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    )
    assert read_topic(refused.broker.bootstrap_servers, TRADES, "rejects-overtaken-1") == []
    send(plan(mine, "rejects-overtaking", {}), second)
    assert len(read_topic(refused.broker.bootstrap_servers, TRADES, "rejects-overtaking-1")) == LATE + 1
    assert len([kept for kept in rejects_of(settings) if kept.replayed_as == "rejects-overtaking-1"]) == LATE


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "9@99999999"], "no reject 9@99999999 is on trades-rejected"),
        (["replay"], "choose rejects by id"),
        (["replay", "--repaired", "missing.json"], "missing.json cannot be read"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_a_sentence(
    arguments: list[str], reason: str, settings: KafkaSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    del settings
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(reason)


def test_a_broker_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    assert main(["list"]) == 2
    assert "no broker answers at 127.0.0.1:9" in capsys.readouterr().err
