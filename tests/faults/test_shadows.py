"""Shadows of a real forecaster: in each record, the same over kills, and never in the way of the model that serves."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from data.models.served import BASELINE, ML
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from tests.broker import Broker
from tests.fakes import FakeRegistry
from tests.faults.drill import Drill
from tests.models import baseline, model_bytes, model_file
from tests.pipeline import running
from tests.proofs import Proof

ROWS, KILLS = 6_000, 3


def test_shadows_and_their_adaptations_are_the_same_over_kills(
    own_broker: Broker, registry: FakeRegistry, tmp_path: Path, proof: Proof
) -> None:
    """The replay takes some 12 s, the forecaster is killed three times in it, and the challenger of `ml` is broken."""
    recording = tmp_path / "recording.csv"
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 5), hours=(14, 16)).take(slice(0, ROWS))
    write_csv(recording, [trades])
    registry.files = {BASELINE: model_file(), ML: model_file(ML, "1", model_bytes(baseline(scale=9.0), variant="ml"))}
    registry.challengers = {
        BASELINE: model_file(version="4", content=model_bytes(baseline(scale=2.0))),
        ML: model_file(ML, "2", b"no model"),
    }
    drill = Drill(own_broker, tmp_path / "models", tmp_path, MLFLOW_TRACKING_URI=registry.uri)
    with drill.services():
        assert drill.undisturbed(recording) == ROWS
        span_s = float(trades.event_time[-1] - trades.event_time[0]) / 1e9
        ingestor = drill.replay("disturbed", recording, REPLAY_SPEED=str(span_s / 12), MAX_WAIT_S="60")
        with running(ingestor):
            for kill in range(1, KILLS + 1):
                drill.await_rows("disturbed", kill * ROWS // (KILLS + 1))
                drill.forecaster.kill()
                drill.forecaster.start()
            assert ingestor.process.wait(120) == 0, ingestor.log.read_text()
        drill.await_ends("disturbed")
        proof.disturbs(f"{KILLS} kills of the forecaster, a challenger that is no model")
        drill.same(proof)
        rows = drill.predictions.rows("disturbed")
    assert {(row["model_variant"], row["version"]) for row in rows} == {("ml", "1")}
    named = [[(each["model_variant"], each["version"]) for each in row["shadow"]] for row in rows]
    assert named == [[("baseline", "3"), ("baseline", "4")]] * ROWS
    assert all(each["judged_horizons"] > 1 for each in rows[-1]["shadow"])
    assert "a shadow failed" in drill.forecaster.log.read_text()
