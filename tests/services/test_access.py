"""Keys of the API in processes of their own: several replicas, files of secrets, and what a process list shows."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from data.files import CHECKOUT
from online.keys.ring import hash_line, new_key
from tests.broker import free_ports
from tests.pipeline import environment, wait_until
from tests.services.test_api import CONTRACT_ROW, Api, check_problem, running_api

KEY, METERED, SECRET = new_key(), new_key(), new_key()
"""METERED is the key of the test of the rate alone, so its bucket is full."""
BEARER, ALONE = ({"authorization": f"Bearer {key}"} for key in (KEY, METERED))
RATE, BURST = 20.0, 10


@pytest.fixture(scope="module")
def keyed(models: Path, nobody_kafka: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of an API with keys, whose broker is away: `POST /predict` needs none."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "keys").write_text(f"{hash_line('bot', KEY)}\n{hash_line('desk', METERED)}\n")
    (folder / "cookie").write_text(f"{SECRET}\n")
    files = {"API_KEYS_FILE": str(folder / "keys"), "API_COOKIE_SECRET_FILE": str(folder / "cookie")}
    return environment(nobody_kafka, models, **files, API_RATE=str(RATE), API_BURST=str(BURST))


@pytest.fixture(scope="module")
def nobody_kafka() -> str:
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def replicas(keyed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Api]]:
    """Run two replicas, one by uvicorn's own command."""
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        modules = ("online.api", "uvicorn")
        yield [stack.enter_context(running_api(keyed, folder / f"{module}.log", module)) for module in modules]


def stream_status(api: Api, **headers: str) -> int:
    with api.client.stream("GET", "/live/events", headers=headers) as answer:
        if answer.status_code == 200:
            assert next(answer.iter_lines()) == "event: hello"
        return answer.status_code


def test_a_login_counts_for_each_replica(replicas: list[Api]) -> None:
    one, other = replicas
    with httpx.Client(base_url=one.client.base_url) as browser:
        answer = browser.post("/live/login", json={"key": KEY}, headers={"x-forwarded-proto": "https"})
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/live"} <= set(attributes)
    assert [stream_status(api, cookie=name) for api in (one, other)] == [200, 200]
    assert [stream_status(api) for api in (one, other)] == [401, 401]


def test_a_forecast_needs_a_key_and_comes_within_the_rate(replicas: list[Api]) -> None:
    """10 at once, then 20 a second; a refused request costs nothing, and the other replica counts for itself."""
    one, other = replicas
    body = {"rows": [CONTRACT_ROW]}
    check_problem(one.client.post("/predict", json=body), 401)
    began, found = time.monotonic(), []
    while 429 not in found:
        found.append((answer := one.client.post("/predict", json=body, headers=ALONE)).status_code)
    taken, passed_s = found.count(200), time.monotonic() - began
    assert set(found) == {200, 429}
    assert BURST <= taken <= BURST + RATE * passed_s + 1
    assert answer.headers["retry-after"] == "1"
    assert "each replica" in check_problem(answer, 429)["detail"]
    assert other.client.post("/predict", json=body, headers=ALONE).status_code == 200
    wait_until(lambda: one.client.post("/predict", json=body, headers=ALONE).status_code == 200, "the next", 1.0)


def test_neither_log_nor_process_list_has_a_key(replicas: list[Api]) -> None:
    for api in replicas:
        for headers in (BEARER, {"authorization": f"Bearer {SECRET}"}, {"authorization": f"Basic {KEY}"}):
            api.client.get("/predict/BTC-USD", headers=headers)
        api.client.post("/live/login", json={"key": KEY})
        place = Path(f"/proc/{api.process.process.pid}")
        texts = [api.process.log.read_text()]
        texts += [(place / name).read_text() for name in ("cmdline", "environ") if place.exists()]
        texts += [api.client.get(path).text for path in ("/metrics", "/health", "/version", "/openapi.json")]
        assert not any(secret in text for text in texts for secret in (KEY, METERED, SECRET))


def test_an_api_without_keys_does_not_start_for_strangers(models: Path, nobody_kafka: str) -> None:
    environ = environment(nobody_kafka, models, HOST="0.0.0.0", API_PORT="0")
    command = [sys.executable, "-m", "online.api"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "HOST=0.0.0.0 lets other machines in" in done.stderr
    assert "Traceback" not in done.stderr


def test_uvicorn_on_every_address_answers_loopback_alone_without_keys(
    models: Path, nobody_kafka: str, tmp_path: Path
) -> None:
    """`uvicorn --host` is not ours to refuse, so each request beyond loopback is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address beyond loopback")
        address = probe.getsockname()[0]
    (port,) = free_ports(1)
    options = ("online.api:create_app", "--factory", "--host", "0.0.0.0", "--port", str(port))
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *options],
        cwd=CHECKOUT,
        env=environment(nobody_kafka, models),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    body = {"rows": [CONTRACT_ROW]}
    try:

        def status(host: str) -> int:
            try:
                return httpx.post(f"http://{host}:{port}/predict", json=body, trust_env=False).status_code
            except httpx.TransportError:
                return 0

        wait_until(lambda: status("127.0.0.1") == 200, "an answer on loopback")
        assert status(address) == 403
    finally:
        process.kill()
        process.wait()
