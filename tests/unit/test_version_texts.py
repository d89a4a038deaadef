"""Report and card of a version: from answers that training has, the same bytes again, with the figures of the tags."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest

from data.models.served import BASELINE, ML, ServedModel
from data.times import NS
from offline.cards.version_texts import CARD, REPORT, run_of, version_texts
from offline.losses_table import Evaluation, evaluate
from offline.models.candidate import Candidate
from offline.promotion.provenance import LakeRows, Provenance, RowSample, SimulatedRows, TrainingRows
from offline.samples import Sample
from tests.models import SPEC, model_bytes

MIDNIGHT = int(dt.datetime(2026, 1, 3, tzinfo=dt.UTC).timestamp())
FLOOR = 1e-10
PARAMS = {
    "steps": ["ewma_variance_300", "n", "prior"],
    "intervals": [(0.5, 1.5), (0.25, 2.0), (0.125, 3.0)],
    "weights": [],
    "scales": {"ewma_variance_300": 4.0},
    "priors": {"all": "1e-06"},
    "rows": 20_000,
    "horizons": 1_000,
    "from": "2026-01-01T00:00:04Z",
    "to": "2026-01-02T23:58:54Z",
    "sentinel future changed": "no other byte",
    "sentinel duplicates": "0",
}


def rows() -> Sample:
    """Return rows each five seconds from midnight on: two hundred of BTC-USD, then two hundred of ETH-USD."""
    rng = np.random.default_rng(0)
    values = np.full((400, len(SPEC.columns)), np.nan)
    variance = np.exp(rng.normal(-14, 0.3, 400))
    for name, column in {"n": 50, "ret_mean": 0, "ret_std": 1e-4, "ewma_variance_300": variance}.items():
        values[:, SPEC.columns.index(name)] = column
    values[:, SPEC.columns.index("known_steps")] = np.tile(np.arange(200) * 5, 2)
    time = (MIDNIGHT + np.tile(np.arange(200) * 5, 2)) * NS
    product = np.repeat(["BTC-USD", "ETH-USD"], 200)
    return Sample(values, np.sqrt(4 * variance * np.exp(rng.normal(0, 0.3, 400))), time, int(time[-1]), product)


MODEL = ServedModel.load(model_bytes(train_end="2026-01-03T00:00:00Z"), spec_id=SPEC.spec_id)
CHAMPION = f"{BASELINE} version 3, which has seen some of these rows"


def candidate(name: str = BASELINE) -> Candidate:
    metrics = evaluate({name: MODEL}, *TEST).metrics(name)
    promises = {"promised_qlike_95": 0.3125}
    return Candidate(name, b"", MODEL, np.empty(0), PARAMS, metrics, {"ewma_variance_300": 4.0}, promises)


TEST = (rows(), SPEC, FLOOR)


def made(of: TrainingRows) -> Provenance:
    return Provenance("some recipe", "c0de", "10c4", "x86_64 some CPU", of)


DAYS = {dt.date(2026, 1, 1): "a", dt.date(2026, 1, 2): "b"}
LAKE = made(LakeRows(content_hashes={"BTC-USD": DAYS, "ETH-USD": DAYS}))


def compared(*names: str) -> Evaluation:
    return evaluate(dict.fromkeys(names, MODEL), *TEST)


def test_a_card_has_the_figures_of_the_tags_and_the_gates_limits() -> None:
    one = candidate()
    card = version_texts(one, LAKE, compared(BASELINE, CHAMPION), SPEC)[CARD]
    for name, value in one.metrics.items():
        assert f"| `{name}` | {value:.6g} |" in card
    assert f"| `{BASELINE}` | {one.metrics['qlike']:.4f} |" in card
    assert "- 20,000 rows in 1,000 horizons, 2026-01-01T00:00:04Z to 2026-01-02T23:58:54Z." in card
    assert "| test horizons | 17 | 240 or more |" in card  # 1,000 s
    assert "| leak sentinels | 2 of 2 passed | all passed |" in card
    assert f"| QLIKE / QLIKE of `{CHAMPION}` | 1.000 | 1.02 or less; 0.97 or less for a new recipe |" in card
    assert "| `promised_qlike_95` | 0.3125 |" in card
    assert "with an interval of 0.25 to 2.00 times the score" in card
    assert "simulated days: no figure" not in card


def test_a_card_of_a_short_test_says_that_nothing_is_promised() -> None:
    card = version_texts(replace(candidate(), promises={}), LAKE, compared(BASELINE), SPEC)[CARD]
    assert "None: no hour of the test has 30 judged horizons of a product." in card


def test_a_card_tells_how_to_make_the_version_again() -> None:
    lake, simulated = (
        version_texts(candidate(), each, compared(BASELINE), SPEC)[CARD]
        for each in (LAKE, made(SimulatedRows(seed=0, products=("BTC-USD",), days=tuple(DAYS))))
    )
    (config,) = re.findall("```json\n(.*)\n```", lake)
    assert json.loads(config)["ops"]["models"]["config"] == {
        "products": ["BTC-USD", "ETH-USD"],
        "first_day": "2026-01-01",
        "last_day": "2026-01-03",
        "test_days": 1,
    }
    assert "2 of BTC-USD, 2026-01-01 to 2026-01-02; 2 of ETH-USD" in lake
    assert "\n.venv/bin/python -m offline.training\n" in simulated
    assert "2 simulated days of BTC-USD, seed 0, 2026-01-01 to 2026-01-02" in simulated
    assert "simulated days: no figure here was seen on a real market" in simulated


def test_a_card_has_share_and_seed_of_a_sample_and_how_many_rows_the_tables_show() -> None:
    """20,000 rows of 80,000; the config begins at the first day of all, which gave no rows."""
    first = dt.date(2025, 12, 30)
    taken = RowSample(share=0.5, seed=0, max_mb=2_000, of_rows=80_000, of_days=8, first_day=first)
    sampled = made(LakeRows(content_hashes={"BTC-USD": DAYS, "ETH-USD": DAYS}, sample=taken))
    card = version_texts(candidate(), sampled, compared(BASELINE).thinned(0.25, 0), SPEC)[CARD]
    assert "a stratified sample, 25.000% of 80,000 rows, by product, day and volatility: 50.000% of the rows" in card
    assert "of 4 of 8 product-days, seed 0. `TRAIN_MAX_MB` was 2000." in card
    assert "- 400 rows in 17 horizons" in card
    assert "show a stratified sample, 100 of them." in card
    (config,) = re.findall("```json\n(.*)\n```", card)
    assert json.loads(config)["ops"]["models"]["config"]["first_day"] == "2025-12-30"
    assert "stratified" not in version_texts(candidate(), LAKE, compared(BASELINE), SPEC)[CARD]


def test_ml_is_compared_with_the_baseline_of_its_training_and_the_baseline_with_the_unscaled_ewma() -> None:
    both = compared(ML, f"{ML} version 2", BASELINE, f"{BASELINE} version 1")
    ml, baseline = (run_of(candidate(name), both, SPEC) for name in (ML, BASELINE))
    assert list(ml.forecasts) == [ML, "calibrated_ewma", "unscaled_ewma", f"{ML} version 2"]
    assert list(baseline.forecasts) == [BASELINE, "unscaled_ewma", f"{BASELINE} version 1"]
    assert (ml.reference, baseline.reference) == ("calibrated_ewma", "unscaled_ewma")


def test_rows_of_a_report_are_in_the_order_of_time_and_keep_product_and_forecast() -> None:
    both = compared(BASELINE)
    run = run_of(candidate(), both, SPEC)
    assert (np.diff(run.rows.event_time) >= 0).all()
    assert run.rows.products == ("BTC-USD", "ETH-USD")
    assert run.rows.product.tolist() == [0, 1] * 200
    assert run.rows.age_s[-1] == 199 * 5
    np.testing.assert_array_equal(run.forecasts[BASELINE].score[::2], both.answers[BASELINE].score[:200])
    np.testing.assert_array_equal(run.rows.targets[1::2], both.judged.targets[200:])


def test_the_same_training_gives_the_same_report_with_five_plots_and_no_model_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a model scores a row again")

    trained, both = candidate(), compared(BASELINE, CHAMPION)
    monkeypatch.setattr(ServedModel, "score", refuse)
    one, again = (version_texts(trained, LAKE, both, SPEC) for _ in range(2))
    assert one == again
    assert one[REPORT].count("<svg") == 5
