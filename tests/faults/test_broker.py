"""The broker dies under a replay, and comes back or not."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import pytest

from data.readers import write_csv
from data.simulator import simulate_day
from data.topics import FEATURES, PREDICTIONS, TRADES
from orchestration.local.broker import Broker
from tests.faults.test_kills import equal_columns
from tests.pipeline import Process, await_end, environment, read_topic, replay, running

TRADES_REPLAYED = 6_000


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.csv"
    write_csv(path, [simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(14, 16)).take(slice(0, TRADES_REPLAYED))])
    return path


def services_on(broker: Broker, models: Path, tmp_path: Path) -> tuple[dict[str, str], list[Process]]:
    environ = environment(broker.bootstrap_servers, models)
    names = ("feature_service", "scorer")
    return environ, [Process(f"online.{name}", environ, tmp_path / f"{name}.log") for name in names]


def test_a_killed_broker_that_comes_back_costs_nothing(
    own_broker: Broker, models: Path, tmp_path: Path, recording: Path
) -> None:
    """kill -9 of the broker in the middle of a paced replay: all three go on by themselves."""
    servers = own_broker.bootstrap_servers
    environ, services = services_on(own_broker, models, tmp_path)
    disturbed = replay(environ, tmp_path, "disturbed", recording, REPLAY_SPEED="100")
    with running(*services):
        with running(replay(environ, tmp_path, "undisturbed", recording)):
            expected = await_end(servers, "undisturbed")
        with running(disturbed):
            while len(read_topic(servers, PREDICTIONS, "disturbed")) < TRADES_REPLAYED // 4:
                assert disturbed.process.poll() is None
            own_broker.kill()
            own_broker.start()
            found = await_end(servers, "disturbed", within_s=90)
            assert disturbed.process.wait(10) == 0
        assert [service.process.poll() for service in services] == [None, None], "neither was started again"
        assert equal_columns(found) == equal_columns(expected)
        features = {source: read_topic(servers, FEATURES, source) for source in ("undisturbed", "disturbed")}
        assert equal_columns(features["disturbed"]) == equal_columns(features["undisturbed"])
        trades = [r["trade_id"] for r in read_topic(servers, TRADES, "disturbed") if "end" not in r]
        assert len(trades) == len(set(trades)) == TRADES_REPLAYED


def test_everything_ends_on_sigterm_within_10_s_while_the_broker_is_away(
    own_broker: Broker, models: Path, tmp_path: Path, recording: Path
) -> None:
    environ, services = services_on(own_broker, models, tmp_path)
    ingestor = replay(environ, tmp_path, "cut-off", recording, REPLAY_SPEED="20")
    with running(*services, ingestor):
        while not read_topic(own_broker.bootstrap_servers, PREDICTIONS, "cut-off"):
            assert ingestor.process.poll() is None, ingestor.log.read_text()
        own_broker.kill()
        began = time.monotonic()
        while time.monotonic() < began + 3:  # long enough that each of them is in the middle of asking
            assert ingestor.process.poll() is None
        codes = [process.stop(within_s=10) for process in (ingestor, *services)]
    assert set(codes[1:]) <= {0, 1}, "0 in good order, 1 by the last resort where the client hangs"
    assert codes[0] in (0, 1), "1 if trades were still to deliver, which is said"
