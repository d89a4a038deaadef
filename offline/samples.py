"""Samples of feature rows with targets, for fitting and judging models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data.arrow import Mask
from data.features.spec import CONTRACT, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import Scores, ServedModel
from data.times import NS, to_ns
from data.trades import Floats, Int64s, Trades
from data.truth.counting import counted_rows
from data.truth.targets import target_volatility

SHORT_WINDOWS = (2, 5, 10, 20)
"""Numbers of returns in short windows, for fitting the contract's forecast: a young stream has no longer windows."""

CHECKED_HOURS = 4
"""Hours of a day whose rows a training makes again from trades, see `TradeSpan`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counted rows with known targets, of one or more streams.

    Attributes:
        values: shape (n, columns of the spec).
        targets: shape (n,), volatility per horizon.
        event_time: shape (n,), ns since 1970.
        last_time: event time of the newest trade seen by any row or target, ns since 1970.
        product_id: shape (n,), text.
        share: of the rows of each product-day that are here; 1 for all rows, see `thinned`.
    """

    values: Floats
    targets: Floats
    event_time: Int64s
    last_time: int
    product_id: NDArray[np.str_]
    share: float = 1.0

    @classmethod
    def join(cls, samples: Iterable[Self]) -> Self:
        """Return the rows of all samples; the share is the smallest of all."""
        parts = list(samples)
        names = ("values", "targets", "event_time", "product_id")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        last_time, share = max(part.last_time for part in parts), min(part.share for part in parts)
        return cls(**columns, last_time=last_time, share=share)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Mask | NDArray[np.intp]) -> Self:
        """Return the chosen rows."""
        targets, event_time, product_id = self.targets[rows], self.event_time[rows], self.product_id[rows]
        return type(self)(self.values[rows], targets, event_time, self.last_time, product_id, self.share)

    def after(self, when: datetime) -> Self:
        """Return the rows later than a time."""
        return self.take(self.event_time > to_ns(when))

    def seen_until(self, spec: FeatureSpec) -> Int64s:
        """Return the last grid point of each row's target, shape (n,), ns since 1970."""
        step = spec.grid_step_s * NS
        return -(-self.event_time // step) * step + spec.horizon_s * NS

    def horizon(self, spec: FeatureSpec) -> Int64s:
        """Return the number of each row's horizon of time since 1970, shape (n,)."""
        return self.event_time // (spec.horizon_s * NS)

    def horizons(self, spec: FeatureSpec) -> int:
        """Return the number of horizons of time with rows: the unit of evidence, for any number of products."""
        return len(np.unique(self.horizon(spec)))

    def is_short(self) -> NDArray[np.bool_]:
        """Return a mask of the rows of short windows: rows that have the contract's columns alone."""
        return np.asarray(np.isnan(self.values[:, len(CONTRACT) :]).all(axis=1))


def thinned(rows: Sample, share: float, seed: int) -> Sample:
    """Return a stratified sample of the rows of one product and day, in the order of the rows.

    The rows are sorted by length of the short window and by target, and cut into runs of about 1 / `share` rows. Each
    run gives one row, chosen by a hash of the row: calm and wild times keep their shares. Equal days give equal rows,
    whatever their date and product, so a day that was copied is a copy in the sample too.

    Args:
        share: of the rows, above 0; 1 or more: all rows.
        seed: another seed chooses other rows.
    """
    return rows if share >= 1 else replace(rows.take(thinned_rows(rows, share, seed)), share=share)


def thinned_rows(rows: Sample, share: float, seed: int) -> NDArray[np.intp]:
    """Return the rising indexes of the rows of `thinned`."""
    if share >= 1 or not len(rows):
        return np.arange(len(rows))
    count = min(max(round(share * len(rows)), 1), len(rows))
    hashes = row_hashes(np.column_stack([rows.values, rows.targets]), seed)
    order = np.lexsort([hashes, rows.targets, np.where(rows.is_short(), rows.values[:, 0], 0.0)])
    run = np.arange(len(rows)) * count // len(rows)
    first = np.searchsorted(run, np.arange(count))
    chosen = order[np.lexsort([hashes[order], run])][first]
    return np.sort(chosen)


def row_hashes(rows: Floats, seed: int = 0) -> NDArray[np.uint64]:
    """Return a hash of each row's bits, shape (n,): sorting whole rows takes a hundred times as long."""
    found = np.full(len(rows), seed, np.uint64)
    for column in np.ascontiguousarray(rows.T).view(np.uint64):
        found = (found ^ column) * np.uint64(0x9E3779B97F4A7C15)  # odd: nothing is lost; the bits move up,
        found ^= found >> np.uint64(29)  # and down again
    return found


class TradeSpan(NamedTuple):
    """Trades of one stream behind some rows of a sample.

    Attributes:
        trades: from the oldest trade on that the rows see; all must be taken.
        since: ns since 1970; each row from `since` on whose target these trades tell is a row of the sample, or of the
            rows that the sample was taken from.
    """

    trades: Trades
    since: int


def counted_targets(
    event_time: Int64s, price: Floats, spec: FeatureSpec, after: tuple[Int64s, Floats] | None = None
) -> tuple[NDArray[np.intp], Floats]:
    """Return the indexes of counted rows with a known target, and the targets.

    Args:
        event_time, price: shape (n,), of one stream; event time in ns since 1970, not falling.
        after: event times and prices of later trades, as far as the last targets reach; never counted.
    """
    n = len(event_time)
    if after is not None:
        event_time, price = (np.concatenate(both) for both in zip((event_time, price), after, strict=True))
    targets = target_volatility(event_time, price, spec)
    counted = counted_rows(event_time, spec)
    counted = counted[(counted < n) & ~np.isnan(targets[counted])]
    return counted, targets[counted]


class ShortRows(NamedTuple):
    """Rows as if the stream had begun a few returns before: only the contract columns have values.

    Attributes:
        at: shape (m,), index of the full row behind each short row.
        values: shape (m, columns of the spec).
    """

    at: NDArray[np.intp]
    values: Floats


def short_rows(
    n: NDArray[Any], price: Floats, counted: NDArray[np.intp], spec: FeatureSpec, short_windows: Sequence[int]
) -> ShortRows:
    """Return rows of short windows, about as many as the counted rows.

    Args:
        n: shape (rows,), number of returns in each row's full window.
        price: shape (rows,). A window that begins before the first price is left out.
        counted: indexes of the counted rows.
        short_windows: numbers of returns.
    """
    log_returns = np.diff(np.log(price))  # the return into row i is at i - 1
    taken, parts = [np.empty(0, np.intp)], [np.empty((0, len(spec.columns)))]
    some = counted[:: max(len(short_windows), 1)]
    for length in short_windows:
        longer = some[(n[some] >= length) & (some >= length)]
        if not len(longer):
            continue
        windows = sliding_window_view(log_returns, length)[longer - length]
        values = np.full((len(longer), len(spec.columns)), np.nan)
        values[:, 0], values[:, 1], values[:, 2] = length, windows.mean(axis=1), windows.std(axis=1, ddof=1)
        parts.append(values)
        taken.append(longer)
    return ShortRows(np.concatenate(taken), np.concatenate(parts))


def sample(trades: Trades, spec: FeatureSpec, short_windows: Sequence[int] = ()) -> Sample:
    """Return the counted rows of one stream, made by the same kernel as online.

    Args:
        trades: of one stream; all must be taken.
        short_windows: numbers of returns of added short rows, see `short_rows`.
    """
    rows = feature_rows(trades, Windows(spec))
    event_time, price = rows.trades.event_time, rows.trades.price
    counted, targets = counted_targets(event_time, price, spec)
    short = short_rows(rows.values[:, 0], price, counted, spec, short_windows)
    return Sample(
        np.concatenate([rows.values[counted], short.values]),
        np.concatenate([targets, targets[np.searchsorted(counted, short.at)]]),
        event_time[np.concatenate([counted, short.at])],
        int(event_time[-1]),
        np.full(len(counted) + len(short.at), trades.keys[0].product_id),
    )


def scores_of(model: ServedModel, rows: Sample, spec: FeatureSpec) -> Scores:
    """Return a model's scores of the rows of a sample."""
    return model.score(rows.values[:, spec.places(model.columns)], rows.product_id.tolist())
