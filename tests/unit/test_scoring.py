"""Scores of forecasts: worked by hand, on the same rows for each forecaster; and what a report shows of them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Floats
from data.truth.significance import LAGS, diebold_mariano
from offline.evaluation.report import Subject, html_report, markdown_table, model_card
from offline.evaluation.scoring import score
from offline.evaluation.walk_forward import Run
from offline.history import Grid, History
from offline.models.cascade import Forecasts

SPEC = FeatureSpec.for_candles(60)
NAN = float("nan")
SUBJECT = Subject("some <candles>", "made by hand")


def run(targets: Floats, forecasts: dict[str, Forecasts], floor: float = 1e-12) -> Run:
    """Return a run of rows each five minutes from 0:05 on."""
    n = len(targets)
    nothing = np.empty(0)
    rows = History(
        SPEC,
        ("BTC-USD", "ETH-USD"),
        np.arange(n) % 2,
        (1 + np.arange(n)) * 300 * NS,
        np.ones(n),
        np.full((n, len(SPEC.columns)), NAN),
        targets,
        np.arange(n, dtype=np.float64) * 60,
        np.arange(n),
        np.arange(n),
        Grid(nothing, nothing, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.intp)),
    )
    return Run(rows, forecasts, np.full(n, floor), {"garch": "too short"}, rows.event_time[:1], {"ml": [{"a": 1.0}]})


def constant(n: int, score: float, lower: float = NAN, upper: float = NAN) -> Forecasts:
    return Forecasts(*(np.full(n, end) for end in (score, lower, upper)))


def test_losses_coverage_and_width_by_hand() -> None:
    """Targets 1, 2, 4, forecast 2 in [1, 2 e]: ratios of variance 1/4, 1, 4; the third target is inside, 4 < 5.4."""
    forecasts = {"ml": constant(3, 2.0, 1.0, 2 * math.e), "calibrated_ewma": constant(3, 4.0)}
    found = score(run(np.array([1.0, 2.0, 4.0]), forecasts)).overall("ml")
    expected = ((0.25 + math.log(4) - 1) + 0 + (4 - math.log(4) - 1)) / 3
    assert found.qlike == pytest.approx(expected, rel=1e-12)
    assert found.log_mse == pytest.approx(2 * math.log(2) ** 2 / 3, rel=1e-12)
    assert found.bias == pytest.approx(0, abs=1e-12)  # ln 2, 0, -ln 2
    assert found.coverage == 1
    assert found.width == pytest.approx(1 + math.log(2), rel=1e-12)
    base = ((1 / 16 + math.log(16) - 1) + (1 / 4 + math.log(4) - 1) + 0) / 3
    assert found.ratio == pytest.approx(expected / base, rel=1e-12)


def test_a_zero_target_counts_as_the_floor() -> None:
    """Floor 1, forecast variance 4: the ratio is 1/4. The interval [1, 3] holds the root of the floor."""
    forecasts = {"ml": constant(2, 2.0, 1.0, 3.0), "calibrated_ewma": constant(2, 1.0)}
    found = score(run(np.array([0.0, 0.0]), forecasts, floor=1.0))
    assert found.overall("ml").qlike == pytest.approx(0.25 + math.log(4) - 1)
    assert found.overall("ml").coverage == 1
    assert found.overall("ml").bias == pytest.approx(math.log(2))
    assert found.zero_share == 1


def test_two_models_each_have_their_own_floor() -> None:
    """Floors 1 and 4 in place of targets 0, forecast variances 4 and 1; a ratio has one floor above and below."""
    forecasts = {"ml": constant(2, 2.0, 1.5, 3.0), "baseline": constant(2, 2.0, 1.5, 3.0)}
    forecasts |= {"calibrated_ewma": constant(2, 1.0)}
    done = replace(run(np.zeros(2), forecasts, floor=4.0), own_floors={"ml": 1.0, "baseline": 4.0})
    scores = score(done)
    ml, baseline = scores.overall("ml"), scores.overall("baseline")
    assert ml.qlike == pytest.approx(0.25 + math.log(4) - 1)
    assert baseline.qlike == pytest.approx(0)
    assert (ml.coverage, baseline.coverage) == (0, 1)
    assert (ml.bias, baseline.bias) == pytest.approx((math.log(2), 0))
    assert scores.overall("calibrated_ewma").qlike == pytest.approx(4 - math.log(4) - 1)
    assert scores.base["ml"] == pytest.approx([0, 0])
    assert baseline.ratio == pytest.approx(0)
    assert "floor, 1 to 4." in model_card(SUBJECT, done, scores)


def test_slices_are_by_tercile_product_session_and_age() -> None:
    """Rows each five minutes from 0:05; ages 0, 1, ..., 89 minutes."""
    n = 90
    ewma = Forecasts(np.linspace(1, 2, n), np.full(n, NAN), np.full(n, NAN))
    found = score(run(np.ones(n), {"calibrated_ewma": ewma})).slices
    rows = {kind: {name: each["calibrated_ewma"].rows for name, each in of.items()} for kind, of in found.items()}
    assert rows["tercile"] == {"calm": 30, "middle": 30, "wild": 30}
    assert rows["product"] == {"BTC-USD": 45, "ETH-USD": 45}
    assert rows["session"] == {"00 to 06 h UTC": 71, "06 to 12 h UTC": 19}
    assert rows["age"] == {"0 to 1 minute": 1, "1 to 5 minutes": 4, "5 to 60 minutes": 55, "later": 30}


def test_the_forecasts_after_a_jump_and_the_closed_gap() -> None:
    """Rows each five minutes from 0:05; a jump at 1:00: the rows from 1:05 to 6:00 follow within five horizons."""
    n = 90
    forecasts = {"ml": constant(n, 1.1, 0.9, 1.3), "calibrated_ewma": constant(n, 1.2), "oracle": constant(n, 1.0)}
    done = replace(run(np.ones(n), forecasts), jumps=np.array([3_600 * NS]))
    scores = score(done)
    assert scores.slices["jump"]["60 forecasts after"]["ml"].rows == 60
    loss = {s: 1 / s**2 + math.log(s**2) - 1 for s in (1.1, 1.2)}
    assert scores.closed_gap("ml") == pytest.approx((loss[1.2] - loss[1.1]) / loss[1.2])
    assert "gap between calibrated_ewma and oracle" in model_card(SUBJECT, done, scores)


def test_json_has_exactly_the_promised_keys() -> None:
    rng = np.random.default_rng(0)
    targets = np.exp(rng.normal(0, 0.3, 120))
    forecasts = {
        "ml": constant(120, 1.0, 0.6, 1.7),
        "baseline": constant(120, 1.1, 0.6, 1.7),
        "calibrated_ewma": Forecasts(np.exp(rng.normal(0, 0.3, 120)), np.full(120, NAN), np.full(120, NAN)),
    }
    scores = score(run(targets, forecasts))
    found = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert set(found) == {"forecasts", "horizons", "models"}
    assert (found["forecasts"], found["horizons"]) == (120, 11)  # 0:05 to 10:00
    assert set(found["models"]) == set(forecasts)
    for each in found["models"].values():
        assert set(each) == {"qlike", "ratio_to_calibrated_ewma", "p", "bias", "coverage", "coverage_by_tercile"}
    assert len(found["models"]["ml"]["coverage_by_tercile"]) == 3
    assert found["models"]["calibrated_ewma"]["coverage"] is None
    difference = scores.losses["ml"] - scores.losses["calibrated_ewma"]
    assert found["models"]["ml"]["p"] == diebold_mariano(difference, 2 * LAGS).p_one_sided  # of two products


def test_lags_cover_three_horizons() -> None:
    assert LAGS == 36


def test_a_report_is_one_page_without_links_and_escapes_names() -> None:
    rng = np.random.default_rng(0)
    ewma = np.exp(rng.normal(0, 0.3, 120))
    forecasts = {
        "ml": Forecasts(ewma * 1.1, ewma * 0.6, ewma * 1.7),
        "calibrated_ewma": Forecasts(ewma, np.full(120, NAN), np.full(120, NAN)),
    }
    done = run(np.exp(rng.normal(0, 0.3, 120)), forecasts)
    page = html_report(SUBJECT, done, score(done))
    assert page.count("<svg") == 5
    assert "some &lt;candles&gt;" in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page.replace("xlink:href", "href"))
    assert "garch is left out: too short." in page
    assert page == html_report(SUBJECT, done, score(done))


def test_a_model_card_has_figures_and_limits() -> None:
    targets = np.exp(np.random.default_rng(0).normal(0, 0.3, 120))
    done = run(targets, {"ml": constant(120, 1.0, 0.6, 1.7), "calibrated_ewma": constant(120, 1.1)})
    card = model_card(SUBJECT, done, score(done))
    assert "120 forecasts in 11 horizons" in card
    assert "| `ml` |" in card
    assert "before a jump" in card
    assert markdown_table(score(done)) in card
