"""The figures and the tables of the drill of harm."""

from __future__ import annotations

from io import StringIO

import numpy as np
from rich.console import Console

from data.models.registry import Version
from data.models.served import ML
from monitoring.drift.hours import HOUR_NS
from offline.promotion.ledger import Entry
from tests.harm.asking import DriftReport, Run
from tests.harm.chain import Outcome
from tests.harm.day import HARM_FROM
from tests.harm.hours import HourFigures, low_hours
from tests.harm.pages import Pages
from tests.harm.report import WIDTH, show


def test_two_low_hours_in_a_row_page() -> None:
    """The promise is .8, and the margin .05: an hour below .75 is low."""
    assert low_hours(np.array([0.7, 0.9, 0.74, 0.74]), 0.8) == [3]
    assert low_hours(np.array([0.7, 0.76, 0.7]), 0.8) == []


def test_the_report_names_each_step_and_the_place_to_see_it() -> None:
    calm = HourFigures(HARM_FROM - HOUR_NS, 0.15, 0.91, 0.9, (0.4, "change ret_std"), 0.2, False)
    harmed = [
        HourFigures(HARM_FROM + hour * HOUR_NS, 0.55, 0.85, 0.6, (2.5, "spread ret_mean"), 3.0, hour > 0)
        for hour in range(2)
    ]
    report = DriftReport("run-1", 2, "2025-01-08 13:00:00", True, True, True, "spread ret_mean", 2.5, "http://m/report")
    evidence = {"tested_after": "2025-01-08T00:01:00Z", "qlike": 0.36, "compared_with": "volatility-ml version 1"}
    seen = Outcome(
        Version(ML, "1", {"promised_coverage_05": "0.8"}, ""),
        has_prometheus=True,
        hours=[calm, *harmed],
        reports=[(HARM_FROM + 2 * HOUR_NS, report)],
        fired={"DriftWithLoss": HARM_FROM + 2 * HOUR_NS - 1},
        fired_unadapted=HARM_FROM + 2 * HOUR_NS,
        told={"DriftWithLoss"},
        asked=[Run("run-2", "SUCCESS", {"cryptovol/reason": "BTC-USD: drift of spread ret_mean with loss"})],
        promote_run="run-3",
        challenger=Version(ML, "2", {}, ""),
        train_end="2025-01-08T00:00:00Z",
        entry=Entry(
            action="refuse", model=ML, to_version="2", digest="", entry_id="e", experiment_id="7", evidence=evidence
        ),
        refused="gain: found 1.0, allowed is 0.97",
        judged=1_439,
        harmed=720,
    )
    console = Console(file=StringIO(), width=WIDTH, record=True)
    show(seen, Pages("http://a", "http://d", "http://m", "http://p"), console)
    text = " ".join(console.export_text().split())
    for shown in (
        "the harm begins",
        "DriftWithLoss fires at 13:59",
        "ForecastCoverageLow fires at 14:00",
        "1,439 horizons after 2025-01-08T00:01:00Z, 720 of them harmed",
        "verdict: refuse",
        "gain: found 1.0, allowed is 0.97",
        "http://d/runs/run-2",
        "http://m/#/models/volatility-ml/versions/2",
        "http://m/#/experiments/7/runs/e",
    ):
        assert shown in text, shown
