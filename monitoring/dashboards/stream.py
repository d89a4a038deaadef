"""Describe the dashboard Stream: records on their way from trade to forecast, and into the lake."""

from __future__ import annotations

from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard

from data.process import catalog
from monitoring.dashboards.boards import board
from monitoring.dashboards.limits import Limit, limit
from monitoring.dashboards.panels import Query, lines, quantiles, rate, series, value

NAME = "Stream"


def build() -> Dashboard:
    """Return the dashboard."""
    lag = limit("ConsumerLagGrowing", "job:cryptovol_consumer_lag_watched:sum")
    rejects = limit("RecordsRejected", f'{catalog.REJECTS.exported_name}{{purpose!="drill"}}[15m]')
    now = [
        value(
            "Behind",
            "Records that a process has not taken yet. The alert needs a lag that grows for five minutes, and leaves "
            "out the partitions of drills and fast replays.",
            "short",
            [Query("job:cryptovol_consumer_lag:sum", "{{job}}")],
            limit=lag,
            decimals=0,
            width=5,
        ),
        newest_forecast(width=5),
        value(
            "Open sources",
            "Sources without an end, by purpose.",
            "short",
            [Query(series(catalog.OPEN_SOURCES), "{{purpose}}")],
            width=5,
        ),
        value(
            "Rejected in 15 minutes",
            "Records not taken, of purposes other than `drill`.",
            "short",
            [Query(f"sum(increase({series(catalog.REJECTS, span='15m', purpose='!drill')}))", "records")],
            limit=rejects,
            decimals=0,
            width=5,
        ),
        value(
            "Removed before read",
            "Trades that retention removed before the forecaster read them. Their forecasts are lost.",
            "short",
            [Query(series(catalog.REMOVED_TRADES), "trades")],
            width=4,
        ),
    ]
    flow = [
        lines(
            "Records written",
            "Records that the broker has, per second, by topic.",
            "recps",
            [Query(f"sum by (topic) ({rate(catalog.MESSAGES_OUT)})", "{{topic}}")],
            least=0,
        ),
        lines(
            "Records read",
            "Records read per second, by process and topic.",
            "recps",
            [Query(f"sum by (job, topic) ({rate(catalog.MESSAGES_IN)})", "{{job}} {{topic}}")],
            least=0,
        ),
        lines(
            "Behind by partition",
            "Offsets from the next record that a process takes to the end of the committed records.",
            "short",
            [Query(series(catalog.CONSUMER_LAG), "{{job}} {{topic}} {{kafka_partition}}")],
            least=0,
        ),
        lines(
            "Behind by process",
            "Offsets behind over all partitions. The alert needs a lag that grows for five minutes, and leaves "
            "out the partitions of drills and fast replays.",
            "short",
            [Query("job:cryptovol_consumer_lag:sum", "{{job}}")],
            limit=lag,
            least=0,
        ),
        lines(
            "Age of the newest forecast",
            "Wall time minus the `ingest_time` of the newest forecast of each product's most silent open source.",
            "s",
            [Query(series(catalog.NEWEST_FORECAST_AGE), "{{product_id}} {{purpose}}")],
            limit=_stale(),
            least=0,
        ),
        lines(
            "Open streams",
            "Products of open sources with a window in the forecaster.",
            "short",
            [Query(f"sum by (purpose) ({series(catalog.OPEN_STREAMS)})", "{{purpose}}")],
            steps=True,
            least=0,
            decimals=0,
        ),
    ]
    work = [
        trade_to_forecast(),
        lines(
            "Time of a transaction",
            "From a batch that was read to a batch that is committed.",
            "s",
            quantiles(catalog.TRANSACTION),
            least=0,
        ),
        lines(
            "Rejects",
            "Records not taken, per minute, by process and reason.",
            "cpm",
            [Query(f"60 * sum by (job, reason) ({rate(catalog.REJECTS)})", "{{job}} {{reason}}")],
            least=0,
        ),
    ]
    lake = [
        lines(
            "Not yet in the lake",
            "Offsets of each topic that the lake did not hold at the sink's last run.",
            "short",
            [Query(series(catalog.SINK_OFFSETS_BEHIND), "{{topic}}")],
            steps=True,
            least=0,
            width=12,
            height=6,
        ),
        lines(
            "Rows that differ from offline",
            "Rows of the last parity check whose online and offline values differ.",
            "short",
            [Query(series(catalog.PARITY_DIFFERENT_ROWS), "{{product_id}}")],
            limit=limit("ParityBroken", catalog.PARITY_DIFFERENT_ROWS.name),
            steps=True,
            least=0,
            decimals=0,
            width=12,
            height=6,
        ),
    ]
    return board(
        NAME,
        "Records on their way: trades in, rows and forecasts out, and what waits.",
        [("Now", now), ("Flow", flow), ("Forecaster", work), ("Lake", lake)],
    )


def newest_forecast(width: int = 4) -> stat.Panel:
    """Return the panel of the age of the newest forecast."""
    return value(
        "Newest forecast",
        "Age of the newest forecast of the open source, by product, that has been silent the longest.",
        "s",
        [Query(f"max({series(catalog.NEWEST_FORECAST_AGE)})", "age")],
        limit=_stale(),
        decimals=1,
        width=width,
    )


def trade_to_forecast() -> timeseries.Panel:
    """Return the panel of the time from a trade to its forecast."""
    return lines(
        "Trade to forecast",
        "From a trade's `ingest_time` until its forecast is committed, by purpose.",
        "s",
        quantiles(catalog.LATENCY, by="purpose"),
        least=0,
    )


def _stale() -> Limit:
    return limit("ForecastStale", catalog.NEWEST_FORECAST_AGE.name)
