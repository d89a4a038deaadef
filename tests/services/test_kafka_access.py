"""Processes on a broker with an authorizer: docs/kafka-access.md names all rights that a process needs, and no more."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import KafkaException, Producer

from data.files import CHECKOUT
from data.names import NotRead
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.clients import Incoming
from data.stream.codec import encode
from data.stream.figures import publish_figures
from data.stream.records import FIGURES, PREDICTIONS, TOPICS, TRADES, Figure, Trade, partition_of
from data.stream.topics.creation import create_topics
from offline.explain.findings import EXPIRED
from online.exactly_once.loop import rejected
from tests.broker import free_ports, started
from tests.guarded_broker import GuardedBroker, Right, rights_in
from tests.pipeline import Process, environment, read_topic, replay, running, wait_until
from tests.proofs import Proof

RIGHTS = rights_in(CHECKOUT / "docs" / "kafka-access.md")
PRODUCT = "BTC-USD"
ANSWERS_S = 120.0
LIVE_S = 8.0
"""How long a browser shows the live page: each of the page's facts is asked for at least once."""
STALE = "does the replay go on?"
"""The API knows a forecast: nobody writes its source any more."""
WORKED = "\nall of it worked"


Stop = Callable[[str], bool]
"""Called with all that a process has said; returns whether that is enough."""


class Place:
    """A guarded broker with topics, and processes of its users."""

    def __init__(self, broker: GuardedBroker, models: Path, folder: Path) -> None:
        self.broker, self._models, self.folder = broker, models, folder
        self._recording = folder / "recording.csv"
        day = simulate_day(PRODUCT, dt.date(2025, 3, 5), hours=(14, 15))
        write_csv(self._recording, [day.take(slice(0, 3_000))])
        with self._recording.open("a") as file:
            file.write("no trade\n")

    def environ(self, user: str | None, **settings: str) -> dict[str, str]:
        """Return the environment of a process; without a user, the process may do everything."""
        login = {} if user is None else self.broker.login(user)
        ours = {"EXPORTER_PORT": "0", "SLOT": "", "MAX_FEATURE_AGE_S": "1", "LAKE_URI": str(self.folder / "lake")}
        return environment(self.broker.bootstrap_servers, self._models, **ours, **settings) | login

    def process(self, module: str, user: str | None, *arguments: str, **settings: str) -> Process:
        log = self.folder / f"{module}-{time.monotonic_ns()}.log"
        return Process(module, self.environ(user, **settings), log, arguments)

    def ingestor(self, user: str | None, source_id: str, speed: str = "max") -> Process:
        return replay(self.environ(user), self.folder, source_id, self._recording, REPLAY_SPEED=speed)

    def ingest(self, source_id: str) -> None:
        """Put a source on the topics, and then a record that is no trade."""
        with running(ingestor := self.ingestor(None, source_id)):
            assert ingestor.process.wait(60) == 0, ingestor.log.read_text()
        producer = Producer({"bootstrap.servers": self.broker.bootstrap_servers})
        producer.produce(TRADES, b"no trade", PRODUCT, partition_of(PRODUCT))
        assert producer.flush(10) == 0

    def abandon(self, source_id: str) -> None:
        """Put the beginning of a source on the topics: nobody writes its rest."""
        with running(ingestor := self.ingestor(None, source_id, "60")):
            ingestor.await_log('"event": ?"replay"')
            wait_until(lambda: self.records(TRADES, source_id), "the first trades")

    def records(self, topic: str, source_id: str) -> list[dict[str, Any]]:
        return read_topic(self.broker.bootstrap_servers, topic, source_id)

    def has_ended(self, source_id: str) -> bool:
        return any("end" in record for record in self.records(PREDICTIONS, source_id))


def settings_of(environ: dict[str, str]) -> KafkaSettings:
    return KafkaSettings.model_validate({k.lower(): v for k, v in environ.items() if k.startswith("KAFKA_")})


def text_of(process: Process, stop: Stop, is_done: Callable[[], Any]) -> str:
    """Return the log of a running process once the log is enough, the work is done, or the process has ended."""

    def text() -> str:
        return process.log.read_text()

    wait_until(lambda: stop(text()) or process.process.poll() is not None or is_done(), "an answer", ANSWERS_S)
    return text()


def run_topics(place: Place, stop: Stop) -> str:
    del stop
    try:
        created = create_topics(settings_of(place.environ("topics")).client_config())
    except KafkaException as error:
        return str(error.args[0].str())
    assert set(created) == {*TOPICS, FIGURES}
    return WORKED


def run_ingestor(place: Place, stop: Stop) -> str:
    with running(ingestor := place.ingestor("ingestor", "guarded")):
        said = text_of(ingestor, stop, lambda: False)
    return said + (WORKED if ingestor.process.returncode == 0 else "")


def run_forecaster(place: Place, stop: Stop) -> str:
    """Start on new topics, and once more with an open source."""
    place.ingest("first")
    place.abandon("open")
    with running(forecaster := place.process("online.forecaster", "forecaster")):
        said = text_of(forecaster, stop, lambda: place.has_ended("first") and place.records(PREDICTIONS, "open"))
        if forecaster.process.poll() is not None:
            return said
        assert forecaster.stop() == 0
    place.ingest("second")
    with running(again := place.process("online.forecaster", "forecaster")):
        said += text_of(again, stop, lambda: place.has_ended("second"))
    return said + (WORKED if place.has_ended("second") else "")


def forecast_open(place: Place) -> None:
    """Let a forecaster with all rights forecast an open source, for the readers of forecasts."""
    if place.records(PREDICTIONS, "open"):
        return
    place.abandon("open")
    with running(forecaster := place.process("online.forecaster", None)):
        wait_until(lambda: place.records(PREDICTIONS, "open"), "forecasts")
        assert forecaster.stop() == 0


def run_api(place: Place, stop: Stop) -> str:
    """Answer a request, and show the live page to a browser for a while."""
    forecast_open(place)
    port = str(free_ports(1)[0])
    with running(api := place.process("online.api", "api", API_PORT=port)):
        url = f"http://127.0.0.1:{port}"
        forecast = f"{url}/predict/{PRODUCT}?source_id=open"
        text_of(api, stop, lambda: STALE in answer(forecast))
        with httpx.Client() as browser, browser.stream("GET", f"{url}/live/events"):
            until = time.monotonic() + LIVE_S
            said = text_of(api, stop, lambda: time.monotonic() > until)
        health = answer(f"{url}/health")
        found = answer(forecast)
    works = '"healthy"' in health and STALE in found and "does without" not in said
    return said + health + found + (WORKED if works else "")


def answer(url: str) -> str:
    """Return the body of an answer, empty if nobody answers."""
    try:
        return httpx.get(url, timeout=10).text
    except httpx.TransportError:
        return ""


def run_exporter(place: Place, stop: Stop) -> str:
    forecast_open(place)
    with running(exporter := place.process("monitoring.exporter", "exporter")):
        said = text_of(exporter, stop, lambda: "history is read" in exporter.log.read_text())
    return said + (WORKED if "history is read" in said else "")


def run_offline(place: Place, stop: Stop) -> str:
    """Take the topics into the lake, ask for a forecast's origin, export rows, and publish a figure."""
    del stop
    forecast_open(place)
    trade = place.records(PREDICTIONS, "open")[-1]["trade_id"]
    said, codes = "", set()
    exported = ("--source", "open", "--out", str(place.folder / "exported.parquet"))
    commands: tuple[tuple[str, ...], ...] = (
        ("offline.served",),
        ("offline.explain", "open", PRODUCT, str(trade)),
        ("data.stream.export", "features", *exported),
    )
    for module, *arguments in commands:
        process = place.process(module, "offline", *arguments)
        with running(process):
            codes.add(process.process.wait(60))
        said += process.log.read_text()
    try:
        figure = Figure("drift_ratio", {"product_id": PRODUCT}, 1.0, time.time_ns())
        publish_figures(settings_of(place.environ("offline")), [figure], within_s=5)
    except NotRead as error:
        return said + str(error)
    return said + (WORKED if codes == {0, EXPIRED} else str(codes))


def run_rejects(place: Place, stop: Stop) -> str:
    """List the rejects, and send again the record that is a trade."""
    del stop
    producer = Producer({"bootstrap.servers": place.broker.bootstrap_servers})
    trade = Trade("late", PRODUCT, "replay", 1, 1_741_183_200_000_000_000, 1_741_183_200_000_000_000, 1.0)
    reject = rejected(Incoming(TRADES, partition_of(PRODUCT), 0, encode(trade), 1), "its source has ended", None)
    producer.produce(reject[0], reject[3], partition=reject[1])
    assert producer.flush(10) == 0
    said, codes = "", set()
    for arguments in (("list",), ("replay", "--all")):
        process = place.process("online.rejects", "rejects", *arguments)
        with running(process):
            codes.add(process.process.wait(60))
        said += process.log.read_text()
    return said + (WORKED if codes == {0} and "sent 1 trades as 1 sources" in said else str(codes))


USERS = {
    "topics": run_topics,
    "ingestor": run_ingestor,
    "forecaster": run_forecaster,
    "api": run_api,
    "exporter": run_exporter,
    "rejects": run_rejects,
    "offline": run_offline,
}


@pytest.fixture
def place(tmp_path: Path, jars: list[Path], models: Path) -> Iterator[Place]:
    with started(GuardedBroker(tmp_path / "kafka", jars, USERS)) as broker:
        broker.allow(RIGHTS)
        yield Place(broker, models, tmp_path)


def make_topics(place: Place) -> None:
    create_topics({"bootstrap.servers": place.broker.bootstrap_servers})


def test_the_page_names_the_rights_of_all_users() -> None:
    assert {right.user for right in RIGHTS} == set(USERS)


def test_all_users_work_with_exactly_their_rights(place: Place, proof: Proof) -> None:
    proof.disturbs(f"a broker that grants {len(RIGHTS)} rights to {len(USERS)} users, and nothing else")
    for run in USERS.values():
        said = run(place, lambda _: False)
        assert said.endswith(WORKED), said


@pytest.mark.acceptance
@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: "-".join(right).replace("*", ""))
def test_a_missing_right_is_reported_with_the_name_of_topic_or_group(place: Place, right: Right, proof: Proof) -> None:
    proof.disturbs(f"{right.user} without {right.operation} on {right.resource} {right.name}")
    if right.user != "topics":
        make_topics(place)

    def is_named(said: str) -> bool:
        refusals = [line for line in said.splitlines() if "authorization failed" in line.lower()]
        return any(right.name.rstrip("*") in line for line in refusals)

    with place.broker.without(right):
        said = USERS[right.user](place, is_named)
    assert is_named(said), said
