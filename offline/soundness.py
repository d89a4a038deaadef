"""Whether the trades of a day are as whoever reads them expects: columns, ids, times, prices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np

from data.admission import MAX_FALL_S
from data.lake import Lake
from data.trades import NS
from offline.days import TRADE_COLUMNS, TRADES
from offline.merging import STRANGE_SHARE, counted_times
from offline.recordings import STAGED, trades_of


def faults_of_trades(lake: Lake, product_id: str, day: date) -> list[str]:
    """Return what is wrong with the trades of a product and day, each fault with how often; nothing if all is well.

    Raises:
        FileNotFoundError: there are none.
    """
    first = int(datetime.combine(day, datetime.min.time(), UTC).timestamp()) * NS
    end = first + int(timedelta(days=1).total_seconds()) * NS
    counts = dict.fromkeys(
        (
            "ids do not rise",
            f"times fall by more than {MAX_FALL_S} s",
            "times count as another day's",
            "prices are no finite number above 0",
            "sizes are below 0",
        ),
        0,
    )
    falls, others, prices, sizes, ids = 1, 2, 3, 4, 0
    names = list(counts)
    partition = lake.partition(TRADES, product_id, day)
    has_ids = partition is not None and '"has_ids": "yes"' in partition.notes["facts"]
    last_id, last_time = -1, 0
    for batch in lake.batches(TRADES, product_id, day):
        if batch.schema.names != TRADE_COLUMNS.names or not batch.schema.equals(TRADE_COLUMNS):
            return [f"columns are {', '.join(batch.schema.names)}, agreed are {', '.join(TRADE_COLUMNS.names)}"]
        trades = trades_of(batch.select(STAGED.names), product_id)
        counted = counted_times(trades.event_time, last_time)
        if has_ids:
            counts[names[ids]] += int(np.sum(np.diff(trades.trade_id, prepend=last_id) <= 0))
        counts[names[falls]] += int(np.sum(counted - trades.event_time > MAX_FALL_S * NS))
        counts[names[others]] += int(np.sum((counted < first) | (counted >= end)))
        counts[names[prices]] += int(np.sum(~(np.isfinite(trades.price) & (trades.price > 0))))
        counts[names[sizes]] += int(np.sum(trades.size < 0))
        last_id, last_time = int(trades.trade_id[-1]), int(counted[-1])
    return [f"{name}: {count:,} times" for name, count in counts.items() if count]


def doubts_of_merging(facts: Mapping[str, float | int | str]) -> list[str]:
    """Return what of the merging of a day somebody should look at, by the facts that `make_trades` tells."""
    found = []
    if int(facts.get("id_spaces", 0)) > 1:
        found.append(
            f"recordings number their trades in {facts['id_spaces']} ways, so each counts only for times that none "
            f"before it covers ({int(facts['covered']):,} trades are left out): is one of another market, or simulated?"
        )
    seen = int(facts["rows"]) + int(facts.get("fallen", 0))
    for name, said in (("conflicts", "have another price in another recording"), ("fallen", "fall and are left out")):
        if int(facts.get(name, 0)) > STRANGE_SHARE * seen:
            found.append(f"{int(facts[name]):,} of {seen:,} trades {said}")
    return found
