"""What drills share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.local.broker import Broker, running_broker
from orchestration.local.topics import create_topics


@pytest.fixture
def own_broker(tmp_path: Path, jars: list[Path]) -> Iterator[Broker]:
    """A broker for one test: the shared one has services that are not to be disturbed."""
    with running_broker(tmp_path / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        yield broker
