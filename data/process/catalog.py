"""Declare each metric once: name, kind, unit, labels, meaning, and the exporting processes.

A process makes its metrics from the declarations (`data/process/metrics.py`). Rules, dashboards and documents are
checked against them. `python -m data.process.catalog` prints `docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final, get_args

from data.files import may_lose_its_reader
from data.process.declarations import CounterMetric, GaugeMetric, HistogramMetric, Metric, Process
from data.stream.records import FEATURES, PREDICTIONS, TRADES, Figure, Purpose
from data.stream.records import FIGURES as FIGURES_TOPIC

PROCESSES: Final[tuple[Process, ...]] = get_args(Process)
PURPOSES: Final[tuple[str, ...]] = get_args(Purpose)
UNKNOWN, NO_PURPOSE = "unknown", "none"
"""Purpose of an unreadable record, and of a request that no source's forecast answers."""
WINDOWS: Final = ("15m", "1h", "1d")
"""Spans of event time up to the newest forecast of a source."""


LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PACING_BOUNDS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 10.0)

_SERVING: tuple[Process, ...] = ("api", "forecaster")
_MODEL = ("model_variant", "version")

# Every process
READY = GaugeMetric("cryptovol_ready", "", (), "1 while the process does its work, else 0", PROCESSES)
BUILD_INFO = GaugeMetric("cryptovol_build_info", "", ("version",), "1; version of the running code", PROCESSES)

# Records
MESSAGES_IN = CounterMetric(
    "cryptovol_messages_in",
    "records",
    ("topic",),
    "records read",
    (*_SERVING, "exporter"),
    {"forecaster": ((TRADES,),), "api": ((PREDICTIONS,),), "exporter": ((PREDICTIONS,), (FIGURES_TOPIC,))},
)
MESSAGES_OUT = CounterMetric(
    "cryptovol_messages_out",
    "records",
    ("topic",),
    "records written: trades that the broker has; rows and forecasts that are committed",
    ("forecaster", "ingestor"),
    {"forecaster": ((FEATURES,), (PREDICTIONS,)), "ingestor": ((TRADES,),)},
)
REJECTS = CounterMetric(
    "cryptovol_rejects",
    "records",
    ("reason", "purpose"),
    "records or rows not taken; reason `recording` (ingestor: a row is no trade), `unreadable` (API, "
    "exporter, forecaster), `passed_id`, `fallen_time`, `ended`, `too_many_sources` (forecaster)",
    PROCESSES,
    {
        "api": (("unreadable", UNKNOWN),),
        "exporter": (("unreadable", UNKNOWN),),
        "forecaster": (
            ("unreadable", UNKNOWN),
            *product(("passed_id", "fallen_time", "ended", "too_many_sources"), PURPOSES),
        ),
        "ingestor": tuple(("recording", purpose) for purpose in PURPOSES),
    },
)
ERRORS = CounterMetric(
    "cryptovol_errors",
    "failures",
    ("kind",),
    "failures that the process survived; kind `transaction_aborted`, `window_incomplete`, `adaptation_incomplete` "
    "(forecaster), `follow` (API, exporter), `model_watch` (API, forecaster)",
    (*_SERVING, "exporter"),
    {
        "api": (("follow",), ("model_watch",)),
        "exporter": (("follow",),),
        "forecaster": (
            ("transaction_aborted",),
            ("window_incomplete",),
            ("adaptation_incomplete",),
            ("model_watch",),
        ),
    },
)
CONSUMER_LAG = GaugeMetric(
    "cryptovol_consumer_lag",
    "offsets",
    ("topic", "kafka_partition"),
    "offsets from the next record that the process will take to the end of the topic's committed records; of the "
    "partitions that the process reads now",
    _SERVING,
)
LATENCY = HistogramMetric(
    "cryptovol_latency_seconds",
    "seconds",
    ("purpose",),
    "from a trade's `ingest_time` until its row and forecast are committed",
    ("forecaster",),
    LATENCY_BOUNDS_S,
    tuple((purpose,) for purpose in PURPOSES),
)
TRANSACTION = HistogramMetric(
    "cryptovol_transaction_seconds",
    "seconds",
    (),
    "from read to committed, for each batch",
    ("forecaster",),
    LATENCY_BOUNDS_S,
)
FEATURE_AGE = GaugeMetric(
    "cryptovol_feature_age_seconds",
    "seconds",
    ("purpose",),
    "wall time minus the newest row's `ingest_time`; grows on after a source has ended",
    ("forecaster",),
)
OPEN_STREAMS = GaugeMetric(
    "cryptovol_open_streams",
    "streams",
    ("purpose", "kafka_partition"),
    "products of open sources with a window; the partition is the same on each topic",
    ("forecaster",),
)
REMOVED_TRADES = CounterMetric(
    "cryptovol_removed_trades",
    "records",
    (),
    "trades that retention removed before the forecaster read them",
    ("forecaster",),
)
SHADOW_FAILURES = CounterMetric(
    "cryptovol_shadow_failures",
    "failures",
    _MODEL,
    "batches that a shadow could not score, and loads of a shadow that failed",
    ("forecaster",),
)

# Replay
PACING_ERROR = HistogramMetric(
    "cryptovol_pacing_error_seconds",
    "seconds",
    (),
    "how late each trade was handed to the client; not at speed `max`",
    ("ingestor",),
    PACING_BOUNDS_S,
)
REPLAY_PROGRESS = GaugeMetric(
    "cryptovol_replay_progress_ratio",
    "ratio",
    (),
    "share of the recordings' bytes whose trades were sent, 1 at the end",
    ("ingestor",),
)
REPLAY_SPEED = GaugeMetric(
    "cryptovol_replay_speed",
    "ratio",
    ("kind",),
    "event time per wall time; kind `asked` (+Inf for `max`), `reached` (over the last seconds; NaN before)",
    ("ingestor",),
)
REPLAY_PARTITION_SPEED = GaugeMetric(
    "cryptovol_replay_partition_speed",
    "ratio",
    ("kafka_partition",),
    "speed asked for, for each partition that the replay has written to; +Inf for `max`",
    ("ingestor",),
)

# Models
MODEL = GaugeMetric("cryptovol_model", "", (*_MODEL, "digest"), "1 for the model in use", _SERVING)
MODEL_SINCE = GaugeMetric(
    "cryptovol_model_since_timestamp_seconds",
    "seconds since 1970",
    _MODEL,
    "when the model in use began to serve in this process",
    _SERVING,
)
MODEL_TRAIN_END = GaugeMetric(
    "cryptovol_model_train_end_timestamp_seconds",
    "seconds since 1970",
    _MODEL,
    "event time of the newest data that the model was trained on",
    (*_SERVING, "exporter"),
)
MODEL_SWAPS = CounterMetric(
    "cryptovol_model_swaps", "models", (), "models that took the place of another model", _SERVING
)
MODEL_REFUSED = GaugeMetric(
    "cryptovol_model_refused",
    "",
    ("name", "reason"),
    "1 while a champion may not serve; reason is the check that the model failed: `absent`, `size`, `digest`, "
    "`format`, `external` (values in other files), `operators`, `metadata`, `spec`, `columns`, `signature`, `answers`; "
    "or `unfetched`, a download that is tried again",
    _SERVING,
)
REGISTRY_AGE = GaugeMetric(
    "cryptovol_registry_age_seconds",
    "seconds",
    (),
    "time since the registry answered; NaN before the first answer",
    _SERVING,
)

# API
REQUEST = HistogramMetric(
    "cryptovol_request_seconds",
    "seconds",
    ("route", "status", "purpose"),
    "from request to answer",
    ("api",),
    LATENCY_BOUNDS_S,
)
ROWS_SCORED = CounterMetric("cryptovol_rows_scored", "rows", (), "rows answered by `POST /predict`", ("api",))
DISK_USED = GaugeMetric(
    "cryptovol_disk_used_ratio",
    "share",
    (),
    "disk of `VAR_DIR` over `VAR_MAX_GB`; 1 if the disk has less than 1 GB left; NaN before the first look",
    ("api",),
)

# Live truth
_FORECAST = ("product_id", *_MODEL, "role", "purpose", "in_sample")
_WINDOW = (*_FORECAST, "window")
_PRODUCT = ("product_id", "purpose")
_PROMISE = (*_MODEL, "quantile")
_EXPORTER: tuple[Process, ...] = ("exporter",)

FORECAST_QLIKE = GaugeMetric("cryptovol_forecast_qlike", "", _WINDOW, "mean QLIKE of the judged forecasts", _EXPORTER)
FORECAST_BIAS = GaugeMetric(
    "cryptovol_forecast_bias",
    "",
    _WINDOW,
    "mean of ln(forecast volatility / realized volatility), the latter at least the square root of the floor",
    _EXPORTER,
)
FORECAST_SHARE = GaugeMetric(
    "cryptovol_forecast_share",
    "ratio",
    (*_WINDOW, "side"),
    "share of targets below, inside and above the interval; `inside` is the coverage",
    _EXPORTER,
)
FORECAST_INTERVAL_LOG_WIDTH = GaugeMetric(
    "cryptovol_forecast_interval_log_width", "", _WINDOW, "mean of ln(upper / lower bound of the interval)", _EXPORTER
)
FORECAST_QLIKE_DIFFERENCE = GaugeMetric(
    "cryptovol_forecast_qlike_difference",
    "",
    _WINDOW,
    "mean QLIKE less the baseline's on the same forecasts; absent without a baseline score in the record",
    _EXPORTER,
)
FORECAST_MINCER_ZARNOWITZ_SLOPE = GaugeMetric(
    "cryptovol_forecast_mincer_zarnowitz_slope",
    "",
    _WINDOW,
    "slope of the regression of realized variance on forecast variance; 1 is right",
    _EXPORTER,
)
FORECAST_HORIZONS = GaugeMetric(
    "cryptovol_forecast_horizons", "horizons", _WINDOW, "judged forecasts / 12: the amount of evidence", _EXPORTER
)
FORECAST_WORSE_P = GaugeMetric(
    "cryptovol_forecast_worse_p",
    "probability",
    _FORECAST,
    "one-sided p of Diebold and Mariano that the baseline is better, over the last day; each event time counts once; "
    "computed at most once a minute; absent below 240 horizons",
    _EXPORTER,
)
FORECAST_LOW_COVERAGE_HOURS = GaugeMetric(
    "cryptovol_forecast_low_coverage_hours",
    "hours",
    _FORECAST,
    "closed hours of event time in a row, up to the newest, whose coverage is below the version's promised 5 % "
    "quantile less .05; at most 22; absent without a promise",
    _EXPORTER,
)
FORECAST_LOW_COVERAGE_HORIZONS = GaugeMetric(
    "cryptovol_forecast_low_coverage_horizons",
    "horizons",
    _FORECAST,
    "judged forecasts / 12 in these hours: the amount of evidence",
    _EXPORTER,
)
FORECAST_HIGH_QLIKE_HOURS = GaugeMetric(
    "cryptovol_forecast_high_qlike_hours",
    "hours",
    _FORECAST,
    "closed hours of event time in a row, up to the newest, whose mean QLIKE is above the version's promised 95 % "
    "quantile; at most 22; absent without a promise",
    _EXPORTER,
)
FORECAST_TERCILE_QLIKE = GaugeMetric(
    "cryptovol_forecast_tercile_qlike",
    "",
    (*_FORECAST, "tercile"),
    "mean QLIKE over the last day, by tercile of the reference volatility",
    _EXPORTER,
)
FORECAST_TERCILE_SHARE = GaugeMetric(
    "cryptovol_forecast_tercile_share",
    "ratio",
    (*_FORECAST, "tercile", "side"),
    "share of targets below, inside and above the interval over the last day, by tercile of the reference volatility",
    _EXPORTER,
)
JUDGED_FORECASTS = CounterMetric(
    "cryptovol_judged_forecasts",
    "forecasts",
    _FORECAST,
    "forecasts that count and whose horizon has passed",
    _EXPORTER,
)
FORECAST_VOLATILITY = GaugeMetric(
    "cryptovol_forecast_volatility", "per horizon", _PRODUCT, "the newest judged forecast", _EXPORTER
)
FORECAST_LOWER = GaugeMetric(
    "cryptovol_forecast_lower", "per horizon", _PRODUCT, "lower bound of the newest judged forecast", _EXPORTER
)
FORECAST_UPPER = GaugeMetric(
    "cryptovol_forecast_upper", "per horizon", _PRODUCT, "upper bound of the newest judged forecast", _EXPORTER
)
FORECAST_REALIZED = GaugeMetric(
    "cryptovol_forecast_realized", "per horizon", _PRODUCT, "target of the newest judged forecast", _EXPORTER
)
FORECAST_QLIKE_DIFFERENCE_SUM = GaugeMetric(
    "cryptovol_forecast_qlike_difference_sum",
    "",
    _PRODUCT,
    "sum of QLIKE less the baseline's, since the oldest record that the exporter has read",
    _EXPORTER,
)
NEWEST_FORECAST_AGE = GaugeMetric(
    "cryptovol_newest_forecast_age_seconds",
    "seconds",
    _PRODUCT,
    "wall time minus the `ingest_time` of the newest forecast of a source; of the open source with the largest age",
    _EXPORTER,
)
BROKER_AGE = GaugeMetric(
    "cryptovol_broker_age_seconds",
    "seconds",
    (),
    "time since the broker answered; before the first answer, since the start",
    _EXPORTER,
)
OPEN_SOURCES = GaugeMetric("cryptovol_open_sources", "sources", ("purpose",), "sources without an end", _EXPORTER)
PROMISED_QLIKE = GaugeMetric(
    "cryptovol_promised_qlike", "", _PROMISE, "quantile of the hourly QLIKE on the version's test days", _EXPORTER
)
PROMISED_COVERAGE = GaugeMetric(
    "cryptovol_promised_coverage",
    "ratio",
    _PROMISE,
    "quantile of the hourly coverage on the version's test days",
    _EXPORTER,
)
MODEL_SERVES_SINCE = GaugeMetric(
    "cryptovol_model_serves_since_timestamp_seconds",
    "seconds since 1970",
    _MODEL,
    "`ts` of the first forecast of the version as champion",
    _EXPORTER,
)

# Figures: what batch jobs found, from the topic `figures`
DRIFT_RATIO = GaugeMetric(
    "cryptovol_drift_ratio",
    "ratio",
    ("product_id", "column", "view"),
    "drift of a column in the last hour, in units of its threshold: 1 is the alarm",
    _EXPORTER,
)
DRIFT_ALARM = GaugeMetric(
    "cryptovol_drift_alarm", "", ("product_id",), "1 while a column drifts by change or spread, else 0", _EXPORTER
)
DRIFT_LOSS_ALARM = GaugeMetric(
    "cryptovol_drift_loss_alarm",
    "",
    ("product_id",),
    "1 while the loss of the forecasts is above its threshold, else 0",
    _EXPORTER,
)
DRIFT_WITH_LOSS = GaugeMetric(
    "cryptovol_drift_with_loss", "", ("product_id",), "1 while drift and loss lie within three hours, else 0", _EXPORTER
)
DRIFT_REPORT = GaugeMetric(
    "cryptovol_drift_report_timestamp_seconds",
    "seconds since 1970",
    ("product_id",),
    "when the last drift report was made",
    _EXPORTER,
)
PARITY_DIFFERENT_ROWS = GaugeMetric(
    "cryptovol_parity_different_rows",
    "rows",
    ("product_id",),
    "rows of the last parity check that differ between online and offline",
    _EXPORTER,
)
LEDGER_MOVE = GaugeMetric(
    "cryptovol_ledger_move_timestamp_seconds",
    "seconds since 1970",
    (*_MODEL, "move"),
    "when the alias `champion` last moved to the version",
    _EXPORTER,
)
RETRAIN_FAILED = GaugeMetric("cryptovol_retrain_failed", "", (), "1 if the last retrain failed, else 0", _EXPORTER)
SINK_OFFSETS_BEHIND = GaugeMetric(
    "cryptovol_sink_offsets_behind",
    "offsets",
    ("topic",),
    "offsets of a topic that the lake did not hold at the sink's last run",
    _EXPORTER,
)
FIGURES: Final = (
    DRIFT_RATIO,
    DRIFT_ALARM,
    DRIFT_LOSS_ALARM,
    DRIFT_WITH_LOSS,
    DRIFT_REPORT,
    PARITY_DIFFERENT_ROWS,
    LEDGER_MOVE,
    RETRAIN_FAILED,
    SINK_OFFSETS_BEHIND,
)
"""Gauges whose values travel on the topic `figures`; a figure's name is the metric's name without `cryptovol_`."""
PREFIX: Final = "cryptovol_"
FIGURES_BY_NAME: Final = {metric.name.removeprefix(PREFIX): metric for metric in FIGURES}
MOST_LABEL = 100
"""Characters of a label of a figure."""


def metric_of(figure: Figure) -> GaugeMetric:
    """Return the metric of a figure; any program may write to the topic of figures.

    Raises:
        ValueError: there is no such figure, or the figure has other labels.
    """
    metric = FIGURES_BY_NAME.get(figure.name)
    if metric is None:
        raise ValueError(f"the catalog has no figure {figure.name!r}; it has {', '.join(FIGURES_BY_NAME)}")
    if figure.labels.keys() != set(metric.labels):
        raise ValueError(f"{figure.name} has the labels {metric.labels}, were {sorted(figure.labels)}")
    if any(len(value) > MOST_LABEL for value in figure.labels.values()):
        raise ValueError(f"a label of {figure.name} has at most {MOST_LABEL} characters")
    return metric


FIGURE_AGE = GaugeMetric(
    "cryptovol_figure_age_seconds",
    "seconds",
    ("name", "product_id"),
    "wall time minus the time of the newest figure of a name; `product_id` is empty for a figure without a product",
    _EXPORTER,
)

LABELS: Final[Mapping[str, str]] = {
    "column": "column of the feature rows, or `score`",
    "digest": "SHA-256 of the model file",
    "in_sample": "`true` for event times up to the end of the model's training, else `false`",
    "kafka_partition": "partition of the topic",
    "kind": "see the meaning of the metric",
    "model_variant": "`baseline` or `ml`",
    "move": "`promote` or `rollback`",
    "name": "registered model, or name of a figure",
    "product_id": "product, as `BTC-USD`",
    "purpose": f"purpose of the source: {', '.join(f'`{each}`' for each in PURPOSES)}; "
    f"`{UNKNOWN}` for a record that cannot be read, `{NO_PURPOSE}` for a request that is not about the forecast of a "
    "known source",
    "quantile": "`0.05`, `0.5` or `0.95`",
    "reason": "see the meaning of the metric",
    "role": "`champion` (the forecast that was published) or `shadow`",
    "route": "template of the path, as `/predict/{product_id}`; `unknown` for other paths",
    "side": "`below`, `inside` or `above` the interval",
    "status": "HTTP status of the answer",
    "tercile": "`0` (calm), `1`, `2` (wild)",
    "topic": "topic of the broker",
    "version": "version of the registered model; of the project in `cryptovol_build_info`",
    "view": "`change`, `spread`, `level` or `loss`",
    "window": f"span of event time: {', '.join(f'`{each}`' for each in WINDOWS)}",
}
"""Values of each label. No label has a source or a request as its value: the number of series stays bounded."""

METRICS: Final[tuple[Metric, ...]] = tuple(each for each in globals().copy().values() if isinstance(each, Metric))
"""All metrics, in the order of this file."""


def metrics_of(process: Process) -> tuple[Metric, ...]:
    """Return the metrics that a process exports."""
    return tuple(metric for metric in METRICS if process in metric.processes)


_TITLES: Final[Mapping[Process, str]] = {
    "api": "API",
    "forecaster": "Forecaster",
    "ingestor": "Ingestor",
    "exporter": "Exporter",
}


def page() -> Iterator[str]:
    """Yield the lines of `docs/metrics.md`."""
    yield "# Metrics"
    yield ""
    yield "This page is made from the code: `python -m data.process.catalog > docs/metrics.md`."
    yield ""
    yield "Each process answers `/metrics` for Prometheus, and exports only the metrics below its name. A counter"
    yield "exists at 0 from the start where its labels are known. A histogram has three series: `_bucket`, `_sum` and"
    yield "`_count`. Beside these are Python's own metrics and, on Linux, those of the operating system's process:"
    yield "`python_info`, `process_*` (`process_start_time_seconds` is the start of the process)."
    shared = tuple(metric for metric in METRICS if len(metric.processes) > 1)
    yield from _table("Several processes", shared, with_processes=True)
    for process in PROCESSES:
        own = tuple(
            metric for metric in metrics_of(process) if metric.processes == (process,) and metric not in FIGURES
        )
        yield from _table(_TITLES[process], own)
    yield from _table("Figures of batch jobs, exported by the exporter", FIGURES)
    yield ""
    yield "## Labels"
    yield ""
    yield "| label | values |"
    yield "|---|---|"
    for label, values in LABELS.items():
        yield f"| `{label}` | {values} |"


def _table(title: str, metrics: tuple[Metric, ...], *, with_processes: bool = False) -> Iterator[str]:
    """Yield a heading and a table of metrics."""
    yield ""
    yield f"## {title}"
    yield ""
    yield f"| metric | kind | unit | labels |{' processes |' if with_processes else ''} meaning |"
    yield f"|---|---|---|---|{'---|' if with_processes else ''}---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        processes = f" {', '.join(metric.processes)} |" if with_processes else ""
        yield f"| `{metric.exported_name}` | {metric.kind} | {metric.unit} | {labels} |{processes} {metric.meaning} |"


if __name__ == "__main__":
    with may_lose_its_reader():
        for line in page():
            print(line)
