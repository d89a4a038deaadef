"""How far back a feature row sees: one definition, for the lake, for parity and for explain.

A row sees the last `window_size` + 1 trades of its stream; and on the grid, the trades since the start of the oldest
block in reach, with the price of the trade before. A row sees no trade before its segment.
"""

from __future__ import annotations

import numpy as np

from data.features.admission import MAX_FALL_S
from data.features.spec import FeatureSpec
from data.times import NS
from data.trades import Int64s


def reach_s(spec: FeatureSpec) -> int:
    """Return the most seconds of event time between a row and the oldest trade that the row sees.

    The price at the start of the oldest block may be `gap_s` older than the block, as may each trade of the window.
    """
    return max((spec.lookback_steps + 1) * spec.grid_step_s + spec.gap_s, spec.window_size * spec.gap_s)


def oldest_block(event_time: int, spec: FeatureSpec) -> int:
    """Return the start of the oldest grid block in the reach of a row, ns since 1970.

    Args:
        event_time: of the row, ns since 1970.
    """
    step_ns = spec.grid_step_s * NS
    block = (event_time // step_ns - 1) // spec.block_steps
    return (block - (spec.blocks - 1)) * spec.block_steps * step_ns


def oldest_trade(
    event_time: Int64s, spec: FeatureSpec, *, counts_as: int, is_whole: bool, next_time: int | None = None
) -> int | None:
    """Return the index of the oldest trade seen by a row, or None if the trades do not reach back so far.

    The kernel gives the same row from this trade on as from the whole stream. The oldest trade must count as its own
    recorded time: where recorded time falls, the counted time comes from an earlier trade.

    Args:
        event_time: shape (n,), n >= 1, ns since 1970, as recorded, of the taken trades up to the row's trade.
        counts_as: counted time of the first trade, ns since 1970.
        is_whole: no row reaches back beyond the first trade.
        next_time: earliest counted time of a row after all n trades, ns since 1970; None: the row of the last trade.
    """
    counted = np.maximum.accumulate(np.concatenate(([counts_as], event_time[1:])))
    row, row_time = (len(counted) - 1, int(counted[-1])) if next_time is None else (len(counted), next_time)
    starts = np.flatnonzero(np.diff(counted) > spec.gap_s * NS) + 1
    segment = int(starts[-1]) if len(starts) else 0
    sets_price = int(np.searchsorted(counted, oldest_block(row_time, spec), side="right")) - 1
    reach = min(sets_price, row - spec.window_size)
    begins = max(reach, segment) if is_whole or segment else reach
    own_time = np.flatnonzero(event_time[: max(begins + 1, 0)] == counted[: max(begins + 1, 0)])
    return int(own_time[-1]) if len(own_time) else None


def tail_start(event_time: Int64s, end: int, spec: FeatureSpec) -> int | None:
    """Return the index of the oldest trade seen by rows at or after `end`; None if these rows see older trades too.

    Args:
        event_time: shape (n,), n >= 1, ns since 1970, as recorded, of a stream; all counted times lie before `end`.
        end: ns since 1970.
    """
    if event_time.max() < end - (spec.gap_s + MAX_FALL_S) * NS:
        return len(event_time)  # any later trade begins a new segment
    return oldest_trade(event_time, spec, counts_as=int(event_time[0]), is_whole=False, next_time=end)
