"""Build queries and panels: a panel has a description, a unit, and the limit of its alert as a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

from data.process.declarations import Metric
from monitoring.dashboards.limits import Limit

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
VARIABLES: Final = {"product_id": "product", "model_variant": "variant", "purpose": "purpose"}
"""Variable that picks the values of a label."""

SCRAPED: Final = ("job", "instance")
"""Labels that Prometheus adds: the process, and its address."""

GOOD, NEUTRAL, ALARMING = "green", "blue", "yellow"
BAD = {"page": "red", "ticket": "orange"}
BASIS_POINTS: Final = "suffix: bp"
"""Unit of a volatility per horizon, once it is multiplied by 10,000."""


class Query(NamedTuple):
    """A PromQL expression, and the name of each series, as `{{product_id}}`."""

    expr: str
    legend: str


def series(metric: Metric, part: str = "", span: str = "", **labels: str) -> str:
    """Return a selector of a metric, with the dashboard's variables for the labels that the metric has.

    Args:
        part: `bucket`, `sum` or `count` of a histogram.
        span: time before each point, as in `rate`; empty: the point itself.
        labels: values to select; a value that starts with `~` is a regular expression, with `!` is left out.

    Raises:
        ValueError: the metric has no such label.
    """
    if unknown := labels.keys() - {*metric.labels, *SCRAPED}:
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
    name = f"{metric.exported_name}_{part}" if part else metric.exported_name
    picked = {label: f"~${VARIABLES[label]}" for label in metric.labels if label in VARIABLES} | labels
    matchers = ",".join(f"{label}{_matcher(value)}" for label, value in picked.items())
    return f"{name}{{{matchers}}}{span and f'[{span}]'}" if matchers else f"{name}{span and f'[{span}]'}"


def _matcher(value: str) -> str:
    sign = {"~": "=~", "!": "!="}.get(value[:1], "=")
    return f'{sign}"{value if sign == "=" else value[1:]}"'


def rate(metric: Metric, part: str = "", **labels: str) -> str:
    """Return the rate of a counter, per second."""
    return f"rate({series(metric, part, '$__rate_interval', **labels)})"


def quantiles(metric: Metric, by: str = "", **labels: str) -> list[Query]:
    """Return queries for the 50, 95 and 99 % quantile of a histogram, for each value of the label `by`."""
    group, name = (f"{by}, le", f"{{{{{by}}}}} ") if by else ("le", "")
    buckets = f"sum by ({group}) ({rate(metric, 'bucket', **labels)})"
    return [Query(f"histogram_quantile({q}, {buckets})", f"{name}p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    limit: Limit | None = None,
    alarm: float | None = None,
    width: int = 8,
    height: int = 7,
    dashed: str = "",
    decimals: int | None = None,
    steps: bool = False,
    least: float | None = None,
) -> timeseries.Panel:
    """Return a panel of values over time.

    Args:
        limit: drawn as a dashed line.
        alarm: the same for a value that the project calls an alarm, and for which no alert fires.
        dashed: regular expression for the names of the series that are drawn grey and dashed, as promises are.
        steps: whether a value holds until the next one.
        least: the axis reaches at least down to this value.
    """
    panel = timeseries.Panel().title(title).description(_described(description, limit)).unit(unit)
    panel = panel.datasource(SOURCE).span(width).height(height).line_width(1).fill_opacity(0)
    panel = panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    panel = panel.show_points(VisibilityMode.NEVER).span_nulls(60_000.0)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    ).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if decimals is not None:
        panel = panel.decimals(decimals)
    if steps:
        panel = panel.line_interpolation(LineInterpolation.STEP_AFTER)
    if least is not None:
        panel = panel.axis_soft_min(least)
    if limit or alarm is not None:
        panel = panel.thresholds(_thresholds(limit, alarm))
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
        panel = panel.axis_soft_max(1.1 * (limit.value if limit else alarm or 0.0))
    if dashed:
        panel = panel.override_by_regexp(dashed, DASHED)
    for query in _targets(queries):
        panel = panel.with_target(query.range())
    return panel


DASHED: Final = [
    DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
    DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "#9a9fa8"}),
]


def coloured(name: str, colour: str, **custom: object) -> tuple[str, list[DynamicConfigValue]]:
    """Return an override for one series: its colour, and custom properties as `lineWidth`."""
    colours = [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})]
    return name, [*colours, *(DynamicConfigValue(f"custom.{key}", value) for key, value in custom.items())]


def value(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    limit: Limit | None = None,
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    words: Mapping[str, tuple[str, str]] | None = None,
    names: bool = False,
    graph: bool = False,
) -> stat.Panel:
    """Return a panel of current values.

    Args:
        words: text and colour by value, as `{"1": ("ready", "green")}`.
        names: whether to show the name of each series in place of its value.
        graph: whether to draw the values of the whole time behind the number.
    """
    panel = stat.Panel().title(title).description(_described(description, limit)).unit(unit)
    panel = panel.datasource(SOURCE).span(width).height(height).no_value("none")
    panel = panel.color_mode(BigValueColorMode.VALUE).reduce_options(_last()).orientation(VizOrientation.AUTO)
    panel = panel.graph_mode(BigValueGraphMode.AREA if graph else BigValueGraphMode.NONE)
    panel = panel.wide_layout(False).text(common.VizTextDisplayOptions().title_size(13).value_size(28))
    several = len(queries) > 1 or "{{" in queries[0].legend
    panel = panel.text_mode(
        BigValueTextMode.NAME if names else BigValueTextMode.VALUE_AND_NAME if several else BigValueTextMode.VALUE
    )
    panel = panel.thresholds(_thresholds(limit))
    if decimals is not None:
        panel = panel.decimals(decimals)
    if words:
        panel = panel.mappings([_words(words)])
    for query in _targets(queries):
        panel = panel.with_target(query.range() if graph else query.instant())
    return panel


def bars(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    alarm: float | None = None,
    width: int = 8,
    height: int = 7,
    most: float | None = None,
    decimals: int | None = None,
) -> bargauge.Panel:
    """Return a panel of current values as bars from 0 to `most`; bars from `alarm` on have another colour."""
    panel = bargauge.Panel().title(title).description(description).unit(unit)
    panel = panel.datasource(SOURCE).span(width).height(height).min(0).no_value("none")
    panel = panel.reduce_options(_last()).orientation(VizOrientation.HORIZONTAL)
    panel = panel.display_mode(BarGaugeDisplayMode.BASIC).show_unfilled(True)
    panel = panel.text(common.VizTextDisplayOptions().title_size(13).value_size(14))
    panel = panel.thresholds(_thresholds(None, alarm))
    if most is not None:
        panel = panel.max(most)
    if decimals is not None:
        panel = panel.decimals(decimals)
    for query in _targets(queries):
        panel = panel.with_target(query.instant())
    return panel


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().ref_id(chr(ord("A") + place)).expr(query.expr).legend_format(query.legend)
        for place, query in enumerate(queries)
    ]


def _described(description: str, limit: Limit | None) -> str:
    if limit is None:
        return description
    return f"{description} Alert {limit.alert}: {limit.sign} {limit.value:g}."


def _thresholds(limit: Limit | None, alarm: float | None = None) -> dashboard.ThresholdsConfig:
    """Return the colours of values: green up to the limit of the alert, then the colour of its severity."""
    if limit:
        colours = [GOOD, BAD[limit.severity]]
        below, above = colours if not limit.sign.startswith("<") else reversed(colours)
        steps = [Threshold(None, below), Threshold(limit.value, above)]
    elif alarm is not None:
        steps = [Threshold(None, GOOD), Threshold(alarm, ALARMING)]
    else:
        steps = [Threshold(None, NEUTRAL)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _words(words: Mapping[str, tuple[str, str]]) -> ValueMapping:
    return ValueMap({key: ValueMappingResult(text=text, color=colour) for key, (text, colour) in words.items()})


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")
