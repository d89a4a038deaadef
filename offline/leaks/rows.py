"""Sentinels on the rows of a training: rows are made again from trades that were cut, scaled and moved in time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.features.admission import TAKEN
from data.features.spec import CONTRACT, FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.times import DAY_S, NS, to_ns
from data.trades import Floats, Int64s, Trades
from offline.leaks.verdicts import DUPLICATES, FUTURE_CUT_OFF, HOLES, SCALE_AND_DATE, Verdict, listed
from offline.samples import Sample, TradeSpan, row_hashes, sample

CUTS = 64
"""Number of rows whose features are made again without any later trade."""
PRICE_FACTOR, WEEKS = 4.0, 3
"""A factor of 2 ** k keeps all bits of a log return; whole weeks keep the hour and the day of the week."""
TOLERANCE = 1e-9
"""Maximum relative difference of a figure that was made in another way."""
HOLE_S = DAY_S
"""Length of the hole that is made in the trades; whole days keep the hour."""
BESIDE_HOLE = 100_000
"""Maximum number of trades on each side of the hole."""
MAX_DUPLICATES = 0.01
TARGET = "target"
"""Name of the target in lists of columns."""


def check_rows(rows: Sample, spec: FeatureSpec, train_end: datetime, spans: Iterable[TradeSpan]) -> list[Verdict]:
    """Return a verdict for each of `ROW_SENTINELS`.

    Each row made again must be among the rows; if the rows are a sample of larger days, each row of the sample must be
    among the rows made again.

    Args:
        rows: up to `train_end` for training, later for the test.
        spans: trades behind some of the rows. Without any span, `FUTURE_CUT_OFF` does not pass.
    """
    compared = differing = 0
    ahead, beyond, moved = set[str](), set[str](), set[str]()
    for span in spans:
        made = sample(span.trades, spec)
        due = made.take(made.event_time >= span.since)
        near = rows.take((rows.event_time >= span.since) & (rows.event_time <= made.last_time))
        if rows.share < 1:
            near = _comparable(near, due)
            compared += len(near)
            differing += len(_row_bytes(near) - _row_bytes(due))
        else:
            compared += len(due)
            differing += len(_row_bytes(due) - _row_bytes(near))
        ahead |= _columns_that_see_ahead(span.trades, made, spec)
        beyond |= _columns_that_see_beyond_a_hole(span.trades, spec)
        moved |= _columns_with_scale_or_date(span.trades, made, spec)
    found = f"{differing:,} of {compared:,} rows differ; differing without later trades: {listed(sorted(ahead))}"
    training, test = rows.take(rows.event_time <= to_ns(train_end)), rows.after(train_end)
    shares = [float(np.mean(duplicates(one, other, spec))) for one, other in ((test, training), (training, test))]
    copied = f"{shares[0]:.1%} of the test rows and {shares[1]:.1%} of the training rows equal other rows"
    return [
        Verdict(
            FUTURE_CUT_OFF,
            compared > 0 and not differing and not ahead,
            found,
            "1 row or more, all equal to rows made again from trades",
        ),
        Verdict(HOLES, not beyond, listed(sorted(beyond)), "no column that sees across a hole"),
        Verdict(SCALE_AND_DATE, not moved, listed(sorted(moved)), "no column that moves with price level or date"),
        Verdict(DUPLICATES, max(shares) <= MAX_DUPLICATES, copied, f"{MAX_DUPLICATES:.0%} of each"),
    ]


def duplicates(rows: Sample, others: Sample, spec: FeatureSpec) -> NDArray[np.bool_]:
    """Return a mask of the rows that equal another row in all columns, or with the row before in the contract's.

    Long windows of a copied stretch see beyond its beginning, so the contract's columns and the target are compared for
    two rows in succession: in a sparse market, one row alone can repeat by chance. Rows of a market that does not move
    are equal by nature, and are no duplicates; neither are equal rows within a horizon, which share most trades.

    Args:
        rows: shape (n,) of the result.
        others: more rows to compare with, as of training.
    """
    at = spec.places(CONTRACT)
    both = Sample.join([rows, others])
    whole = np.column_stack([np.where(np.isnan(both.values), -1.0, both.values), both.targets])
    row = np.column_stack([both.values[:, at], both.targets])
    two = np.column_stack([row, np.roll(row, 1, axis=0)])
    moves = np.isfinite(row).all(axis=1) & (row[:, -1] > 0) & (row[:, -2] > 0)
    moves_before = np.roll(moves, 1)
    found = np.zeros(len(both), np.bool_)
    for key, known in (whole, moves), (two, moves & moves_before):
        found[known] |= _repeats(key[known], both.event_time[known], spec.horizon_s * NS)
    return found[: len(rows)]


def _repeats(key: Floats, time: Int64s, horizon: int) -> NDArray[np.bool_]:
    """Return a mask of the rows of `key` that equal another row at the same time, or a horizon away or more."""
    if not len(key):
        return np.zeros(0, np.bool_)
    _, group = np.unique(row_hashes(key), return_inverse=True)
    order = np.lexsort([time, group])
    group, time = group[order], time[order]
    starts = np.flatnonzero(np.append(True, np.diff(group) != 0))
    size = np.diff(np.append(starts, len(group)))
    first, last = (np.repeat(time[ends], size) for ends in (starts, starts + size - 1))
    twins = (np.diff(time) == 0) & (np.diff(group) == 0)
    found = np.empty(len(key), np.bool_)
    found[order] = np.append(twins, False) | np.append(False, twins)
    found[order] |= (time - first >= horizon) | (last - time >= horizon)
    return found


def _comparable(near: Sample, due: Sample) -> Sample:
    """Return the rows of a sample that must be among the rows made again: of the same product, up to the last row.

    Rows of short windows are not made again.
    """
    if not len(due):
        return near.take(np.zeros(len(near), np.bool_))
    is_known = (near.product_id == due.product_id[0]) & (near.event_time <= due.event_time.max())
    return near.take(is_known & ~near.is_short())


def _row_bytes(rows: Sample) -> set[bytes]:
    """Return time, features and target of each row as bytes; any NaN equals any other."""
    table = np.column_stack(
        [rows.event_time.view(np.float64), *(np.where(np.isnan(x), np.nan, x) for x in _columns(rows))]
    )
    return {row.tobytes() for row in table}


def _columns(rows: Sample) -> list[Floats]:
    """Return the features and the target, shape (n,) each."""
    return [*rows.values.T, rows.targets]


def _differing(one: Sample, other: Sample, spec: FeatureSpec) -> set[str]:
    """Return the names of columns that differ, `TARGET` among the names; all names if the numbers of rows differ."""
    names = (*spec.columns, TARGET)
    if len(one) != len(other):
        return set(names)
    pairs = zip(names, _columns(one), _columns(other), strict=True)
    return {name for name, a, b in pairs if not np.allclose(a, b, rtol=TOLERANCE, atol=0, equal_nan=True)}


def _columns_that_see_ahead(trades: Trades, made: Sample, spec: FeatureSpec) -> set[str]:
    """Make some features again before the kernel has any later trade, and some targets from prices on the grid."""
    whole = feature_rows(trades, Windows(spec))
    at = np.unique(np.linspace(0, len(whole.values) - 1, CUTS + 1).astype(np.intp)[1:])
    ends = np.flatnonzero(whole.status == TAKEN)[at] + 1
    windows, last = Windows(spec), []
    for start, end in pairwise([0, *ends.tolist()]):
        last.append(feature_rows(trades.take(slice(start, end)), windows).values[-1])
    names = np.array(spec.columns)
    found = {str(name) for name in names[~_equal(np.array(last), whole.values[at]).all(axis=0)]}
    some = np.unique(np.linspace(0, len(made) - 1, CUTS).astype(np.intp)) if len(made) else np.empty(0, np.intp)
    for time, target in zip(made.event_time[some].tolist(), made.targets[some].tolist(), strict=True):
        if not np.isclose(_plain_target(whole, time, spec), target, rtol=TOLERANCE, atol=0):
            found.add(TARGET)
    return found


def _equal(one: Floats, other: Floats) -> NDArray[np.bool_]:
    return np.asarray((one == other) | (np.isnan(one) & np.isnan(other)))


def _plain_target(whole: FeatureRows, time: int, spec: FeatureSpec) -> float:
    """Return the realized volatility after a time by its definition: grid prices, log returns, root of the sum."""
    step = spec.grid_step_s * NS
    points = -(-time // step) * step + np.arange(spec.horizon_s // spec.grid_step_s + 1) * step
    price = whole.trades.price[np.searchsorted(whole.trades.event_time, points, side="right") - 1]
    return float(np.sqrt(np.sum(np.log1p(np.diff(price) / price[:-1]) ** 2)))


def _columns_that_see_beyond_a_hole(trades: Trades, spec: FeatureSpec) -> set[str]:
    """Move the later half away in time: the rows of both halves must be the rows of each half alone."""
    middle = len(trades) // 2
    before = trades.take(slice(max(middle - BESIDE_HOLE, 0), middle))
    after = trades.take(slice(middle, middle + BESIDE_HOLE))
    after = replace(after, event_time=after.event_time + HOLE_S * NS)
    halves = Sample.join([sample(before, spec), sample(after, spec)])
    return _differing(sample(Trades.join([before, after]), spec), halves, spec)


def _columns_with_scale_or_date(trades: Trades, made: Sample, spec: FeatureSpec) -> set[str]:
    """Scale all prices and move all times by whole weeks: neither features nor targets may change."""
    moved = replace(trades, price=trades.price * PRICE_FACTOR, event_time=trades.event_time + WEEKS * 7 * DAY_S * NS)
    return _differing(sample(moved, spec), made, spec)
