"""A separate whole stack for proofs: settings, process and memory limits."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import psutil

from data.files import CHECKOUT
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.lifeline import bound_to_parent
from orchestration.local.settings import StackSettings
from tests.prometheus import as_variables, own_ports

MEMORY_MIB = 2_000
"""Limit for all processes of a stack; measured: 1,210 to 1,600."""
MEMORY_WITH_RETRAIN_MIB = 3_100
"""Limit while models are trained besides, on 14 product-days; measured: 2,830, of which the training has 1,070."""
OPTIONAL = {
    "PROMETHEUS_PORT": ("prometheus",),
    "ALERTMANAGER_PORT": ("prometheus-alertmanager", "alertmanager"),
    "GRAFANA_PORT": ("grafana", "grafana-server"),
}
"""Programs of the observers, any of them, by the setting of their port."""
NO_SERVER = ("DAGSTER_PG_PORT",)
"""Ports of servers that the stack does not start."""
STACK = [sys.executable, "-m", "orchestration.local.stack"]


def settings_of(var: Path) -> dict[str, str]:
    """Return the settings of a stack with free ports and a new folder; the folder has the broker's jars."""
    (var / "broker").mkdir(parents=True)
    jars_folder(var).symlink_to(jars_folder(CHECKOUT / "var"))
    unset = {name.upper(): "" for name in StackSettings.model_fields}
    return unset | as_variables(own_ports()) | {"VAR_DIR": str(var)}


@contextmanager
def running_stack(var: Path, log: Path, **more: str) -> Iterator[tuple[psutil.Popen, dict[str, str]]]:
    """Run a separate stack; end all processes of the stack after the block, and with this process, always.

    Args:
        more: settings besides `settings_of`.
    """
    settings = settings_of(var) | more
    command = bound_to_parent(STACK)
    with log.open("w") as output:
        process = psutil.Popen(
            command, cwd=CHECKOUT, env=os.environ | settings, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process, settings
    finally:
        family = [process, *process.children(recursive=True)] if process.is_running() else []
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=20)
        process.wait(20)


def expected_ports(settings: Mapping[str, str]) -> dict[str, int]:
    """Return the port of each server of a stack by the name of its setting, without programs that are not installed."""
    absent = [name for name, programs in OPTIONAL.items() if not any(map(shutil.which, programs))]
    ports = {name.upper() for name in StackSettings.model_fields if name.endswith("_port")}
    return {name: int(settings[name]) for name in sorted(ports & settings.keys()) if name not in (*absent, *NO_SERVER)}


def listening(process: psutil.Popen) -> set[tuple[str, int]]:
    """Return the addresses and TCP ports on which a process and its children listen."""
    found = set()
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            connections = member.net_connections("tcp")
            found |= {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def beyond_loopback(places: Iterable[tuple[str, int]]) -> list[str]:
    """Return the places of `listening` that another machine can reach.

    >>> beyond_loopback([("127.0.0.1", 1), ("::1", 2), ("::ffff:127.0.0.1", 3), ("0.0.0.0", 4), ("::", 5)])
    ['0.0.0.0:4', ':::5']
    """
    return [f"{host}:{port}" for host, port in sorted(places) if not _without_mapping(host).is_loopback]


def _without_mapping(host: str) -> IPv4Address | IPv6Address:
    """Return an address; a Java process shows its IPv4 addresses as IPv6."""
    address = ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address
