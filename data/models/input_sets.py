"""Steps of a model: the columns from which a row is answered. One rule, for training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.spec import CONTRACT
from data.trades import Floats, Int64s

Step = tuple[str, ...]
"""The columns that a step of a model needs, the reference column first; no column for the last step."""


class Answered(NamedTuple):
    """The step that answers each of n rows, and the columns without a part in the answer.

    Attributes:
        step: shape (n,), index of the step.
        missing: shape (n, k), True where a step that came before needs a column, and the answering step does not; and
            where a contract column has no value.
    """

    step: Int64s
    missing: NDArray[np.bool_]


class Steps:
    """The steps of a model, the best first: a row is answered by the first step whose columns have values.

    `ret_mean` needs 1 return, `ret_std` needs 2. The reference column of a step must be above 0: a market that has not
    moved shows no level.

    Args:
        columns: of the model, the contract first.
        steps: the last step needs no column.

    Raises:
        ValueError: a step needs a column that the model lacks, or the last step needs a column.

    >>> steps = Steps((*CONTRACT, "ewma_variance_300"), [("ewma_variance_300",), CONTRACT, ()])
    >>> nan = float("nan")
    >>> rows = np.array([[50, 0, 1e-4, 1], [50, 0, 1e-4, 0], [50, 0, 1e-4, nan], [1, 0, 0, nan]])
    >>> steps.answered(rows).step
    array([0, 1, 1, 2])
    >>> steps.answered(rows).missing.astype(int)
    array([[0, 0, 0, 0],
           [0, 0, 0, 1],
           [0, 0, 0, 1],
           [0, 0, 1, 1]])
    """

    def __init__(self, columns: Sequence[str], steps: Sequence[Step]) -> None:
        unknown = {name for step in steps for name in step} - set(columns)
        if unknown:
            raise ValueError(f"steps need the columns {sorted(unknown)}, the model has {tuple(columns)}")
        if not steps or steps[-1]:
            raise ValueError(f"the last step must need no column, needed {steps[-1] if steps else 'nothing: no steps'}")
        self.columns, self.steps = tuple(columns), tuple(steps)
        place = {name: i for i, name in enumerate(columns)}
        needs = [[place[name] for name in step] for step in steps]
        self._reference = [each[0] for each in needs[:-1]]
        self._bits = 1 << np.arange(len(columns), dtype=np.int64)
        self._needed = [int(self._bits[each].sum()) for each in needs]
        self._missing = np.zeros((len(steps), len(columns)), np.bool_)
        for i, each in enumerate(needs):
            self._missing[i, [column for before in needs[:i] for column in before]] = True
            self._missing[i, each] = False
            self._missing[i, : len(CONTRACT)] = False

    def answered(self, values: Floats) -> Answered:
        """Return the step of each row.

        Args:
            values: shape (n, k), NaN where missing.
        """
        known = ~np.isnan(values)
        known[:, 1] &= values[:, 0] >= 1
        known[:, 2] &= values[:, 0] >= 2
        bits = known @ self._bits
        step = np.full(len(values), len(self.steps) - 1, np.int64)
        for i in range(len(self.steps) - 2, -1, -1):
            needed = self._needed[i]
            step[(bits & needed == needed) & (values[:, self._reference[i]] > 0)] = i
        missing = self._missing[step]
        missing[:, : len(CONTRACT)] = ~known[:, : len(CONTRACT)]
        return Answered(step, missing)


def with_less_input(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the rows as they are, with the contract columns alone, and of a client without a trade.

    A client without a trade has n = 0, and NaN in all other columns.
    """
    contract, nothing = values.copy(), np.full_like(values, np.nan)
    contract[:, len(CONTRACT) :] = np.nan
    nothing[:, 0] = 0
    return values, contract, nothing
