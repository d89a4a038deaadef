"""Which feature rows are counted, with what came after them: what models are fitted to and judged by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data.features import Windows, feature_rows
from data.spec import FeatureSpec
from data.targets import target_volatility
from data.trades import NS, Floats, Int64s, Trades

TWELFTH = 12
"""Counted is the last row in each twelfth of a horizon: more of them repeat each other, fewer waste data."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counted rows with a known target, one or more streams.

    Attributes:
        values: shape (n, columns of the spec).
        targets: shape (n,), volatility per horizon.
        event_time: shape (n,), of the rows, ns since 1970.
        last_time: of the newest trade that any row or target has seen, ns since 1970.
    """

    values: Floats
    targets: Floats
    event_time: Int64s
    last_time: int

    @classmethod
    def join(cls, samples: Iterable[Self]) -> Self:
        """Return the rows of all of them."""
        parts = list(samples)
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.event_time for part in parts]),
            max(part.last_time for part in parts),
        )

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """Return the chosen rows."""
        return type(self)(self.values[rows], self.targets[rows], self.event_time[rows], self.last_time)


def counted_rows(event_time: Int64s, spec: FeatureSpec) -> NDArray[np.intp]:
    """Return the indexes of the rows that count: the last one up to each twelfth of a horizon on the grid.

    >>> counted_rows(np.array([1, 5, 6, 17, 21]) * NS, FeatureSpec(horizon_s=60))
    array([1, 2, 3, 4])
    """
    twelfth = -(-event_time // (spec.horizon_s * NS // TWELFTH))
    return np.flatnonzero(np.append(np.diff(twelfth) > 0, True))


def sample(trades: Trades, spec: FeatureSpec, short_windows: Sequence[int] = ()) -> Sample:
    """Return the counted rows of one stream, by the kernel that also serves.

    Args:
        trades: one stream, all of them taken.
        short_windows: for each of these n, counted rows are added as they would be if the stream had begun n returns
            before: the contract alone. All together they are about as many as the full rows.
    """
    rows = feature_rows(trades, Windows(spec))
    event_time, price = rows.trades.event_time, rows.trades.price
    targets = target_volatility(event_time, price, spec)
    counted = counted_rows(event_time, spec)
    counted = counted[~np.isnan(targets[counted])]
    parts = [rows.values[counted]]
    taken = [counted]
    log_returns = np.diff(np.log(price))  # the return into trade i is at i - 1
    some = counted[:: max(len(short_windows), 1)]
    for n in short_windows:
        longer = some[rows.values[some, 0] >= n]
        windows = sliding_window_view(log_returns, n)[longer - n]
        values = np.full((len(longer), len(spec.columns)), np.nan)
        values[:, 0], values[:, 1], values[:, 2] = n, windows.mean(axis=1), windows.std(axis=1, ddof=1)
        parts.append(values)
        taken.append(longer)
    at = np.concatenate(taken)
    return Sample(np.concatenate(parts), targets[at], event_time[at], int(event_time[-1]))
