"""The broker dies, restarts or freezes under a replay, and comes back or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from data.stream.records import PARTITIONS, TRADES
from tests.broker import Broker
from tests.faults.drill import Drill
from tests.pipeline import read_topic, running, wait_until
from tests.proofs import Proof

TRADES_REPLAYED = 6_000
SESSION_S = 45.0
"""Time until the broker drops a silent consumer: the client's default `session.timeout.ms`."""
FLOWING_S = 10.0
"""Limit from the stop of a broker that is started again at once to a forecast that was made afterwards."""


def killed(broker: Broker, lasts: Callable[[float], None]) -> None:
    broker.kill()
    broker.start()


def away_for_20_s(broker: Broker, lasts: Callable[[float], None]) -> None:
    broker.kill()
    lasts(20.0)
    broker.start()


def restarted(broker: Broker, lasts: Callable[[float], None]) -> None:
    broker.stop()
    broker.start()


def frozen_past_the_session(broker: Broker, lasts: Callable[[float], None]) -> None:
    broker.pause()
    try:
        lasts(SESSION_S + 5.0)
    finally:
        broker.resume()


@pytest.mark.parametrize(
    "fault",
    [
        killed,
        pytest.param(restarted, marks=pytest.mark.acceptance),
        pytest.param(away_for_20_s, marks=pytest.mark.acceptance),
        pytest.param(frozen_past_the_session, marks=pytest.mark.acceptance),
    ],
)
def test_a_broker_that_comes_back_costs_nothing(
    drill: Drill, recording: Path, proof: Proof, fault: Callable[[Broker, Callable[[float], None]], None]
) -> None:
    """Disturb a paced replay in the middle; ingestor and forecaster go on, most often by themselves.

    After a freeze beyond their session the broker may take both for their own successors, and a client can ask for
    minutes over a dead connection: then both log the reason and end, and a supervisor starts both again.
    """
    proof.disturbs(f"broker {fault.__name__.replace('_', ' ')}, in a paced replay")
    assert drill.undisturbed(recording) == TRADES_REPLAYED
    drill.supervised = True
    is_slow = fault is frozen_past_the_session
    disturbed = drill.replay("disturbed", recording, REPLAY_SPEED="20" if is_slow else "100")

    def lasts(seconds: float) -> None:
        """Let the fault last while the ingestor lives: no condition ends the fault."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            drill.supervise()
            assert disturbed.process.poll() is None
            time.sleep(0.1)

    with running(disturbed):
        drill.await_rows("disturbed", TRADES_REPLAYED // 4)
        assert disturbed.process.poll() is None
        began, began_ns = time.monotonic(), time.time_ns()
        fault(drill.broker, lasts)
        answers = time.monotonic()
        proof.saw(fault_s=answers - began)

        def flows() -> bool:
            drill.read()
            return any(row["ts"] > began_ns for row in drill.predictions.rows("disturbed")[-1:])

        wait_until(flows, "a forecast made after the fault's begin", within_s=90)
        flowing = time.monotonic()
        proof.saw(first_forecast_after_s=flowing - answers, flowing_again_s=flowing - began)
        if fault is restarted:
            assert flowing - began <= FLOWING_S
        drill.await_ends("disturbed", within_s=120)
        assert disturbed.process.wait(10) == 0
    assert drill.forecaster.process.poll() is None
    proof.saw(restarts=drill.restarts)
    drill.same(proof)
    trades = read_topic(drill.broker.bootstrap_servers, TRADES, "disturbed")
    ids = [trade["trade_id"] for trade in trades if "end" not in trade]
    assert len(ids) == len(set(ids)) == TRADES_REPLAYED


def test_everything_ends_on_sigterm_within_10_s_while_the_broker_is_away(
    drill: Drill, recording: Path, proof: Proof
) -> None:
    proof.disturbs("broker killed for good, then SIGTERM to all")
    ingestor = drill.replay("cut-off", recording, REPLAY_SPEED="20")
    with running(ingestor):
        drill.await_rows("cut-off", 1)
        drill.broker.kill()
        began = time.monotonic()
        while time.monotonic() < began + 3:  # long enough that each of them is in the middle of asking
            assert ingestor.process.poll() is None
            time.sleep(0.1)
        began = time.monotonic()
        codes = [process.stop(within_s=10) for process in (ingestor, drill.forecaster)]
        proof.saw(both_in_turn_s=time.monotonic() - began)
    assert codes[1] in (0, 1), "0 in good order, 1 by the last resort where the client hangs"
    assert codes[0] in (0, 1), "1 if trades were still to deliver, which is said"


@pytest.mark.acceptance
@pytest.mark.parametrize(("slot", "last"), [("", 2 * PARTITIONS - 1), ("0", PARTITIONS - 1)])
def test_partitions_that_somebody_added_stay_empty(
    own_broker: Broker, models: Path, tmp_path: Path, recording: Path, proof: Proof, slot: str, last: int
) -> None:
    """Keys stay where they were, and the forecaster starts as before; one with a slot gets its old partitions back."""
    proof.disturbs(f"12 partitions added to coinbase-trades between two starts of a forecaster with SLOT={slot!r}")
    drill = Drill(own_broker, models, tmp_path, SLOT=slot)
    with drill.services():
        drill.undisturbed(recording)
        assert drill.forecaster.stop() == 0
        admin = AdminClient({"bootstrap.servers": own_broker.bootstrap_servers})
        admin.create_partitions([NewPartitions(TRADES, 2 * PARTITIONS)])[TRADES].result()
        drill.forecaster.log.write_text("")
        with running(drill.forecaster):
            drill.forecaster.await_log(rf'\b{last}\].*"assigned"')
            drill.undisturbed(recording, "disturbed")
        drill.same(proof)
