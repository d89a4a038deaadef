"""Write a simulated day: `python -m data.simulator --product BTC-USD --day 2025-01-06 --out trades.csv.gz`."""

from __future__ import annotations

import argparse
import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.simulator.state import MarketShift
from data.simulator.truth import simulate_truth


def main() -> None:
    """Write simulated hours of one product as a recording."""
    parser = argparse.ArgumentParser(prog="python -m data.simulator", description=main.__doc__)
    parser.add_argument("--product", default="BTC-USD", help="as BTC-USD, the default")
    parser.add_argument("--day", type=dt.date.fromisoformat, required=True, help="UTC, as 2025-01-06")
    parser.add_argument("--hours", type=int, nargs=2, default=(0, 24), metavar=("FROM", "TO"), help="0 24: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="CSV; with gzip if it ends in .gz")
    parser.add_argument(
        "--harm-from",
        type=dt.time.fromisoformat,
        metavar="HH:MM",
        help="from this time on volatility changes faster than any model has learnt: forecasts get worse",
    )
    parser.add_argument("--truth", type=Path, help="Parquet: state and expected variance at each second of these hours")
    args = parser.parse_args()
    harm_from: dt.time | None = args.harm_from
    if harm_from is not None and args.truth:
        parser.error("--truth is of an ordinary market: leave out --harm-from")
    shift = None if harm_from is None else MarketShift(harm_from.hour * 3_600 + harm_from.minute * 60)
    try:
        trades = simulate_day(args.product, args.day, args.seed, (args.hours[0], args.hours[1]), shift)
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
