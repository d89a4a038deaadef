"""Which columns a row is answered from."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.features.spec import CONTRACT
from data.trades import Floats

ALL_COLUMNS, CONTRACT_ONLY, UNCONDITIONAL = range(3)
"""Input sets: which columns a row is answered from."""


def input_sets(values: Floats) -> Any:
    """Return for each row which columns it is answered from, shape (n,).

    Args:
        values: shape (n, k), contract first, NaN where missing.
    """
    from_window = ~np.isnan(values[:, [0, 2]]).any(axis=1)
    return np.where(~np.isnan(values).any(axis=1), ALL_COLUMNS, np.where(from_window, CONTRACT_ONLY, UNCONDITIONAL))


def as_contract(values: Floats) -> Floats:
    """Return the rows as a client asks who knows the contract alone."""
    asked = values.copy()
    asked[:, len(CONTRACT) :] = np.nan
    return asked


def as_nothing(values: Floats) -> Floats:
    """Return the rows as a client asks who has not seen a trade."""
    asked = np.full_like(values, np.nan)
    asked[:, 0] = 0
    return asked
