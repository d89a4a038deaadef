"""The lake's table `feature_rows`: the kernel's rows of a day's trades, after the tail of the day before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data.arrow import numbers_of
from data.features.admission import TAKEN
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.trades import Floats, Int64s, Trades
from offline.backfill import feature_batch, feature_schema
from offline.days.staging import STAGED, start_ns, trades_of
from offline.days.steps import (
    FEATURE_ROWS,
    MEANING,
    TRADES,
    StepResult,
    check_spec,
    days_before,
    remove_partition,
    sees_no_further,
    tail_start,
    unchanged_result,
)
from offline.lake.store import Lake, PartitionKey


def make_feature_rows(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> StepResult:
    """Make the feature rows of a product and day: run the kernel over the tail of the days before, then over the day.

    Raises:
        OSError: the lake cannot be written.
    """
    inputs = feature_inputs(lake, product_id, day, spec)
    if inputs is None:
        missing = f"no trades of {product_id} on {day} (UTC) in the lake: make them first"
        return remove_partition(lake, FEATURE_ROWS, product_id, day, missing)
    if (unchanged := unchanged_result(lake, FEATURE_ROWS, product_id, day, inputs)) is not None:
        return unchanged
    windows = Windows(spec)
    before = history(lake, product_id, day, spec)
    if before is not None:
        feature_rows(before, windows)
    tail_rows = 0 if before is None else len(before)
    with lake.writing(PartitionKey(FEATURE_ROWS, product_id, day).path, feature_schema(spec)) as writing:
        first_time = last_time = 0
        position = tail_rows
        for batch in lake.batches(TRADES, product_id, day, STAGED.names):
            trades = trades_of(batch, product_id)
            rows = feature_rows(numbered(trades, position), windows)
            position += len(trades)
            if not len(rows.values):
                continue
            recorded = replace(rows.trades, trade_id=trades.trade_id[rows.status == TAKEN])
            writing.write(feature_batch(rows._replace(trades=recorded), spec))
            first_time, last_time = first_time or int(recorded.event_time[0]), int(recorded.event_time[-1])
        facts: dict[str, float | int | str] = {"rows": writing.rows, "tail_rows": tail_rows, "spec_id": spec.spec_id}
        facts |= {"first_time": first_time, "last_time": last_time}
        writing.finish({"inputs": inputs, "facts": json.dumps(facts)})
        writing.publish()
    return StepResult(lake.partition(FEATURE_ROWS, product_id, day), True, facts)


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
        tail = tail_start(joined.event_time, start_ns(day), spec)
        if tail.is_whole:
            joined = joined.take(slice(tail.first, None))
            break
    return numbered(joined, 0) if joined is not None and len(joined) else None


def numbered(trades: Trades, first: int) -> Trades:
    """Return trades with rising numbers from `first` + 1 in place of ids.

    Ids of several recordings, or missing ids, do not rise: only the order in the lake counts.
    """
    return replace(trades, trade_id=np.arange(first + 1, first + len(trades) + 1))


def feature_inputs(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> str | None:
    """Return the inputs of a day's feature rows, as JSON; None if the lake has no trades of the day."""
    trades = lake.partition(TRADES, product_id, day)
    if trades is None:
        return None
    inputs = {"meaning": MEANING[FEATURE_ROWS], "feature spec": spec.spec_id, "trades": trades.content_hash}
    for back in range(1, days_before(spec) + 1):
        earlier = lake.partition(TRADES, product_id, day - timedelta(days=back))
        seen = "" if earlier is None else earlier.tail_hash if sees_no_further(spec) else earlier.content_hash
        if seen:
            inputs["tail of the day before" if back == 1 else f"trades {back} days before"] = seen
    return json.dumps(inputs)
