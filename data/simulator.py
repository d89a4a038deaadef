"""Seeded trades of any product and UTC day, made without a recording: the market of the first run and of many tests.

What the market's state is, and why a day needs no other day: `data/simulated_state.py`. How orders follow from it:
`data/simulated_orders.py`. What an all-knowing forecaster would say: `data/simulated_truth.py`.
"""

from __future__ import annotations

import argparse
import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data.readers import write_csv
from data.simulated_orders import trades_of_state
from data.simulated_state import DAY_S, FIRST_DAY, Draw, Streams, check_day, log_levels, market_of, state_of
from data.simulated_truth import simulate_truth
from data.trades import NS, StreamKey, Trades

IDS_A_DAY = 100_000_000
"""Trade ids of a day start at its number since 1970 times this: known without the day before, rising across days."""


def simulate_day(product_id: str, day: dt.date, seed: int = 0, hours: tuple[int, int] = (0, 24)) -> Trades:
    """Return the trades of one product and UTC day, or of some hours of it.

    The same arguments give the same bytes, whatever else was made before, and `hours` only cuts. The last price of a
    day and the first of the next are neighbours, and so is their volatility.

    Args:
        product_id: as `BTC-USD`.
        day: UTC, from `FIRST_DAY` to `LAST_DAY`.
        seed: of the whole market, at least 0.
        hours: first hour, and the hour before which to end.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """
    market = market_of(product_id)
    check_day(day, seed)
    if not 0 <= hours[0] < hours[1] <= 24:
        raise ValueError(f"hours must rise within 0 to 24, were {hours[0]} to {hours[1]}")
    streams = Streams(product_id, seed)
    state = state_of(streams, day)
    rng = streams.open(Draw.TRADES, day.toordinal())
    trades = trades_of_state(rng, market, state, log_levels(streams, market, day))
    first, last = np.searchsorted(trades.event_time, np.array(hours) * 3_600 * NS)
    trades = trades.take(slice(first, last))
    number = (day - FIRST_DAY).days
    return replace(
        trades,
        keys=(StreamKey("", product_id),),
        trade_id=trades.trade_id + number * IDS_A_DAY,
        event_time=trades.event_time + number * DAY_S * NS,
    )


def main() -> None:
    """Write simulated hours of one product as a recording."""
    parser = argparse.ArgumentParser(prog="python -m data.simulator", description=main.__doc__)
    parser.add_argument("--product", default="BTC-USD", help="as BTC-USD, the default")
    parser.add_argument("--day", type=dt.date.fromisoformat, required=True, help="UTC, as 2025-01-06")
    parser.add_argument("--hours", type=int, nargs=2, default=(0, 24), metavar=("FROM", "TO"), help="0 24: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="CSV; with gzip if it ends in .gz")
    parser.add_argument("--truth", type=Path, help="Parquet: state and expected variance at each second of these hours")
    args = parser.parse_args()
    try:
        trades = simulate_day(args.product, args.day, args.seed, (args.hours[0], args.hours[1]))
    except ValueError as error:
        parser.error(str(error))
    write_csv(args.out, [trades])
    print(f"{args.out}: {len(trades):,} trades of {args.product}")
    if args.truth:
        truth = simulate_truth(args.product, args.day, args.seed)
        seconds = slice(args.hours[0] * 3_600, args.hours[1] * 3_600)
        args.truth.parent.mkdir(parents=True, exist_ok=True)
        columns = {name: column[seconds] for name, column in truth._asdict().items()}
        columns["event_time"] = pa.array(columns["event_time"], pa.timestamp("ns", "UTC"))
        pa.parquet.write_table(pa.table(columns), args.truth)
        print(f"{args.truth}: {seconds.stop - seconds.start:,} seconds of true state")


if __name__ == "__main__":
    main()
