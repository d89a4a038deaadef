"""Describe the dashboard Service: can a client have a forecast, and how fast."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from data.process import catalog
from monitoring.dashboards.boards import board
from monitoring.dashboards.limits import limit, slow_answer_s
from monitoring.dashboards.panels import Query, lines, quantiles, rate, series, value
from monitoring.dashboards.stream import newest_forecast, trade_to_forecast

NAME = "Service"
_FORECASTS = "~/predict.*"


def _errors(span: str) -> str:
    """Return the share of errors over a span, as `5m`; 0 while there are requests and no error has ever happened."""
    return f"job:cryptovol_request_errors:ratio_rate{span} or 0 * job:cryptovol_request_slow:ratio_rate{span}"


def _refused() -> str:
    """Return 1 for each refused champion, and 0 for each other model in use, by registered model."""
    in_use = f"0 * max by (model_variant) ({series(catalog.MODEL)})"
    named = f'label_replace({in_use}, "name", "volatility-${{1}}", "model_variant", "(.*)")'
    return f"max by (name) ({series(catalog.MODEL_REFUSED)}) or max by (name) ({named})"


def build() -> Dashboard:
    """Return the dashboard."""
    slow_ms = round(slow_answer_s() * 1000)
    now = [
        value(
            "Processes",
            "Whether each process does its work.",
            "none",
            [Query(f"min by (job) ({series(catalog.READY)})", "{{job}}")],
            words={"1": ("ready", "green"), "0": ("not ready", "red")},
            width=8,
        ),
        newest_forecast(),
        value(
            "Broker",
            "Time since the broker answered the exporter.",
            "s",
            [Query(series(catalog.BROKER_AGE), "age")],
            limit=limit("BrokerDown", catalog.BROKER_AGE.name),
            decimals=1,
        ),
        value(
            "Errors in an hour",
            "Share of forecast requests that the API answered with a status of 5xx. Drills do not count.",
            "percentunit",
            [Query(_errors("1h"), "errors")],
            limit=limit("ApiErrors", "job:cryptovol_request_errors:ratio_rate1h"),
            decimals=2,
        ),
        value(
            "Slow answers in an hour",
            f"Share of forecast requests that the API answered after more than {slow_ms} ms. Drills do not count.",
            "percentunit",
            [Query("job:cryptovol_request_slow:ratio_rate1h", "slow")],
            limit=limit("ApiSlow", "job:cryptovol_request_slow:ratio_rate1h"),
            decimals=2,
        ),
    ]
    requests = [
        lines(
            "Requests",
            "Answers of the API per second, by route.",
            "reqps",
            [Query(f"sum by (route) ({rate(catalog.REQUEST, 'count')}) > 0", "{{route}}")],
        ),
        lines(
            "Errors",
            "Share of forecast requests with a status of 5xx, over an hour and over five minutes. "
            "The alert needs both above its limit.",
            "percentunit",
            [
                Query(_errors("1h"), "1 h"),
                Query(_errors("5m"), "5 min"),
            ],
            limit=limit("ApiErrors", "job:cryptovol_request_errors:ratio_rate1h"),
            least=0,
        ),
        lines(
            "Slow answers",
            f"Share of forecast requests answered after more than {slow_ms} ms, over an hour and over five minutes. "
            "The alert needs both above its limit.",
            "percentunit",
            [
                Query("job:cryptovol_request_slow:ratio_rate1h", "1 h"),
                Query("job:cryptovol_request_slow:ratio_rate5m", "5 min"),
            ],
            limit=limit("ApiSlow", "job:cryptovol_request_slow:ratio_rate1h"),
            least=0,
        ),
        lines(
            "Time to answer",
            "From a forecast request to its answer: quantiles of the API's histogram.",
            "s",
            quantiles(catalog.REQUEST, route=_FORECASTS),
            least=0,
        ),
        trade_to_forecast(),
        lines(
            "Rows scored",
            "Rows that the API answered for `POST /predict`, per second.",
            "cps",
            [Query(rate(catalog.ROWS_SCORED), "rows")],
            least=0,
        ),
    ]
    models = [
        value(
            "Model in use",
            "Variant and version of the model that each process uses.",
            "none",
            [Query(series(catalog.MODEL), "{{job}}: {{model_variant}} {{version}}")],
            names=True,
            width=6,
        ),
        value(
            "Serves since",
            "When the model in use began to serve.",
            "dateTimeFromNow",
            [
                Query(
                    f"max by (model_variant, version) ({series(catalog.MODEL_SINCE)}) * 1000",
                    "{{model_variant}} {{version}}",
                )
            ],
            width=5,
        ),
        value(
            "Trained until",
            "Event time of the newest data that the model in use was trained on.",
            "dateTimeFromNow",
            [
                Query(
                    f"max by (model_variant, version) ({series(catalog.MODEL_TRAIN_END, job='!exporter')}) * 1000",
                    "{{model_variant}} {{version}}",
                )
            ],
            width=5,
        ),
        value(
            "Refused models",
            "Whether a champion may not serve. The label `reason` of the metric is the check that the model failed.",
            "none",
            [Query(_refused(), "{{name}}")],
            words={"1": ("refused", "orange"), "0": ("served", "green")},
        ),
        value(
            "Registry",
            "Time since the registry answered.",
            "s",
            [Query(f"max by (job) ({series(catalog.REGISTRY_AGE)})", "{{job}}")],
            decimals=0,
        ),
    ]
    processes = [
        lines(
            "Failures survived",
            "Failures that a process survived, per minute, by kind.",
            "cpm",
            [Query(f"60 * sum by (job, kind) ({rate(catalog.ERRORS)})", "{{job}} {{kind}}")],
            least=0,
        ),
        lines(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            [Query("process_resident_memory_bytes", "{{job}} {{instance}}")],
            least=0,
        ),
        lines(
            "Processor",
            "Processor time of each process per second; 100 % is one core.",
            "percentunit",
            [Query("rate(process_cpu_seconds_total[$__rate_interval])", "{{job}} {{instance}}")],
            least=0,
        ),
    ]
    return board(
        NAME,
        "Whether clients get forecasts, how fast, and from which model.",
        [("Now", now), ("Requests", requests), ("Models", models), ("Processes", processes)],
    )
