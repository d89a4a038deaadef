"""Define the columns of a feature row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.trades import Floats, Trades

MEANING = 1
"""Version number: add 1 when a column changes its meaning while name and parameters stay."""

CONTRACT = ("n", "ret_mean", "ret_std")
"""The columns that every client knows: the first columns of every spec."""


@dataclass(frozen=True)
class FeatureSpec:
    """Parameters of the columns of a feature row. The spec's id is in every row and every model.

    Attributes:
        window_size: log returns in the contract window.
        grid_step_s: seconds between grid points; grid points are whole UTC multiples of `grid_step_s`.
        lookback_steps: how far back a row may look, in grid steps.
        block_steps: grid steps with one common weight; blocks are aligned to UTC.
        half_lives: half-lives of the weights, in grid steps, shortest first.
        trend_half_lives: the same for the trends.
        horizon_s: seconds of a target; variances of the spec are per `horizon_s`.
        gap_s: seconds; a longer hole in event time ends a segment.

    Raises:
        ValueError: the parameters contradict each other.
    """

    window_size: int = 50
    grid_step_s: int = 1
    lookback_steps: int = 14_400
    block_steps: int = 60
    half_lives: tuple[int, ...] = (60, 300, 1_200, 3_600)
    trend_half_lives: tuple[int, ...] = (20, 240)
    horizon_s: int = 60
    gap_s: int = 300

    def __post_init__(self) -> None:
        if self.window_size < 2:
            raise ValueError(f"window_size must be at least 2, was {self.window_size}: ret_std needs two returns")
        for name, half_lives, least in (
            ("half_lives", self.half_lives, "two"),
            ("trend_half_lives", self.trend_half_lives, "one"),
        ):
            if len(half_lives) < {"one": 1, "two": 2}[least] or not _are_rising(half_lives):
                raise ValueError(f"{name} must be {least} or more, rising and above 0, were {half_lives}")
        longest = max(self.half_lives[-1], self.trend_half_lives[-1])
        if self.lookback_steps % self.block_steps or longest > self.lookback_steps - self.block_steps:
            raise ValueError(
                f"lookback_steps must be whole blocks of {self.block_steps} and reach one block beyond the longest "
                f"half-life, {longest}; was {self.lookback_steps}"
            )
        if self.horizon_s % self.grid_step_s:
            raise ValueError(f"horizon_s must be whole grid steps of {self.grid_step_s} s, was {self.horizon_s}")

    @classmethod
    def for_candles(cls, step_s: int) -> FeatureSpec:
        """Return the spec of candles of `step_s` seconds: forecasts of 60 candles from at most 14,400 candles.

        The trades of a candle that begins at s have times in (s, s + step_s]; the close has the time s + step_s.
        A hole of more than 5 candles ends a segment.
        """
        return cls(
            grid_step_s=step_s,
            block_steps=5,
            half_lives=(5, 20, 60, 240, 1_440),
            horizon_s=60 * step_s,
            gap_s=5 * step_s,
        )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns, in the order of `FeatureRows.values`."""
        shortest, short, *_ = self.half_lives
        all_but_longest = self.half_lives[:-1]
        return (
            *CONTRACT,
            *(f"ewma_variance_{half_life}" for half_life in self.half_lives),
            f"parkinson_variance_{short}",
            f"trade_rate_{shortest}",
            *(f"relative_volume_{half_life}" for half_life in all_but_longest),
            "mean_variance",
            "known_steps",
            *(f"trend_{half_life}" for half_life in self.trend_half_lives),
            "hour_sin",
            "hour_cos",
        )

    def places(self, names: Iterable[str]) -> list[int]:
        """Return the index of each named column."""
        return [self.columns.index(name) for name in names]

    @cached_property
    def spec_id(self) -> str:
        """Return twelve hex digits that change with the meaning of any column."""
        meaning = {"meaning": MEANING, "columns": self.columns, **asdict(self)}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def blocks(self) -> int:
        """Return the number of grid blocks in the reach of a row, the open block included."""
        return self.lookback_steps // self.block_steps

    @cached_property
    def block_weights(self) -> Floats:
        """Return the weight of a step by average and age of its block, shape (averages, blocks in reach).

        The averages are `half_lives`, then `trend_half_lives`, then the plain mean. The open block has age 0 and
        weight 1.
        """
        ages = np.arange(self.blocks) * self.block_steps
        half_lives = np.array([*self.half_lives, *self.trend_half_lives, np.inf])
        return np.asarray(0.5 ** (ages / half_lives[:, None]), dtype=np.float64)


CANDLE_STEPS_S = (60, 180, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 28_800, 43_200, 86_400)
"""Usual lengths of candles, seconds."""


def candle_step_of(spec_id: str) -> int | None:
    """Return the length of the candles of a spec, seconds; None if the spec is not one of usual candles.

    >>> candle_step_of(FeatureSpec.for_candles(60).spec_id), candle_step_of(FeatureSpec().spec_id)
    (60, None)
    """
    return next((step for step in CANDLE_STEPS_S if FeatureSpec.for_candles(step).spec_id == spec_id), None)


def _are_rising(half_lives: tuple[int, ...]) -> bool:
    return list(half_lives) == sorted(set(half_lives)) and min(half_lives, default=1) > 0


class FeatureRows(NamedTuple):
    """One feature row for each taken trade, in the order of the trades.

    Attributes:
        trades: the taken trades; an event time that fell is replaced by the newest time before.
        values: shape (rows, columns of the spec), NaN if a feature is missing.
        status: shape (all trades,), int8: TAKEN, or the reason for no row.
    """

    trades: Trades
    values: Floats
    status: NDArray[np.int8]
