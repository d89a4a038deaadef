"""Describe the dashboard Forecast quality: forecasts, realized volatility, and the promises of the model."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from data.process import catalog
from data.process.declarations import Metric
from monitoring.dashboards.boards import AnyPanel, board
from monitoring.dashboards.limits import limit
from monitoring.dashboards.panels import BASIS_POINTS, Query, bars, coloured, lines, series, value
from monitoring.live_truth import COVERAGE_MARGIN

NAME = "Forecast quality"

SUBJECT = "{{product_id}} {{model_variant}} {{version}}"
"""Name of a series of published forecasts."""
BELOW, ABOVE = "#5794f2", "#ff9830"
"""Colours of a target below and above its interval."""


def published(metric: Metric, **labels: str) -> str:
    """Return a selector of published forecasts after the end of the model's training."""
    return series(metric, role="champion", in_sample="false", **labels)


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        NAME,
        "Forecasts against what happened: each forecast is judged once its horizon has passed.",
        [
            ("Over the last day of event time", _day()),
            ("Forecast against realized", _band()),
            ("Over the last hour of event time", _hour()),
            ("Misses by side, and by tercile of the volatility", _misses()),
            ("Shadows, and forecasts in sample", _apart()),
        ],
    )


def _day() -> list[AnyPanel]:
    return [
        value(
            "QLIKE",
            "Mean QLIKE of the published forecasts; 0 is perfect.",
            "none",
            [Query(published(catalog.FORECAST_QLIKE, window="1d"), SUBJECT)],
            decimals=3,
            graph=True,
        ),
        value(
            "Coverage",
            "Share of targets inside the interval.",
            "percentunit",
            [Query(published(catalog.FORECAST_SHARE, window="1d", side="inside"), SUBJECT)],
            decimals=1,
            graph=True,
        ),
        value(
            "Bias",
            "Mean of ln(forecast volatility / realized volatility); 0.1 is about 10 % too high.",
            "none",
            [Query(published(catalog.FORECAST_BIAS, window="1d"), SUBJECT)],
            decimals=3,
            graph=True,
        ),
        value(
            "Mincer-Zarnowitz slope",
            "Slope of realized variance on forecast variance; 1 is right, less means forecasts that swing too much.",
            "none",
            [Query(published(catalog.FORECAST_MINCER_ZARNOWITZ_SLOPE, window="1d"), SUBJECT)],
            decimals=2,
            graph=True,
        ),
        value(
            "p that the baseline is better",
            "One-sided p of Diebold and Mariano; a small p speaks for the baseline.",
            "none",
            [Query(published(catalog.FORECAST_WORSE_P), SUBJECT)],
            limit=limit("ForecastWorseThanBaseline", catalog.FORECAST_WORSE_P.name),
            decimals=3,
        ),
        value(
            "Evidence",
            "Judged forecasts in units of whole horizons: forecasts of one horizon overlap.",
            "none",
            [Query(published(catalog.FORECAST_HORIZONS, window="1d"), SUBJECT)],
            decimals=0,
        ),
    ]


def _band() -> list[AnyPanel]:
    newest = (
        ("upper", catalog.FORECAST_UPPER),
        ("lower", catalog.FORECAST_LOWER),
        ("forecast", catalog.FORECAST_VOLATILITY),
        ("realized", catalog.FORECAST_REALIZED),
    )
    band = lines(
        "Band against realized: $product",
        "Newest judged forecast with its interval, and the volatility that was realized, in basis points per horizon.",
        BASIS_POINTS,
        [Query(f"10000 * max by (product_id) ({series(metric)})", name) for name, metric in newest],
        width=24,
        height=9,
        decimals=1,
        least=0,
    )
    band = band.override_by_name(*coloured("upper", BELOW, fillBelowTo="lower", lineWidth=0, fillOpacity=20))
    band = band.override_by_name(*coloured("lower", BELOW, lineWidth=0))
    band = band.override_by_name(*coloured("forecast", BELOW, lineWidth=2))
    band = band.override_by_name(*coloured("realized", ABOVE, lineWidth=1))
    return [
        band.repeat("product").max_per_row(1),
        lines(
            "Cumulated QLIKE less the baseline's",
            "Sum since the oldest record that the exporter has read. A falling line: better than the baseline.",
            "none",
            [Query(series(catalog.FORECAST_QLIKE_DIFFERENCE_SUM), "{{product_id}} {{purpose}}")],
            width=12,
        ),
        lines(
            "QLIKE less the baseline's, last hour",
            "Mean over the last hour of event time; below 0 is better than the baseline.",
            "none",
            [Query(published(catalog.FORECAST_QLIKE_DIFFERENCE, window="1h"), SUBJECT)],
            width=12,
            decimals=3,
        ),
    ]


def _hour() -> list[AnyPanel]:
    promised = "promised, {{model_variant}} {{version}}"
    return [
        lines(
            "QLIKE",
            "Mean QLIKE. Dashed: the 95 % quantile of the hours of the model's test.",
            "none",
            [
                Query(published(catalog.FORECAST_QLIKE, window="1h"), SUBJECT),
                Query(_in_use(series(catalog.PROMISED_QLIKE, quantile="0.95")), promised),
            ],
            dashed="promised.*",
            decimals=3,
            width=12,
        ),
        lines(
            "Coverage",
            "Share of targets inside the interval. Dashed: below this value an hour counts as low, the 5 % quantile "
            f"of the hours of the model's test less {COVERAGE_MARGIN:g}.",
            "percentunit",
            [
                Query(published(catalog.FORECAST_SHARE, window="1h", side="inside"), SUBJECT),
                Query(f"{_in_use(series(catalog.PROMISED_COVERAGE, quantile='0.05'))} - {COVERAGE_MARGIN:g}", promised),
            ],
            dashed="promised.*",
            decimals=1,
            width=12,
        ),
        lines(
            "Hours of low coverage",
            "Closed hours in a row, up to the newest, with a coverage below the dashed line of the panel Coverage.",
            "h",
            [Query(published(catalog.FORECAST_LOW_COVERAGE_HOURS), SUBJECT)],
            limit=limit("ForecastCoverageLow", catalog.FORECAST_LOW_COVERAGE_HOURS.name),
            steps=True,
            least=0,
            decimals=0,
            width=6,
        ),
        lines(
            "Hours of high QLIKE",
            "Closed hours in a row, up to the newest, with a QLIKE above the dashed line of the panel QLIKE.",
            "h",
            [Query(published(catalog.FORECAST_HIGH_QLIKE_HOURS), SUBJECT)],
            limit=limit("ForecastLossHigh", catalog.FORECAST_HIGH_QLIKE_HOURS.name),
            steps=True,
            least=0,
            decimals=0,
            width=6,
        ),
        lines(
            "Bias",
            "Mean of ln(forecast volatility / realized volatility); above 0 the forecasts are too high.",
            "none",
            [Query(published(catalog.FORECAST_BIAS, window="1h"), SUBJECT)],
            decimals=2,
            width=6,
        ),
        lines(
            "Width of the interval",
            "Mean of ln(upper / lower bound).",
            "none",
            [Query(published(catalog.FORECAST_INTERVAL_LOG_WIDTH, window="1h"), SUBJECT)],
            decimals=2,
            width=6,
        ),
    ]


def _in_use(promise: str) -> str:
    """Return the promises of models whose forecasts are published."""
    forecasts = published(catalog.FORECAST_HORIZONS, window="1h")
    return f"({promise} and on (model_variant, version) {forecasts})"


def _misses() -> list[AnyPanel]:
    shares = [
        Query(f"avg by (side) ({published(catalog.FORECAST_SHARE, window='1h', side=side)})", side)
        for side in ("below", "above")
    ]
    misses = lines(
        "Misses, last hour",
        "Share of targets below and above the interval, mean over the products picked.",
        "percentunit",
        shares,
        decimals=1,
        least=0,
        width=9,
    )
    misses = misses.override_by_name(*coloured("below", BELOW)).override_by_name(*coloured("above", ABOVE))
    by_tercile = f"by (tercile) ({published(catalog.FORECAST_TERCILE_QLIKE)})"
    return [
        misses,
        bars(
            "QLIKE by tercile, last day",
            "Mean QLIKE when the market was calm (0), usual (1) and wild (2), mean over the products picked.",
            "none",
            [Query(f"avg {by_tercile}", "tercile {{tercile}}")],
            decimals=3,
            width=5,
        ),
        *(
            bars(
                f"{side.capitalize()} the interval, last day",
                f"Share of targets {side} the interval when the market was calm (0), usual (1) and wild (2).",
                "percentunit",
                [
                    Query(
                        f"avg by (tercile) ({published(catalog.FORECAST_TERCILE_SHARE, side=side)})",
                        "tercile {{tercile}}",
                    )
                ],
                decimals=1,
                width=5,
            )
            for side in ("below", "above")
        ),
    ]


def _shadow_failures() -> str:
    """Return the failures of each shadow; 0 for a shadow whose forecasts are judged and that never failed."""
    shadows = f"0 * {series(catalog.FORECAST_HORIZONS, role='shadow', window='1d')}"
    by_model = "max by (model_variant, version)"
    return f"{by_model} ({series(catalog.SHADOW_FAILURES)}) or {by_model} ({shadows})"


def _apart() -> list[AnyPanel]:
    day = {"window": "1d", "in_sample": "false"}
    who = "{{product_id}} {{role}} {{model_variant}} {{version}}"
    return [
        lines(
            "QLIKE of shadows and champions, last day",
            "Shadows forecast the same rows as the champion; their forecasts are recorded and never answered.",
            "none",
            [Query(series(catalog.FORECAST_QLIKE, **day), who)],
            decimals=3,
            width=8,
        ),
        lines(
            "Coverage of shadows and champions, last day",
            "Share of targets inside the interval.",
            "percentunit",
            [Query(series(catalog.FORECAST_SHARE, side="inside", **day), who)],
            decimals=1,
            width=8,
        ),
        value(
            "Failures of shadows",
            "Batches that a shadow could not score. Such a failure costs no published forecast.",
            "none",
            [Query(_shadow_failures(), "{{model_variant}} {{version}}")],
            width=4,
            height=7,
        ),
        value(
            "QLIKE in sample, last day",
            "Mean QLIKE of forecasts for times that the model was trained on: too good, and kept apart.",
            "none",
            [Query(series(catalog.FORECAST_QLIKE, window="1d", role="champion", in_sample="true"), SUBJECT)],
            decimals=3,
            width=4,
            height=7,
        ),
    ]
