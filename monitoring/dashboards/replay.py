"""Describe the dashboard Replay: how far recordings have been sent, at which pace, and with which forecasts."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from data.process import catalog
from monitoring.dashboards.boards import AnyPanel, board
from monitoring.dashboards.forecast_quality import SUBJECT, published
from monitoring.dashboards.panels import Query, bars, lines, quantiles, rate, series, value

NAME = "Replay"


def build() -> Dashboard:
    """Return the dashboard."""
    replay = {"purpose": "replay"}
    now: list[AnyPanel] = [
        bars(
            "Progress",
            "Share of the recordings' bytes whose trades were sent, by ingestor.",
            "percentunit",
            [Query(series(catalog.REPLAY_PROGRESS), "{{instance}}")],
            most=1,
            decimals=1,
            width=8,
            height=4,
        ),
        value(
            "Speed",
            "Event time per wall time: asked for, and reached over the last seconds. Infinity: as fast as possible.",
            "suffix:x",
            [Query(series(catalog.REPLAY_SPEED), "{{kind}} {{instance}}")],
            decimals=1,
            width=6,
        ),
        value(
            "Open sources",
            "Replays without an end.",
            "short",
            [Query(series(catalog.OPEN_SOURCES, **replay), "sources")],
            width=5,
        ),
        value(
            "Behind",
            "Records that the forecaster has not taken yet.",
            "short",
            [Query('job:cryptovol_consumer_lag:sum{job="forecaster"}', "records")],
            decimals=0,
            width=5,
        ),
    ]
    pace = [
        lines(
            "Progress",
            "Share of the recordings' bytes whose trades were sent.",
            "percentunit",
            [Query(series(catalog.REPLAY_PROGRESS), "{{instance}}")],
            least=0,
        ),
        lines(
            "Speed reached",
            "Event time per wall time over the last seconds. Dashed: the speed asked for.",
            "suffix:x",
            [
                Query(series(catalog.REPLAY_SPEED, kind="reached"), "reached {{instance}}"),
                Query(f"{series(catalog.REPLAY_SPEED, kind='asked')} < Inf", "asked {{instance}}"),
            ],
            dashed="asked.*",
            least=0,
        ),
        lines(
            "Pacing error",
            "How late each trade was handed to the client; not at speed `max`.",
            "s",
            quantiles(catalog.PACING_ERROR),
            least=0,
        ),
        lines(
            "Trades sent",
            "Trades that the broker has, per second, by ingestor.",
            "recps",
            [Query(rate(catalog.MESSAGES_OUT, topic="coinbase-trades"), "{{instance}}")],
            least=0,
        ),
        lines(
            "Trade to forecast",
            "From a trade's `ingest_time` until its forecast is committed.",
            "s",
            quantiles(catalog.LATENCY, **replay),
            least=0,
        ),
        lines(
            "Rejected rows",
            "Rows of recordings that are no trade, per minute.",
            "cpm",
            [Query(f"60 * sum({rate(catalog.REJECTS, reason='recording', **replay)})", "rows")],
            least=0,
        ),
    ]
    outcome = [
        lines(
            "Judged forecasts",
            "Forecasts whose horizon has passed, per second of wall time.",
            "cps",
            [
                Query(
                    f"sum by (product_id) ({rate(catalog.JUDGED_FORECASTS, role='champion', **replay)})",
                    "{{product_id}}",
                )
            ],
            least=0,
        ),
        lines(
            "QLIKE, last hour of event time",
            "Mean QLIKE of the replayed forecasts.",
            "none",
            [Query(published(catalog.FORECAST_QLIKE, window="1h", **replay), SUBJECT)],
            decimals=3,
        ),
        lines(
            "Coverage, last hour of event time",
            "Share of targets inside the interval, of the replayed forecasts.",
            "percentunit",
            [Query(published(catalog.FORECAST_SHARE, window="1h", side="inside", **replay), SUBJECT)],
            decimals=1,
        ),
    ]
    return board(
        NAME,
        "Recordings on their way into the stream, and the forecasts that follow.",
        [("Now", now), ("Pace", pace), ("Forecasts of the replay", outcome)],
    )
