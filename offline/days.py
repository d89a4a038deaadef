"""The steps of a product and UTC day: staged recordings to trades, feature rows and a training set, all in the lake.

Each step notes in its partition what it was made from. Where that has not changed it does nothing, so everything may be
run again at any time, and a late recording is felt as far as it reaches and no further.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.admission import MAX_FALL_S, TAKEN
from data.columns import NAMES, UTC, column_of, names_of, numbers_of
from data.features import Windows, feature_rows
from data.lake import Lake, Partition, Place, content_hash
from data.readers import check_product_id
from data.spec import FeatureSpec
from data.trades import NS, Floats, Int64s, Trades
from offline.backfill import feature_batch, feature_schema
from offline.merging import Recorded, counted_times, merge
from offline.recordings import DAY_S, RECORDINGS, STAGED, staged_batch, start_ns, trades_of
from offline.samples import SHORT_WINDOWS, TWELFTH, Sample, counted_targets, short_rows

TRADES, FEATURE_ROWS, TRAINING_SET = "trades", "feature_rows", "training_set"
"""Tables of the lake."""

MEANING: Final = {TRADES: "3", FEATURE_ROWS: "1", TRAINING_SET: "1"}
"""Raised whenever a step makes something else of the same inputs: what was made before is made again."""

TRADE_COLUMNS = STAGED.append(pa.field("recording", NAMES))

_SEEN_BY_OTHERS = FeatureSpec()
"""How far the days around a day see into it, for `head_hash` and `tail_hash`."""


class Made(NamedTuple):
    """What a step made.

    Attributes:
        partition: None where there is nothing to make it of.
        is_new: whether it was made, or removed, now; else it stood there already, made of the same.
        facts: for people; without a partition, `missing` says what to do.
    """

    partition: Partition | None
    is_new: bool
    facts: dict[str, float | int | str]


class StaleDay(NamedTuple):
    """A partition that its step would make anew, or remove."""

    product_id: str
    day: date
    table: str
    why: str


def make_trades(lake: Lake, product_id: str, day: date) -> Made:
    """Merge what the recordings have of a product and day into one stream.

    With ids a trade is its id: recordings are joined and sorted by it, and of two that give one id another price the
    first by name is taken. Without ids, or with those of another id space, a recording counts only for times that none
    before it covers: first those with ids, then by name. A hole longer than `gap_s` is not covered; a shorter one is,
    also to the begin or the end of the day.

    Raises:
        OSError: the lake cannot be written.
    """
    inputs = _trade_inputs(lake, product_id, day)
    if inputs is None:
        missing = f"no recording has trades of {product_id} on {day} (UTC): ingest one that has"
        return _nothing(lake, TRADES, product_id, day, missing)
    if (made_before := _made_of(lake, TRADES, product_id, day, inputs.text)) is not None:
        return made_before
    begin, end = start_ns(day), start_ns(day) + DAY_S * NS
    recorded = [_recorded(lake, table, product_id, day) for table in inputs.recordings]
    merged = merge(recorded, (begin, end), _SEEN_BY_OTHERS.gap_s)
    trades, counted = merged.trades, counted_times(merged.trades.event_time)
    facts: dict[str, float | int | str] = {"rows": len(trades), "recordings": len(merged.names), **merged.dropped}
    facts["id_spaces"] = merged.id_spaces
    gap = np.diff(counted) / NS
    facts["holes"] = int(np.sum(gap > _SEEN_BY_OTHERS.gap_s))
    facts["longest_hole_s"] = float(np.max(gap, initial=0.0))
    facts["has_ids"] = "yes" if merged.has_ids else "no"
    batch = pa.RecordBatch.from_arrays(
        [*staged_batch(trades).columns, names_of(merged.recording, merged.names)], schema=TRADE_COLUMNS
    )
    head = int(np.searchsorted(counted, begin + _head_s(_SEEN_BY_OTHERS) * NS))
    tail = tail_start(trades.event_time, end, _SEEN_BY_OTHERS).first
    made = lake.write(
        TRADES,
        product_id,
        day,
        [batch],
        TRADE_COLUMNS,
        {"inputs": inputs.text, "facts": json.dumps(facts)},
        head_hash=content_hash(batch.select(["event_time", "price"])[:head]) if head else "",
        tail_hash=content_hash(batch.select(["event_time", "price", "size"])[tail:]) if tail < len(batch) else "",
    )
    return Made(made, True, facts)


def make_feature_rows(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> Made:
    """Make the feature rows of a product and day: the kernel over the tail of the days before, and then over the day.

    Raises:
        OSError: the lake cannot be written.
    """
    inputs = _feature_inputs(lake, product_id, day, spec)
    if inputs is None:
        missing = f"no trades of {product_id} on {day} (UTC) in the lake: make them first"
        return _nothing(lake, FEATURE_ROWS, product_id, day, missing)
    if (made_before := _made_of(lake, FEATURE_ROWS, product_id, day, inputs)) is not None:
        return made_before
    windows = Windows(spec)
    before = history(lake, product_id, day, spec)
    if before is not None:
        feature_rows(before, windows)
    tail_rows = 0 if before is None else len(before)
    with lake.writing(Place(FEATURE_ROWS, product_id, day).path, feature_schema(spec)) as writing:
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
    return Made(lake.partition(FEATURE_ROWS, product_id, day), True, facts)


def make_training_set(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> Made:
    """Make the rows of a product and day that models are fitted to and judged by: those that count, with targets.

    `short_window` is 0 in full rows; rows of short windows follow them, see `offline.samples.short_rows`.

    Raises:
        OSError: the lake cannot be written.
    """
    inputs = _training_inputs(lake, product_id, day, spec)
    if inputs is None:
        missing = f"no feature rows of {product_id} on {day} (UTC) in the lake: make them first"
        return _nothing(lake, TRAINING_SET, product_id, day, missing)
    if (made_before := _made_of(lake, TRAINING_SET, product_id, day, inputs)) is not None:
        return made_before
    schema = training_schema(spec)
    event_time, price, n = (_feature_column(lake, spec, product_id, day, name) for name in ("event_time", "price", "n"))
    after = _head(lake, product_id, day, spec)
    counted, targets = counted_targets(event_time, price, spec, after)
    short = short_rows(n, price, counted, spec, SHORT_WINDOWS)
    at = np.concatenate([counted, short.at])
    windows = np.concatenate([np.zeros(len(counted), np.int64), short.values[:, 0].astype(np.int64)])
    # A column at a time: of a whole day's rows one in sixty counts.
    values = np.column_stack([_feature_column(lake, spec, product_id, day, name)[counted] for name in spec.columns])
    values = np.concatenate([values, short.values])
    trade_id = _feature_column(lake, spec, product_id, day, "trade_id")[at]
    last_time = int(event_time[-1])
    if after is not None and len(counted):
        # What the last target has seen: the prices of its horizon, and the trade by which the segment goes on.
        horizon = (
            -(-int(event_time[counted[-1]]) // (spec.grid_step_s * NS)) * spec.grid_step_s * NS + spec.horizon_s * NS
        )
        seen = after[0][: int(np.searchsorted(after[0], horizon)) + 1]
        last_time = max(last_time, int(seen[-1])) if len(seen) else last_time
    facts: dict[str, float | int | str] = {
        "rows": len(counted),
        "short_rows": len(short.at),
        "horizons": len(counted) / TWELFTH,
        "target_median": float(np.median(targets)) if len(targets) else 0.0,
        "zero_target_share": float(np.mean(targets == 0)) if len(targets) else 0.0,
        "last_time": last_time,
    }
    columns = [
        column_of(trade_id, pa.int64()),
        column_of(event_time[at], UTC),
        column_of(windows, pa.int64()),
        column_of(values[:, 0].astype(np.int64), pa.int64()),
        *(column_of(each, pa.float64(), ~np.isnan(each)) for each in np.ascontiguousarray(values[:, 1:].T)),
        column_of(targets[np.searchsorted(counted, at)], pa.float64()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    notes = {"inputs": inputs, "facts": json.dumps(facts)}
    return Made(lake.write(TRAINING_SET, product_id, day, [batch], schema, notes), True, facts)


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
    """Return the rows of the training sets of some products and days, by product and day.

    Raises:
        ValueError: there are none, or some were made under another spec.
    """
    products = list(products)
    parts = []
    for product_id in products:
        for place in lake.places(TRAINING_SET, product_id):
            if not first_day <= place.day <= last_day:
                continue
            table = lake.read(*place)
            _check_spec(table, spec, f"the training rows of {product_id} on {place.day}")
            known = lake.partition(*place)
            assert known is not None
            last_time = int(json.loads(known.notes["facts"])["last_time"])
            rows = slice(None) if with_short_windows else numbers_of(table["short_window"]) == 0
            values = np.column_stack([numbers_of(table[name]).astype(np.float64) for name in spec.columns])
            targets, event_time = (numbers_of(table[name])[rows] for name in ("target_volatility", "event_time"))
            parts.append(Sample(values[rows], targets, event_time, last_time))
    if not sum(map(len, parts)):
        raise ValueError(
            f"no training rows of {', '.join(products) or 'no product'} from {first_day} to {last_day}: ingest or "
            "simulate these days and backfill them first"
        )
    return Sample.join(parts)


def standing(lake: Lake, table: str, product_id: str, day: date) -> Made:
    """Return what stands in the lake, as the step that made it does where nothing has changed."""
    known = lake.partition(table, product_id, day)
    return Made(known, False, {} if known is None else json.loads(known.notes["facts"]))


def _made_of(lake: Lake, table: str, product_id: str, day: date, inputs: str) -> Made | None:
    """Return what stands in the lake if it was made of these inputs."""
    made = standing(lake, table, product_id, day)
    return made if made.partition is not None and made.partition.notes["inputs"] == inputs else None


def stale(lake: Lake, spec: FeatureSpec, table: str | None = None) -> list[StaleDay]:
    """Return what its step would make anew, or remove, if it ran now; by product, day and step.

    Only what is in the lake now counts: what follows from a partition that is stale is known when that has been made.

    Args:
        table: look at this one alone.
    """
    staged = {(place.product_id, place.day) for place in lake.places(RECORDINGS)}
    steps: dict[str, Callable[[str, date], str | None]] = {
        TRADES: lambda product, day: _text_of(_trade_inputs(lake, product, day)),
        FEATURE_ROWS: lambda product, day: _feature_inputs(lake, product, day, spec),
        TRAINING_SET: lambda product, day: _training_inputs(lake, product, day, spec),
    }
    made = [{(place.product_id, place.day) for place in lake.places(each)} for each in steps]
    found = []
    for product, day in sorted(staged.union(*made)):
        for each in steps if table is None else (table,):
            known = lake.partition(each, product, day)
            inputs = steps[each](product, day)
            if inputs == (None if known is None else known.notes["inputs"]):
                continue
            found.append(StaleDay(product, day, each, _why(known, inputs)))
    return found


class FeatureColumns(NamedTuple):
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
        """Return the rows of all parts behind each other; there must be at least one part."""
        return cls(
            np.concatenate([part.trade_id for part in parts]),
            np.concatenate([part.event_time for part in parts]),
            np.concatenate([part.price for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


def feature_columns(lake: Lake, spec: FeatureSpec, product_id: str, day: date) -> FeatureColumns:
    """Read the feature rows of a product and day.

    Raises:
        ValueError: they are of another spec.
        FileNotFoundError: there are none.
    """
    trade_id, event_time, price = (
        _feature_column(lake, spec, product_id, day, name) for name in FeatureColumns._fields[:3]
    )
    values = np.empty((len(price), len(spec.columns)))
    for column, name in enumerate(spec.columns):
        values[:, column] = _feature_column(lake, spec, product_id, day, name)
    return FeatureColumns(trade_id, event_time, price, values)


def _feature_column(lake: Lake, spec: FeatureSpec, product_id: str, day: date, name: str) -> NDArray[Any]:
    table = lake.read(FEATURE_ROWS, product_id, day, [name])
    _check_spec(table, spec, f"the feature rows of {product_id} on {day}")
    return numbers_of(table[name])


def has_trade_ids(lake: Lake, product_id: str, day: date) -> bool:
    """Whether all trades of a product and day have ids of their market; else they are numbered."""
    made = standing(lake, TRADES, product_id, day)
    return made.partition is not None and made.facts["has_ids"] == "yes"


class Tail(NamedTuple):
    """The end of a stream that what comes after it can see.

    Attributes:
        first: index of its first trade.
        is_whole: trades before those given cannot be part of it.
    """

    first: int
    is_whole: bool


def tail_start(event_time: Int64s, end: int, spec: FeatureSpec) -> Tail:
    """Return from which trade on a stream can be seen by rows at or after `end`, ns since 1970.

    From there on the kernel gives the same rows as from the beginning of the stream.

    Args:
        event_time: shape (n,), n >= 1, as recorded, of trades that count as times before `end`.
    """
    n, counted = len(event_time), counted_times(event_time)
    gap = spec.gap_s * NS
    if counted[-1] < end - gap - MAX_FALL_S * NS:
        return Tail(n, True)  # a new segment follows whatever comes
    breaks = np.flatnonzero(np.diff(counted) > gap)
    segment = int(breaks[-1]) + 1 if len(breaks) else 0
    by_count = n - (spec.window_size + 1)
    by_grid = int(np.searchsorted(counted, end - spec.lookback_steps * spec.grid_step_s * NS, "right")) - 1
    first = max(min(by_count, by_grid), segment)
    while event_time[first] < counted[first]:  # there it would count as another time
        first -= 1
    return Tail(first, segment > 0 or min(by_count, by_grid) >= 0)


def history(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> Trades | None:
    """Return the trades before a day that its rows can see, numbered from 1; None where there are none."""
    joined: Trades | None = None
    for back in range(1, _days_before(spec) + 1):
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
    """Return trades with numbers that rise from `first` + 1 in place of their ids.

    Ids of several recordings, or of none, do not rise: the order in the lake is what counts.
    """
    return replace(trades, trade_id=np.arange(first + 1, first + len(trades) + 1))


class _TradeInputs(NamedTuple):
    """What trades are merged from: the tables of the recordings in the order in which they count."""

    recordings: list[str]
    text: str


def _trade_inputs(lake: Lake, product_id: str, day: date) -> _TradeInputs | None:
    check_product_id(product_id)
    staged = [lake.partition(table, product_id, day) for table in lake.tables(RECORDINGS)]
    found = [partition for partition in staged if partition is not None and partition.rows]
    if not found:
        return None
    found.sort(key=lambda partition: (partition.notes["has_ids"] != "yes", partition.notes["name"]))
    inputs = {"meaning": MEANING[TRADES]}
    for each in found:
        kind = "" if each.notes["has_ids"] == "yes" else ", without ids"
        inputs[f"recording {each.notes['name']}{kind}"] = each.content_hash
    return _TradeInputs([each.table for each in found], json.dumps(inputs))


def _text_of(inputs: _TradeInputs | None) -> str | None:
    return None if inputs is None else inputs.text


def _feature_inputs(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> str | None:
    trades = lake.partition(TRADES, product_id, day)
    if trades is None:
        return None
    inputs = {"meaning": MEANING[FEATURE_ROWS], "feature spec": spec.spec_id, "trades": trades.content_hash}
    for back in range(1, _days_before(spec) + 1):
        earlier = lake.partition(TRADES, product_id, day - timedelta(days=back))
        seen = "" if earlier is None else earlier.tail_hash if _sees_no_further(spec) else earlier.content_hash
        if seen:
            inputs["tail of the day before" if back == 1 else f"trades {back} days before"] = seen
    return json.dumps(inputs)


def _training_inputs(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> str | None:
    rows = lake.partition(FEATURE_ROWS, product_id, day)
    if rows is None:
        return None
    after = lake.partition(TRADES, product_id, day + timedelta(days=1))
    inputs = {"meaning": MEANING[TRAINING_SET], "feature spec": spec.spec_id, "feature rows": rows.content_hash}
    seen = "" if after is None else after.head_hash if _sees_no_further(spec) else after.content_hash
    if seen:
        inputs["head of the day after"] = seen
    return json.dumps(inputs)


def _why(known: Partition | None, inputs: str | None) -> str:
    if inputs is None:
        return "what it was made from is gone"
    if known is None:
        return "was never made"
    before, now = json.loads(known.notes["inputs"]), json.loads(inputs)
    changes = []
    for name in {**before, **now}:
        if name not in before:
            changes.append(f"{name} is new")
        elif name not in now:
            changes.append(f"{name} is gone")
        elif before[name] != now[name]:
            changes.append(f"{name} has changed")
    return ", ".join(changes) or "the order of its inputs has changed"


def _days_before(spec: FeatureSpec) -> int:
    """Return how many days back a row may look: its grid, and its window with the longest holes in it."""
    return -(-max(spec.lookback_steps * spec.grid_step_s, (spec.window_size + 1) * spec.gap_s) // DAY_S)


def _sees_no_further(spec: FeatureSpec) -> bool:
    """Whether head and tail hash tell all that rows and targets of this spec can see of other days."""
    usual = _SEEN_BY_OTHERS
    return (
        spec.window_size <= usual.window_size
        and spec.lookback_steps * spec.grid_step_s <= usual.lookback_steps * usual.grid_step_s
        and spec.gap_s <= usual.gap_s
        and _head_s(spec) <= _head_s(usual)
    )


def _head_s(spec: FeatureSpec) -> int:
    """Return how far into a day the targets of the day before look: a horizon, and the hole after which it ends."""
    return spec.horizon_s + spec.gap_s + MAX_FALL_S


def _head(lake: Lake, product_id: str, day: date, spec: FeatureSpec) -> tuple[Int64s, Floats] | None:
    """Return counted times and prices of the day after, as far as targets of a day see; None where there are none."""
    after = day + timedelta(days=1)
    if lake.partition(TRADES, product_id, after) is None:
        return None
    end = start_ns(after) + _head_s(spec) * NS
    times, prices = [np.empty(0, np.int64)], [np.empty(0)]
    last_time = start_ns(after)
    for batch in lake.batches(TRADES, product_id, after, ["event_time", "price"]):
        counted = counted_times(numbers_of(batch["event_time"]), last_time)
        last_time = int(counted[-1])
        few = int(np.searchsorted(counted, end))
        times.append(counted[:few])
        prices.append(numbers_of(batch["price"])[:few])
        if few < len(counted):
            break
    return np.concatenate(times), np.concatenate(prices)


def _recorded(lake: Lake, table: str, product_id: str, day: date) -> Recorded:
    known = lake.partition(table, product_id, day)
    assert known is not None
    trades = trades_of(lake.read(table, product_id, day), product_id)
    return Recorded(known.notes["name"], known.notes["has_ids"] == "yes", trades)


def _nothing(lake: Lake, table: str, product_id: str, day: date, missing: str) -> Made:
    """Remove a partition that there is nothing left to make from."""
    is_there = lake.partition(table, product_id, day) is not None
    if is_there:
        lake.delete(table, product_id, day)
    return Made(None, is_there, {"rows": 0, "missing": missing})


def _check_spec(table: pa.Table, spec: FeatureSpec, what: str) -> None:
    found = table.schema.metadata[b"spec_id"].decode()
    if found != spec.spec_id:
        raise ValueError(f"{what} are of feature spec {found}, asked for is {spec.spec_id}: make them again (backfill)")
