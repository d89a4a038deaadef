"""Input sets: the columns from which a row is answered. One rule, for training, evaluation and serving."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.features.spec import CONTRACT
from data.trades import Floats

ALL_COLUMNS, CONTRACT_ONLY, UNCONDITIONAL = range(3)
"""Codes of the input sets: all columns, the contract columns alone, no column."""


def missing_columns(values: Floats) -> NDArray[np.bool_]:
    """Return a mask of the columns that count as missing, shape (n, k).

    `ret_mean` needs 1 return, `ret_std` needs 2, and the other columns need each column of the row.

    Args:
        values: shape (n, k), contract first, NaN where missing.

    >>> nan = float("nan")
    >>> missing_columns(np.array([[50, 0, 1e-4, 1], [50, 0, 1e-4, nan], [50, nan, 1e-4, 1], [1, 0, 0, 1]])).astype(int)
    array([[0, 0, 0, 0],
           [0, 0, 0, 1],
           [0, 1, 0, 1],
           [0, 0, 1, 1]])
    """
    missing = np.isnan(values)
    n = values[:, 0]
    missing[:, 1] |= ~(n >= 1)
    missing[:, 2] |= ~(n >= 2)
    missing[missing.any(axis=1), len(CONTRACT) :] = True
    return missing


def input_sets(values: Floats) -> Any:
    """Return the input set of each row, shape (n,): the unconditional forecast needs no column, the contract `ret_std`.

    Args:
        values: see `missing_columns`.
    """
    missing = missing_columns(values)
    return np.where(~missing.any(axis=1), ALL_COLUMNS, np.where(missing[:, 2], UNCONDITIONAL, CONTRACT_ONLY))


def with_less_input(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the rows as they are, with the contract columns alone, and of a client without a trade.

    The order is the order of the input sets. A client without a trade has n = 0, and NaN in all other columns.
    """
    contract, nothing = values.copy(), np.full_like(values, np.nan)
    contract[:, len(CONTRACT) :] = np.nan
    nothing[:, 0] = 0
    return values, contract, nothing
