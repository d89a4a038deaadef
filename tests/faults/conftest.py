"""Fixtures shared by drills."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from tests.broker import Broker
from tests.faults.drill import Drill


@pytest.fixture
def drill(own_broker: Broker, models: Path, tmp_path: Path) -> Iterator[Drill]:
    """Run the forecaster on a broker of its own, ready."""
    drill = Drill(own_broker, models, tmp_path)
    with drill.services():
        yield drill


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a recording of 6,000 simulated trades in 19 minutes."""
    path = tmp_path / "recording.csv"
    write_csv(path, [simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(14, 16)).take(slice(0, 6_000))])
    return path
