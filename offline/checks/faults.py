"""Faults in the trades of a day: wrong columns, ids, times or prices; and doubts about merged recordings."""

from __future__ import annotations

from collections import Counter
from datetime import date

import numpy as np

from data.features.admission import MAX_FALL_S
from data.times import DAY_S, NS, start_ns
from offline.days.merging import STRANGE_SHARE, counted_times
from offline.days.staging import STAGED, TRADE_COLUMNS, trades_of
from offline.days.steps import TRADES
from offline.days.trades import TradesFacts, make_trades
from offline.lake.store import Lake


def faults_of_trades(lake: Lake, product_id: str, day: date) -> list[str]:
    """Return the faults in the trades of a product and day, each with its count; empty if all trades are correct.

    Raises:
        FileNotFoundError: the lake has no trades of the product and day.
    """
    first = start_ns(day)
    has_ids = make_trades.stored(lake, product_id, day).facts.has_ids
    counts: Counter[str] = Counter()
    last_id, last_time = -1, 0
    for batch in lake.batches(TRADES, product_id, day):
        if batch.schema.names != TRADE_COLUMNS.names or not batch.schema.equals(TRADE_COLUMNS):
            return [f"columns are {', '.join(batch.schema.names)}, agreed are {', '.join(TRADE_COLUMNS.names)}"]
        trades = trades_of(batch.select(STAGED.names), product_id)
        counted = counted_times(trades.event_time, last_time)
        is_no_rise = np.diff(trades.trade_id, prepend=last_id) <= 0
        faults = {
            "ids do not rise": is_no_rise & has_ids,
            f"times fall by more than {MAX_FALL_S} s": counted - trades.event_time > MAX_FALL_S * NS,
            "times count as another day's": (counted < first) | (counted >= first + DAY_S * NS),
            "prices are no finite number above 0": ~(np.isfinite(trades.price) & (trades.price > 0)),
            "sizes are below 0": trades.size < 0,
        }
        counts.update({name: int(np.sum(found)) for name, found in faults.items()})
        last_id, last_time = int(trades.trade_id[-1]), int(counted[-1])
    return [f"{name}: {count:,} times" for name, count in counts.items() if count]


def doubts_of_merging(facts: TradesFacts) -> list[str]:
    """Return warnings about the merged recordings of a day; a person should look at each."""
    found = []
    if facts.id_spaces > 1:
        found.append(
            f"recordings number their trades in {facts.id_spaces} ways, so each counts only for times that no "
            f"earlier recording covers ({facts.covered:,} trades are dropped): is a recording of another market, or "
            "simulated?"
        )
    seen = facts.rows + facts.fallen
    for count, said in (
        (facts.conflicts, "have another price in another recording"),
        (facts.fallen, "fall and are left out"),
    ):
        if count > STRANGE_SHARE * seen:
            found.append(f"{count:,} of {seen:,} trades {said}")
    return found
