"""Read recordings and candles as histories: rows with targets, and the grid of returns beneath."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.recordings.dialects.bars.base import BarDialect, Bars
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.readers import read_bars, read_trades
from data.recordings.recognition import recognize
from data.times import NS
from data.trades import Floats, Int64s, StreamKey, Trades
from offline.candles import spec_of_candles, trades_of_candles
from offline.models.baseline import with_prior
from offline.samples import counted_targets


@dataclass(frozen=True, slots=True)
class Grid:
    """Log returns on the grid of any number of streams, one segment after another.

    Attributes:
        log_return: shape (m,), into each grid point; NaN at the first point of a segment.
        squares: shape (m + 1,), running sum of squared log returns, from 0.
        time: shape (m,), of each grid point, ns since 1970.
        segment: shape (m,), number of the segment, rising.
        product: shape (m,), index into the products of the history.
    """

    log_return: Floats
    squares: Floats
    time: Int64s
    segment: Int64s
    product: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class History:
    """The last row of each grid step, ordered by event time.

    The counted rows are among these rows, and targets need no other price.

    Attributes:
        spec: of the rows.
        products: names.
        product: shape (n,), index into `products`.
        event_time: shape (n,), ns since 1970.
        price: shape (n,).
        values: shape (n, columns of the spec), NaN where missing.
        targets: shape (n,), volatility per horizon; NaN for rows that are not counted, and where unknown.
        age_s: shape (n,), seconds of event time since the segment began.
        point: shape (n,), index into the grid of the last grid point at or before the row; -1 before the first point.
        known_steps: shape (n,), grid steps of the segment up to the row.
        grid: beneath the rows.
    """

    spec: FeatureSpec
    products: tuple[str, ...]
    product: NDArray[np.intp]
    event_time: Int64s
    price: Floats
    values: Floats
    targets: Floats
    age_s: Floats
    point: NDArray[np.intp]
    known_steps: Int64s
    grid: Grid

    def __len__(self) -> int:
        return len(self.event_time)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Return the chosen rows over the same grid."""
        kept = ("spec", "products", "grid")
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in kept})

    def counted(self) -> Self:
        """Return the counted rows with known targets."""
        return self.take(~np.isnan(self.targets))

    @property
    def realized(self) -> Floats:
        """Return the realized variance of each row's horizon, shape (n,)."""
        return self.targets**2

    @property
    def horizon(self) -> Int64s:
        """Return the number of each row's horizon of time since 1970, shape (n,)."""
        return self.event_time // (self.spec.horizon_s * NS)

    def column(self, name: str) -> Floats:
        """Return one column of the rows, shape (n,)."""
        return self.values[:, self.spec.columns.index(name)]

    def mean_variance(self, steps: int) -> Floats:
        """Return the mean variance over the last grid steps, as many as the segment has, per horizon; NaN for none.

        Args:
            steps: at least 1.
        """
        used = np.minimum(self.known_steps, steps)
        total = self.grid.squares[self.point + 1] - self.grid.squares[self.point + 1 - used]
        horizon_steps = self.spec.horizon_s // self.spec.grid_step_s
        with np.errstate(invalid="ignore"):
            return np.where(used > 0, np.maximum(total, 0.0) / used * horizon_steps, np.nan)

    def young_variance(self, prior: float) -> Floats:
        """Return the forecast variance of rows too young for any half-life: the mean so far, pulled to a prior.

        Args:
            prior: variance per horizon of the market before; weighs as much as `PRIOR_STEPS` grid steps.
        """
        mean = self.mean_variance(int(self.known_steps.max(initial=1)))
        return with_prior(self.known_steps, np.nan_to_num(mean), prior)


def read_history(paths: Sequence[Path], product_id: str = "BTC-USD", columns: ColumnMap | None = None) -> History:
    """Return the history of one source: recordings of trades, or of bars of 1 s or 60 s, in the order of time.

    Args:
        product_id: product of recordings without product names.
        columns: names of columns of trades that no dialect knows.

    Raises:
        ValueError: a file cannot be read, files differ in kind, or there is no counted row with a target.
    """
    if isinstance(recognize(paths[0], product_id, columns), BarDialect):
        bars = [batch.bars for batch in read_bars(paths, product_id=product_id)]
        spec = spec_of_candles(bars[0].step_s, paths[0]) if bars else FeatureSpec()
        parts: list[Trades] = [trades_of_candles(each) for each in _by_product(bars)]
    else:
        spec = FeatureSpec()
        trades = Trades.join([batch.trades for batch in read_trades(paths, product_id=product_id, columns=columns)])
        parts = [trades.take(trades.stream == stream) for stream in range(len(trades.keys))]
    history = history_of(parts, spec)
    if np.isnan(history.targets).all():
        names = ", ".join(str(path) for path in paths)
        raise ValueError(
            f"{names}: no forecast can be judged: a target needs {spec.horizon_s:,} s without a hole of more than "
            f"{spec.gap_s} s after a trade"
        )
    return history


def _by_product(bars: Sequence[Bars]) -> list[Bars]:
    """Return the bars of each product."""
    names = list(dict.fromkeys(key.product_id for part in bars for key in part.keys))
    found = []
    for name in names:
        parts = []
        for part in bars:
            streams = [stream for stream, key in enumerate(part.keys) if key.product_id == name]
            parts.append(part.take(np.isin(part.stream, streams)))
        columns = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(Bars)
            if f.name not in ("keys", "step_s", "stream")
        }
        count = len(columns["close"])
        found.append(Bars((StreamKey("", name),), bars[0].step_s, np.zeros(count, np.int32), **columns))
    return found


def history_of(streams: Iterable[Trades], spec: FeatureSpec) -> History:
    """Return the history of streams.

    Args:
        streams: trades of one product each, with rising ids.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    grids: list[Grid] = []
    products: list[str] = []
    points = segments = 0
    for trades in streams:
        if not len(trades):
            continue
        key = trades.keys[int(trades.stream[0])]
        alone = replace(trades, keys=(key,), stream=np.zeros(len(trades), np.int32))
        rows = feature_rows(alone, Windows(spec))
        part, grid = _history_of_rows(rows.trades, rows.values, spec, len(products), points, segments)
        points, segments = points + len(grid.time), int(grid.segment[-1]) + 1 if len(grid.time) else segments
        parts.append(part)
        grids.append(grid)
        products.append(key.product_id)
    log_return = np.concatenate([np.empty(0), *(grid.log_return for grid in grids)])
    joined = Grid(
        log_return,
        np.concatenate([[0.0], np.cumsum(np.nan_to_num(log_return) ** 2)]),
        np.concatenate([np.empty(0, np.int64), *(grid.time for grid in grids)]),
        np.concatenate([np.empty(0, np.int64), *(grid.segment for grid in grids)]),
        np.concatenate([np.empty(0, np.intp), *(grid.product for grid in grids)]),
    )
    event_time = np.concatenate([np.empty(0, np.int64), *(part["event_time"] for part in parts)])
    order = np.argsort(event_time, kind="stable")
    columns = {name: np.concatenate([part[name] for part in parts])[order] for name in (parts[0] if parts else ())}
    if not parts:
        raise ValueError("a history needs at least 1 trade, got 0")
    return History(spec, tuple(products), grid=joined, **columns)


def _history_of_rows(
    trades: Trades, values: Floats, spec: FeatureSpec, product: int, first_point: int, first_segment: int
) -> tuple[dict[str, NDArray[Any]], Grid]:
    """Return the columns of a history of one stream, and its grid; indexes begin at the given numbers."""
    time, price, step = trades.event_time, trades.price, spec.grid_step_s * NS
    counted, targets = counted_targets(time, price, spec)
    begins = np.concatenate([[0], np.flatnonzero(np.diff(time) > spec.gap_s * NS) + 1])
    ends = np.append(begins[1:], len(time))
    first, last = -(-time[begins] // step), time[ends - 1] // step
    sizes = np.maximum(last - first + 1, 0)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    segment = np.repeat(np.arange(len(begins)), sizes)
    point = np.arange(starts[-1]) - starts[segment] + first[segment]
    at = np.searchsorted(time, point * step, side="right") - 1
    log_price = np.log(price[at])
    log_return = np.diff(log_price, prepend=np.nan)
    log_return[starts[:-1][sizes > 0]] = np.nan
    grid = Grid(log_return, np.empty(0), point * step, first_segment + segment, np.full(len(at), product))

    kept = np.flatnonzero(np.append(np.diff(-(-time // step)) > 0, True))
    mine = np.searchsorted(begins, kept, side="right") - 1
    row_point = time[kept] // step
    known = np.maximum(row_point - first[mine], 0)
    known_targets = np.full(len(time), np.nan)
    known_targets[counted] = targets
    columns: dict[str, NDArray[Any]] = {
        "product": np.full(len(kept), product),
        "event_time": time[kept],
        "price": price[kept],
        "values": values[kept],
        "targets": known_targets[kept],
        "age_s": (time[kept] - time[begins[mine]]) / NS,
        "point": np.where(row_point >= first[mine], first_point + starts[mine] + row_point - first[mine], -1),
        "known_steps": known,
    }
    return columns, grid
