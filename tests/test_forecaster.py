"""The process of the forecaster: how it starts, and what it says where it cannot."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from online.exit_codes import REFUSED
from tests.pipeline import Process, environment, running


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def forecaster(folder: Path, servers: str, models: Path, **settings: str) -> Process:
    return Process("online.forecaster", environment(servers, models, **settings), folder / "forecaster.log")


def test_replicas_without_a_slot_take_the_next_free_port(taken_port: int, models: Path, tmp_path: Path) -> None:
    replica = forecaster(tmp_path, "127.0.0.1:9", models, SLOT="", FORECASTER_PORT=str(taken_port))
    with running(replica):
        found = replica.await_log(r'"metrics_port": (\d+)')
    assert taken_port < int(found[1]) < taken_port + 100


def test_a_taken_port_of_a_replica_with_a_slot_is_told_in_one_line(
    taken_port: int, models: Path, tmp_path: Path
) -> None:
    replica = forecaster(tmp_path, "127.0.0.1:9", models, SLOT="0", FORECASTER_PORT=str(taken_port))
    with running(replica):
        assert replica.process.wait(60) == REFUSED
    (said,) = replica.log.read_text().splitlines()
    assert re.search(rf"metrics cannot be served on 127.0.0.1:{taken_port}: .*FORECASTER_PORT names another", said)
