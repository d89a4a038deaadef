"""Planted harm, by the command that a person types: from the first harmed trade to the verdict of the gate."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from rich.console import Console

from monitoring.drift.hours import HOUR_NS
from tests.harm.__main__ import harmed_stack
from tests.harm.day import HARM_FROM
from tests.harm.report import WIDTH, show
from tests.proofs import Proof

MIN_HARMED = 240
"""Harmed horizons on which the challenger must be judged."""


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore")  # of mlflow and Dagster
def test_planted_harm_is_paged_within_three_hours_and_asks_for_one_retrain(
    tmp_path: Path, jars: list[Path], proof: Proof
) -> None:
    proof.disturbs("from noon on, volatility changes faster than any model has learnt")
    others = set(psutil.Process().children(recursive=True))
    with harmed_stack(tmp_path / "state", print) as (seen, pages):
        show(seen, pages, Console(width=WIDTH))
    before, after = (
        [each for each in seen.hours if (each.start >= HARM_FROM) == is_harmed] for is_harmed in (False, True)
    )
    qlike_before, qlike_after = (sum(each.qlike for each in part) / len(part) for part in (before, after))
    with_loss = [at for at, report in seen.reports if report.with_loss]
    assert with_loss
    hours = (with_loss[0] - HARM_FROM) / HOUR_NS
    assert seen.entry is not None
    proof.saw(
        qlike_before=round(qlike_before, 3),
        qlike_after=round(qlike_after, 3),
        drift_with_loss_after_h=round(hours, 2),
        alerts=", ".join(seen.fired),
        retrains=len(seen.asked),
        split=seen.train_end,
        judged_horizons=seen.judged,
        harmed_horizons=seen.harmed,
        verdict=seen.entry.action,
    )
    assert qlike_after > 2 * qlike_before
    assert not any(report.with_loss for at, report in seen.reports if at < HARM_FROM + HOUR_NS)
    assert hours <= 3
    assert [run.status for run in seen.asked] == ["SUCCESS"]
    assert seen.harmed >= MIN_HARMED
    assert seen.judged == seen.entry.evidence["horizons"]
    if seen.has_prometheus:
        assert seen.fired["DriftWithLoss"] <= HARM_FROM + 3 * HOUR_NS
        assert "DriftWithLoss" in seen.told
        assert seen.fired_unadapted is not None
        assert seen.fired_unadapted <= HARM_FROM + 3 * HOUR_NS
    assert set(psutil.Process().children(recursive=True)) <= others
