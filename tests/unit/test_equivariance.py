"""Returns that are c times as large are forecast c times as volatile, on every step that knows a half-life."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from data.features.windows import Windows, feature_rows
from data.models.served import Scores, ServedModel
from data.simulator.day import simulate_day
from data.trades import Floats, Trades
from offline.models import baseline, shape
from offline.models.recipes import fit_with_intervals
from offline.samples import SHORT_WINDOWS, Sample, sample
from tests.models import NAN, SPEC, model_bytes

PRODUCTS = ("BTC-USD",)
HALF_LIFE = SPEC.columns.index("ewma_variance_300")
VARIANCES = [i for i, name in enumerate(SPEC.columns) if "variance" in name]


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    """Both models, trained on two hours of two products."""
    rows = Sample.join(
        sample(simulate_day(product, dt.date(2010, 1, 4), 0, (10, 12)), SPEC, SHORT_WINDOWS) for product in PRODUCTS
    )
    fits = {"baseline": baseline.fit, "ml": shape.fit}
    fitted = {name: fit_with_intervals(rows, SPEC, fit) for name, fit in fits.items()}
    return {name: ServedModel.load(model_bytes(model), spec_id=SPEC.spec_id) for name, model in fitted.items()}


@pytest.fixture(scope="module")
def market() -> Trades:
    """An hour and a half of another day."""
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 8), 0, (13, 15))
    return trades.take(trades.event_time < trades.event_time[0] + 5_400 * 10**9)


@pytest.fixture(scope="module")
def values(market: Trades) -> Floats:
    """Each fifth row, and the same rows without sizes."""
    rows = feature_rows(market, Windows(SPEC)).values[::5]
    without = rows.copy()
    without[:, [i for i, name in enumerate(SPEC.columns) if name.startswith("relative_volume_")]] = NAN
    return np.concatenate([rows, without])


def scores(model: ServedModel, values: Floats) -> Scores:
    return model.score(values[:, [SPEC.columns.index(name) for name in model.columns]], ["BTC-USD"] * len(values))


def off(model: ServedModel, values: Floats, scaled: Floats, c: float) -> Floats:
    """Return how far each forecast is from c times the old one, relatively, where a half-life is known."""
    known = ~np.isnan(values[:, HALF_LIFE])
    before, after = scores(model, values), scores(model, scaled)
    assert known.sum() > 1_000
    differences = [
        np.abs(getattr(after, name) / (c * getattr(before, name)) - 1)[known] for name in ("score", "lower", "upper")
    ]
    return np.asarray(np.max(differences, axis=0))


def test_the_rows_are_answered_by_all_steps_of_known_half_lives(models: dict[str, ServedModel], values: Floats) -> None:
    """Three half-lives, the longest with and without sizes; and the first minutes."""
    model = models["ml"]
    steps = model.steps.answered(values[:, [SPEC.columns.index(name) for name in model.columns]]).step
    references = [(model.steps.steps[step] or ("",))[0] for step in np.unique(steps)]
    half_lives = [f"ewma_variance_{half_life}" for half_life in (3_600, 3_600, 1_200, 300)]
    assert references[:5] == [*half_lives, "known_steps"]


@pytest.mark.parametrize("name", ["baseline", "ml"])
@pytest.mark.parametrize("c", [0.5, 2.0, 4.0])
def test_powers_of_two_scale_every_forecast(
    models: dict[str, ServedModel], values: Floats, name: str, c: float
) -> None:
    scaled = values.copy()
    scaled[:, VARIANCES] *= c * c
    assert off(models[name], values, scaled, c).max() < 1e-5


@pytest.mark.parametrize("name", ["baseline", "ml"])
def test_a_factor_of_3_scales_nearly_every_forecast(models: dict[str, ServedModel], values: Floats, name: str) -> None:
    """An input near a threshold may take the other branch of a tree."""
    scaled = values.copy()
    scaled[:, VARIANCES] *= 9.0
    found = off(models[name], values, scaled, 3.0)
    assert np.quantile(found, 0.995) < 1e-5
    assert found.max() < 0.05


@pytest.mark.parametrize("name", ["baseline", "ml"])
@pytest.mark.parametrize("c", [0.5, 2.0, 3.0])
def test_prices_whose_log_returns_are_scaled_scale_the_forecasts(
    models: dict[str, ServedModel], market: Trades, values: Floats, name: str, c: float
) -> None:
    """Through the kernel."""
    price = market.price[0] * np.exp(c * np.log(market.price / market.price[0]))
    scaled = feature_rows(replace(market, price=price), Windows(SPEC)).values[::5]
    found = off(models[name], values[: len(scaled)], scaled, c)
    assert np.quantile(found, 0.995) < 1e-5
    assert found.max() < 0.05
