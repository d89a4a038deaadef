"""The gateway of compose.yaml on loopback: its script and its Caddyfile, with Caddy of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import compose
from tests.broker import free_ports
from tests.pipeline import wait_until

LOGIN = ("cryptovol", "a password, 16 €")
NOBODY = "127.0.0.1:9"
READ_BODY = "60s"
"""Limit in the Caddyfile for the time of a request's body."""


@contextmanager
def running_gateway(folder: Path, read_body: str = READ_BODY, **upstreams: str) -> Iterator[str]:
    """Run the gateway and yield its URL; skip the test where Caddy is absent.

    Args:
        folder: for Caddyfile, password and log.
        read_body: limit for the time of a request's body.
        upstreams: addresses by the names of the variables, as `API_UPSTREAMS`; nobody listens at the others.
    """
    if shutil.which("caddy") is None:
        pytest.skip("no caddy here: apt-get install caddy")
    port, health = free_ports(2)
    caddyfile = folder / "Caddyfile"
    text, limit = (compose.DEPLOY / "Caddyfile").read_text(), f"read_body {READ_BODY}"
    assert limit in text
    caddyfile.write_text(text.replace(limit, f"read_body {read_body}"))
    password = folder / "ui_password"
    password.write_text(LOGIN[1])
    nobody = {name: NOBODY for name in compose.services()["gateway"]["environment"] if name.endswith("_UPSTREAM")}
    environment = os.environ | nobody | {"API_UPSTREAMS": NOBODY} | upstreams
    environment |= {
        "LISTEN_PORT": str(port),
        "HEALTH_PORT": str(health),
        "CADDYFILE": str(caddyfile),
        "UI_USER": LOGIN[0],
        "UI_PASSWORD_FILE": str(password),
        "HOME": str(folder),  # Caddy keeps its state there
    }
    environment.pop("PUBLIC_HOST", None)
    with (folder / "gateway.log").open("ab") as log:
        script = compose.DEPLOY / "gateway.sh"
        process = subprocess.Popen(["sh", str(script)], env=environment, stdout=log, stderr=log)
    try:

        def is_up() -> bool:
            assert process.poll() is None, (folder / "gateway.log").read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{health}/", timeout=1.0).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_up, "the gateway answers")
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(20)
