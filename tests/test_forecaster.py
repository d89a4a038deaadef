"""The process of the forecaster: how it starts, and what it says where it cannot."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from online.exactly_once import loop
from online.exit_codes import AGAIN, REFUSED
from online.metrics import Metrics
from orchestration.local.broker import Broker, running_broker
from orchestration.local.supervisor import Part, State, Supervisor
from tests.conftest import ROOT
from tests.pipeline import Process, environment, running, wait_until
from tests.test_supervisor import Said


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def forecaster(folder: Path, servers: str, models: Path, **settings: str) -> Process:
    return Process("online.forecaster", environment(servers, models, **settings), folder / "forecaster.log")


def test_replicas_without_a_slot_take_the_next_free_port(taken_port: int, models: Path, tmp_path: Path) -> None:
    replica = forecaster(tmp_path, "127.0.0.1:9", models, SLOT="", FORECASTER_PORT=str(taken_port))
    with running(replica):
        found = replica.await_log(r'"metrics_port": (\d+)')
    assert taken_port < int(found[1]) < taken_port + 100


def test_a_taken_port_of_a_replica_with_a_slot_is_told_in_one_line(
    taken_port: int, models: Path, tmp_path: Path
) -> None:
    replica = forecaster(tmp_path, "127.0.0.1:9", models, SLOT="0", FORECASTER_PORT=str(taken_port))
    with running(replica):
        assert replica.process.wait(60) == REFUSED
    (said,) = replica.log.read_text().splitlines()
    assert re.search(rf"metrics cannot be served on 127.0.0.1:{taken_port}: .*FORECASTER_PORT names another", said)


class Consumer:
    """Says one error when it is polled, and another one when it is closed."""

    def __init__(self, said: KafkaError) -> None:
        self._said = said

    def subscribe(self, *_: object, **__: object) -> None: ...

    def poll(self, _: float) -> None:
        raise KafkaException(self._said)

    def close(self) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (KafkaError.UNKNOWN_MEMBER_ID, AGAIN),
        (KafkaError.FENCED_INSTANCE_ID, AGAIN),
        (KafkaError.INVALID_PRODUCER_EPOCH, AGAIN),
        (KafkaError._FATAL, AGAIN),
        (KafkaError._TRANSPORT, AGAIN),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, 1),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, 1),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, 1),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, 1),
    ],
)
def test_only_what_passes_is_worth_another_start_whatever_goes_wrong_while_closing(
    monkeypatch: pytest.MonkeyPatch, said: int, code: int
) -> None:
    monkeypatch.setattr(loop, "spare_collector", lambda: None)
    monkeypatch.setattr(loop, "SWITCH_S", sys.getswitchinterval())
    stage = type("Stage", (), {"topic": "trades"})()
    with pytest.raises(SystemExit) as ended:
        loop.serve(Consumer(KafkaError(said)), [], stage, lambda _: None, lambda: True, Metrics(), "")  # type: ignore[arg-type]
    assert ended.value.code == code


def test_a_forecaster_without_its_topics_is_given_up_with_the_words_of_the_broker(
    jars: list[Path], models: Path, tmp_path: Path
) -> None:
    said = Said()

    async def until_given_up(environ: dict[str, str]) -> None:
        part = Part("forecaster", (sys.executable, "-m", "online.forecaster"), is_ready=lambda: False)
        supervisor = Supervisor([part], tmp_path, said, environ, ROOT, backoff_s=0.01)
        await supervisor.start()
        try:
            async with asyncio.timeout(60):
                assert not await supervisor.wait_until_up()
            assert supervisor.watched["forecaster"].state is State.FAILED
        finally:
            await supervisor.stop()

    with running_broker(tmp_path / "kafka", jars) as bare:
        asyncio.run(until_given_up(environment(bare.bootstrap_servers, models, SLOT="")))
    assert "forecaster ended with exit code 1 (attempt 3)" in said.text
    assert "the broker refuses what the forecaster needs" in said.text
    assert "Unknown topic or partition" in said.text
    assert "Traceback" not in said.text


def test_a_broker_that_does_not_tell_whether_a_partition_was_read_is_asked_until_a_stop(
    broker: Broker, models: Path, tmp_path: Path, nobody: str
) -> None:
    """What looks at the rows is given an address where nobody answers."""
    program = f"""
import sys
from online import forecaster
reader = forecaster.TopicReader
forecaster.TopicReader = lambda config, *more, **named: reader(
    config | {{"bootstrap.servers": {nobody.removeprefix("http://")!r}}}, *more, **named)
forecaster.GROUP = "never-committed"
sys.exit(forecaster.main())
"""
    log = tmp_path / "log"
    with log.open("wb") as output:
        environ = environment(broker.bootstrap_servers, models, SLOT="")
        process = subprocess.Popen([sys.executable, "-c", program], env=environ, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or "waiting for the broker" in log.read_text(), "it waits")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, log.read_text()
    finally:
        process.kill()
    assert "Traceback" not in log.read_text()
