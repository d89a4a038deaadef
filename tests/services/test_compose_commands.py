"""Each command of compose.yaml starts with the environment that compose.yaml gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from data.files import CHECKOUT
from orchestration.instance.home import configuration
from tests import compose
from tests.broker import free_ports
from tests.pipeline import Process, running, wait_until

SERVICES = compose.services()
COMMANDS = {
    name: compose.words(service)
    for name, service in SERVICES.items()
    if compose.is_ours(service) and compose.words(service)[:2] == ["python", "-m"]
}
SERVERS = ("api", "forecaster", "exporter")


def on_this_machine(service: compose.Service, folder: Path) -> dict[str, str]:
    """Return the environment of a service with folders of this machine, and a file for each secret."""
    (folder / "secrets").mkdir(exist_ok=True)
    for secret in service.get("secrets", ()):
        (folder / "secrets" / secret).write_text(compose.SECRETS.get(secret, "secret"))
    places = {"/run/secrets": folder / "secrets", "/var/lib/cryptovol": folder, "/recordings": folder}
    found = compose.environment(service)
    for place, here in places.items():
        found = {name: value.replace(place, str(here)) for name, value in found.items()}
    return os.environ | {"VAR_DIR": str(folder)} | found


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in SERVERS])
def test_an_entry_point_knows_its_options(name: str, tmp_path: Path) -> None:
    command = [sys.executable, *COMMANDS[name][1:], "--help"]
    environ = on_this_machine(SERVICES[name], tmp_path)
    done = subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    given = {word.partition("=")[0] for word in COMMANDS[name] if word.startswith("--")}
    assert {option for option in given if option not in done.stdout} == set()


def test_the_health_check_of_the_daemon_finds_our_classes(tmp_path: Path) -> None:
    """Dagster's script of the same name does not: the root of the checkout is not on its path."""
    command = compose.words({"command": SERVICES["dagster-daemon"]["healthcheck"]["test"][1:]})
    environ = on_this_machine(SERVICES["dagster-daemon"], tmp_path)
    environ = {name: value for name, value in environ.items() if not name.startswith("DAGSTER_PG_")}
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(configuration(backfill_runs=2))
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=CHECKOUT,
        env=environ | {"DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "Daemon(s) not running\n", "no daemon runs, and the storage is found"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_starts_with_its_environment(name: str, tmp_path: Path) -> None:
    """Neither broker nor registry is there: the process waits for both, and its port answers meanwhile."""
    (port,) = free_ports(1)
    environ = on_this_machine(SERVICES[name], tmp_path) | {"HOST": "127.0.0.1", f"{name.upper()}_PORT": str(port)}
    process = Process(COMMANDS[name][2], environ, tmp_path / "log")
    path = "health/live" if name == "api" else "metrics"
    with running(process):
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/{path}"), f"{name} answers")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False
