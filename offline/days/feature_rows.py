"""The lake's table `feature_rows`: the kernel's rows of a day's trades, after the tail of the day before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import chain
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from data.arrow import numbers_of
from data.features.admission import TAKEN
from data.features.reach import tail_start
from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.times import NS, start_ns
from data.trades import Floats, Int64s, Trades
from offline.backfill import feature_batch, feature_schema
from offline.days.staging import STAGED, trades_of
from offline.days.steps import FEATURE_ROWS, TRADES, DayNotes, DayStep, Write, days_before
from offline.days.trades import seen_hash
from offline.lake.state import ProductState
from offline.lake.store import Lake
from offline.samples import CHECKED_HOURS, TradeSpan


class FeatureFacts(msgspec.Struct, frozen=True):
    """Facts about the feature rows of a product and day.

    Attributes:
        tail_rows: number of trades of the days before that the kernel has read first.
        first_time, last_time: event times of the first and the last row, ns since 1970; 0 without rows.
    """

    rows: int
    tail_rows: int
    spec_id: str
    first_time: int
    last_time: int


class StoredFeatureColumns(NamedTuple):
    """Feature rows of one product, in the order of their stream.

    Attributes:
        trade_id, event_time, price: shape (n,).
        values: shape (n, columns of the spec), NaN where missing.
    """

    trade_id: Int64s
    event_time: Int64s
    price: Floats
    values: Floats

    def take(self, rows: slice | NDArray[Any]) -> Self:
        """Return the chosen rows."""
        return type(self)(self.trade_id[rows], self.event_time[rows], self.price[rows], self.values[rows])

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, one part after the other; at least one part is needed."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def feature_columns(lake: Lake, spec: FeatureSpec, product_id: str, day: date) -> StoredFeatureColumns:
    """Read the feature rows of a product and day.

    Raises:
        ValueError: the rows are of another spec.
        FileNotFoundError: there are no rows.
    """
    trade_id, event_time, price = (
        feature_column(lake, spec, product_id, day, name) for name in StoredFeatureColumns._fields[:3]
    )
    values = np.empty((len(price), len(spec.columns)))
    for column, name in enumerate(spec.columns):
        values[:, column] = feature_column(lake, spec, product_id, day, name)
    return StoredFeatureColumns(trade_id, event_time, price, values)


def feature_column(lake: Lake, spec: FeatureSpec, product_id: str, day: date, name: str) -> NDArray[Any]:
    """Read one column of the feature rows of a product and day; errors as in `feature_columns`."""
    return numbers_of(make_feature_rows.read(lake, product_id, day, spec, [name])[name])


def history(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> Trades | None:
    """Return the trades before a day that the day's rows can see; None if there are none."""
    joined: Trades | None = None
    for back in range(1, days_before(spec) + 1):
        earlier = day - timedelta(days=back)
        if lake.partition(TRADES, product_id, earlier) is None:
            break
        trades = trades_of(lake.read(TRADES, product_id, earlier, STAGED.names), product_id)
        joined = trades if joined is None else Trades.join([trades, joined])
        if (first := tail_start(joined.event_time, start_ns(day), spec)) is not None:
            joined = joined.take(slice(first, None))
            break
    return joined if joined is not None and len(joined) else None


def span_of(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> TradeSpan:
    """Return the trades behind the rows of a day's first hours, see `CHECKED_HOURS`, and all earlier trades seen.

    Raises:
        FileNotFoundError: the lake has no trades of the product and day.
    """
    trades = trades_of(lake.read(TRADES, product_id, day, STAGED.names), product_id)
    since, last = int(trades.event_time.min()), int(trades.event_time[0]) + CHECKED_HOURS * 3_600 * NS
    trades = trades.take(slice(0, int(np.searchsorted(np.maximum.accumulate(trades.event_time), last))))
    if (before := history(lake, product_id, day, spec)) is not None:
        trades = Trades.join([before, trades])
    return TradeSpan(replace(trades, trade_id=np.arange(len(trades))), since)


def checked_spans(
    lake: Lake, spec: FeatureSpec, trained: Iterable[tuple[str, date]], tested: Iterable[tuple[str, date]]
) -> list[TradeSpan]:
    """Return the trades behind some rows of the last trained and of the first tested product-day that have trades.

    Args:
        trained, tested: products and days with training rows.
    """
    lake = lake.held()
    trained, tested = (
        sorted((key for key in keys if lake.partition(TRADES, *key) is not None), key=lambda key: key[1])
        for keys in (trained, tested)
    )
    return [span_of(lake, product_id, day, spec) for product_id, day in (*trained[-1:], *tested[:1])]


def rows_after(before: Trades | None, batches: Iterable[Trades], spec: FeatureSpec) -> Iterator[FeatureRows]:
    """Yield the feature rows of batches of one stream, after earlier trades of the stream.

    The kernel reads rising numbers in place of ids, because ids of several recordings, or missing ids, do not rise:
    only the order in the lake counts.
    """
    windows, number = Windows(spec), 0
    for trades in batches if before is None else chain([before], batches):
        rows = feature_rows(replace(trades, trade_id=number + np.arange(len(trades))), windows)
        number += len(trades)
        if trades is not before:
            yield rows._replace(trades=replace(rows.trades, trade_id=trades.trade_id[rows.status == TAKEN]))


def _inputs(state: ProductState, day: date, spec: FeatureSpec) -> dict[str, str] | None:
    trades = state.entry(TRADES, day)
    if trades is None:
        return None
    inputs = {"feature spec": spec.spec_id, "trades": trades.content_hash}
    for back in range(1, days_before(spec) + 1):
        if seen := seen_hash(state, day - timedelta(days=back), "tail_hash", spec):
            inputs["tail of the day before" if back == 1 else f"trades {back} days before"] = seen
    return inputs


def _make(lake: Lake, product_id: str, day: date, spec: FeatureSpec, write: Write) -> FeatureFacts:
    """Run the kernel over the tail of the days before, then over the day."""
    before = history(lake, product_id, day, spec)
    trades = (trades_of(batch, product_id) for batch in lake.batches(TRADES, product_id, day, STAGED.names))
    count = first_time = last_time = 0
    for rows in rows_after(before, trades, spec):
        if not len(rows.values):
            continue
        write(feature_batch(rows, spec))
        times = rows.trades.event_time
        count += len(times)
        first_time, last_time = first_time or int(times[0]), int(times[-1])
    return FeatureFacts(count, 0 if before is None else len(before), spec.spec_id, first_time, last_time)


make_feature_rows = DayStep(
    table=FEATURE_ROWS,
    meaning="1",
    missing="no trades of {product_id} on {day} (UTC) in the lake: make them first",
    notes=DayNotes[FeatureFacts],
    schema=feature_schema,
    find_inputs=_inputs,
    make=_make,
)
