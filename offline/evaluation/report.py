"""Show the figures of an evaluation: one HTML file with plots, a model card, and a table in Markdown."""

from __future__ import annotations

# ruff: noqa: PLC0415 - matplotlib takes a second to import, and only a report draws
import html as escaping
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.times import time_text
from data.truth.significance import LAGS
from offline.evaluation.scoring import CALIBRATED_EWMA, Scored, Scores
from offline.evaluation.walk_forward import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASIS_POINT = 1e-4
SHOWN_ROWS = 600
"""Newest forecasts in the plot of the band."""
BINS = 10
"""Bins of the calibration plot, with as many forecasts each."""


COLUMNS = (
    "Ratio: QLIKE relative to the calibrated EWMA. p: one-sided Diebold-Mariano against the calibrated EWMA, with "
    f"{LAGS} lags. Log MSE: mean squared error of log volatility. Bias: mean of ln(forecast / realized volatility). "
    "Coverage: share of targets inside the interval of nominal 90 %. Width: mean of ln(upper / lower)."
)
"""Meaning of the columns of `markdown_table`."""


class Subject(NamedTuple):
    """What was evaluated.

    Attributes:
        source: names of the recordings, or of the simulated days.
        models: where the models come from.
    """

    source: str
    models: str


def markdown_table(scores: Scores) -> str:
    """Return the overall figures of all forecasters as a table in Markdown, best first; see `COLUMNS`."""
    lines = [
        "| forecaster | QLIKE | ratio | p | log MSE | bias | coverage | width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(scores.losses, key=lambda each: scores.overall(each).qlike):
        lines.append("| " + " | ".join(_cells(name, scores)) + " |")
    return "\n".join(lines)


def _cells(name: str, scores: Scores) -> list[str]:
    found = scores.overall(name)
    p = "" if name == CALIBRATED_EWMA else f"{scores.significance[name, CALIBRATED_EWMA].p_one_sided:.2g}"
    return [
        f"`{name}`",
        f"{found.qlike:.4f}",
        f"{found.ratio:.3f}",
        p,
        f"{found.log_mse:.4f}",
        f"{found.bias:+.3f}",
        _share(found.coverage),
        "" if np.isnan(found.width) else f"{found.width:.2f}",
    ]


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1%}"


def model_card(subject: Subject, run: Run, scores: Scores) -> str:
    """Return a model card in Markdown: what the models are, what they were judged on, the figures, and the limits."""
    rows = run.rows
    spec = rows.spec
    judged = [name for name in scores.losses if not np.isnan(scores.overall(name).coverage)]
    lines = [
        "# Model card",
        "",
        f"- Models: {subject.models}.",
        f"- Judged on: {subject.source}, {', '.join(rows.products)}, {time_text(int(rows.event_time[0]))} to "
        f"{time_text(int(rows.event_time[-1]))}.",
        f"- Forecast: realized volatility of the next {spec.horizon_s:,} s on a grid of {spec.grid_step_s} s, with an "
        "interval of nominal 90 %.",
        f"- Evidence: {scores.forecasts:,} forecasts in {scores.horizons:,} horizons. Forecasts overlap: a horizon is "
        "the unit of evidence.",
        f"- Zero targets: {scores.zero_share:.1%}. Realized variances below the floor count as the floor, "
        f"{_range(run.floor)}.",
        "",
        "## Figures",
        "",
        markdown_table(scores),
        "",
        COLUMNS,
        "",
        "## Coverage by tercile of the calibrated EWMA's forecast",
        "",
        f"| forecaster | {' | '.join(scores.slices['tercile'])} |",
        f"|---|{'---|' * len(scores.slices['tercile'])}",
    ]
    for name in judged:
        cells = [_share(each[name].coverage) for each in scores.slices["tercile"].values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    if "jump" in scores.slices:
        for name in judged:
            jump = next(iter(scores.slices["jump"].values()))[name]
            lines += [
                "",
                f"`{name}` closes {scores.closed_gap(name):.1%} of the gap between calibrated EWMA and oracle; "
                f"coverage of the {jump.rows:,} forecasts within 5 horizons after a jump: {jump.coverage:.1%}.",
            ]
    lines += [
        "",
        "## Limits",
        "",
        "- No interval covers the forecasts just before a jump: nothing in the past of a market announces a jump.",
        "- Figures belong to this market and this time; another market needs its own evaluation.",
    ]
    lines += [f"- `{name}` is left out: {reason}." for name, reason in run.left_out.items()]
    return "\n".join(lines) + "\n"


def _range(floor: np.typing.NDArray[np.float64]) -> str:
    low, high = f"{floor.min():.2g}", f"{floor.max():.2g}"
    return low if low == high else f"{low} to {high}"


def html_report(subject: Subject, run: Run, scores: Scores) -> str:
    """Return one HTML page with tables and plots, without links to other files."""
    plots = [
        ("The band against what happened", _band(run)),
        ("Cumulated loss difference to the calibrated EWMA: below 0 is better", _cumulated(run, scores)),
        ("By tercile of volatility", _terciles(scores)),
        ("Calibration: mean realized against mean forecast variance", _calibration(run)),
    ]
    if any(run.weights.values()):
        plots.append(("Fitted numbers at each refit", _weights(run)))
    drawn = "".join(f"<h2>{escaping.escape(title)}</h2>{svg}" for title, svg in plots if svg)
    names = list(scores.losses)
    head = ["forecaster", "QLIKE", "ratio", "p", "log MSE", "bias", "coverage", "width"]
    tables = [_table(head, _overall_rows(scores))]
    for kind, slices in scores.slices.items():
        if kind == "all":
            continue
        head = [kind, "forecasts", *(f"{name}" for name in names)]
        body = [
            [each, f"{next(iter(found.values())).rows:,}", *(_ratio_and_coverage(found[name]) for name in names)]
            for each, found in slices.items()
        ]
        tables.append(f"<h2>By {kind}: ratio to the calibrated EWMA, and coverage</h2>{_table(head, body)}")
    pairs = [
        [one, *("" if one == other else f"{scores.significance[one, other].p_one_sided:.3f}" for other in names)]
        for one in names
    ]
    tables.append(f"<h2>Diebold-Mariano: p of row better than column</h2>{_table(['', *names], pairs)}")
    lines = [
        [name, f"{each.intercept:.3g}", f"{each.slope:.3f}", f"{each.r_squared:.3f}"]
        for name, each in scores.mincer_zarnowitz.items()
    ]
    tables.append(f"<h2>Mincer-Zarnowitz</h2>{_table(['', 'intercept', 'slope', 'R squared'], lines)}")
    left = "".join(
        f"<p>{escaping.escape(name)} is left out: {escaping.escape(why)}.</p>" for name, why in run.left_out.items()
    )
    title = escaping.escape(f"Evaluation of {subject.source}")
    facts = escaping.escape(
        f"{subject.models}. {scores.forecasts:,} forecasts of {run.rows.spec.horizon_s:,} s in {scores.horizons:,} "
        f"horizons; {scores.zero_share:.1%} of the targets are 0; variance floor {_range(run.floor)}."
    )
    return _PAGE.format(title=title, facts=facts, left=left, tables=tables[0], drawn=drawn, more="".join(tables[1:]))


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body{{font:14px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}}h2{{font-size:1.1em;margin-top:2em}}
table{{border-collapse:collapse;display:block;overflow-x:auto}}td,th{{padding:.2em .7em;text-align:right;
border-bottom:1px solid #ddd;white-space:nowrap}}td:first-child,th:first-child{{text-align:left}}svg{{max-width:100%;
height:auto}}</style></head><body><h1>{title}</h1><p>{facts}</p>{left}{tables}{drawn}{more}</body></html>
"""


def _overall_rows(scores: Scores) -> list[list[str]]:
    order = sorted(scores.losses, key=lambda each: scores.overall(each).qlike)
    return [[cell.strip("`") for cell in _cells(name, scores)] for name in order]


def _ratio_and_coverage(found: Scored) -> str:
    return f"{found.ratio:.3f}" + ("" if np.isnan(found.coverage) else f" · {found.coverage:.0%}")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escaping.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in body)}</table>"


def _figure(count: int = 1, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for each in axes:
        each.grid(color="0.93")
        each.tick_params(labelsize=7)
    return figure, list(axes)


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cryptovol"}):  # text as text, the same bytes again
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]


def _with_interval(run: Run) -> str | None:
    return next((name for name, each in run.forecasts.items() if not np.isnan(each.lower).any()), None)


def _band(run: Run) -> str:
    name = _with_interval(run)
    if name is None:
        return ""
    figure, (axes,) = _figure()
    time = run.rows.event_time[-SHOWN_ROWS:].view("datetime64[ns]")
    found = run.forecasts[name].take(np.arange(len(run.rows)) >= len(run.rows) - SHOWN_ROWS)
    axes.fill_between(time, found.lower / BASIS_POINT, found.upper / BASIS_POINT, alpha=0.25, label=f"90 % of {name}")
    axes.plot(time, found.score / BASIS_POINT, linewidth=0.8, label=name)
    axes.plot(time, run.rows.targets[-SHOWN_ROWS:] / BASIS_POINT, ".", markersize=2, color="0.3", label="realized")
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylabel("basis points per horizon", fontsize=8)
    axes.legend(fontsize=7)
    return _svg(figure)


def _cumulated(run: Run, scores: Scores) -> str:
    figure, (axes,) = _figure()
    time = run.rows.event_time.view("datetime64[ns]")
    few = np.unique(np.linspace(0, len(time) - 1, min(len(time), 2_000)).astype(np.intp))
    bound = float(np.sum(scores.losses[CALIBRATED_EWMA]))
    for name, loss in scores.losses.items():
        cumulated = np.cumsum(loss - scores.losses[CALIBRATED_EWMA])
        if name != CALIBRATED_EWMA and np.abs(cumulated).max() <= bound:  # a rival that fails would hide all others
            axes.plot(time[few], cumulated[few], linewidth=0.8, label=name)
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.legend(fontsize=7)
    return _svg(figure)


def _terciles(scores: Scores) -> str:
    figure, (left, right) = _figure(2)
    slices = scores.slices["tercile"]
    names = [name for name in scores.losses if name != CALIBRATED_EWMA and scores.overall(name).ratio < 2]
    at = np.arange(len(slices))
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        left.bar(at + i * width, [each[name].ratio for each in slices.values()], width, label=name)
        if not np.isnan(scores.overall(name).coverage):
            right.plot(at, [each[name].coverage for each in slices.values()], "o-", label=name)
    left.axhline(1, color="0.3", linewidth=0.6)
    right.axhline(0.9, color="0.3", linewidth=0.6)
    for axes, title in ((left, "QLIKE relative to the calibrated EWMA"), (right, "coverage of the 90 % interval")):
        axes.set_xticks(at, list(slices))
        axes.set_title(title, fontsize=8)
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def _calibration(run: Run) -> str:
    figure, (axes,) = _figure()
    realized = np.maximum(run.rows.realized, run.floor)
    ends = [np.inf, 0.0]
    for name, each in run.forecasts.items():
        forecast = each.score**2
        order = np.array_split(np.argsort(forecast, kind="stable"), BINS)
        means = np.array([(forecast[rows].mean(), realized[rows].mean()) for rows in order if len(rows)])
        if name in (_with_interval(run), CALIBRATED_EWMA, "oracle"):
            axes.plot(means[:, 0], means[:, 1], "o-", markersize=3, linewidth=0.8, label=name)
            ends = [min(ends[0], means.min()), max(ends[1], means.max())]
    axes.plot(ends, ends, color="0.3", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("mean forecast variance of a tenth of the forecasts", fontsize=8)
    axes.set_ylabel("mean realized variance", fontsize=8)
    axes.legend(fontsize=7)
    return _svg(figure)


def _weights(run: Run) -> str:
    name = _with_interval(run)
    found = run.weights.get(name or "", [])
    if not found or not found[0]:
        return ""
    figure, (axes,) = _figure()
    time = run.refits[: len(found)].view("datetime64[ns]")
    for i, key in enumerate(dict.fromkeys(key for each in found for key in each)):
        values = [each.get(key, np.nan) for each in found]
        (line,) = axes.plot(time, values, marker=".", linewidth=0.8, label=key, color=f"C{i % 10}")
        line.set_linestyle("-" if i < 10 else "--")
    axes.legend(fontsize=6, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)
