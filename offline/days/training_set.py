"""The lake's table `training_set`: counted rows with targets, and rows of short windows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import msgspec
import numpy as np
import pyarrow as pa

from data.arrow import UTC, batch_of, numbers_of
from data.features.spec import FeatureSpec
from data.times import NS, start_ns
from data.trades import Floats, Int64s
from data.truth.counting import TWELFTH
from offline.days.feature_rows import feature_column
from offline.days.merging import counted_times
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET, DayNotes, DayStep, Write, head_s
from offline.days.trades import seen_hash
from offline.lake.state import ProductState
from offline.lake.store import Lake
from offline.samples import SHORT_WINDOWS, Sample, counted_targets, short_rows


class TrainingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the training set of a product and day.

    Attributes:
        rows, short_rows: numbers of counted rows, and of rows of short windows.
        target_median, zero_target_share: 0 without rows.
        last_time: event time of the newest trade seen by any row or target, ns since 1970.
    """

    rows: int
    short_rows: int
    horizons: float
    target_median: float
    zero_target_share: float
    last_time: int


def training_schema(spec: FeatureSpec) -> pa.Schema:
    """Return the columns of a training set."""
    columns = [(name, pa.int64() if name == "n" else pa.float64()) for name in spec.columns]
    key = [("trade_id", pa.int64()), ("event_time", UTC), ("short_window", pa.int64())]
    return pa.schema([*key, *columns, ("target_volatility", pa.float64())], {"spec_id": spec.spec_id})


def training_sample(
    lake: Lake,
    spec: FeatureSpec,
    products: Iterable[str],
    first_day: date,
    last_day: date,
    *,
    with_short_windows: bool = False,
) -> Sample:
    """Return the rows of the training sets of some products and days, sorted by product and day.

    Args:
        first_day, last_day: both inclusive.

    Raises:
        ValueError: there are no rows, or a training set is of another spec.
    """
    lake, products = lake.held(), list(products)
    parts = []
    for product_id in products:
        for place in lake.partition_keys(TRAINING_SET, product_id):
            if not first_day <= place.day <= last_day:
                continue
            parts.append(day_sample(lake, spec, product_id, place.day, with_short_windows=with_short_windows))
    if not sum(map(len, parts)):
        raise ValueError(
            f"no training rows of {', '.join(products) or 'no product'} from {first_day} to {last_day}: ingest or "
            "simulate these days and backfill them first"
        )
    return Sample.join(parts)


def day_sample(
    lake: Lake,
    spec: FeatureSpec,
    product_id: str,
    day: date,
    *,
    with_short_windows: bool = False,
) -> Sample:
    """Return the rows of the training set of a product and day.

    Raises:
        ValueError: the training set is of another spec.
        FileNotFoundError: there is no training set.
    """
    table = make_training_set.read(lake, product_id, day, spec)
    last_time = make_training_set.stored(lake, product_id, day).facts.last_time
    return _sample(table, spec, product_id, last_time, with_short_windows=with_short_windows)


def kept_sample(
    lake: Lake,
    spec: FeatureSpec,
    product_id: str,
    content_hash: str,
    *,
    with_short_windows: bool = False,
) -> Sample | None:
    """Return the rows of a training set by their hash, also if the day has been made again since; None if gone.

    `last_time` is the end of the horizon of the newest row.
    """
    table = lake.read_object(content_hash, training_schema(spec).metadata)
    if table is None:
        return None
    newest = int(numbers_of(table["event_time"]).max(initial=0))
    last_time = newest + (spec.grid_step_s + spec.horizon_s) * NS
    return _sample(table, spec, product_id, last_time, with_short_windows=with_short_windows)


def _sample(table: pa.Table, spec: FeatureSpec, product_id: str, last_time: int, *, with_short_windows: bool) -> Sample:
    rows = slice(None) if with_short_windows else numbers_of(table["short_window"]) == 0
    values = np.column_stack([numbers_of(table[name]).astype(np.float64) for name in spec.columns])
    targets, event_time = (numbers_of(table[name])[rows] for name in ("target_volatility", "event_time"))
    return Sample(values[rows], targets, event_time, last_time, np.full(len(targets), product_id))


def _head(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> tuple[Int64s, Floats]:
    """Return counted times and prices of a day, as far as the targets of the day before see."""
    if lake.partition(TRADES, product_id, day) is None:
        return np.empty(0, np.int64), np.empty(0)
    trades = lake.read(TRADES, product_id, day, ["event_time", "price"])
    counted = counted_times(numbers_of(trades["event_time"]), start_ns(day))
    few = int(np.searchsorted(counted, start_ns(day) + head_s(spec) * NS))
    return counted[:few], numbers_of(trades["price"])[:few]


def _inputs(state: ProductState, day: date, spec: FeatureSpec) -> dict[str, str] | None:
    rows = state.entry(FEATURE_ROWS, day)
    if rows is None:
        return None
    seen = seen_hash(state, day + timedelta(days=1), "head_hash", spec)
    inputs = {"feature spec": spec.spec_id, "feature rows": rows.content_hash}
    return inputs | {"head of the day after": seen} if seen else inputs


def _make(lake: Lake, product_id: str, day: date, spec: FeatureSpec, write: Write) -> TrainingFacts:
    """Write the counted rows with targets, then rows of short windows, see `offline.samples.short_rows`.

    `short_window` is 0 in counted rows.
    """
    event_time, price, n = (feature_column(lake, spec, product_id, day, name) for name in ("event_time", "price", "n"))
    after = _head(lake, product_id, day + timedelta(days=1), spec)
    counted, targets = counted_targets(event_time, price, spec, after)
    short = short_rows(n, price, counted, spec, SHORT_WINDOWS)
    at = np.concatenate([counted, short.at])
    windows = np.concatenate([np.zeros(len(counted), np.int64), short.values[:, 0].astype(np.int64)])
    # Read one column at a time: only one row in sixty of a whole day counts.
    values = np.column_stack([feature_column(lake, spec, product_id, day, name)[counted] for name in spec.columns])
    values = np.concatenate([values, short.values])
    n, *others = np.ascontiguousarray(values.T)
    key = [feature_column(lake, spec, product_id, day, "trade_id")[at], event_time[at], windows]
    rows = [*key, n.astype(np.int64), *others, targets[np.searchsorted(counted, at)]]
    last_time = int(event_time[-1])
    if len(counted):
        # The last target has seen the prices of its horizon, and the trade by which the segment goes on.
        step_ns = spec.grid_step_s * NS
        horizon = -(-int(event_time[counted[-1]]) // step_ns) * step_ns + spec.horizon_s * NS
        seen = after[0][: int(np.searchsorted(after[0], horizon)) + 1]
        last_time = max([last_time, *seen[-1:].tolist()])
    write(batch_of(training_schema(spec), rows))
    return TrainingFacts(
        rows=len(counted),
        short_rows=len(short.at),
        horizons=len(counted) / TWELFTH,
        target_median=float(np.median(targets)) if len(targets) else 0.0,
        zero_target_share=float(np.mean(targets == 0)) if len(targets) else 0.0,
        last_time=last_time,
    )


make_training_set = DayStep(
    table=TRAINING_SET,
    meaning="1",
    missing="no feature rows of {product_id} on {day} (UTC) in the lake: make them first",
    notes=DayNotes[TrainingFacts],
    schema=training_schema,
    find_inputs=_inputs,
    make=_make,
)
