"""Test whether one forecaster is better than another, on blocks of horizons; see also `data.truth.significance`."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr

from data.trades import Floats, Int64s
from data.truth.significance import Significance, statistic_of

HORIZONS_PER_BLOCK = 10
"""Measured on fits that are equal by construction: blocks of 10 horizons refuse better than blocks of 2."""


def block_test(difference: Floats, horizon: Int64s, horizons_per_block: int = HORIZONS_PER_BLOCK) -> Significance:
    """Test a mean difference below 0 with Student's t on the means of blocks of horizons.

    A block is a number of successive horizons with rows, of any number of products: rows within one horizon overlap and
    are no independent evidence. A last, shorter block joins the block before.

    Args:
        difference: shape (n,).
        horizon: shape (n,), number of the horizon of time of each row, in any order.

    Raises:
        ValueError: there are fewer than 2 blocks.

    >>> round(block_test(np.array([-3.0, -1.0, -3.0, -1.0]), np.arange(4), horizons_per_block=1).statistic, 4)
    -3.4641
    """
    distinct, rank = np.unique(horizon, return_inverse=True)
    blocks = len(distinct) // horizons_per_block
    if blocks < 2:
        raise ValueError(
            f"a test on blocks needs 2 blocks of {horizons_per_block} horizons, there were {len(distinct)} horizons"
        )
    block = np.minimum(rank // horizons_per_block, blocks - 1)
    means = np.bincount(block, difference) / np.bincount(block)
    error = float(np.std(means, ddof=1) / np.sqrt(blocks))
    statistic = statistic_of(float(np.mean(means)), error)
    return Significance(statistic, float(stdtr(blocks - 1, statistic)) if statistic else 1.0)
