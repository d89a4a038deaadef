"""A market in a few lines, with the columns of a drift report."""

from __future__ import annotations

import numpy as np

from data.times import DAY_S, NS
from data.trades import Floats, Int64s
from monitoring.drift.hours import HOUR_NS

FLOOR = 1e-9
ROWS_AN_HOUR = 144
STEP_NS = HOUR_NS // ROWS_AN_HOUR


def market(days: int, seed: int, double_from: int | None = None) -> tuple[Int64s, dict[str, Floats]]:
    """Return event times, ns since 1970, and columns of a market, shape (n,) each.

    The log volatility wanders and has a daily season. The forecasts know the volatility.

    Args:
        double_from: hour from which all price moves are doubled; the forecasts do not see the doubling.
    """
    rng = np.random.default_rng(seed)
    n = days * 24 * ROWS_AN_HOUR
    time = np.arange(1, n + 1) * STEP_NS - 1
    kept = 0.5 ** (1 / (6 * ROWS_AN_HOUR))
    shocks = rng.standard_normal(n) * 0.2 * np.sqrt(1 - kept**2)
    wander = np.empty(n)
    last = 0.0
    for at, shock in enumerate(shocks):
        last = wander[at] = kept * last + shock
    log_volatility = np.log(1e-4) + wander + 0.3 * np.cos(2 * np.pi * time / (DAY_S * NS))
    noise = rng.standard_normal((5, n))
    true = log_volatility.copy()
    if double_from is not None:
        true[double_from * ROWS_AN_HOUR :] += np.log(2)
    score = np.exp(log_volatility)
    columns = {
        "ret_mean": np.exp(true) * 0.1 * noise[0],
        "ret_std": np.exp(true + 0.1 * noise[1]),
        "ewma_variance_60": np.exp(2 * true + 0.2 * noise[2]),
        "ewma_variance_3600": np.exp(2 * true),
        "trade_rate_60": np.exp(0.2 * noise[3]),
        "score": score,
        "lower": score * 0.6,
        "upper": score * 1.6,
        "target": np.exp(true + 0.25 * noise[4]),
    }
    return time, columns
