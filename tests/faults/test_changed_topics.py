"""Somebody changes topics under the running system, or the broker loses what it knew: equal rows, or a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from data.process.running import AGAIN
from data.settings import KafkaSettings
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PARTITIONS, PREDICTIONS, TRADES
from data.stream.topics.creation import create_topics
from tests.broker import Broker
from tests.faults.drill import Drill
from tests.faults.equality import rows_of, same_records
from tests.faults.parts import Replayed
from tests.faults.test_lost_places import PARTITION, find_place
from tests.pipeline import running, wait_until
from tests.proofs import Proof

TRADES_REPLAYED = 6_000


def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers})


@pytest.fixture(params=["", "0"])
def drill(request: pytest.FixtureRequest, own_broker: Broker, models: Path, tmp_path: Path) -> Iterator[Drill]:
    """Run a forecaster without and with a slot."""
    drill = Drill(own_broker, models, tmp_path, SLOT=request.param)
    drill.supervised = True
    with drill.services():
        yield drill


@pytest.mark.acceptance
def test_partitions_that_are_added_while_all_runs_cost_nothing(drill: Drill, recording: Path, proof: Proof) -> None:
    proof.disturbs(f"12 partitions added to each topic in a paced replay, SLOT={drill.environ['SLOT']!r}")
    drill.undisturbed(recording)
    replayed = Replayed(drill, recording, speed="30")
    with running(replayed.ingestor):
        replayed.await_rows(TRADES_REPLAYED // 4)
        assert not replayed.part.is_over
        added = [NewPartitions(topic, 2 * PARTITIONS) for topic in (TRADES, FEATURES, PREDICTIONS)]
        client = admin(drill.broker)
        for future in client.create_partitions(added).values():
            future.result()
        replayed.await_end()
    assert drill.forecaster.process.poll() is None
    proof.saw(restarts=drill.restarts)
    same_records(drill.broker.bootstrap_servers, proof)


@pytest.mark.acceptance
def test_offsets_that_the_broker_lost_while_all_runs_are_refused_and_found_again(
    drill: Drill, recording: Path, proof: Proof
) -> None:
    """The broker comes back without any consumer group: its topic of offsets is gone from the disk.

    The forecaster ends with the command that finds its place. The ingestor finds its own place on the topic.
    """
    slot = drill.environ["SLOT"]
    proof.disturbs(f"broker killed, and the topic of all committed offsets removed from its disk, SLOT={slot!r}")
    drill.undisturbed(recording)
    replayed = Replayed(drill, recording, speed="30")
    with running(replayed.ingestor):
        replayed.await_rows(TRADES_REPLAYED // 4)
        drill.broker.kill()
        for folder in (drill.broker.config.folder / "data").glob("__consumer_offsets-*"):
            shutil.rmtree(folder)
        drill.broker.start()

        def is_refused() -> bool:
            replayed.look()
            return drill.forecaster.process.poll() == 2

        wait_until(is_refused, "the forecaster refuses", within_s=120)
        said = drill.forecaster.log.read_text()
        assert "the broker has no offset for" in said
        assert "python -m online.forecaster --find-place" in said
        assert "places found" in find_place(drill, within_s=90)
        drill.forecaster.start()
        replayed.await_end()
    proof.saw(restarts=drill.restarts + replayed.part.failures)
    same_records(drill.broker.bootstrap_servers, proof)


@pytest.mark.acceptance
def test_trades_that_are_deleted_while_all_runs_are_a_refusal_and_a_new_source_is_whole(
    drill: Drill, recording: Path, proof: Proof
) -> None:
    """Forecaster and ingestor end in words. The old source is refused: its trades would have two rows each."""
    proof.disturbs(f"{TRADES} deleted in a paced replay, then made anew, SLOT={drill.environ['SLOT']!r}")
    servers = drill.broker.bootstrap_servers
    drill.undisturbed(recording)
    replayed = Replayed(drill, recording, speed="5")
    with running(replayed.ingestor):
        replayed.await_rows(TRADES_REPLAYED // 20)
        assert not replayed.part.is_over
        delete(drill.broker, TRADES)
        assert drill.forecaster.process.wait(120) == 2
        assert "python -m online.forecaster --find-place" in drill.forecaster.log.read_text()
        assert replayed.ingestor.process.wait(120) == 1
        assert "the broker refuses what is sent" in replayed.ingestor.log.read_text().splitlines()[-1]
    create_topics({"bootstrap.servers": servers})
    drill.forecaster.start()
    assert drill.forecaster.process.wait(60) == 2
    find_place(drill, within_s=90)
    drill.forecaster.start()
    replayed.ingestor.start()
    assert replayed.ingestor.process.wait(60) == 2
    assert f"{TRADES} was deleted after this source had begun" in replayed.ingestor.log.read_text()
    drill.undisturbed(recording, "anew")
    with reader_of(servers) as reader:
        for topic in (FEATURES, PREDICTIONS):
            begun, anew, undisturbed = rows_of(reader, topic, PARTITION, "disturbed", "anew", "undisturbed")
            proof.equal(anew, undisturbed, topic)
            proof.equal(begun, undisturbed[: len(begun)], f"{topic} before")
    proof.saw(rows_before=len(begun), rows=len(anew))


@pytest.mark.acceptance
@pytest.mark.parametrize("topic", [FEATURES, PREDICTIONS])
def test_outcomes_that_are_deleted_while_all_runs_go_on_behind_the_hole(
    drill: Drill, recording: Path, proof: Proof, topic: str
) -> None:
    """The forecaster ends; once the topic is there again, the forecaster goes on behind its last transaction.

    A transaction that meets the deletion ends with AGAIN; a request about a topic that stays away ends with 1.
    """
    proof.disturbs(f"{topic} deleted in a paced replay, then made anew, SLOT={drill.environ['SLOT']!r}")
    servers, other = drill.broker.bootstrap_servers, {FEATURES: PREDICTIONS, PREDICTIONS: FEATURES}[topic]
    drill.undisturbed(recording)
    with reader_of(servers) as reader:
        whole = {each: rows_of(reader, each, PARTITION, "undisturbed")[0] for each in (FEATURES, PREDICTIONS)}
    ingestor = drill.replay("disturbed", recording, REPLAY_SPEED="20")
    with running(ingestor):
        drill.await_rows("disturbed", TRADES_REPLAYED // 10)
        assert ingestor.process.poll() is None
        delete(drill.broker, topic)
        assert drill.forecaster.process.wait(120) in (AGAIN, 1)
        assert '"level": "error"' in drill.forecaster.log.read_text().splitlines()[-1]
        create_topics({"bootstrap.servers": servers})
        drill.forecaster.start()
        assert ingestor.process.wait(60) == 0

        def is_over() -> bool:
            with reader_of(servers) as reader:
                return rows_of(reader, topic, PARTITION, "disturbed")[0][-1:] == whole[topic][-1:]

        wait_until(is_over, "the end", within_s=60)
    with reader_of(servers) as reader:
        found = {each: rows_of(reader, each, PARTITION, "disturbed")[0] for each in (FEATURES, PREDICTIONS)}
    proof.saw(rows_behind=len(found[topic]) - 1, rows_of_the_other=len(found[other]) - 1)
    ids = [row[:2] for row in found[topic]]
    proof.equal(ids, [row[:2] for row in whole[topic][-len(ids) :]], f"trades of {topic}")
    if topic == FEATURES:
        proof.equal(found[other], whole[other], other)


def delete(broker: Broker, topic: str) -> None:
    client = admin(broker)  # alive until the broker has answered
    client.delete_topics([topic])[topic].result()


def reader_of(servers: str) -> TopicReader:
    return TopicReader(KafkaSettings(kafka_bootstrap_servers=servers))
