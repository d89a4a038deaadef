"""The lake's table `trades`: one stream of all recordings of a product and day."""

from __future__ import annotations

import json
from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data.arrow import NAMES, names_of
from data.names import check_product_id
from data.trades import NS
from offline.days.merging import RecordedTrades, counted_times, merge
from offline.days.staging import DAY_S, RECORDINGS, STAGED, staged_batch, start_ns, trades_of
from offline.days.steps import (
    MEANING,
    SEEN_BY_NEIGHBOURS,
    TRADES,
    StepResult,
    head_s,
    remove_partition,
    stored_result,
    tail_start,
    unchanged_result,
)
from offline.lake.parquet import content_hash
from offline.lake.store import Lake

TRADE_COLUMNS = STAGED.append(pa.field("recording", NAMES))


def make_trades(lake: Lake, product_id: str, day: date) -> StepResult:
    """Merge all recordings of a product and day into one stream.

    Recordings with ids are joined and sorted by id; if two recordings give one id different prices, the first recording
    by name wins. A recording without ids, or of another id space, adds only trades at times that no earlier recording
    covers; the order is recordings with ids first, then by name. A recording covers holes of up to `gap_s`, also at
    the begin and the end of the day, and no longer holes.

    Raises:
        OSError: the lake cannot be written.
    """
    inputs = trade_inputs(lake, product_id, day)
    if inputs is None:
        missing = f"no recording has trades of {product_id} on {day} (UTC): ingest one that has"
        return remove_partition(lake, TRADES, product_id, day, missing)
    if (unchanged := unchanged_result(lake, TRADES, product_id, day, inputs.text)) is not None:
        return unchanged
    begin, end = start_ns(day), start_ns(day) + DAY_S * NS
    recorded = [_recorded(lake, table, product_id, day) for table in inputs.recordings]
    merged = merge(recorded, (begin, end), SEEN_BY_NEIGHBOURS.gap_s)
    trades, counted = merged.trades, counted_times(merged.trades.event_time)
    facts: dict[str, float | int | str] = {"rows": len(trades), "recordings": len(merged.names), **merged.dropped}
    facts["id_spaces"] = merged.id_spaces
    gap = np.diff(counted) / NS
    facts["holes"] = int(np.sum(gap > SEEN_BY_NEIGHBOURS.gap_s))
    facts["longest_hole_s"] = float(np.max(gap, initial=0.0))
    facts["has_ids"] = "yes" if merged.has_ids else "no"
    batch = pa.RecordBatch.from_arrays(
        [*staged_batch(trades).columns, names_of(merged.recording, merged.names)], schema=TRADE_COLUMNS
    )
    head = int(np.searchsorted(counted, begin + head_s(SEEN_BY_NEIGHBOURS) * NS))
    tail = tail_start(trades.event_time, end, SEEN_BY_NEIGHBOURS).first
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
    return StepResult(made, True, facts)


def has_trade_ids(lake: Lake, product_id: str, day: date) -> bool:
    """Return whether all trades of a product and day have ids of the market; else the trades are numbered."""
    made = stored_result(lake, TRADES, product_id, day)
    return made.partition is not None and made.facts["has_ids"] == "yes"


class _TradeInputs(NamedTuple):
    """Inputs of merged trades: the tables of the recordings in the order of priority, and all inputs as JSON."""

    recordings: list[str]
    text: str


def trade_inputs(lake: Lake, product_id: str, day: date) -> _TradeInputs | None:
    """Return the inputs of a day's trades; None if no recording has trades of the product and day."""
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


def text_of_inputs(inputs: _TradeInputs | None) -> str | None:
    return None if inputs is None else inputs.text


def _recorded(lake: Lake, table: str, product_id: str, day: date) -> RecordedTrades:
    known = lake.partition(table, product_id, day)
    assert known is not None
    trades = trades_of(lake.read(table, product_id, day), product_id)
    return RecordedTrades(known.notes["name"], known.notes["has_ids"] == "yes", trades)
