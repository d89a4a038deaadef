"""Score forecasts: losses, coverage and significance of all forecasters on the same rows, over all and by slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data.arrow import Mask
from data.times import NS
from data.trades import Floats
from data.truth.counting import TWELFTH
from data.truth.losses import TERCILES, bias, coverage, qlike, volatility_terciles
from data.truth.significance import LAGS, MincerZarnowitz, Significance, diebold_mariano, mincer_zarnowitz
from offline.evaluation.walk_forward import Run

SESSION_HOURS = 6

AGES_S = (("0 to 1 minute", 60.0), ("1 to 5 minutes", 300.0), ("5 to 60 minutes", 3_600.0), ("later", np.inf))
"""Names of ages of a segment, and where each ends."""

ALL = "all"

ORACLE = "oracle"
"""On simulated days, the forecaster that knows the state of the market."""

AFTER_JUMP_HORIZONS = 5
"""Horizons after a jump that are a slice: 60 forecasts."""


class Scored(NamedTuple):
    """Figures of one forecaster over some rows.

    Attributes:
        rows: number of forecasts.
        qlike: mean loss on variance.
        log_mse: mean squared error of log volatility.
        bias: mean of ln(forecast / realized volatility).
        coverage: share of targets inside the interval; NaN without intervals.
        width: mean of ln(upper / lower); NaN without intervals.
        ratio: QLIKE relative to the reference on the same rows, both with the forecaster's floor.
    """

    rows: int
    qlike: float
    log_mse: float
    bias: float
    coverage: float
    width: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Scores:
    """All figures of a run.

    Attributes:
        forecasts, horizons: numbers of judged forecasts, and of distinct horizons of time.
        zero_share: share of targets equal to 0.
        losses: by forecaster, shape (n,), QLIKE of each row.
        base: by forecaster, shape (n,), QLIKE of the reference with the forecaster's floor.
        slices: by kind of slice (`all`, `tercile`, `product`, `session`, `age`), slice and forecaster.
        significance: by pair of forecasters: is the first better than the second, both with the first one's floor?
        mincer_zarnowitz: by forecaster; not of a forecaster whose forecasts are all equal.
        reference: see `Run`.
    """

    forecasts: int
    horizons: int
    zero_share: float
    losses: dict[str, Floats]
    base: dict[str, Floats]
    slices: dict[str, dict[str, dict[str, Scored]]]
    significance: dict[tuple[str, str], Significance]
    mincer_zarnowitz: dict[str, MincerZarnowitz]
    reference: str

    def overall(self, name: str) -> Scored:
        """Return the figures of one forecaster over all rows."""
        return self.slices[ALL][ALL][name]

    def interval_forecasters(self) -> list[str]:
        """Return the names of the forecasters that have an interval."""
        return [name for name in self.losses if not np.isnan(self.overall(name).coverage)]

    def p(self, name: str) -> float:
        """Return the one-sided p of a forecaster better than the reference; 1 for the reference."""
        return 1.0 if name == self.reference else self.significance[name, self.reference].p_one_sided

    def closed_gap(self, name: str) -> float:
        """Return how much of the gap from the reference to the oracle a forecaster closes; NaN without oracle."""
        if ORACLE not in self.losses:
            return float("nan")
        return (1 - self.overall(name).ratio) / (1 - self.overall(ORACLE).ratio)

    def as_json(self) -> dict[str, Any]:
        """Return the figures that `--json` prints; null where a forecaster has no interval."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else value

        models = {}
        for name in self.losses:
            terciles = [number(each[name].coverage) for each in self.slices["tercile"].values()]
            models[name] = {
                "qlike": self.overall(name).qlike,
                "ratio_to_calibrated_ewma": self.overall(name).ratio,
                "p": self.p(name),
                "bias": self.overall(name).bias,
                "coverage": number(self.overall(name).coverage),
                "coverage_by_tercile": None if None in terciles else terciles,
            }
        return {"forecasts": self.forecasts, "horizons": self.horizons, "models": models}


def score(run: Run) -> Scores:
    """Return the figures of a run.

    Realized variances below a forecaster's floor count as the floor; two forecasters are compared with one floor.
    Terciles are of the reference's forecast: a volatility that is known at the time of the forecast.

    Raises:
        ValueError: there are fewer than 2 forecasts.
    """
    rows, count = run.rows, len(run.rows.targets)
    realized = {name: run.realized(name) for name in run.forecasts}

    def loss_of(name: str, judged_as: str) -> Floats:
        return qlike(realized[judged_as], run.forecasts[name].score ** 2, 0.0)

    losses = {name: loss_of(name, name) for name in run.forecasts}
    base = {name: loss_of(run.reference, name) for name in run.forecasts}

    def scored(name: str, mask: Mask) -> Scored:
        found, target = run.forecasts[name], np.sqrt(realized[name])
        has_interval = not np.isnan(found.lower).any()
        loss, base_loss = float(np.mean(losses[name][mask])), float(np.mean(base[name][mask]))
        return Scored(
            int(mask.sum()),
            loss,
            float(np.mean(np.log(target[mask] / found.score[mask]) ** 2)),
            bias(target[mask], found.score[mask]),
            coverage(target[mask], found.lower[mask], found.upper[mask]) if has_interval else np.nan,
            float(np.mean(np.log(found.upper[mask] / found.lower[mask]))) if has_interval else np.nan,
            loss / base_loss if base_loss else np.nan,
        )

    slices: dict[str, dict[str, dict[str, Scored]]] = {}
    for kind, name, mask in _slices(run):
        if mask.any():
            slices.setdefault(kind, {})[name] = {each: scored(each, mask) for each in run.forecasts}
    pairs = [(one, other) for one in losses for other in losses if one != other]
    lags = LAGS * len(rows.products)
    return Scores(
        forecasts=count,
        horizons=len(np.unique(rows.event_time // (rows.spec.horizon_s * NS))),
        zero_share=float(np.mean(rows.targets == 0)),
        losses=losses,
        base=base,
        slices=slices,
        significance={(one, other): diebold_mariano(losses[one] - loss_of(other, one), lags) for one, other in pairs},
        mincer_zarnowitz={
            name: mincer_zarnowitz(realized[name], each.score**2)
            for name, each in run.forecasts.items()
            if np.ptp(each.score) > 0
        },
        reference=run.reference,
    )


def _slices(run: Run) -> Iterator[tuple[str, str, Mask]]:
    """Yield kind, name and mask of each slice of the rows."""
    rows = run.rows
    yield ALL, ALL, np.ones(len(rows.event_time), np.bool_)
    tercile = volatility_terciles(run.forecasts[run.reference].score)
    for i, name in zip(range(TERCILES), ("calm", "middle", "wild"), strict=True):
        yield "tercile", name, tercile == i
    for i, name in enumerate(rows.products):
        yield "product", name, rows.product == i
    hour = rows.event_time // (3_600 * NS) % 24
    for first in range(0, 24, SESSION_HOURS):
        last = first + SESSION_HOURS
        yield "session", f"{first:02} to {last:02} h UTC", (first <= hour) & (hour < last)
    begin = 0.0
    for name, end in AGES_S:
        yield "age", name, (begin <= rows.age_s) & (rows.age_s < end)
        begin = end
    if len(run.jumps):
        newest = run.jumps[np.maximum(np.searchsorted(run.jumps, rows.event_time) - 1, 0)]
        since = (rows.event_time - newest) / (rows.spec.horizon_s * NS)
        yield "jump", f"{AFTER_JUMP_HORIZONS * TWELFTH} forecasts after", (since > 0) & (since <= AFTER_JUMP_HORIZONS)
