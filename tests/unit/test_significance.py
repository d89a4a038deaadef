"""Tests of significance: equal to statsmodels and to calculations by hand."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from data.trades import Floats
from data.truth.significance import diebold_mariano, mincer_zarnowitz
from offline.evaluation.significance import block_test

EXACT = 1e-10


def correlated(n: int, mean: float, seed: int) -> Floats:
    """Return moving sums of 12 normal numbers, as overlapping forecasts have them, around a mean."""
    noise = np.random.default_rng(seed).normal(size=n + 11)
    return np.asarray(np.convolve(noise, np.ones(12), "valid") + mean)


@pytest.mark.parametrize("lags", [0, 1, 12, 36])
@pytest.mark.parametrize(("mean", "seed"), [(-0.3, 0), (0.2, 1), (0.0, 2)])
def test_diebold_mariano_equals_statsmodels(lags: int, mean: float, seed: int) -> None:
    """A regression on a constant with HAC errors, without the correction for small samples."""
    difference = correlated(500, mean, seed)
    fit = sm.OLS(difference, np.ones(500)).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False}, use_t=False
    )
    found = diebold_mariano(difference, lags)
    assert found.statistic == pytest.approx(fit.tvalues[0], abs=EXACT)
    assert found.p_one_sided == pytest.approx(stats.norm.cdf(fit.tvalues[0]), abs=EXACT)


def test_diebold_mariano_by_hand() -> None:
    """Differences -3, -1, -2: mean -2, autocovariance sums 2, -1, so the error is sqrt(2 + 2 * 1/2 * -1) / 3 = 1/3."""
    found = diebold_mariano(np.array([-3.0, -1.0, -2.0]), lags=1)
    assert found.statistic == pytest.approx(-6, abs=EXACT)
    assert found.p_one_sided == pytest.approx(9.865876450377018e-10, rel=1e-9)  # table of the normal distribution


def test_the_block_test_is_students_t_on_means_of_blocks() -> None:
    """25 horizons are 2 blocks, of 10 and of 15; the rows of two products in one horizon are in one block."""
    horizon = np.tile(np.arange(100, 125), 2)
    difference = correlated(50, -0.5, seed=3)
    means = [difference[horizon < 110].mean(), difference[horizon >= 110].mean()]
    expected = stats.ttest_1samp(means, 0, alternative="less")
    for order in (np.arange(50), np.random.default_rng(0).permutation(50)):
        found = block_test(difference[order], horizon[order])
        assert found.statistic == pytest.approx(expected.statistic, abs=EXACT)
        assert found.p_one_sided == pytest.approx(expected.pvalue, abs=EXACT)


def test_the_block_test_by_hand() -> None:
    """Blocks of 1: -3, -1, -2 have mean -2 and deviation 1, t = -2 sqrt 3; a closed form for 2 degrees of freedom."""
    found = block_test(np.array([-3.0, -1.0, -2.0]), np.array([7, 8, 30]), horizons_per_block=1)
    assert found.statistic == pytest.approx(-2 * np.sqrt(3), abs=EXACT)
    assert found.p_one_sided == pytest.approx((1 - np.sqrt(12 / 14)) / 2, abs=EXACT)  # 1/2 + t / (2 sqrt(2 + t^2))


def test_equal_forecasters_prove_nothing() -> None:
    """A forecaster compared with its copy; and one that is better by the same on each row."""
    for mean, p in ((0.0, 1.0), (-0.5, 0.0), (0.5, 1.0)):
        difference = np.full(40, mean)
        assert diebold_mariano(difference, lags=3).p_one_sided == p
        assert block_test(difference, np.arange(40)).p_one_sided == p


def test_mincer_zarnowitz_equals_statsmodels() -> None:
    rng = np.random.default_rng(4)
    forecast = np.exp(rng.normal(0, 1, 300))
    realized = 0.2 + 0.9 * forecast * np.exp(rng.normal(0, 0.3, 300))
    fit = sm.OLS(realized, sm.add_constant(forecast)).fit()
    found = mincer_zarnowitz(realized, forecast)
    assert found == pytest.approx((*fit.params, fit.rsquared), abs=EXACT)


def test_too_little_is_named() -> None:
    with pytest.raises(ValueError, match="needs 2 blocks of 10 horizons, there were 19 horizons"):
        block_test(np.zeros(19), np.arange(19))
    with pytest.raises(ValueError, match="needs 2 differences"):
        diebold_mariano(np.zeros(1), lags=0)
    with pytest.raises(ValueError, match="needs 2 different forecasts, 3 were equal"):
        mincer_zarnowitz(np.arange(3.0), np.ones(3))
