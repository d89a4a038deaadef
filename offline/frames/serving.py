"""Served forecasts as a frame: counted rows with targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data.features.spec import FeatureSpec
from data.truth.counting import counted_rows
from data.truth.targets import target_volatility

if TYPE_CHECKING:
    import pandas as pd


def forecast_frame(predictions: pd.DataFrame, spec: FeatureSpec) -> pd.DataFrame:
    """Return the counted forecasts of the source that published last, with targets; sources of drills are left out.

    The index is `event_time`, UTC. The columns are those of the spec, `score`, `lower`, `upper` and `target`:
    volatility per horizon. `target` is NaN where unknown, and where the model had seen the row in its training.

    Args:
        predictions: rows of one product on `predictions`, in the order of their offsets, with the fields of the record.
    """
    import pandas as pd  # noqa: PLC0415 - takes a second to import

    rows = predictions[predictions["purpose"] != "drill"]
    if len(rows):
        rows = rows[rows["source_id"] == rows["source_id"].iloc[int(np.argmax(rows["ingest_time"]))]]
    event_time = np.maximum.accumulate(pd.DatetimeIndex(rows["event_time"]).as_unit("ns").asi8)
    target = target_volatility(event_time, rows["price"].to_numpy(np.float64), spec)
    target[rows["in_sample"].to_numpy(np.bool_)] = np.nan
    counted = counted_rows(event_time, spec) if len(rows) else np.empty(0, np.intp)
    columns = {name: rows[name].to_numpy(np.float64)[counted] for name in (*spec.columns, "score")}
    interval = np.array(rows["interval"].tolist(), np.float64).reshape(-1, 2)[counted]
    columns |= {"lower": interval[:, 0], "upper": interval[:, 1], "target": target[counted]}
    return pd.DataFrame(columns, pd.DatetimeIndex(event_time[counted], tz="UTC", name="event_time"))
