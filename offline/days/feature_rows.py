"""The lake's table `feature_rows`: the kernel's rows of a day's trades, after the tail of the day before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.arrow import numbers_of
from data.features.admission import TAKEN
from data.features.reach import tail_start
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.trades import Floats, Int64s, Trades
from offline.backfill import feature_batch, feature_schema
from offline.days.staging import STAGED, start_ns, trades_of
from offline.days.steps import FEATURE_ROWS, TRADES, DayNotes, DayStep, check_spec, days_before
from offline.days.trades import make_trades, seen_hash
from offline.lake.store import Lake


class FeatureFacts(msgspec.Struct, frozen=True, kw_only=True):
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
        return cls(
            np.concatenate([part.trade_id for part in parts]),
            np.concatenate([part.event_time for part in parts]),
            np.concatenate([part.price for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


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
    table = lake.read(FEATURE_ROWS, product_id, day, [name])
    check_spec(table, spec, f"the feature rows of {product_id} on {day}")
    return numbers_of(table[name])


def history(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> Trades | None:
    """Return the trades before a day that the day's rows can see, numbered from 1; None if there are none."""
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
    return numbered(joined, 0) if joined is not None and len(joined) else None


def numbered(trades: Trades, first: int) -> Trades:
    """Return trades with rising numbers from `first` + 1 in place of ids.

    Ids of several recordings, or missing ids, do not rise: only the order in the lake counts.
    """
    return replace(trades, trade_id=np.arange(first + 1, first + len(trades) + 1))


def _inputs(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> dict[str, str] | None:
    trades = make_trades.stored(lake, product_id, day).partition
    if trades is None:
        return None
    inputs = {"feature spec": spec.spec_id, "trades": trades.content_hash}
    for back in range(1, days_before(spec) + 1):
        if seen := seen_hash(lake, product_id, day - timedelta(days=back), "tail_hash", spec):
            inputs["tail of the day before" if back == 1 else f"trades {back} days before"] = seen
    return inputs


def _make(
    lake: Lake, product_id: str, day: date, spec: FeatureSpec, write: Callable[[pa.RecordBatch], None]
) -> FeatureFacts:
    """Run the kernel over the tail of the days before, then over the day."""
    windows = Windows(spec)
    before = history(lake, product_id, day, spec)
    if before is not None:
        feature_rows(before, windows)
    position = tail_rows = 0 if before is None else len(before)
    count = first_time = last_time = 0
    for batch in lake.batches(TRADES, product_id, day, STAGED.names):
        trades = trades_of(batch, product_id)
        rows = feature_rows(numbered(trades, position), windows)
        position += len(trades)
        if not len(rows.values):
            continue
        recorded = replace(rows.trades, trade_id=trades.trade_id[rows.status == TAKEN])
        write(feature_batch(rows._replace(trades=recorded), spec))
        count += len(rows.values)
        first_time, last_time = first_time or int(recorded.event_time[0]), int(recorded.event_time[-1])
    return FeatureFacts(
        rows=count, tail_rows=tail_rows, spec_id=spec.spec_id, first_time=first_time, last_time=last_time
    )


make_feature_rows = DayStep(
    table=FEATURE_ROWS,
    meaning="1",
    missing="no trades of {product_id} on {day} (UTC) in the lake: make them first",
    notes=DayNotes[FeatureFacts],
    schema=feature_schema,
    find_inputs=_inputs,
    make=_make,
)
