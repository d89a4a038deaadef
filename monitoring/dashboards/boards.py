"""Put panels together to a dashboard: its variables, its annotations, and its links to the other dashboards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from data.process import catalog
from data.process.declarations import Metric
from monitoring.dashboards.panels import SOURCE, series

TAG: Final = "cryptovol"
EVERY: Final = VariableOption(selected=True, text="All", value="$__all")

_PICKED: Final[Mapping[str, tuple[str, Metric, str, str]]] = {
    "product": ("Product", catalog.FORECAST_VOLATILITY, "product_id", "Products with a judged forecast."),
    "variant": ("Variant", catalog.JUDGED_FORECASTS, "model_variant", "Variants of the models."),
    "purpose": ("Purpose", catalog.OPEN_STREAMS, "purpose", "What a source is for: live, replay or drill."),
}
"""By variable: its name on the page, and the metric and label whose values it offers."""

AnyPanel = timeseries.Panel | stat.Panel | bargauge.Panel
Section = tuple[str, Sequence[AnyPanel]]


def board(name: str, description: str, sections: Sequence[Section]) -> Dashboard:
    """Return a dashboard.

    Args:
        name: as `Forecast quality`; the dashboard's uid follows from the name.
        sections: the title and the panels of each row.
    """
    built = dashboard.Dashboard(f"Cryptovol: {name}").uid(uid_of(name)).description(description)
    built = built.tags([TAG]).timezone("utc").time("now-6h", "now").refresh("10s").readonly()
    built = built.tooltip(DashboardCursorSync.CROSSHAIR).version(1)
    built = built.link(
        dashboard.DashboardLink("Dashboards")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )
    number = 0
    text = ""
    for title, panels in sections:
        number += 1
        built = built.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            built = built.with_panel(panel.id(number))
            text += JSONEncoder().encode(panel.build())
    built = built.with_variable(
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the processes.")
        .type("prometheus")
        .hide(VariableHide.DONT_HIDE)
    )
    built = built.annotation(_moves())
    for variable in _PICKED:
        if variable == "variant" or re.search(rf"\${variable}\b", text):  # the annotation uses the variant
            built = built.with_variable(_variable(variable))
    return built.build()


def uid_of(name: str) -> str:
    """Return the uid of a dashboard.

    >>> uid_of("Forecast quality")
    'cryptovol-forecast-quality'
    """
    return f"{TAG}-{name.lower().replace(' ', '-')}"


def _variable(name: str) -> dashboard.QueryVariable:
    label, metric, values_of, description = _PICKED[name]
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query(f"label_values({metric.exported_name}, {values_of})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(EVERY)
    )


def _moves() -> dashboard.AnnotationQuery:
    """Return the promotions and rollbacks: a mark at the time that is the metric's value."""
    expr = f"{series(catalog.LEDGER_MOVE)} * 1000"
    return (
        dashboard.AnnotationQuery()
        .name("Promotions and rollbacks")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("purple")
        .expr(expr)
        .target(prometheus.Dataquery().ref_id("Moves").expr(expr).range())
        .title_format("{{move}}")
        .text_format("{{model_variant}} {{version}}")
        .tag_keys("move,model_variant")
        .use_value_for_time(True)
    )
