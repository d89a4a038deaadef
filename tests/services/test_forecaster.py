"""The process of the forecaster: starts, and reports of failed starts."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from data.files import CHECKOUT
from data.process.running import AGAIN, REFUSED
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PREDICTIONS, TRADES
from online.exactly_once import loop
from online.exactly_once.offset_note import GROUP
from online.metrics import ForecasterMetrics
from orchestration.local.parts import says_ready, stack_parts
from orchestration.local.settings import StackSettings
from orchestration.local.supervisor import Part, PartState, Supervisor
from tests.broker import Broker, free_ports, running_broker
from tests.fakes import FakeRegistry
from tests.models import model_file
from tests.pipeline import Process, await_end, environment, replay, running, wait_until
from tests.services.test_supervisor import Said


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """500 simulated trades."""
    path = tmp_path / "recording.csv"
    write_csv(path, [simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, 500))])
    return path


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
    """Raises an error on `poll`, and another error on `close`."""

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
        (KafkaError._UNKNOWN_PARTITION, AGAIN),
        (KafkaError._UNKNOWN_TOPIC, AGAIN),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, 1),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, 1),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, 1),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, 1),
    ],
)
def test_only_what_passes_is_worth_another_start_whatever_goes_wrong_while_closing(
    monkeypatch: pytest.MonkeyPatch, said: int, code: int
) -> None:
    monkeypatch.setattr(loop, "tune_garbage_collector", lambda: None)
    monkeypatch.setattr(loop, "SWITCH_S", sys.getswitchinterval())
    stage = object()
    with pytest.raises(SystemExit) as ended:
        never, always = (lambda: False), (lambda: True)
        loop.serve(Consumer(KafkaError(said)), [], stage, lambda _: None, never, always, ForecasterMetrics(), "")  # type: ignore[arg-type]
    assert ended.value.code == code


def test_a_forecaster_without_its_topics_is_given_up_with_the_words_of_the_broker(
    jars: list[Path], models: Path, tmp_path: Path
) -> None:
    said = Said()

    async def until_given_up(environ: dict[str, str]) -> None:
        part = Part("forecaster", (sys.executable, "-m", "online.forecaster"), is_ready=lambda: False)
        supervisor = Supervisor([part], tmp_path, said, environ, CHECKOUT, backoff_s=0.01)
        await supervisor.start()
        try:
            async with asyncio.timeout(60):
                assert not await supervisor.wait_until_up()
            assert supervisor.watched["forecaster"].state is PartState.FAILED
        finally:
            await supervisor.stop()

    with running_broker(tmp_path / "kafka", jars) as bare:
        asyncio.run(until_given_up(environment(bare.bootstrap_servers, models, SLOT="")))
    assert "forecaster ended with exit code 1 (attempt 3)" in said.text
    assert "the broker refuses what the forecaster needs" in said.text
    assert "Unknown topic or partition" in said.text
    assert "Traceback" not in said.text


def test_nothing_is_written_before_a_model_serves(
    own_broker: Broker, recording: Path, registry: FakeRegistry, tmp_path: Path
) -> None:
    """The trades wait on the topic; not even the group is joined. Then the first champion is named, and rows follow."""
    servers = own_broker.bootstrap_servers
    (port,) = free_ports(1)
    settings = {"SLOT": "0", "FORECASTER_PORT": str(port), "MLFLOW_TRACKING_URI": registry.uri}
    waiting = forecaster(tmp_path, servers, tmp_path / "no-models", **settings)
    ingestor = replay(waiting.environment, tmp_path, "before-a-model", recording)
    is_ready = says_ready(f"http://127.0.0.1:{port}/metrics")
    with running(waiting, ingestor):
        waiting.await_log("waiting for the first model")  # told when the kernel is compiled
        assert ingestor.process.wait(60) == 0
        asked = len(registry.asked)
        wait_until(lambda: len(registry.asked) > asked + 3, "it goes on asking for a model")
        assert '"event": "no model yet"' in waiting.log.read_text()
        assert not is_ready()
        with TopicReader(KafkaSettings(kafka_bootstrap_servers=servers), GROUP) as reader:
            ends = [reader.span(topic, partition)[1] for topic in (FEATURES, PREDICTIONS) for partition in range(12)]
            assert not any(ends), "markers of transactions take offsets too"
            assert not reader.committed(TRADES, range(12))
        registry.files["volatility-baseline"] = model_file(version="1")
        assert len(await_end(servers, "before-a-model")) == 500
        assert is_ready()


def typed(command: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a person does, from the root of the repository."""
    return subprocess.run(
        command, shell=True, env=environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=80, check=False
    )


def test_a_lost_place_is_found_again_while_the_stack_is_up(own_broker: Broker, models: Path, tmp_path: Path) -> None:
    """The forecaster of `make run` has a slot. The supervisor's command is typed word for word, and helps."""
    servers = own_broker.bootstrap_servers
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(FEATURES, b'{"kafka_partition":3,"kafka_offset":5}', "X", 3)
    assert producer.flush(10) == 0
    (port,) = free_ports(1)
    stack = StackSettings(_env_file=None, var_dir=tmp_path, kafka_bootstrap_servers=servers, forecaster_port=port)
    (part,) = (p for p in stack_parts(stack, {"bootstrap.servers": servers}) if p.name == "forecaster")
    said = Said()
    outcome: list[subprocess.CompletedProcess[str]] = []

    async def run(environ: dict[str, str]) -> None:
        supervisor = Supervisor([replace(part, needs=())], tmp_path, said, environ, CHECKOUT)
        await supervisor.start()
        try:
            async with asyncio.timeout(90):
                while "needs you" not in said.text:
                    await asyncio.sleep(0.05)
                (command,) = re.findall(r"in another terminal: (.*)", said.text)
                plain = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
                outcome.append(await asyncio.to_thread(typed, command, plain))
                assert await supervisor.wait_until_up()
        finally:
            await supervisor.stop()

    asyncio.run(run(environment(servers, models, SLOT="0", FORECASTER_PORT=str(port))))
    assert outcome[0].returncode == 0, outcome[0].stderr
    assert "though this partition was read: its newest outcome is of offset 5" in said.text
    assert said[-1].startswith("forecaster ready after ")


def test_a_broker_that_does_not_tell_whether_a_partition_was_read_is_asked_until_a_stop(
    broker: Broker, models: Path, tmp_path: Path, nobody: str
) -> None:
    """The reader of the rows gets an address where nobody answers."""
    program = f"""
import sys
from online import forecaster
reader = forecaster.TopicReader
forecaster.TopicReader = lambda settings, *more, **named: reader(
    settings.model_copy(update={{"kafka_bootstrap_servers": {nobody.removeprefix("http://")!r}}}), *more, **named)
forecaster.GROUP = "never-committed"
sys.exit(forecaster.main())
"""
    log = tmp_path / "log"
    with log.open("wb") as output:
        environ = environment(broker.bootstrap_servers, models, SLOT="")
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environ, cwd=CHECKOUT, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: process.poll() is not None or "waiting for the broker" in log.read_text(), "it waits")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, log.read_text()
    finally:
        process.kill()
    assert "Traceback" not in log.read_text()
