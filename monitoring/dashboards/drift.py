"""Describe the dashboard Drift: has the market changed, and do the forecasts suffer."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from data.process import catalog
from monitoring.dashboards.boards import AnyPanel, board
from monitoring.dashboards.limits import limit
from monitoring.dashboards.panels import Query, bars, lines, series, value

NAME = "Drift"

WORDS = {"0": ("no", "green"), "1": ("yes", "red")}
NOTE = {"0": ("no", "green"), "1": ("yes", "yellow")}


def build() -> Dashboard:
    """Return the dashboard."""
    with_loss = limit("DriftWithLoss", catalog.DRIFT_WITH_LOSS.name)
    old = limit("BatchFigureOld", f'{catalog.FIGURE_AGE.name}{{name="drift_alarm"}}')
    now = [
        value(
            "Drift",
            "Whether a column has drifted by change or spread in the last hour. Drift alone is a note.",
            "none",
            [Query(series(catalog.DRIFT_ALARM), "{{product_id}}")],
            words=NOTE,
            width=5,
        ),
        value(
            "Loss",
            "Whether the forecasts have been worse than their calibrated threshold.",
            "none",
            [Query(series(catalog.DRIFT_LOSS_ALARM), "{{product_id}}")],
            words=NOTE,
            width=4,
        ),
        value(
            "Drift with loss",
            "Whether drift and loss lie within three hours. Asks for a retrain.",
            "none",
            [Query(series(catalog.DRIFT_WITH_LOSS), "{{product_id}}")],
            words=WORDS,
            limit=with_loss,
            width=5,
        ),
        value(
            "Last report",
            "When the last drift report was made. Dagster's asset `drift` has the report as a page.",
            "dateTimeFromNow",
            [Query(f"{series(catalog.DRIFT_REPORT)} * 1000", "{{product_id}}")],
            width=6,
        ),
        value(
            "Last retrain",
            "Whether the last retrain failed.",
            "none",
            [Query(series(catalog.RETRAIN_FAILED), "retrain")],
            words={"0": ("done", "green"), "1": ("failed", "orange")},
            limit=limit("RetrainFailing", catalog.RETRAIN_FAILED.name),
        ),
    ]
    figures: list[AnyPanel] = [
        lines(
            "Age of the figures",
            "Time since a batch job published each figure. The alert asks for the figures of the hourly jobs.",
            "s",
            [Query(f"max by (name) ({series(catalog.FIGURE_AGE, product_id='~$product|')})", "{{name}}")],
            limit=old,
            least=0,
            width=24,
            height=6,
        )
    ]
    return board(
        NAME,
        "Drift of the columns of the feature rows against the champion's training, in units of each threshold.",
        [
            ("Now", now),
            ("Ratio of each column to its threshold, last hour", _columns()),
            ("Over time", _over_time()),
            ("Figures", figures),
        ],
    )


_VIEWS = {
    "change": "Mean of the hour less that of the four hours before.",
    "spread": "Log standard deviation of the hour.",
    "level": "Mean of the hour against training. A level never raises an alarm.",
    "loss": "Share of targets outside the interval, and QLIKE.",
}

ALARM = 1.0
"""Ratios are in units of their threshold, so that an alarm is at 1."""


def _columns() -> list[AnyPanel]:
    return [
        bars(
            view.capitalize(),
            f"{meaning} Largest ratio over the products picked.",
            "none",
            [Query(f"sort_desc(max by (column) ({series(catalog.DRIFT_RATIO, view=view)}))", "{{column}}")],
            alarm=None if view == "level" else ALARM,
            most=2,
            decimals=2,
            width=6,
            height=12,
        )
        for view, meaning in _VIEWS.items()
    ]


def _over_time() -> list[AnyPanel]:
    return [
        lines(
            f"Largest ratio by {view}" if view != "level" else "Ratio of the level",
            f"{meaning} Largest ratio over the columns, by product.",
            "none",
            [Query(f"max by (product_id) ({series(catalog.DRIFT_RATIO, view=view)})", "{{product_id}}")],
            alarm=None if view == "level" else ALARM,
            steps=True,
            least=0,
            decimals=2,
            width=6,
        )
        for view, meaning in _VIEWS.items()
    ]
