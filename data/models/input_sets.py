"""Input sets: the columns that a model uses for a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.features.spec import CONTRACT
from data.trades import Floats

ALL_COLUMNS, CONTRACT_ONLY, UNCONDITIONAL = range(3)
"""Codes of the input sets: all columns, the contract columns alone, no column."""


def input_sets(values: Floats) -> Any:
    """Return the input set of each row, shape (n,).

    Args:
        values: shape (n, k), contract first, NaN where missing.
    """
    from_window = ~np.isnan(values[:, [0, 2]]).any(axis=1)
    return np.where(~np.isnan(values).any(axis=1), ALL_COLUMNS, np.where(from_window, CONTRACT_ONLY, UNCONDITIONAL))


def mask_to_contract(values: Floats) -> Floats:
    """Return a copy of the rows with the contract columns alone, all other columns NaN, shape (n, k)."""
    masked = values.copy()
    masked[:, len(CONTRACT) :] = np.nan
    return masked


def mask_all_columns(values: Floats) -> Floats:
    """Return rows of a client without a trade: n is 0, all other columns are NaN, shape (n, k)."""
    masked = np.full_like(values, np.nan)
    masked[:, 0] = 0
    return masked
