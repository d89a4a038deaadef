"""The broker forgets how far a topic was read, forgets trades, or has another topic of the same name."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from data.files import CHECKOUT
from data.stream.records import FEATURES, REJECTED, TRADES, partition_of
from data.stream.topics.creation import create_topics
from online.exactly_once.offset_note import GROUP
from tests.broker import Broker
from tests.faults.drill import Drill, equal_columns
from tests.pipeline import read_topic, running, wait_until
from tests.proofs import Proof

PARTITION = partition_of("ETH-USD")
TRADES_REPLAYED = 6_000


@pytest.fixture
def members(own_broker: Broker, models: Path, tmp_path: Path) -> Iterator[Drill]:
    """Prepare a forecaster without a slot, so that the group is empty when the forecaster has ended; not started."""
    yield Drill(own_broker, models, tmp_path, SLOT="")


def admin(drill: Drill) -> AdminClient:
    return AdminClient({"bootstrap.servers": drill.broker.bootstrap_servers})


def forget_places(drill: Drill) -> None:
    """Delete the forecaster's group with all committed offsets."""
    client = admin(drill)
    client.delete_consumer_groups([GROUP])[GROUP].result()


def remove_trades(drill: Drill, before: int, topic: str = TRADES) -> None:
    """Remove trades, or records of another topic, as retention does."""
    client = admin(drill)
    for future in client.delete_records([TopicPartition(topic, PARTITION, before)]).values():
        future.result()


def find_place(drill: Drill, *flags: str, code: int = 0, within_s: float = 30) -> str:
    command = [sys.executable, "-m", "online.forecaster", "--find-place", *flags]
    done = subprocess.run(
        command, env=drill.environ, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=within_s
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def half_processed(drill: Drill, recording: Path, *, end: bool = False) -> None:
    """Let the forecaster process a part of a source; the ingestor then goes on without the forecaster."""
    ingestor = drill.replay("disturbed", recording, REPLAY_SPEED="100")
    with running(ingestor):
        with running(drill.forecaster):
            drill.forecaster.await_log('"event": ?"assigned"')
            if end:
                drill.undisturbed(recording)
            drill.await_rows("disturbed", TRADES_REPLAYED // 3)
            assert drill.forecaster.stop() == 0
        assert ingestor.process.wait(60) == 0


def test_a_place_that_the_broker_forgot_is_refused_and_found_again(
    members: Drill, recording: Path, proof: Proof
) -> None:
    """Rows, rejects and ends come out undisturbed; the window of 51 trades and hours goes on."""
    proof.disturbs("consumer group of the forecaster deleted between two runs")
    drill = members
    lines = recording.read_text().splitlines()
    broken = [
        *lines[:2_000],
        lines[1_999].replace(lines[1_999].split(",")[0], lines[1_990].split(",")[0]),
        *lines[2_000:],
    ]
    recording.write_text("\n".join(broken) + "\n")
    half_processed(drill, recording, end=True)
    forget_places(drill)
    with running(drill.forecaster):
        assert drill.forecaster.process.wait(30) == 2
    said = drill.forecaster.log.read_text()
    assert f"the broker has no offset for {TRADES}[{PARTITION}], though this partition was read" in said
    assert "python -m online.forecaster --find-place" in said
    assert "places found" in find_place(drill)
    with running(drill.forecaster):
        drill.await_ends("disturbed")
    drill.same(proof)
    rejects = [
        [(r["reason"], r["text"][-40:]) for r in read_topic(drill.broker.bootstrap_servers, REJECTED, source_id)]
        for source_id in ("disturbed", "undisturbed")
    ]
    assert len(rejects[0]) == len(rejects[1])
    assert "no place is lost" in find_place(drill)


@pytest.mark.acceptance
def test_a_place_is_not_found_from_trades_that_are_gone(members: Drill, recording: Path, proof: Proof) -> None:
    """Without the oldest trades the windows would differ: refused, or with `--anew` a new segment."""
    proof.disturbs("consumer group deleted, and the first 500 trades removed")
    drill = members
    half_processed(drill, recording)
    forget_places(drill)
    remove_trades(drill, 500)
    said = find_place(drill, code=2)
    assert "its windows cannot be made again" in said
    assert "--anew" in said
    assert "places found" in find_place(drill, "--anew")
    with running(drill.forecaster):
        drill.await_ends("disturbed")
    rows = drill.features.rows("disturbed")
    assert [row["trade_id"] for row in rows] == sorted({row["trade_id"] for row in rows})
    assert len(rows) == TRADES_REPLAYED
    starts = [place for place, row in enumerate(rows) if row["n"] == 0]
    assert len(starts) == 2, "the first row, and the first one after the place"
    proof.saw(rows=len(rows), segments=len(starts))


def test_nothing_is_refused_where_only_an_aborted_transaction_stands(
    members: Drill, recording: Path, proof: Proof
) -> None:
    """Killed within its first transaction, a forecaster leaves offsets but no place: the next forecaster begins."""
    proof.disturbs("records of an aborted transaction on features, and no committed place")
    drill = members
    producer = Producer({"bootstrap.servers": drill.broker.bootstrap_servers, "transactional.id": "died"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(FEATURES, b"{}", "ETH-USD", PARTITION)
    producer.flush(10)
    producer.abort_transaction(10)
    with running(drill.forecaster):
        assert drill.undisturbed(recording) == TRADES_REPLAYED
    proof.saw(rows=TRADES_REPLAYED)


def test_trades_that_were_removed_unread_are_a_hole_at_the_start(members: Drill, recording: Path, proof: Proof) -> None:
    """The forecaster is away while 1,499 trades come and are removed; the trades after them are a new segment."""
    proof.disturbs("1,499 trades removed before they were read")
    drill = members
    half_processed(drill, recording)
    [read] = [place.offset for place in _committed(drill) if place.partition == PARTITION]
    remove_trades(drill, read + 1_499)
    with running(drill.forecaster):
        drill.await_ends("disturbed")
    _check_hole(drill, recording, read, read + 1_499, proof)


def test_a_hole_is_told_once_though_no_trade_follows_it(members: Drill, recording: Path, proof: Proof) -> None:
    """The place behind the hole is committed alone, before the next trade."""
    proof.disturbs("all trades removed before they were read, and the forecaster started twice")
    drill = members
    half_processed(drill, recording)
    remove_trades(drill, end := TRADES_REPLAYED + 1)
    for starts in (2, 3):  # the first one was within `half_processed`

        def is_assigned(starts: int = starts) -> bool:
            return drill.forecaster.log.read_text().count('"event": "assigned"') == starts

        with running(drill.forecaster):
            wait_until(is_assigned, "it is assigned")
            wait_until(lambda: end in [place.offset for place in _committed(drill)], "the place is committed")
            assert drill.forecaster.stop() == 0
    said = drill.forecaster.log.read_text()
    assert said.count("trades were removed before they were read") == 1
    proof.saw(told=1)


def test_what_was_removed_before_the_first_start_is_no_hole(members: Drill, recording: Path, proof: Proof) -> None:
    proof.disturbs("500 trades removed before the first forecaster was started")
    drill = members
    with running(ingestor := drill.replay("disturbed", recording)):
        assert ingestor.process.wait(60) == 0
    remove_trades(drill, 500)
    with running(drill.forecaster):
        drill.await_ends("disturbed")
        assert drill.forecaster.stop() == 0
    assert [row["kafka_offset"] for row in drill.features.rows("disturbed")] == list(range(500, TRADES_REPLAYED))
    assert "trades were removed" not in drill.forecaster.log.read_text()
    proof.saw(rows=TRADES_REPLAYED - 500)


def processed_once(drill: Drill) -> None:
    """Write a row in `features` for a partition without a committed offset; the partition's trades are gone."""
    producer = Producer({"bootstrap.servers": drill.broker.bootstrap_servers})
    producer.produce(FEATURES, b'{"kafka_partition":%d,"kafka_offset":5}' % PARTITION, "ETH-USD", PARTITION)
    assert producer.flush(10) == 0


def test_a_place_whose_rows_have_expired_is_found_anew_only(members: Drill, recording: Path, proof: Proof) -> None:
    """The command named by the forecaster helps: the forecaster begins at the oldest trade of the topic."""
    proof.disturbs("no committed offset, and all rows of a partition expired")
    drill = members
    processed_once(drill)
    remove_trades(drill, 1, FEATURES)
    with running(drill.forecaster):
        assert drill.forecaster.process.wait(30) == 2
    assert "its rows have expired" in drill.forecaster.log.read_text()
    assert "With `--anew`" in find_place(drill, code=2)
    assert "places found" in find_place(drill, "--anew")
    with running(drill.forecaster):
        assert drill.undisturbed(recording) == TRADES_REPLAYED
    proof.saw(rows=TRADES_REPLAYED)


def test_a_forecaster_with_a_slot_that_lost_a_place_leaves_its_group(
    own_broker: Broker, models: Path, tmp_path: Path, proof: Proof
) -> None:
    """Otherwise the found place could not be committed for the 45 s of the session."""
    proof.disturbs("place of a partition lost, under a forecaster with a slot")
    drill = Drill(own_broker, models, tmp_path, SLOT="0")
    processed_once(drill)
    with running(drill.forecaster):
        assert drill.forecaster.process.wait(30) == 2
    assert "waiting until" not in find_place(drill)
    with running(drill.forecaster):
        drill.forecaster.await_log('"event": "assigned"')


@pytest.mark.acceptance
def test_a_forecaster_with_a_slot_that_ended_is_waited_out(
    own_broker: Broker, models: Path, tmp_path: Path, proof: Proof
) -> None:
    """The forecaster stays in the group for 45 s after its end."""
    proof.disturbs("place of a partition lost, right after the end of a forecaster with a slot")
    drill = Drill(own_broker, models, tmp_path, SLOT="0")
    with running(drill.forecaster):
        drill.forecaster.await_log('"event": "assigned"')
        assert drill.forecaster.stop() == 0
    processed_once(drill)
    said = find_place(drill, within_s=90)
    assert "waiting until the broker forgets a forecaster" in said
    assert "places found" in said
    with running(drill.forecaster):
        wait_until(lambda: drill.forecaster.log.read_text().count('"event": "assigned"') == 2, "it is assigned")


def _committed(drill: Drill) -> list[TopicPartition]:
    client = admin(drill)
    found = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)])[GROUP].result()
    return list(found.topic_partitions)


def _check_hole(drill: Drill, recording: Path, due: int, low: int, proof: Proof) -> None:
    """Compare the rows before and behind the hole with the rows of two sources, each replayed alone."""
    said = drill.forecaster.log.read_text()
    assert f'"due": {due}, "oldest": {low}, "removed": {low - due}' in said
    lines = recording.read_text().splitlines()
    behind = recording.with_name("behind.csv")
    behind.write_text("\n".join([lines[0], *lines[1 + low :]]) + "\n")
    with running(drill.forecaster):
        drill.undisturbed(recording)
        drill.undisturbed(behind, "behind")
    rows, whole = drill.features.rows("disturbed"), drill.features.rows("undisturbed")
    alone = drill.features.rows("behind")
    proof.equal(equal_columns(rows[:due]), equal_columns(whole[:due]), "features before")
    proof.equal(equal_columns(rows[due:]), equal_columns(alone), "features behind")
    assert rows[due]["n"] == 0
    proof.saw(rows=len(rows), removed=low - due)


@pytest.mark.acceptance
def test_trades_that_are_removed_while_the_forecaster_is_frozen_are_a_hole(
    members: Drill, recording: Path, proof: Proof
) -> None:
    """The forecaster's next fetch asks for a removed offset."""
    proof.disturbs("forecaster frozen while trades come and are removed")
    drill = members
    with running(drill.forecaster):
        drill.forecaster.await_log('"event": ?"assigned"')
        ingestor = drill.replay("disturbed", recording, REPLAY_SPEED="100")
        with running(ingestor):
            drill.await_rows("disturbed", 1_000)
            drill.forecaster.process.send_signal(signal.SIGSTOP)
            assert ingestor.process.wait(60) == 0
        low = TRADES_REPLAYED - 1_000
        remove_trades(drill, low)
        drill.forecaster.process.send_signal(signal.SIGCONT)
        drill.await_ends("disturbed")
        rows = drill.features.rows("disturbed")
        due = next(place for place, row in enumerate(rows) if row["kafka_offset"] >= low)
    assert rows[due]["n"] == 0
    assert rows[due]["kafka_offset"] == low
    _check_hole(drill, recording, due, low, proof)


@pytest.mark.acceptance
def test_a_topic_that_was_deleted_and_made_anew_is_refused_and_then_read(
    members: Drill, recording: Path, proof: Proof
) -> None:
    """Kafka forgets the group's offsets with the topic; the offsets in the rows lie beyond the new topic's end."""
    proof.disturbs("coinbase-trades deleted and made anew between two runs")
    drill = members
    with running(drill.forecaster):
        drill.undisturbed(recording)
        assert drill.forecaster.stop() == 0
    client = admin(drill)
    client.delete_topics([TRADES])[TRADES].result()
    create_topics({"bootstrap.servers": drill.broker.bootstrap_servers})
    with running(drill.forecaster):
        assert drill.forecaster.process.wait(30) == 2
    assert "its newest outcome is of offset 6000" in drill.forecaster.log.read_text()
    find_place(drill)
    with running(drill.forecaster, ingestor := drill.replay("disturbed", recording)):
        assert ingestor.process.wait(60) == 0
        drill.await_ends("disturbed")
    drill.same(proof)


@pytest.mark.acceptance
def test_a_place_beyond_the_end_of_the_topic_is_refused_and_found_again(
    members: Drill, recording: Path, proof: Proof
) -> None:
    """A broker that lost records not yet on disk ends before the committed place."""
    proof.disturbs("committed offset moved beyond the end of the topic")
    drill = members
    half_processed(drill, recording)
    client = admin(drill)
    beyond = ConsumerGroupTopicPartitions(GROUP, [TopicPartition(TRADES, PARTITION, 99_999)])
    client.alter_consumer_group_offsets([beyond])[GROUP].result()
    with running(drill.forecaster):
        assert drill.forecaster.process.wait(30) == 2
    assert f"{TRADES}[{PARTITION}] ends at offset 6001, and was read up to 99999" in drill.forecaster.log.read_text()
    find_place(drill)
    with running(drill.forecaster):
        drill.await_ends("disturbed")
        drill.undisturbed(recording)
    drill.same(proof)
