"""The lake's table `trades`: one stream of all recordings of a product and day."""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec
import numpy as np

from data.arrow import names_of
from data.features.reach import tail_start
from data.features.spec import FeatureSpec
from data.times import DAY_S, NS, start_ns
from offline.days.merging import RecordedTrades, counted_times, merge
from offline.days.staging import RECORDINGS, STAGED, TRADE_COLUMNS, StagedNotes, trade_batch, trades_of
from offline.days.steps import SEEN_BY_NEIGHBOURS, TRADES, DayNotes, DayStep, Write, head_s
from offline.lake.parquet import content_hash
from offline.lake.state import Entry, ProductState, decoded_notes
from offline.lake.store import Lake


class TradesFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the trades of a product and day.

    Attributes:
        recordings: number of merged recordings.
        duplicates, conflicts, fallen, covered: numbers of dropped trades, see `merge`.
        id_spaces: different ways in which the recordings number trades.
        holes: number of holes longer than `gap_s`.
        longest_hole_s: longest time between two trades, seconds.
        has_ids: all trades have ids of the market; else the trades are numbered.
        head_hash: hash of the first trades, which the day before can see; may be empty.
        tail_hash: hash of the last trades, which the day after can see; may be empty.
    """

    rows: int
    recordings: int
    duplicates: int
    conflicts: int
    fallen: int
    covered: int
    id_spaces: int
    holes: int
    longest_hole_s: float
    has_ids: bool
    head_hash: str
    tail_hash: str


def seen_hash(state: ProductState, day: date, part: Literal["head_hash", "tail_hash"], spec: FeatureSpec) -> str:
    """Return the hash of the trades of a day that rows and targets of a neighbour day see; empty if there are none.

    Rows and targets of a spec that sees further than `SEEN_BY_NEIGHBOURS` depend on the whole day.
    """
    entry, notes = state.entry(TRADES, day), make_trades.noted(state, day)
    if entry is None or notes is None:
        return ""
    if spec == SEEN_BY_NEIGHBOURS:
        return str(getattr(notes.facts, part))
    sees, covered = (
        (each.window_size, each.lookback_steps * each.grid_step_s, each.gap_s, head_s(each))
        for each in (spec, SEEN_BY_NEIGHBOURS)
    )
    is_covered = all(one <= other for one, other in zip(sees, covered, strict=True))
    return str(getattr(notes.facts, part)) if is_covered else entry.content_hash


def _recordings(state: ProductState, day: date) -> list[tuple[StagedNotes, str, Entry]]:
    """Return the recordings with trades of a day, by priority: with ids, not from the topic, by name.

    So a replay of a recording in the lake changes no trade of the day.

    Returns:
        Notes, table and entry of each recording.
    """
    found = [
        (decoded_notes(entry.notes, StagedNotes, f"{table} of {state.product_id} on {day}"), table, entry)
        for table, entry in state.on(RECORDINGS, day).items()
        if entry.rows
    ]
    return sorted(found, key=lambda each: (not each[0].has_ids, bool(each[0].sources), each[0].name))


def _inputs(state: ProductState, day: date, _: FeatureSpec) -> dict[str, str] | None:
    return {
        f"recording {notes.name}{'' if notes.has_ids else ', without ids'}": entry.content_hash
        for notes, _, entry in _recordings(state, day)
    } or None


def _make(lake: Lake, product_id: str, day: date, _spec: FeatureSpec, write: Write) -> TradesFacts:
    """Merge all recordings of a product and day into one stream, see `merge`."""
    begin, end = start_ns(day), start_ns(day) + DAY_S * NS
    recorded = []
    for notes, table, _ in _recordings(lake.product(product_id), day):
        trades = trades_of(lake.read(table, product_id, day, STAGED.names), product_id)
        recorded.append(RecordedTrades(notes.name, notes.has_ids, trades))
    merged = merge(recorded, (begin, end), SEEN_BY_NEIGHBOURS.gap_s)
    batch = trade_batch(merged.trades, names_of(merged.recording, merged.names))
    write(batch)
    counted = counted_times(merged.trades.event_time)
    pauses = np.diff(counted) / NS
    head = int(np.searchsorted(counted, begin + head_s(SEEN_BY_NEIGHBOURS) * NS))
    tail = tail_start(merged.trades.event_time, end, SEEN_BY_NEIGHBOURS) or 0
    return TradesFacts(
        rows=len(batch),
        recordings=len(merged.names),
        **merged.dropped,
        id_spaces=merged.id_spaces,
        holes=int(np.sum(pauses > SEEN_BY_NEIGHBOURS.gap_s)),
        longest_hole_s=float(np.max(pauses, initial=0.0)),
        has_ids=merged.has_ids,
        head_hash=content_hash(batch.select(["event_time", "price"])[:head]) if head else "",
        tail_hash=content_hash(batch.select(["event_time", "price", "size"])[tail:]) if tail < len(batch) else "",
    )


make_trades = DayStep(
    table=TRADES,
    meaning="3",
    missing="no recording has trades of {product_id} on {day} (UTC): ingest one that has",
    notes=DayNotes[TradesFacts],
    schema=lambda _: TRADE_COLUMNS,
    find_inputs=_inputs,
    make=_make,
)
