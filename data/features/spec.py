"""Define the columns of a feature row."""

from __future__ import annotations

import hashlib
import json
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
    horizon_s: int = 60
    gap_s: int = 300

    def __post_init__(self) -> None:
        if self.window_size < 2:
            raise ValueError(f"window_size must be at least 2, was {self.window_size}: ret_std needs two returns")
        if len(self.half_lives) < 2 or list(self.half_lives) != sorted(set(self.half_lives)) or self.half_lives[0] < 1:
            raise ValueError(f"half_lives must be two or more, rising and above 0, were {self.half_lives}")
        if self.lookback_steps % self.block_steps or self.half_lives[-1] > self.lookback_steps - self.block_steps:
            raise ValueError(
                f"lookback_steps must be whole blocks of {self.block_steps} and reach one block beyond the longest "
                f"half-life, {self.half_lives[-1]}; was {self.lookback_steps}"
            )
        if self.horizon_s % self.grid_step_s:
            raise ValueError(f"horizon_s must be whole grid steps of {self.grid_step_s} s, was {self.horizon_s}")

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns, in the order of `FeatureRows.values`."""
        shortest, short, *_ = self.half_lives
        return (
            *CONTRACT,
            *(f"ewma_variance_{half_life}" for half_life in self.half_lives),
            f"parkinson_variance_{short}",
            f"trade_rate_{shortest}",
            f"relative_volume_{short}",
        )

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
        """Return the weight of a step by half-life and age of its block, shape (half-lives, blocks in reach).

        The open block has age 0 and weight 1.
        """
        ages = np.arange(self.blocks) * self.block_steps
        return np.asarray(0.5 ** (ages / np.array(self.half_lives)[:, None]), dtype=np.float64)


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
