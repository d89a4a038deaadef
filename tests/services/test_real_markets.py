"""Models trained on simulated days, on recordings of real markets and on later simulated days."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.models.served import Scores, ServedModel
from data.recordings.readers import read_bars, read_trades
from data.simulator.day import simulate_day
from data.times import NS
from data.trades import Floats, StreamKey, Trades
from data.truth.losses import coverage, qlike
from data.truth.targets import variance_floor
from offline.evaluation.scoring import score
from offline.evaluation.served import score_served, simulated_history, with_oracle
from offline.evaluation.significance import block_test
from offline.history import read_history
from offline.models.recipes import (
    PRODUCTS,
    SEED,
    TEST_DAY,
    simulated_rows,
    train_baseline,
    train_end_of_simulated_days,
    train_ml,
)
from offline.samples import Sample, sample
from tests.models import SPEC
from tests.proofs import Proof

pytestmark = pytest.mark.acceptance

NAMES = {
    "2025-11-17": ("coinbase_trades_btcusd_20251117.csv",),
    "2026-04-05": ("coinbase_advanced_ws_btcusd_20260405.ndjson.gz",),
    "LEAN": tuple(f"lean/second/btcusd/2016100{day}_trade.zip" for day in (7, 8)),
}
AGE = SPEC.columns.index("known_steps")


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    rows, end = simulated_rows(SPEC), train_end_of_simulated_days()
    return {"ml": train_ml(rows, SPEC, end).model, "baseline": train_baseline(rows, SPEC, end).model}


def trades_of(folder: Path, names: tuple[str, ...]) -> Trades:
    """Return the trades of recordings; a bar gives three trades: its high, its low, and its close with the volume."""
    paths = [folder / name for name in names]
    if not names[0].endswith(".zip"):
        return Trades.join([batch.trades for batch in read_trades(paths[0])])
    bars = [batch.bars for batch in read_bars(paths)]
    close_time, high, low, close, volume = (
        np.concatenate([getattr(each, name) for each in bars])
        for name in ("event_time", "high", "low", "close", "volume")
    )
    step, count, nothing = bars[0].step_s * NS, 3 * len(close), np.zeros(len(close))
    time = np.stack([close_time - step // 2, close_time - step // 3, close_time], 1).ravel()
    return Trades(
        keys=(StreamKey("", "BTC-USD"),),
        stream=np.zeros(count, np.int32),
        trade_id=np.arange(count),
        event_time=time,
        ingest_time=time,
        price=np.stack([high, low, close], 1).ravel(),
        size=np.stack([nothing, nothing, volume], 1).ravel(),
        side=np.zeros(count, np.int8),
    )


@pytest.fixture(scope="module")
def recordings(shared: Path) -> dict[str, Sample]:
    return {name: sample(trades_of(shared, names), SPEC) for name, names in NAMES.items()}


def answers(model: ServedModel, rows: Sample, values: Floats | None = None) -> Scores:
    values = rows.values if values is None else values
    return model.score(values[:, [SPEC.columns.index(name) for name in model.columns]], rows.product_id.tolist())


def losses(score: Floats, rows: Sample) -> Floats:
    """Return the QLIKE of each row, with the floor of the rows."""
    return qlike(rows.targets**2, score**2, variance_floor(rows.targets**2))


def after(rows: Sample, first: int, end: float = np.inf) -> NDArray[np.bool_]:
    """Return the rows with `first` known grid steps or more, and fewer than `end`."""
    return (rows.values[:, AGE] >= first) & (rows.values[:, AGE] < end)


def best_unscaled(rows: Sample) -> float:
    """Return the smallest QLIKE of the four unscaled EWMAs, each filled up by shorter ones."""
    floor, found, filled = variance_floor(rows.targets**2), [], np.full(len(rows), np.nan)
    old = after(rows, 300)
    for half_life in SPEC.half_lives:
        ewma = rows.values[:, SPEC.columns.index(f"ewma_variance_{half_life}")]
        filled = np.where(np.isnan(ewma), filled, ewma)
        found.append(qlike(rows.targets[old] ** 2, np.maximum(filled[old], floor), floor).mean())
    return float(min(found))


def test_on_real_markets_no_level_of_the_simulated_one_is_carried_over(
    models: dict[str, ServedModel], recordings: dict[str, Sample], proof: Proof
) -> None:
    """From the fifth minute on: each model beside the best unscaled EWMA, and `ml` beside the baseline."""
    ratios = []
    for name, rows in recordings.items():
        old = after(rows, 300)
        loss = {variant: losses(answers(model, rows).score, rows) for variant, model in models.items()}
        means = {variant: float(each[old].mean()) for variant, each in loss.items()}
        ratios.append(means["ml"] / means["baseline"])
        unscaled, found = best_unscaled(rows), answers(models["ml"], rows)
        floored = np.sqrt(np.maximum(rows.targets**2, variance_floor(rows.targets**2)))
        proof.saw(
            **{f"{name} {variant}": f"{mean:.4f}" for variant, mean in means.items()},
            **{f"{name} unscaled": f"{unscaled:.4f}"},
            **{f"{name} coverage": f"{coverage(floored[old], found.lower[old], found.upper[old]):.2f}"},
        )
        assert ratios[-1] <= 1.10, name
        assert max(means.values()) <= 1.10 * unscaled, name
        if name == "2025-11-17":
            everything = max(float(each.mean()) for each in loss.values())
            proof.saw(all_rows=f"{everything:.3f}")
            assert everything <= 0.20
    mean = float(np.exp(np.mean(np.log(ratios))))
    proof.saw(ratio=mean)
    assert mean <= 1.05


def test_the_first_minutes_lose_less_than_the_contract_and_no_more_with_a_wrong_prior(
    models: dict[str, ServedModel], recordings: dict[str, Sample], proof: Proof
) -> None:
    """Seconds 60 to 300 of a segment, with the model's prior, a prior 4 times as large, and a quarter of the prior."""
    for name, rows in recordings.items():
        young, contract = after(rows, 60, 300), rows.values.copy()
        contract[:, 3:] = np.nan
        for variant, model in models.items():
            alone = float(losses(answers(model, rows, contract).score, rows)[young].mean())
            found = []
            for factor in (1.0, 4.0, 0.25):
                other = replace(model, priors={product: factor * prior for product, prior in model.priors.items()})
                found.append(float(losses(answers(other, rows).score, rows)[young].mean()))
            proof.saw(**{f"{name} {variant}": " ".join(f"{each:.3f}" for each in (*found, alone))})
            assert found[0] <= 0.6 * alone, (name, variant)
            assert max(found) <= alone, (name, variant)


def test_adapted_intervals_hold_nine_tenths_of_two_real_days_after_the_first_hour(
    models: dict[str, ServedModel], shared: Path, proof: Proof
) -> None:
    """With the floor of the rows: the floor of the simulated market is above most realized variances of this one."""
    run = score_served(read_history([shared / name for name in NAMES["LEAN"]]), models, stated_floors=True)
    variance = run.rows.targets**2
    target = np.sqrt(np.maximum(variance, variance_floor(variance)))
    later = run.rows.event_time >= run.rows.event_time[0] + 3_600 * NS
    for name in models:
        found, stated = run.forecasts[name].take(later), np.sqrt(run.realized(name)[later])
        covered = coverage(target[later], found.lower, found.upper)
        with_stated = coverage(stated, found.lower, found.upper)
        proof.saw(**{name: f"{covered:.3f}, with its own floor {with_stated:.3f}"})
        assert 0.85 <= covered <= 0.95, name


def test_seven_simulated_days_judged_beside_the_oracle(models: dict[str, ServedModel], proof: Proof) -> None:
    """The days after the five of training, as `offline.evaluation --days 7 --simulated` judges them."""
    scores = score(with_oracle(score_served(simulated_history(7, SPEC), models, stated_floors=False)))
    ml, after_jump = scores.overall("ml"), next(iter(scores.slices["jump"].values()))["ml"]
    proof.saw(ratio=ml.ratio, p=scores.p("ml"), coverage=ml.coverage, horizons=scores.horizons)
    proof.saw(closed_gap=scores.closed_gap("ml"), coverage_after_jumps=after_jump.coverage)
    assert scores.horizons >= 10_000
    assert ml.ratio <= 0.96
    assert scores.p("ml") < 0.001
    assert 0.88 <= ml.coverage <= 0.92
    assert scores.closed_gap("ml") >= 0.15
    assert after_jump.coverage >= 0.82


def test_on_two_later_simulated_days_the_shape_gains_in_spite_of_its_shrinkage(
    models: dict[str, ServedModel], proof: Proof
) -> None:
    """Five days train; the two days after them are test, of two products."""
    days = (TEST_DAY, TEST_DAY + dt.timedelta(days=1))
    rows = Sample.join(sample(simulate_day(product, day, SEED), SPEC) for product in PRODUCTS for day in days)
    rows = rows.after(train_end_of_simulated_days() + dt.timedelta(minutes=1))
    ml, ewma = (losses(answers(models[name], rows).score, rows) for name in ("ml", "baseline"))
    ratio = float(ml.mean() / ewma.mean())
    test = block_test(ml - ewma, rows.horizon(SPEC))
    proof.saw(ratio=ratio, p=test.p_one_sided, horizons=rows.horizons(SPEC))
    assert ratio <= 0.96
    assert test.p_one_sided < 0.05
