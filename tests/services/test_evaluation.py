"""The command of the evaluation, on real candles and on files that cannot be evaluated."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data.models.served import ServedModel
from offline.evaluation.__main__ import CANNOT_EVALUATE, main
from offline.evaluation.served import score_served, trained_on_simulated_days
from offline.history import read_history
from tests.fakes import FakeRegistry
from tests.models import SPEC, model_bytes, model_file
from tests.proofs import Proof

CANDLES = "cryptodatadownload_coinbase_btcusd_1m_202011-12.csv.gz"
TRADES = "coinbase_trades_btcusd_20251117.csv"


def test_real_candles_walked_forward(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], proof: Proof
) -> None:
    """Forecasts each five minutes from the sixth day on, as one JSON object, with a report and a card."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table of the evaluation -->\nold\n<!-- end of the table -->\nafter\n")
    written = ["--html", str(tmp_path / "r.html"), "--card", str(tmp_path / "card.md"), "--page", str(page)]
    began = time.monotonic()
    assert main([str(shared / CANDLES), "--json", *written]) == 0
    seconds = time.monotonic() - began
    found = json.loads(capsys.readouterr().out)
    assert (found["forecasts"], found["horizons"]) == (4_076, 340)
    ml = found["models"]["ml"]
    proof.saw(ml_ratio=round(ml["ratio_to_calibrated_ewma"], 4), p=ml["p"], coverage=round(ml["coverage"], 4))
    proof.saw(evaluation_s=round(seconds, 1))
    assert ml["ratio_to_calibrated_ewma"] <= 0.80
    assert ml["p"] < 0.001
    assert 0.87 <= ml["coverage"] <= 0.93
    assert min(ml["coverage_by_tercile"]) >= 0.82
    assert {"baseline", "calibrated_ewma", "har", "garch", "rolling_mean", "last_window"} <= set(found["models"])
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert f"| `ml` | {ml['qlike']:.4f} |" in text
    assert (tmp_path / "r.html").read_text().count("<svg") == 5
    assert f"`ml` | {ml['qlike']:.4f}" in (tmp_path / "card.md").read_text()


def test_ten_minutes_of_trades_are_walked_forward_from_their_middle(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(shared / TRADES), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["horizons"] >= 4
    assert {"ml", "baseline", "calibrated_ewma"} <= set(found["models"])
    assert np.isfinite([each["qlike"] for each in found["models"].values()]).all()
    assert "har" not in found["models"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\x89PNG....", "PNG"),
        (b"timestamp,price,volume\n2025-11-17T23:33:18Z,91749.99,1\n", "no forecast can be judged"),
    ],
)
def test_a_file_that_cannot_be_evaluated_is_named(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recording.csv"
    path.write_bytes(content)
    assert main([str(path), "--json"]) == CANNOT_EVALUATE
    said = capsys.readouterr()
    assert said.out == ""
    assert str(path) in said.err
    assert reason in said.err


def test_three_minutes_of_trades_are_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.csv"
    lines = [f"2025-11-17T23:{30 + i // 60:02}:{i % 60:02}Z,{100 + i % 7},1" for i in range(180)]
    path.write_text("timestamp,price,volume\n" + "\n".join(lines) + "\n")
    assert main([str(path)]) == CANNOT_EVALUATE
    said = capsys.readouterr().err
    assert str(path) in said
    assert "needs 8 horizons of 60 s" in said


def test_a_column_map_judges_a_table_that_no_dialect_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same forty minutes of trades under known names and under names of their own."""
    rows = [f"2025-11-17T23:{10 + i // 60:02}:{i % 60:02}Z,{100 + i % 7},{1 + i % 3}" for i in range(2_400)]
    known, other = tmp_path / "known.csv", tmp_path / "other.csv"
    known.write_text("timestamp,price,volume\n" + "\n".join(rows) + "\n")
    other.write_text("wann,preis,menge\n" + "\n".join(rows) + "\n")
    assert main([str(other), "--json"]) == CANNOT_EVALUATE
    assert "a column map names them" in capsys.readouterr().err
    figures = []
    for arguments in ([str(known)], [str(other), "--columns", "time=wann,price=preis,size=menge"]):
        assert main([*arguments, "--json"]) == 0
        figures.append(json.loads(capsys.readouterr().out)["models"])
    assert figures[0] == figures[1]
    assert main([str(other), "--columns", "price=preis"]) == CANNOT_EVALUATE
    assert "must name the column of time" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--simulated", "--champions"])
def test_candles_have_no_served_model(flag: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared / "lean" / "minute" / "btcusd" / "20180405_trade.zip"
    assert main([str(path), flag]) == CANNOT_EVALUATE
    said = capsys.readouterr().err
    assert str(path) in said
    assert "can only be walked forward" in said


def test_champions_are_judged_from_the_first_row_on(
    shared: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The registry serves a baseline and no `ml`: 108 counted rows of the recording have a target."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    registry.files["volatility-baseline"] = model_file()
    assert main([str(shared / TRADES), "--champions", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["forecasts"] == 108
    assert "ml" not in found["models"]
    assert found["models"]["baseline"]["coverage"] is not None


def test_two_champions_are_judged_each_with_its_own_floor(shared: Path) -> None:
    """Rivals have the larger floor."""
    floors = {"baseline": 1e-9, "ml": 4e-9}
    models = {
        name: ServedModel.load(model_bytes(variance_floor=str(floor)), spec_id=SPEC.spec_id)
        for name, floor in floors.items()
    }
    run = score_served(read_history([shared / TRADES]), models, stated_floors=True)
    for name, floor in (floors | {"calibrated_ewma": 4e-9}).items():
        assert run.realized(name).tolist() == np.maximum(run.rows.targets**2, floor).tolist()


def test_a_registry_without_champions_is_told_how_to_get_one(
    shared: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    assert main([str(shared / TRADES), "--champions"]) == CANNOT_EVALUATE
    assert "no champion of the baseline" in capsys.readouterr().err


@pytest.mark.acceptance
def test_models_of_simulated_days_on_real_recordings(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proof: Proof
) -> None:
    """Trained as `make run` does: `ml` beside the baseline and the best of the unscaled EWMAs."""
    monkeypatch.setattr("offline.evaluation.__main__.trained_on_simulated_days", cache(trained_on_simulated_days))
    lean = sorted((shared / "lean" / "second" / "btcusd").glob("*.zip"))
    logs = []
    for files in ([shared / TRADES], [shared / "coinbase_advanced_ws_btcusd_20260405.ndjson.gz"], lean):
        assert main([*map(str, files), "--simulated", "--json"]) == 0
        models = json.loads(capsys.readouterr().out)["models"]
        ml, baseline = models["ml"]["qlike"], models["baseline"]["qlike"]
        best = min(each["qlike"] for name, each in models.items() if name.startswith("ewma_"))
        proof.saw(**{files[0].name[:30]: f"ml {ml:.3f}, baseline {baseline:.3f}, best EWMA {best:.3f}"})
        logs.append(np.log(ml / baseline))
        assert ml <= 1.10 * baseline
        assert max(ml, baseline) <= 1.10 * best
    assert np.exp(np.mean(logs)) <= 1.05


def test_an_absent_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.csv")]) == CANNOT_EVALUATE
    assert "none.csv" in capsys.readouterr().err
