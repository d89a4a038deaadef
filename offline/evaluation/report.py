"""Show the figures of an evaluation: one HTML file with plots, a model card, and a table in Markdown."""

from __future__ import annotations

import html as escaping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.times import time_text
from data.truth.significance import LAGS
from offline.evaluation.plots import Plot, plots_of
from offline.evaluation.scoring import Scored, Scores
from offline.evaluation.walk_forward import Run


class Subject(NamedTuple):
    """What was evaluated.

    Attributes:
        source: names of the recordings, or of the simulated days.
        models: where the models come from.
    """

    source: str
    models: str


def meaning_of_columns(scores: Scores) -> str:
    """Return the meaning of the columns of `markdown_table`."""
    return (
        f"Ratio: QLIKE relative to {scores.reference}. p: one-sided Diebold-Mariano against {scores.reference}, with "
        f"{LAGS} lags for each product. Log MSE: mean squared error of log volatility. Bias: mean of ln(forecast / "
        "realized volatility). Coverage: share of targets inside the interval of nominal 90 %. Width: mean of "
        "ln(upper / lower)."
    )


def markdown_table(scores: Scores) -> str:
    """Return the overall figures of all forecasters as a table in Markdown, best first."""
    lines = [
        "| forecaster | QLIKE | ratio | p | log MSE | bias | coverage | width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(scores.losses, key=lambda each: scores.overall(each).qlike):
        lines.append("| " + " | ".join(_cells(name, scores)) + " |")
    return "\n".join(lines)


def _cells(name: str, scores: Scores) -> list[str]:
    found = scores.overall(name)
    p = "" if name == scores.reference else f"{scores.p(name):.2g}"
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
        f"{_floors(run)}.",
        "",
        "## Figures",
        "",
        markdown_table(scores),
        "",
        meaning_of_columns(scores),
        "",
        f"## Coverage by tercile of the volatility that `{scores.reference}` forecasts",
        "",
        tercile_table(scores),
    ]
    if "jump" in scores.slices:
        for name in scores.interval_forecasters():
            jump = next(iter(scores.slices["jump"].values()))[name]
            lines += [
                "",
                f"`{name}` closes {scores.closed_gap(name):.1%} of the gap between {scores.reference} and oracle; "
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


def tercile_table(scores: Scores) -> str:
    """Return the coverage in each tercile, of the forecasters with an interval, as a table in Markdown."""
    terciles = scores.slices["tercile"]
    lines = [f"| forecaster | {' | '.join(terciles)} |", f"|---|{'---|' * len(terciles)}"]
    for name in scores.interval_forecasters():
        lines.append(f"| `{name}` | {' | '.join(_share(each[name].coverage) for each in terciles.values())} |")
    return "\n".join(lines)


def _floors(run: Run) -> str:
    """Return the smallest and the largest variance floor, as text."""
    floors = np.append(run.floor, list(run.own_floors.values()))
    low, high = f"{floors.min():.2g}", f"{floors.max():.2g}"
    return low if low == high else f"{low} to {high}"


def html_report(subject: Subject, run: Run, scores: Scores) -> str:
    """Return one HTML page with tables and plots, without links to other files."""
    drawn = "".join(_figure(plot) for plot in plots_of(run, scores))
    names = list(scores.losses)
    head = ["forecaster", "QLIKE", "ratio", "p", "log MSE", "bias", "coverage", "width"]
    tables = [f"{_table(head, _overall_rows(scores))}<p>{escaping.escape(meaning_of_columns(scores))}</p>"]
    reference = escaping.escape(scores.reference)
    for kind, slices in scores.slices.items():
        if len(slices) == 1 and kind != "jump":  # the same rows as in the first table
            continue
        head = [kind, "forecasts", *(f"{name}" for name in names)]
        body = [
            [each, f"{next(iter(found.values())).rows:,}", *(_ratio_and_coverage(found[name]) for name in names)]
            for each, found in slices.items()
        ]
        tables.append(f"<h2>By {kind}: ratio to {reference}, and coverage</h2>{_table(head, body)}")
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
    models = subject.models[:1].upper() + subject.models[1:]
    facts = escaping.escape(
        f"{models}. {scores.forecasts:,} forecasts of {run.rows.spec.horizon_s:,} s in {scores.horizons:,} "
        f"horizons; {scores.zero_share:.1%} of the targets are 0; variance floor {_floors(run)}."
    )
    return _PAGE.format(title=title, facts=facts, left=left, tables=tables[0], drawn=drawn, more="".join(tables[1:]))


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{{color-scheme:light}}
body{{font:15px/1.5 sans-serif;color:#222;background:#fff;max-width:62rem;margin:1.5rem auto;padding:0 1rem}}
h1{{font-size:1.4rem;overflow-wrap:anywhere}}h2{{font-size:1.1rem;margin:2rem 0 .3rem}}figure{{margin:0}}
figcaption,p{{color:#444;font-size:.9rem;margin:.3rem 0}}.wide{{overflow-x:auto}}
svg{{display:block;width:100%;min-width:38rem;height:auto}}table{{border-collapse:collapse;font-size:.9rem}}
td,th{{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}}
td:first-child,th:first-child{{text-align:left;position:sticky;left:0;background:#fff}}
</style></head><body><h1>{title}</h1><p>{facts}</p>{left}{tables}{drawn}{more}
</body></html>
"""


def _figure(plot: Plot) -> str:
    title, caption = escaping.escape(plot.title), escaping.escape(plot.caption)
    return f'<h2>{title}</h2><figure><figcaption>{caption}</figcaption><div class="wide">{plot.svg}</div></figure>'


def _overall_rows(scores: Scores) -> list[list[str]]:
    order = sorted(scores.losses, key=lambda each: scores.overall(each).qlike)
    return [[cell.strip("`") for cell in _cells(name, scores)] for name in order]


def _ratio_and_coverage(found: Scored) -> str:
    return f"{found.ratio:.3f}" + ("" if np.isnan(found.coverage) else f" · {found.coverage:.0%}")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escaping.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = row(head, "th") + "".join(row(cells, "td") for cells in body)
    return f'<div class="wide"><table>{rows}</table></div>'
