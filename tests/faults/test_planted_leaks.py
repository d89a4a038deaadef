"""Faults of trainings, planted one by one: the right sentinel blocks and names each fault."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.registry import Registry
from data.models.served import Scores, ServedModel
from data.simulator.day import simulate_day
from data.times import DAY_S, NS
from data.trades import Floats, Trades
from data.truth.targets import target_volatility
from offline.leaks.models import check_model
from offline.leaks.rows import check_rows
from offline.leaks.verdicts import (
    ANSWERS,
    DUPLICATES,
    FUTURE_CHANGED,
    FUTURE_CUT_OFF,
    HOLES,
    SCALE_AND_DATE,
    SPLIT,
    LeakFound,
)
from offline.models.candidate import Candidate, Recipe
from offline.models.recipes import train_baseline, train_ml
from offline.promotion.gate import Refused
from offline.promotion.inputs import GateInputs
from offline.promotion.moves import promote
from offline.promotion.provenance import LakeRows, Provenance
from offline.samples import CHECKED_HOURS, SHORT_WINDOWS, Sample, TradeSpan, sample
from offline.training import train
from tests.models import SENTINELS, SPEC, locks, put_version
from tests.proofs import Proof

DAYS = (dt.date(2010, 1, 8), dt.date(2010, 1, 9))
TRAIN_END = dt.datetime.combine(DAYS[1], dt.time(1, 30), dt.UTC)
END_NS = int(TRAIN_END.timestamp()) * NS
HOURS = (0, 10)
HOUR = 3_600 * NS
PRODUCT = "BTC-USD"
NOWHERE = Registry("http://127.0.0.1:1")
PLANTED = SPEC.columns.index("relative_volume_300")
"""Column of the planted features."""

Feature = Callable[[FeatureRows], Floats]


@dataclass(frozen=True)
class Market:
    """Trades and rows of a day for training and a day for the test."""

    trades: tuple[Trades, ...]
    rows: Sample
    spans: tuple[TradeSpan, ...]

    @classmethod
    def of(cls, trades: tuple[Trades, ...]) -> Market:
        rows = Sample.join([sample(trades[0], SPEC, SHORT_WINDOWS), sample(trades[1], SPEC)])
        return cls(trades, rows, tuple(map(first_hours, trades)))


def first_hours(trades: Trades) -> TradeSpan:
    begin = int(trades.event_time[0])
    return TradeSpan(trades.take(trades.event_time < begin + CHECKED_HOURS * HOUR), begin)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.of(tuple(simulate_day(PRODUCT, day, 0, HOURS) for day in DAYS))


def failed(market: Market, recipe: Recipe = train_baseline, rows: Sample | None = None) -> set[str]:
    """Train, and return the names of the sentinels that block; a blocked training asks no registry."""
    rows = market.rows if rows is None else rows
    training = train(
        NOWHERE, rows, SPEC, TRAIN_END, LakeRows(content_hashes={}), {"planted": recipe}, spans=market.spans
    )
    try:
        next(training)
    except LeakFound as error:
        names = {each.name for each in error.verdicts if not each.passed}
        assert {each.name for each in error.verdicts} == set(SENTINELS)
        assert all(f"{name}: found " in str(error) for name in names)
        return names
    return set()


# Faults of recipes


def prepared(change: Callable[[Sample], Sample]) -> Recipe:
    """Return a recipe that changes all rows first."""
    return lambda rows, spec, end: train_ml(change(rows), spec, end)


def split_at_random(rows: Sample) -> Sample:
    order = np.random.default_rng(1).permutation(len(rows))
    return replace(rows, values=rows.values[order], targets=rows.targets[order])


def scale(rows: Sample) -> Sample:
    values = rows.values.copy()
    values[:, 3:] /= np.nanstd(values[:, 3:], axis=0) / np.nanstd(values[: len(values) // 2, 3:], axis=0)
    return replace(rows, values=values)


def winsorise(rows: Sample) -> Sample:
    return replace(rows, targets=np.clip(rows.targets, *np.quantile(rows.targets, (0.01, 0.99))))


def drop_above_threshold(rows: Sample) -> Sample:
    return rows.take((rows.targets < np.quantile(rows.targets, 0.95)) | (rows.event_time > END_NS))


def overlap(rows: Sample) -> Sample:
    """Times are a horizon too early: the last rows of training have targets that end in the test."""
    return replace(rows, event_time=rows.event_time - SPEC.horizon_s * NS)


def tuned_on_the_test(rows: Sample, spec: FeatureSpec, end: dt.datetime) -> Candidate:
    training = rows.event_time <= END_NS
    factors = (0.7, 0.85, 1.0, 1.2, 1.4)
    tried = [replace(rows, targets=np.where(training, factor * rows.targets, rows.targets)) for factor in factors]
    return min((train_ml(each, spec, end) for each in tried), key=lambda each: each.metrics["qlike"])


def trained_longer(rows: Sample, spec: FeatureSpec, end: dt.datetime) -> Candidate:
    candidate = train_ml(rows, spec, end + dt.timedelta(hours=5))
    return replace(candidate, model=replace(candidate.model, train_end=end))


def stating_an_earlier_end(rows: Sample, spec: FeatureSpec, end: dt.datetime) -> Candidate:
    candidate = train_ml(rows, spec, end)
    return replace(candidate, model=replace(candidate.model, train_end=end - dt.timedelta(hours=5)))


class Answering:
    """A model with other answers."""

    def __init__(self, model: ServedModel, change: Callable[[Scores], Scores]) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def score(self, values: Floats, product_ids: Sequence[str] | None = None) -> Scores:
        return self._change(self._model.score(values, product_ids))


def answering(change: Callable[[Scores], Scores]) -> Recipe:
    def recipe(rows: Sample, spec: FeatureSpec, end: dt.datetime) -> Candidate:
        candidate = train_baseline(rows, spec, end)
        return replace(candidate, model=cast(ServedModel, Answering(candidate.model, change)))

    return recipe


def of_width_0(found: Scores) -> Scores:
    return replace(found, lower=found.score, upper=found.score)


def of_a_million(found: Scores) -> Scores:
    return replace(found, score=np.full_like(found.score, 1e6), upper=np.full_like(found.score, 2e6))


RECIPES: dict[str, tuple[Recipe, str]] = {
    "random split": (prepared(split_at_random), FUTURE_CHANGED),
    "scaler fitted on all data": (prepared(scale), FUTURE_CHANGED),
    "winsoriser fitted on all data": (prepared(winsorise), FUTURE_CHANGED),
    "threshold fitted on all data": (prepared(drop_above_threshold), FUTURE_CHANGED),
    "label overlapping the split": (prepared(overlap), SPLIT),
    "tuning on the test": (tuned_on_the_test, FUTURE_CHANGED),
    "trained longer than train_end": (trained_longer, FUTURE_CHANGED),
    "train_end earlier than true": (stating_an_earlier_end, SPLIT),
    "interval of width 0": (answering(of_width_0), ANSWERS),
    "score of a million": (answering(of_a_million), ANSWERS),
}


# Faults of rows


def shifted_target(rows: Sample) -> Sample:
    return replace(rows, targets=np.roll(rows.targets, 1))


def duplicated_day(rows: Sample) -> Sample:
    training = rows.take(rows.event_time <= END_NS)
    return Sample.join([replace(training, event_time=training.event_time - DAY_S * NS), rows])


def hour_four_times(rows: Sample) -> Sample:
    begin = END_NS + 4 * HOUR
    hour = rows.take((rows.event_time > begin) & (rows.event_time <= begin + HOUR))
    first = rows.take(rows.event_time <= begin)
    return Sample.join([first, *(replace(hour, event_time=hour.event_time + i * HOUR) for i in range(4))])


ROWS: dict[str, tuple[Callable[[Sample], Sample], str]] = {
    "shifted target": (shifted_target, FUTURE_CUT_OFF),
    "duplicated days": (duplicated_day, DUPLICATES),
    "one hour copied four times": (hour_four_times, DUPLICATES),
}


# Faults of features


def next_return(rows: FeatureRows) -> Floats:
    return np.append(np.exp(1e3 * np.diff(np.log(rows.trades.price))), 1.0)


def target(rows: FeatureRows) -> Floats:
    found = target_volatility(rows.trades.event_time, rows.trades.price, SPEC)
    return np.where(np.isnan(found), 1.0, found)


def planted_features(feature: Feature) -> Callable[..., FeatureRows]:
    """Return the kernel with a planted column; the column has values where the true column has values."""

    def rows_of(trades: Trades, windows: Windows) -> FeatureRows:
        made = feature_rows(trades, windows)
        known = np.isfinite(made.values[:, PLANTED])
        made.values[known, PLANTED] = feature(made)[known]
        return made

    return rows_of


def without_holes(trades: Trades, windows: Windows) -> FeatureRows:
    windows.grid = windows.grid._replace(gap=7 * DAY_S * NS)
    return feature_rows(trades, windows)


FEATURES: dict[str, tuple[Callable[..., FeatureRows], str]] = {
    "date": (planted_features(lambda rows: rows.trades.event_time / (DAY_S * NS)), SCALE_AND_DATE),
    "price level": (planted_features(lambda rows: rows.trades.price), SCALE_AND_DATE),
    "window across a hole": (without_holes, HOLES),
    "feature of the next trade": (planted_features(next_return), FUTURE_CUT_OFF),
    "target among the features": (planted_features(target), FUTURE_CUT_OFF),
}


def test_a_clean_training_has_the_verdicts_of_all_sentinels_in_the_candidate(market: Market) -> None:
    clean = train(
        NOWHERE,
        market.rows,
        SPEC,
        TRAIN_END,
        LakeRows(content_hashes={}),
        {"clean": train_baseline},
        spans=market.spans,
    )
    candidate = next(clean)
    assert isinstance(candidate, Candidate)
    assert {f"sentinel {name}" for name in SENTINELS} <= candidate.params.keys()
    assert candidate.params[f"sentinel {FUTURE_CHANGED}"].startswith("other bytes of the model in 0 of 2")


@pytest.mark.acceptance
def test_each_planted_fault_is_blocked_and_named(market: Market, proof: Proof, monkeypatch: pytest.MonkeyPatch) -> None:
    proof.disturbs("trainings with one fault each")
    found = {name: failed(market, recipe) for name, (recipe, _) in RECIPES.items()}
    found |= {name: failed(market, rows=change(market.rows)) for name, (change, _) in ROWS.items()}
    for name, (kernel, _) in FEATURES.items():
        with monkeypatch.context() as patched:
            patched.setattr("offline.samples.feature_rows", kernel)
            patched.setattr("offline.leaks.rows.feature_rows", kernel)
            found[name] = failed(Market.of(market.trades))
    expected = {name: sentinel for name, (_, sentinel) in (RECIPES | ROWS | FEATURES).items()}
    named = sum(expected[name] in names for name, names in found.items())
    proof.saw(faults=len(found), named=named)
    assert {name: names for name, names in found.items() if expected[name] not in names} == {}


def refusal(registry: Registry, market: Market, name: str, recipe: Recipe, rows: Sample) -> dict[str, str]:
    """Put a version with forged verdicts into the registry, promote, and return the conditions that are not met."""
    inputs = GateInputs(rows.after, lambda _: rows, spans=lambda *_: market.spans, recipes={"planted": recipe})
    tags = Provenance.here("planted", LakeRows(content_hashes={})).tags()
    tags |= {f"sentinel.{each}": "passed" for each in SENTINELS} | {"reason": "all is well"}
    put_version(registry.uri, name, recipe(rows, SPEC, TRAIN_END).model_bytes, tags=tags)
    try:
        promote(
            registry,
            name,
            "1",
            objects=locks(),
            inputs=inputs,
            spec=SPEC,
            who="me",
            why="a forged version",
            baseline=name,
        )
    except Refused as refused:
        return {each.name: each.found for each in refused.conditions if not each.is_met}
    return {}


def test_the_gate_names_the_fault_of_a_version_whose_verdicts_are_forged(
    market: Market, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tag opens the gate: the sentinels run again, on the rows and the recipe of the version."""
    registry = Registry(mlflow_uri)
    assert refusal(registry, market, "forged-clean", train_baseline, market.rows) == {}
    overlapping = refusal(registry, market, "forged-split", prepared(overlap), market.rows)
    assert overlapping["leak sentinels"].startswith(f"{SPLIT}: train_end 2010-01-09T01:30:00Z in the model; rows whose")
    scaled = refusal(registry, market, "forged-scaler", prepared(scale), market.rows)
    assert scaled["leak sentinels"].startswith(f"{FUTURE_CHANGED}: other bytes of the model in 1 of 1 changed futures")
    shifted = refusal(registry, market, "forged-target", train_baseline, shifted_target(market.rows))
    assert f"{FUTURE_CUT_OFF}: " in shifted["leak sentinels"]
    monkeypatch.setattr("offline.samples.feature_rows", planted_features(target))
    monkeypatch.setattr("offline.leaks.rows.feature_rows", planted_features(target))
    knowing = refusal(registry, market, "forged-feature", train_baseline, Market.of(market.trades).rows)
    assert "differing without later trades: relative_volume_300" in knowing["leak sentinels"]


@pytest.mark.acceptance
def test_of_20_clean_trainings_at_most_2_are_blocked(proof: Proof) -> None:
    proof.disturbs("nothing")
    blocked, seconds = [], {"training_s": 0.0, "checking_s": 0.0}

    def timed(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        seconds[part] += time.perf_counter() - began
        return result

    for seed in range(20):
        trades = [timed("training_s", simulate_day, PRODUCT, day, seed, HOURS) for day in DAYS]
        clean = timed("training_s", Market.of, tuple(trades))
        verdicts = timed("checking_s", check_rows, clean.rows, SPEC, TRAIN_END, clean.spans)
        for recipe in (train_baseline, train_ml):
            candidate = timed("training_s", recipe, clean.rows, SPEC, TRAIN_END)
            verdicts += timed("checking_s", check_model, candidate, recipe, clean.rows, SPEC, TRAIN_END)
        blocked += [[each for each in verdicts if not each.passed]]
    proof.saw(trainings=len(blocked), blocked=sum(map(bool, blocked)), **seconds)
    assert sum(map(bool, blocked)) <= 2, blocked
