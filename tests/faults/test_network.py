"""The network between a process and the broker is cut, goes silent, loses answers or is slow, and comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from data.stream.topics.creation import create_topics
from offline.lake.store import Lake
from tests.broker import started
from tests.faults.drill import Drill
from tests.faults.equality import same_records
from tests.faults.network import ProxiedBroker, Proxy
from tests.faults.parts import Replayed
from tests.faults.test_sink import Arrivals, sink_process
from tests.faults.test_sink import check as same_in_lake
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

TRADES_REPLAYED = 6_000
LONGER_THAN_A_SESSION_S = 12.0
"""Both the forecaster without a slot and the ingestor are taken for dead after 6 s."""
FLOWS_S = 30.0
"""Limit from the end of a fault to the next forecast, with a session to wait out and a restart."""

Lasts = Callable[[float], None]


def cut(proxy: Proxy, lasts: Lasts) -> None:
    """All connections are reset, and new ones are refused."""
    proxy.cut()
    lasts(4.0)
    proxy.resume()


def half_open(proxy: Proxy, lasts: Lasts) -> None:
    """Connections stay open without a byte, past the sessions; then they are dead."""
    proxy.hold()
    lasts(LONGER_THAN_A_SESSION_S)
    proxy.cut()
    proxy.resume()


def silent_and_then_late(proxy: Proxy, lasts: Lasts) -> None:
    """Requests of a dead member reach the broker after its successor was chosen."""
    proxy.hold()
    lasts(LONGER_THAN_A_SESSION_S)
    proxy.resume()


def without_answers(proxy: Proxy, lasts: Lasts) -> None:
    """The broker does what it is asked for, and the client never learns of it."""
    proxy.lose_answers()
    lasts(4.0)
    proxy.cut()
    proxy.resume()


def slow(proxy: Proxy, lasts: Lasts) -> None:
    proxy.delay(0.3)
    lasts(8.0)
    proxy.resume()


def flapping(proxy: Proxy, lasts: Lasts) -> None:
    """Twelve cuts, each for up to 0.8 s, with up to 0.8 s between two of them."""
    rng = random.Random(18)
    for _ in range(12):
        proxy.cut()
        lasts(rng.uniform(0.05, 0.8))
        proxy.resume()
        lasts(rng.uniform(0.05, 0.8))


@pytest.fixture
def behind_proxy(tmp_path: Path, jars: list[Path]) -> Iterator[ProxiedBroker]:
    """Run a broker with an address by way of a proxy."""
    with started(ProxiedBroker(tmp_path / "kafka", jars)) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        yield broker


BOTH = ("forecaster", "ingestor")
FAULTS = (half_open, silent_and_then_late, without_answers, slow, flapping)


@pytest.mark.parametrize(
    ("fault", "cut_off", "slot"),
    [
        (cut, BOTH, ""),
        *(pytest.param(fault, BOTH, "", marks=pytest.mark.acceptance) for fault in FAULTS),
        *(
            pytest.param(fault, cut_off, "0", marks=pytest.mark.acceptance)
            for fault in (half_open, without_answers)
            for cut_off in (("forecaster",), ("ingestor",))
        ),
    ],
)
def test_a_network_that_comes_back_costs_nothing(
    behind_proxy: ProxiedBroker,
    models: Path,
    tmp_path: Path,
    recording: Path,
    proof: Proof,
    fault: Callable[[Proxy, Lasts], None],
    cut_off: tuple[str, ...],
    slot: str,
) -> None:
    """A process that ends, because the broker took it for dead, is started again as under `make run`."""
    broker = behind_proxy
    fault_name = fault.__name__.replace("_", " ")
    proof.disturbs(f"network of {' and '.join(cut_off)} (SLOT={slot!r}): {fault_name}, in a paced replay")

    def address(name: str) -> str:
        return broker.through_proxy if name in cut_off else broker.bootstrap_servers

    with broker.proxy() as proxy:
        drill = Drill(broker, models, tmp_path, SLOT=slot, KAFKA_BOOTSTRAP_SERVERS=address("forecaster"))
        drill.supervised = True
        replayed = Replayed(drill, recording, speed="30", KAFKA_BOOTSTRAP_SERVERS=address("ingestor"))
        with drill.services():
            assert drill.undisturbed(recording) == TRADES_REPLAYED
            with running(replayed.ingestor):
                replayed.await_rows(TRADES_REPLAYED // 20)
                assert not replayed.part.is_over
                fault(proxy, replayed.look_for)
                began, seen = time.monotonic(), replayed.rows()
                replayed.await_rows(min(seen + 1, TRADES_REPLAYED), FLOWS_S)
                proof.saw(first_forecast_after_s=time.monotonic() - began, cuts=proxy.cuts)
                replayed.await_end(within_s=180)
            assert drill.forecaster.process.poll() is None
    proof.saw(restarts=drill.restarts + replayed.part.failures)
    same_records(broker.bootstrap_servers, proof)


def test_a_sink_whose_network_is_cut_says_so_and_the_next_one_goes_on(
    behind_proxy: ProxiedBroker, tmp_path: Path, proof: Proof
) -> None:
    """The network is slow, so that the cuts fall within a reading."""
    proof.disturbs("network of the sink slow, then cut within the reading, twice")
    uri = str(tmp_path / "lake")
    lake, arrivals = Lake.open(uri), Arrivals(behind_proxy.bootstrap_servers)
    arrivals.write(20)
    with behind_proxy.proxy() as proxy:
        for number, after_s in enumerate((0.3, 1.0)):
            proxy.delay(0.1)
            sink = sink_process(behind_proxy.through_proxy, uri, tmp_path / f"cut-{number}.log")
            wait_until(lambda: proxy.connections > 0 or sink.process.poll() is not None, "the sink asks the broker")  # noqa: B023
            until = time.monotonic() + after_s
            wait_until(lambda until=until: time.monotonic() > until, "the cut")  # type: ignore[misc]
            proxy.cut()
            assert sink.process.wait(60) == 2
            said = sink.log.read_text()
            assert "no broker answers at" in said.splitlines()[-1]
            assert "Traceback" not in said
            proxy.resume()
            arrivals.write(5)
        last = sink_process(behind_proxy.through_proxy, uri, tmp_path / "last.log")
        assert last.process.wait(120) == 0, last.log.read_text()
    same_in_lake(behind_proxy.bootstrap_servers, lake, proof)
    proof.saw(records_of_each_topic=arrivals.written)


@pytest.mark.acceptance
@pytest.mark.parametrize("fault", [cut, half_open])
def test_an_api_whose_network_fails_reports_it_and_serves_the_newest_forecast_afterwards(
    behind_proxy: ProxiedBroker,
    models: Path,
    tmp_path: Path,
    recording: Path,
    proof: Proof,
    fault: Callable[[Proxy, Lasts], None],
) -> None:
    """A forecast that comes meanwhile is not served from before: health names the broker, later the newest is there."""
    proof.disturbs(f"network of the API: {fault.__name__.replace('_', ' ')}")
    drill = Drill(behind_proxy, models, tmp_path)
    environ = drill.environ | {"KAFKA_BOOTSTRAP_SERVERS": behind_proxy.through_proxy, "API_PORT": "0"}
    api = Process("online.api", environ, tmp_path / "api.log")
    with behind_proxy.proxy() as proxy, drill.services(), running(api):
        url = api.await_log(r"running on (http://\S+)").group(1)

        def health() -> httpx.Response:
            return httpx.get(f"{url}/health", timeout=20.0)

        wait_until(lambda: health().status_code == 200, "the API is healthy")
        statuses: list[httpx.Response] = []

        def lasts(seconds: float) -> None:
            drill.undisturbed(recording, "meanwhile")
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                statuses.append(health())

        fault(proxy, lasts)
        began = time.monotonic()
        wait_until(lambda: health().status_code == 200, "the API is healthy again")
        path = f"{url}/predict/ETH-USD?source_id=meanwhile"
        wait_until(lambda: httpx.get(path).status_code == 200, "the newest forecast")
        wait_until(lambda: httpx.get(path).json()["state"] == "ended", "its end")
        proof.saw(newest_after_s=time.monotonic() - began, asked=len(statuses))
        newest = httpx.get(path).json()
        assert newest["trade_id"] == drill.predictions.rows("meanwhile")[-1]["trade_id"]
        assert 503 in {each.status_code for each in statuses}
        assert api.process.poll() is None
