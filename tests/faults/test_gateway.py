"""Two APIs behind the gateway, each restarted in turn under load: no request fails."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from data.models.kept import save_last_good
from tests import compose
from tests.broker import free_ports
from tests.gateway import NOBODY, running_gateway
from tests.models import model_file
from tests.pipeline import Process, environment, running, wait_until
from tests.proofs import Proof

RATE = 150.0
"""Requests a second."""
RESTARTS = 4
BODY = {"rows": [{"n": 50, "ret_mean": 0.00001, "ret_std": 0.0002}]}


@pytest.fixture
def apis(tmp_path: Path) -> Iterator[list[Process]]:
    """Run two APIs with a kept model; there is no broker and no registry."""
    save_last_good(tmp_path / "models", model_file("volatility-baseline"))
    ports = free_ports(2)
    leave_s = compose.environment(compose.services()["api"])["API_LEAVE_S"]
    environ = environment(NOBODY, tmp_path / "models", MODEL_VARIANT="baseline", API_LEAVE_S=leave_s)
    processes = [
        Process("online.api", environ | {"API_PORT": str(port)}, tmp_path / f"api-{port}.log") for port in ports
    ]
    with running(*processes):
        for process in processes:
            await_api(process)
        yield processes


def port_of(process: Process) -> str:
    return process.environment["API_PORT"]


def await_api(process: Process) -> None:
    def answers() -> bool:
        try:
            answer = httpx.post(f"http://127.0.0.1:{port_of(process)}/predict", json=BODY, timeout=5.0)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    wait_until(answers, "an API answers", within_s=180)


def await_gateway(process: Process) -> None:
    """Wait until the gateway has seen that a new API is alive: it has asked twice."""

    def times_asked() -> float:
        metrics = httpx.get(f"http://127.0.0.1:{port_of(process)}/metrics", timeout=60.0).text
        counts = re.findall(
            r'^cryptovol_request_seconds_count\{[^}]*"/health/live"[^}]*"200"[^}]*\} (\S+)', metrics, re.M
        )
        return sum(map(float, counts))

    wait_until(lambda: times_asked() >= 2, "the gateway asks the new API", within_s=180)


async def load(url: str, running: asyncio.Event) -> Counter[str]:
    """Ask at `RATE`, forecasts and versions in turns, whatever the answers' speed; return the count of each outcome."""
    outcomes: Counter[str] = Counter()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        try:
            if number % 2:
                answer = await client.post(f"{url}/predict", json=BODY)
            else:
                answer = await client.get(f"{url}/version")
            outcomes[str(answer.status_code)] += 1
        except httpx.HTTPError as error:
            outcomes[repr(error)] += 1

    async with httpx.AsyncClient(timeout=15.0) as client, asyncio.TaskGroup() as asked:
        started, number = time.monotonic(), 0
        while running.is_set():
            asked.create_task(ask(client, number))
            number += 1
            await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))
    return outcomes


async def restarted_under_load(url: str, apis: list[Process]) -> Counter[str]:
    """Restart the APIs in turn while `load` asks."""
    asking = asyncio.Event()
    asking.set()
    task = asyncio.create_task(load(url, asking))
    for number in range(RESTARTS):
        api = apis[number % len(apis)]
        assert await asyncio.to_thread(api.stop) == 0
        api.start()
        await asyncio.to_thread(await_api, api)
        await asyncio.to_thread(await_gateway, api)
    asking.clear()
    return await task


def test_no_request_fails_while_each_api_is_restarted(proof: Proof, apis: list[Process], tmp_path: Path) -> None:
    """Neither the broker nor the registry is there: only the APIs' own processes count for the gateway."""
    proof.disturbs(f"{RESTARTS} restarts of two APIs behind the gateway, in turns, at {RATE:g} requests/s")
    upstreams = " ".join(f"127.0.0.1:{port_of(api)}" for api in apis)
    with running_gateway(tmp_path, API_UPSTREAMS=upstreams) as url:
        outcomes = asyncio.run(restarted_under_load(url, apis))
    proof.saw(requests=sum(outcomes.values()), failed=sum(outcomes.values()) - outcomes["200"])
    assert set(outcomes) == {"200"}, outcomes
    assert outcomes["200"] > RESTARTS * 2 * RATE  # a stop alone takes 2 s
