"""After any kill, a `read_committed` reader sees the records of an undisturbed run."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from tests.faults.drill import Drill
from tests.pipeline import running
from tests.proofs import Proof


@pytest.mark.parametrize(
    ("kills", "trades", "speed"), [(2, 6_000, "40"), pytest.param(10, 20_000, "50", marks=pytest.mark.acceptance)]
)
def test_a_killed_forecaster_leaves_the_topics_of_an_undisturbed_run(
    drill: Drill, tmp_path: Path, kills: int, trades: int, speed: str, proof: Proof
) -> None:
    """The forecaster is killed with SIGKILL and started again during one paced replay."""
    proof.disturbs(f"forecaster killed with SIGKILL {kills} times in a paced replay")
    recording = tmp_path / "recording.csv"
    write_csv(recording, [simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 16)).take(slice(0, trades))])
    assert drill.undisturbed(recording) == trades
    with running(disturbed := drill.replay("disturbed", recording, REPLAY_SPEED=speed)):
        for kill in range(kills):
            drill.await_rows("disturbed", len(drill.predictions.rows("disturbed")) + trades // (2 * kills))
            assert disturbed.process.poll() is None, f"the replay ended before kill {kill}"
            drill.forecaster.kill()
            drill.forecaster.start()
        drill.await_ends("disturbed")
    drill.same(proof)
    judged = drill.predictions.rows("disturbed")[-1]["judged_horizons"]
    proof.saw(judged_horizons=judged)
    assert judged > 1, "the kills disturbed no adaptation"
