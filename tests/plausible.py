"""Make plausible values of all declared metrics, at any time, without a running process.

The market of the values is calm at first and wild later; a promotion, a rollback and an hour of drift lie in the
past.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import NamedTuple
from zlib import crc32

from data.process import catalog
from data.process.catalog import METRICS, PROCESSES
from data.process.declarations import CounterMetric, HistogramMetric, Metric, Process

HOUR_S = 3_600.0
KNOWN: Mapping[str, tuple[str, ...]] = {
    "product_id": ("BTC-USD", "ETH-USD"),
    "purpose": ("live", "replay"),
    "role": ("champion", "shadow"),
    "in_sample": ("false", "true"),
    "window": catalog.WINDOWS,
    "side": ("below", "inside", "above"),
    "tercile": ("0", "1", "2"),
    "quantile": ("0.05", "0.5", "0.95"),
    "view": ("change", "spread", "level", "loss"),
    "column": ("ret_std", "ewma_60", "ewma_3600", "parkinson_300", "trade_rate_60", "ret_mean", "score"),
    "kafka_partition": ("0", "1", "2"),
    "kind": ("asked", "reached"),
    "move": ("promote", "rollback"),
    "digest": ("4f1c",),
    "status": ("200", "503"),
    "route": ("/predict", "/predict/{product_id}", "/health"),
    "name": ("drift_alarm", "sink_offsets_behind"),
    "reason": ("recording", "unreadable", "ended"),
    "topic": ("coinbase-trades", "features", "predictions"),
}
READ_BY = {"forecaster": "coinbase-trades", "api": "predictions"}
MODELS = {"champion": ("ml", "7"), "shadow": ("baseline", "3")}
LEVELS = {
    "cryptovol_ready": 1.0,
    "cryptovol_build_info": 1.0,
    "cryptovol_model": 1.0,
    "cryptovol_forecast_mincer_zarnowitz_slope": 0.94,
    "cryptovol_forecast_interval_log_width": 1.1,
    "cryptovol_forecast_worse_p": 0.81,
    "cryptovol_open_sources": 1.0,
    "cryptovol_open_streams": 1.0,
    "cryptovol_replay_partition_speed": 10.0,
    "cryptovol_model_refused": 0.0,
    "cryptovol_retrain_failed": 0.0,
    "cryptovol_parity_different_rows": 0.0,
    "cryptovol_broker_age_seconds": 0.4,
    "cryptovol_registry_age_seconds": 12.0,
    "cryptovol_newest_forecast_age_seconds": 0.3,
    "cryptovol_feature_age_seconds": 0.3,
    "cryptovol_figure_age_seconds": 1_500.0,
    "cryptovol_drift_loss_alarm": 0.0,
    "cryptovol_drift_with_loss": 0.0,
}
RATES = {
    "cryptovol_messages_in": 80.0,
    "cryptovol_messages_out": 80.0,
    "cryptovol_rejects": 0.0003,
    "cryptovol_errors": 0.001,
    "cryptovol_judged_forecasts": 0.2,
    "cryptovol_rows_scored": 40.0,
    "cryptovol_model_swaps": 0.0,
    "cryptovol_removed_trades": 0.0,
    "cryptovol_shadow_failures": 0.0,
}


class Line(NamedTuple):
    """A value of a series.

    Attributes:
        name: of the series, as `cryptovol_latency_seconds_bucket`.
    """

    name: str
    labels: Mapping[str, str]
    value: float


def wave(seed: str, at: float, period_s: float = HOUR_S) -> float:
    """Return a number between -1 and 1; the number moves slowly, and differs from seed to seed."""
    phase = crc32(seed.encode()) % 997
    turns = at / period_s * math.tau
    slow, quick, noise = math.sin(turns + phase), math.sin(4.3 * turns + 2 * phase), math.sin(61.7 * turns + 3 * phase)
    return (slow + 0.5 * quick + 0.25 * noise) / 1.75


def lines_of(process: Process, at: float, until: float) -> Iterator[Line]:
    """Yield the values of a process, as the process would export the values.

    Args:
        at: seconds since 1970.
        until: seconds since 1970; the last hour before is wild.
    """
    for metric in METRICS:
        if process in metric.processes:
            for labels in _labels(metric, process):
                yield from _lines(metric, labels, at, until)


def _labels(metric: Metric, process: Process) -> Iterator[dict[str, str]]:
    if isinstance(metric, CounterMetric) and process in metric.known:
        yield from (dict(zip(metric.labels, values, strict=True)) for values in metric.known[process])
        return
    free = [label for label in metric.labels if label not in ("model_variant", "version")]
    for values in product(*(KNOWN[label] for label in free)):
        labels = dict(zip(free, values, strict=True))
        if metric is catalog.CONSUMER_LAG and labels["topic"] != READ_BY[process]:
            continue
        if process == "exporter" and labels.get("purpose") == "live" and labels.get("product_id") == "ETH-USD":
            continue  # of ETH-USD there is a replay alone
        if process == "exporter" and labels.get("purpose") == "replay" and labels.get("product_id") == "BTC-USD":
            continue
        variant, version = MODELS[labels.get("role", "champion")]
        if metric is catalog.SHADOW_FAILURES:
            variant, version = MODELS["shadow"]
        model = {"model_variant": variant, "version": version}
        labels |= {label: model[label] for label in metric.labels if label in model}
        if metric is catalog.MODEL_REFUSED:
            labels["name"] = {"drift_alarm": "volatility-baseline"}.get(labels["name"], "volatility-ml")
        if metric is catalog.BUILD_INFO:
            labels["version"] = "0.1.0"
        yield labels


def _lines(metric: Metric, labels: Mapping[str, str], at: float, until: float) -> Iterator[Line]:
    if isinstance(metric, HistogramMetric):
        yield from _histogram(metric, labels, at)
    elif metric.kind == "counter":
        yield Line(metric.exported_name, labels, _total(f"{metric.name}{labels}", RATES[metric.name], at))
    else:
        yield Line(metric.exported_name, labels, _gauge(metric, labels, at, until))


def _total(seed: str, per_s: float, at: float) -> float:
    """Return a counter whose rate swings by half around `per_s`, so the counter never falls."""
    turns = at / HOUR_S * math.tau + crc32(seed.encode()) % 997
    return per_s * ((at % 1e7) - 0.5 * HOUR_S / math.tau * math.cos(turns))


def _histogram(metric: HistogramMetric, labels: Mapping[str, str], at: float) -> Iterator[Line]:
    """Yield a histogram of a log-normal time, mostly below the slow bound."""
    per_s = {"503": 0.0005, "200": 3.0}.get(labels.get("status", ""), 20.0)
    total = _total(f"{metric.name}{labels}", per_s, at)
    median = metric.bounds[4]
    for bound in (*metric.bounds, math.inf):
        share = 0.5 * (1 + math.erf(math.log(bound / median) / (0.6 * math.sqrt(2)))) if bound < math.inf else 1.0
        text = "+Inf" if bound == math.inf else str(bound)
        yield Line(f"{metric.name}_bucket", {**labels, "le": text}, total * share)
    yield Line(f"{metric.name}_sum", labels, total * median)
    yield Line(f"{metric.name}_count", labels, total)


def _gauge(metric: Metric, labels: Mapping[str, str], at: float, until: float) -> float:
    name, seed = metric.name, f"{metric.name}{sorted(labels.items())}"
    wild = 1.0 / (1.0 + math.exp((until - HOUR_S - at) / 300.0))
    if name.endswith("_timestamp_seconds"):
        return until - (2 + crc32(seed.encode()) % 4) * HOUR_S
    if name in LEVELS:
        return LEVELS[name] * (1 + 0.1 * wave(seed, at)) if "_seconds" in name or "slope" in name else LEVELS[name]
    return _figure(name, labels, wave(seed, at, 0.4 * HOUR_S), at, until, wild)


def _figure(name: str, labels: Mapping[str, str], swing: float, at: float, until: float, wild: float) -> float:
    short = name.removeprefix("cryptovol_")
    if labels.get("window") == "1d":
        wild *= 0.1
    market = math.exp(0.5 * wave(labels.get("product_id", ""), at, 2 * HOUR_S) + 0.7 * wild)
    forecast = 4e-4 * market * (1 - 0.1 * wild)
    worse = 1.25 if labels.get("role") == "shadow" else 1.0
    calm = {"15m": 1.0, "1h": 0.5, "1d": 0.1}.get(labels.get("window", ""), 0.5) * swing
    outside = 0.06 * (1 + 0.5 * calm) * (1 + 1.5 * wild) * worse
    shares = {"below": outside * 0.8, "above": outside, "inside": 1 - 1.8 * outside}
    share = shares.get(labels.get("side", ""), 0.0)
    column = crc32(labels.get("column", "").encode()) % 7 / 14
    simple = {
        "forecast_volatility": forecast,
        "forecast_lower": forecast * 0.62,
        "forecast_upper": forecast * 1.6,
        "forecast_realized": 4e-4 * market * math.exp(0.25 * swing),
        "forecast_qlike": 0.16 * worse * (1 + 0.3 * calm + 0.8 * wild),
        "forecast_tercile_qlike": (0.15, 0.16, 0.19)[int(labels.get("tercile", "0"))] * worse,
        "forecast_bias": 0.04 * calm - 0.1 * wild,
        "forecast_qlike_difference": -0.015 + 0.02 * calm,
        "forecast_qlike_difference_sum": -0.002 * (at - until + 8 * HOUR_S) + 4 * swing,
        "forecast_share": share,
        "forecast_tercile_share": share,
        "forecast_horizons": {"15m": 15.0, "1h": 60.0, "1d": 1_380.0}.get(labels.get("window", ""), 0.0),
        "forecast_low_coverage_hours": float(wild > 0.9),
        "forecast_low_coverage_horizons": 60.0 * (wild > 0.9),
        "forecast_high_qlike_hours": float(wild > 0.9),
        "promised_qlike": {"0.05": 0.11, "0.5": 0.16, "0.95": 0.24}.get(labels.get("quantile", ""), 0.0),
        "promised_coverage": {"0.05": 0.83, "0.5": 0.9, "0.95": 0.96}.get(labels.get("quantile", ""), 0.0),
        "consumer_lag": max(0.0, 6 + 12 * swing),
        "disk_used_ratio": 0.42 + 0.01 * swing,
        "replay_progress_ratio": min(1.0, max(0.0, 1 - (until - at) / (8 * HOUR_S))),
        "replay_speed": 10.0 if labels.get("kind") == "asked" else 10 + 0.3 * swing,
        "sink_offsets_behind": 2_000 * ((at / HOUR_S) % 1),
        "drift_alarm": float(wild > 0.5 and labels.get("product_id") == "BTC-USD"),
        "drift_ratio": 0.35
        + column
        + 0.1 * swing
        + (0.9 * column if labels.get("product_id") == "BTC-USD" else 0) * wild,
    }
    return simple[short]


def _text(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


def history(times: Iterable[float], until: float) -> Iterator[str]:
    """Yield the lines of an OpenMetrics file with the values of all processes, as Prometheus scrapes them."""
    by_name: dict[str, list[str]] = {}
    for at in times:
        for process in PROCESSES:
            scraped = {"job": process, "instance": f"127.0.0.1:{process}"}
            for line in [
                *lines_of(process, at, until),
                Line("up", {}, 1.0),
                Line("process_resident_memory_bytes", {}, 2e8 + crc32(process.encode()) % 10**8),
                Line("process_cpu_seconds_total", {}, 0.2 * (at % 1e7)),
            ]:
                by_name.setdefault(line.name, []).append(
                    f"{line.name}{_text({**line.labels, **scraped})} {line.value!r} {at:.3f}\n"
                )
    for name, found in by_name.items():
        yield f"# TYPE {name} gauge\n"
        yield from found
    yield "# EOF\n"
