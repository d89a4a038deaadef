"""Plots of an evaluation as SVG: dark text on white, the same colour for a forecaster in each plot."""

from __future__ import annotations

# ruff: noqa: PLC0415 - matplotlib takes a second to import, and only a report draws
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data.trades import Int64s
from offline.evaluation.scoring import ORACLE, Scores
from offline.evaluation.walk_forward import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BASIS_POINT = 1e-4
SHOWN_ROWS = 600
"""Newest forecasts in the plot of the band."""
SHOWN_POINTS = 2_000
"""Most points of the line of a cumulated loss."""
BINS = 10
"""Bins of the calibration plot, with as many forecasts each."""
LEAST_OF_BIN = 5
"""Fewest forecasts of a bin."""
MOST_RATIO = 2.0
"""Forecasters with a larger QLIKE, relative to the reference, are left out of the plots of losses."""

STYLE: Any = {
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "cryptovol",  # the same bytes again
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": "#222222",
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e8e8e8",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "timezone": "UTC",
}
COLOURS = ("#1f5fbf", "#d95f02", "#1b8a5a", "#b03a8c", "#7a5b1e", "#e6a700", "#00909e", "#c0392b", "#6a4fb3", "#777777")
"""Of forecasters in the order of the run; more forecasters have the same colours with dashes."""
NEUTRAL = "#555555"


class Plot(NamedTuple):
    """A plot of a report.

    Attributes:
        title: heading.
        caption: how to read the plot.
        svg: the drawing.
    """

    title: str
    caption: str
    svg: str


def plots_of(run: Run, scores: Scores) -> list[Plot]:
    """Return the plots of a run; a plot without data is left out."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = [draw(run, scores) for draw in (_band, _cumulated, _terciles, _calibration, _weights)]
    return [each for each in drawn if each is not None]


@contextmanager
def _drawn(count: int = 1, height: float = 3.4) -> Iterator[tuple[list[Axes], list[str]]]:
    """Yield the axes of a new figure, side by side, and a list that holds the SVG when the block ends."""
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=(9, height), layout="constrained")
    drawn: list[str] = []
    yield list(figure.subplots(1, count, squeeze=False)[0]), drawn
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    drawn.append("<svg" + file.getvalue().partition("<svg")[2])


def _times(axes: Axes, time: Int64s) -> Any:
    """Return times as matplotlib takes them, and label the axis with days and hours, UTC."""
    from matplotlib import dates

    make: Any = dates  # its functions have no types
    locator = make.AutoDateLocator(minticks=4, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(make.ConciseDateFormatter(locator))
    axes.set_xlabel("UTC")
    return time.view("datetime64[ns]")


def label_plainly(axis: Axis) -> None:
    """Write 6, 10, 20 at the ticks of a logarithmic axis, where matplotlib's own labels are powers of 10."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""  # empty where labels would be too many

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(2, 0.5)))  # some up to 2 decades, all to half


def _look(run: Run, name: str) -> dict[str, Any]:
    """Return colour and dashes of a forecaster's line."""
    at = list(run.forecasts).index(name)
    return {"color": COLOURS[at % len(COLOURS)], "linestyle": "-" if at < len(COLOURS) else "--", "label": name}


def _legend(axes: Axes, columns: int = 4) -> None:
    """Put the legend above the plot, on the left, where a narrow screen shows it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, columnspacing=1.2)


def _band(run: Run, scores: Scores) -> Plot | None:
    name = next(iter(scores.interval_forecasters()), None)
    if name is None:
        return None
    rows = run.rows
    newest = int(rows.product[-1])
    shown = np.flatnonzero(rows.product == newest)[-SHOWN_ROWS:]
    found = run.forecasts[name]
    lower, score, upper = (each[shown] / BASIS_POINT for each in (found.lower, found.score, found.upper))
    realized = rows.targets[shown] / BASIS_POINT
    with _drawn() as ((axes,), drawn):
        time, colour = _times(axes, rows.event_time[shown]), _look(run, name)["color"]
        axes.fill_between(time, lower, upper, alpha=0.2, linewidth=0, color=colour, label="90 % interval")
        axes.plot(time, score, linewidth=1.2, color=colour, label="forecast")
        axes.plot(time, realized, ".", markersize=3, color="#222222", label="realized")
        axes.set_yscale("log", nonpositive="mask")
        label_plainly(axes.yaxis)
        axes.set_ylabel(f"basis points per {rows.spec.horizon_s:,} s")
        _legend(axes)
    inside = float(np.mean((found.lower[shown] <= rows.targets[shown]) & (rows.targets[shown] <= found.upper[shown])))
    caption = (
        f"{rows.products[newest]}, the newest {len(shown):,} forecasts of {name}: volatility per horizon, logarithmic. "
        f"{inside:.0%} of these realized values are inside the interval."
    )
    return Plot("Band against realized volatility", caption, drawn[0])


def _cumulated(run: Run, scores: Scores) -> Plot:
    time = run.rows.event_time
    few = np.unique(np.linspace(0, len(time) - 1, min(len(time), SHOWN_POINTS)).astype(np.intp))
    with _drawn() as ((axes,), drawn):
        shown = _times(axes, time[few])
        for name in _shown(scores):
            cumulated = np.cumsum(scores.losses[name] - scores.base[name])
            axes.plot(shown, cumulated[few], linewidth=1.2, **_look(run, name))
        axes.axhline(0, color=NEUTRAL, linewidth=0.8)
        axes.set_ylabel("sum of QLIKE differences")
        _legend(axes)
    caption = (
        f"Loss of each forecaster minus the loss of {scores.reference}, summed over time. A falling line gains. "
        f"Forecasters above {MOST_RATIO:g} times the QLIKE are left out."
    )
    return Plot("Cumulated loss difference", caption, drawn[0])


def _shown(scores: Scores) -> list[str]:
    """Return the forecasters in plots of losses: one that fails would hide all others."""
    return [name for name in scores.losses if name != scores.reference and scores.overall(name).ratio <= MOST_RATIO]


def _terciles(run: Run, scores: Scores) -> Plot:
    from matplotlib.ticker import MultipleLocator

    slices = scores.slices["tercile"]
    names = _shown(scores)
    covering = scores.interval_forecasters()
    at = np.arange(len(slices))
    width = 0.8 / max(len(names), 1)
    with _drawn(2) as ((left, right), drawn):
        for i, name in enumerate(names):
            ratios = [each[name].ratio for each in slices.values()]
            left.bar(at + (i - (len(names) - 1) / 2) * width, ratios, width, color=_look(run, name)["color"])
            left.plot([], [], linewidth=5, **_look(run, name))  # for the legend
        for name in covering:
            covered = [100 * each[name].coverage for each in slices.values()]
            right.plot(at, covered, marker="o", linewidth=1.2, **_look(run, name))
        left.axhline(1, color=NEUTRAL, linewidth=0.8)
        right.axhline(90, color=NEUTRAL, linewidth=0.8)
        left.set_ylabel(f"QLIKE / QLIKE of {scores.reference}")
        right.set_ylabel("coverage of the 90 % interval, %")
        low = min((100 * each[name].coverage for each in slices.values() for name in covering), default=90)
        right.set_ylim(min(np.floor(low) - 2, 80), 100)
        right.yaxis.set_major_locator(MultipleLocator(5))
        for axes in (left, right):
            axes.set_xticks(at, list(slices))
            axes.set_xlim(-0.5, len(slices) - 0.5)
            _legend(axes, 2)
    caption = f"Thirds of the forecasts, by the volatility that {scores.reference} forecasts. Bars below 1 are better."
    return Plot("By tercile of volatility", caption, drawn[0])


def _calibration(run: Run, scores: Scores) -> Plot:
    bins = max(min(BINS, len(run.rows.targets) // LEAST_OF_BIN), 1)
    ends = [np.inf, 0.0]
    with _drawn(height=4.2) as ((axes,), drawn):
        for name in dict.fromkeys((next(iter(run.forecasts)), scores.reference, ORACLE)):
            if name not in run.forecasts:
                continue
            forecast, realized = run.forecasts[name].score ** 2, run.realized(name)
            parts = np.array_split(np.argsort(forecast, kind="stable"), bins)
            means = np.sqrt([(forecast[rows].mean(), realized[rows].mean()) for rows in parts]) / BASIS_POINT
            axes.plot(means[:, 0], means[:, 1], marker="o", markersize=4, linewidth=1.2, **_look(run, name))
            ends = [min(ends[0], means.min()), max(ends[1], means.max())]
        axes.plot(ends, ends, color=NEUTRAL, linewidth=0.8, label="perfect")
        axes.set_xscale("log")
        axes.set_yscale("log")
        label_plainly(axes.xaxis)
        label_plainly(axes.yaxis)
        axes.set_xlabel(f"root of the mean forecast variance, basis points per {run.rows.spec.horizon_s:,} s")
        axes.set_ylabel("root of the mean realized variance")
        _legend(axes)
    caption = f"{bins} groups with as many forecasts each, from the calmest forecasts to the wildest."
    return Plot("Calibration", caption, drawn[0])


def _weights(run: Run, _: Scores) -> Plot | None:
    """Plot the fitted numbers of the first forecaster that has some: bars of one fit, or lines over the refits."""
    name = next((name for name in run.forecasts if any(run.weights.get(name, []))), None)
    if name is None:
        return None
    found = run.weights[name]
    keys = list(dict.fromkeys(key for each in found for key in each))
    title = "Fitted weights"
    if len(found) == 1:
        with _drawn(height=0.8 + 0.25 * len(keys)) as ((axes,), drawn):
            values = [found[0][key] for key in keys]
            axes.barh(keys, values, color=_look(run, name)["color"])
            axes.axvline(0, color=NEUTRAL, linewidth=0.8)
            axes.invert_yaxis()
            axes.margins(x=0.12)
            axes.grid(visible=False, axis="y")
            for key, value in zip(keys, values, strict=True):
                side = "left" if value >= 0 else "right"
                axes.annotate(
                    f"{value:.3g}",
                    (value, key),
                    (3 if value >= 0 else -3, 0),
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=8,
                )
        return Plot(title, f"Of {name}: {_MEANING}", drawn[0])
    with _drawn(height=max(3.4, 0.19 * len(keys))) as ((axes,), drawn):
        time = _times(axes, run.refits[: len(found)])
        for i, key in enumerate(keys):
            values = [each.get(key, np.nan) for each in found]
            style = "-" if i < len(COLOURS) else "--"
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(time, values, style, marker=".", linewidth=1.2, label=key, color=colour)
        axes.axhline(0, color=NEUTRAL, linewidth=0.8)
        axes.set_ylabel("weight")
        _legend(axes, 3)
    return Plot(title, f"Of {name} at each refit: {_MEANING}", drawn[0])


_MEANING = (
    "coefficients of the ridge on the inputs of the best step, ratios and volumes as logarithms; of a model without a "
    "ridge, the scale of each EWMA."
)
