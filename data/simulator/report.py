"""Compare simulated trades with real trades: the table and the plots of docs/simulator.md.

The judged sample is fixed: BTC-USD, seed 0, the first day of each month of 2025, the first ten minutes of each hour,
as long as the longer recording. The median of each fact is judged; the table also shows the spread.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - matplotlib takes a second to import, and only plots need it
import argparse
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.recordings.readers import read_trades
from data.simulator.day import simulate_day
from data.simulator.facts import FACTS, Fact, Widened, facts_of
from data.simulator.state import Streams, state_of
from data.times import DAY_S, NS
from data.trades import Floats, Trades

PRODUCT, SEED = "BTC-USD", 0
SAMPLE = tuple(dt.date(2025, month, 1) for month in range(1, 13))
WINDOW_S = 600
HOURLY = "hourly volatility, max / min within a day"
"""The only fact of whole days; all other facts are of windows."""
TAILS = (0.1, 0.5, 0.9)


class Simulated(NamedTuple):
    """Quantiles of one fact over the simulated windows: 10 %, 50 % and 90 %. The median is judged."""

    low: float
    median: float
    high: float


def simulated_facts() -> dict[str, Simulated]:
    """Return the quantiles of all facts of the simulated sample, by name of the fact."""
    windows: list[dict[str, float]] = []
    days: list[float] = []
    for day in SAMPLE:
        trades = simulate_day(PRODUCT, day, SEED)
        days.append(facts_of(trades)[HOURLY])
        start = trades.event_time[0] // (DAY_S * NS) * DAY_S * NS
        for hour_s in range(0, DAY_S, 3_600):
            cut = np.searchsorted(trades.event_time, start + np.array([hour_s, hour_s + WINDOW_S]) * NS)
            windows.append(facts_of(trades.take(slice(*cut))))
    values = {fact.name: np.array([window[fact.name] for window in windows]) for fact in FACTS}
    values[HOURLY] = np.array(days)
    return {name: Simulated(*np.quantile(value, TAILS).tolist()) for name, value in values.items()}


def read_recording(path: Path) -> Trades:
    """Return all trades of one recording of one product."""
    return Trades.join([batch.trades for batch in read_trades(path)])


def table(simulated: dict[str, Simulated], recorded: dict[str, dict[str, float]]) -> str:
    """Return simulated, published and recorded facts as one table of Markdown.

    Args:
        simulated: quantiles by name of the fact.
        recorded: facts of recordings by name of the fact, by heading of the recording's column.
    """
    head = ["fact", "published", "allowed", "simulated", "10 to 90 % of them", *recorded]
    rows = [head, ["---"] * len(head)]
    for fact in FACTS:
        low, median, high = simulated[fact.name]
        allowed = "shown only" if fact.widened is Widened.NOT_JUDGED else _range(fact.band)
        others = (_number(facts[fact.name]) for facts in recorded.values())
        rows.append(
            [fact.name, _range(fact.published), allowed, _number(median), _range((low, high)), *others],
        )
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(_number(value) for value in (min(values), max(values))))


def plot_facts(path: Path, simulated: dict[str, Simulated]) -> None:
    """Draw the position of each judged fact in its band: 0 and 1 are the ends of the band."""
    from matplotlib.figure import Figure

    judged = [fact for fact in FACTS if fact.widened is not Widened.NOT_JUDGED]
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, 1, color="0.93")
    for row, fact in enumerate(judged):
        low, high = _within_band(fact, fact.published)[[0, -1]]
        axes.plot([low, high], [row, row], color="tab:orange", linewidth=6, solid_capstyle="projecting")
        low, median, high = _within_band(fact, simulated[fact.name])
        axes.plot([low, high], [row, row], color="tab:blue", linewidth=1)
        axes.plot([median], [row], "o", color="tab:blue", markersize=4)
    axes.set_yticks(range(len(judged)), [fact.name for fact in judged], fontsize=7)
    axes.set_ylim(len(judged) - 0.5, -0.5)
    axes.set_xlim(-0.5, 1.5)
    axes.set_xticks([0, 1], ["least allowed", "most allowed"], fontsize=7)
    axes.set_title("orange: published; blue: simulated, median and 10 to 90 % of the windows", fontsize=8)
    figure.savefig(path, dpi=100)


def _within_band(fact: Fact, values: Sequence[float]) -> Floats:
    low, high = fact.band
    return np.asarray((np.sort(np.array(values)) - low) / (high - low))


def plot_hours(path: Path) -> None:
    """Draw two hours of the simulated sample: price, trades a second, and the true volatility behind the trades."""
    from matplotlib.figure import Figure

    first, last = 13, 15
    trades = simulate_day(PRODUCT, SAMPLE[0], SEED, (first, last))
    start = trades.event_time[0] // (3_600 * NS) * 3_600 * NS
    minute = np.arange((last - first) * 3_600) / 60
    at = np.searchsorted(trades.event_time, start + (np.arange(len(minute)) + 1) * NS, side="right") - 1
    volatility = state_of(Streams(PRODUCT, SEED), SAMPLE[0]).volatility[first * 3_600 : last * 3_600]
    figure = Figure(figsize=(8, 5), layout="constrained")
    rows = (
        ("price", trades.price[at]),
        ("trades in the second", np.diff(at, prepend=-1)),
        ("volatility state", volatility),
    )
    for axes, (name, values) in zip(figure.subplots(3, sharex=True), rows, strict=True):
        axes.plot(minute, values, linewidth=0.6)
        axes.set_ylabel(name, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[-1].set_xlabel(f"minutes since {SAMPLE[0]} {first}:00", fontsize=8)
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the facts of simulated trades beside published facts, and beside the facts of recordings."""
    parser = argparse.ArgumentParser(prog="python -m data.simulator.report", description=main.__doc__)
    parser.add_argument("recordings", type=Path, nargs="*", metavar="RECORDING", help="of one product each")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the plots there as well")
    args = parser.parse_args(arguments)
    try:
        recorded = {path.name: facts_of(read_recording(path)) for path in args.recordings}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    simulated = simulated_facts()
    print(table(simulated, recorded), end="")
    if args.plots:
        plot_facts(args.plots / "simulator-facts.png", simulated)
        plot_hours(args.plots / "simulator-hours.png")


if __name__ == "__main__":
    main()
