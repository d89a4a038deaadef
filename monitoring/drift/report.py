"""Let Evidently compute and show the drift of an hour, by our own statistic, beside its own summary.

Evidently takes seconds and hundreds of MB to import: the report is made in a process of its own, see `__main__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.metric_types import Metric
from evidently.legacy.calculations.stattests import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift
from evidently.presets import DataSummaryPreset

from data.trades import Floats, Int64s
from monitoring.drift.calibration import GROUPS, Calibration, Rule, mean_before, usual
from monitoring.drift.hours import HOUR_NS, Hours, Signal, columns_of, hours_of, row_signals, statistic


def signal_frame(
    event_time: Int64s, columns: Mapping[str, Floats], hours: Hours, calibration: Calibration
) -> pd.DataFrame:
    """Return the rows as the rules see them: one column a signal, the index is the time of the rows.

    The daily harmonic is taken off the logs of *level* and *change*; off *change* also the mean of the hours before.

    Args:
        event_time: shape (n,), ns since 1970, not falling.
        columns: see `row_signals`.
        hours: of these rows.
    """
    signals = row_signals(columns, calibration.variance_floor)
    hour = np.searchsorted(hours.start, event_time // HOUR_NS * HOUR_NS)
    shown = {}
    for rule in calibration.rules:
        if rule.signal in signals:
            shown[str(rule.signal)] = signals[rule.signal] - _taken_off(rule, hours)[hour]
    return pd.DataFrame(shown, pd.DatetimeIndex(event_time, tz="UTC", name="event_time"))


def _taken_off(rule: Rule, hours: Hours) -> Floats:
    """Return what is taken off the rows of each hour, shape (n,)."""
    if rule.view not in ("change", "level"):
        return np.zeros(len(hours.start))
    expected = usual(hours.start, rule.harmonic)
    if rule.view == "level":
        return expected
    return expected + mean_before(hours.start, hours.values[rule.signal] - expected)


def make_report(
    reference: pd.DataFrame, current: pd.DataFrame, hour: int, calibration: Calibration, html: Path
) -> dict[Signal, float]:
    """Write the report of one hour, and return the ratio of each signal to its threshold, as Evidently computed.

    A signal without enough rows in the hour is left out.

    Args:
        reference: the rows of the training, a column each as in `row_signals`; the index is their time.
        current: the rows of the hour and of the hours before.
        hour: begin of the hour, ns since 1970.
    """
    expected = _signals(reference, calibration)
    found = _signals(current, calibration)
    found = found[
        (found.index >= pd.Timestamp(hour, tz="UTC")) & (found.index < pd.Timestamp(hour + HOUR_NS, tz="UTC"))
    ]
    rules = {
        str(rule.signal): rule
        for rule in calibration.rules
        if str(rule.signal) in expected and not np.isnan(statistic(rule.signal, found[str(rule.signal)].to_numpy()))
    }
    columns = list(rules)
    definition = DataDefinition(numerical_columns=columns)
    metrics: list[Metric] = [
        ValueDrift(column=name, method=_statistic(rules[name], hour, calibration)) for name in rules
    ]
    report = Report([*metrics, DataSummaryPreset(columns=columns)])
    done = report.run(
        Dataset.from_pandas(found[columns], data_definition=definition),
        Dataset.from_pandas(expected[columns], data_definition=definition),
    )
    done.save_html(str(html))
    values = {str(each["config"].get("column")): each["value"] for each in done.dict()["metrics"][: len(columns)]}
    return {rules[name].signal: float(values[name]) for name in columns}


def _statistic(rule: Rule, hour: int, calibration: Calibration) -> str:
    """Register the rule as a statistic of Evidently, and return the statistic's name."""
    threshold = rule.scale * calibration.thresholds[GROUPS[rule.view]]
    expected = 0.0 if rule.view in ("change", "level") else float(usual(np.array([hour]), rule.harmonic)[0])

    def ratio(_: pd.Series, current: pd.Series, __: ColumnType, limit: float) -> tuple[float, bool]:
        off = statistic(rule.signal, current.to_numpy()) - expected
        found = (max(off, 0.0) if rule.view == "loss" else abs(off)) / threshold
        return found, found >= limit

    name = f"ratio to the usual: {rule.signal}"
    test = StatTest(
        name=name,
        display_name=f"{rule.view}, as a share of the alarm threshold",
        allowed_feature_types=[ColumnType.Numerical],
        default_threshold=1.0,
    )
    register_stattest(test, ratio)
    return name


def _signals(frame: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    event_time, columns = columns_of(frame)
    hours = hours_of(event_time, columns, calibration.variance_floor)
    return signal_frame(event_time, columns, hours, calibration)
