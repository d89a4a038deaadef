"""The newest served forecasts of a product as a frame: counted rows with targets."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.features.spec import FeatureSpec
from data.stream.records import PREDICTIONS
from data.times import NS, to_datetime
from data.truth.counting import counted_rows
from data.truth.targets import target_volatility
from offline.lake.store import Lake
from offline.served.manifest import ServedFile, read_manifest
from offline.served.rows import served_rows

if TYPE_CHECKING:
    import pandas as pd

HOURS_BEFORE = 5
"""Hours before the first judged hour that the judgement looks at."""
HOURS = 24 + HOURS_BEFORE
"""Hours of a frame: a day with the unfinished hour, and the hours before."""
MOST_HOURS = 240 + HOURS_BEFORE
"""Hours of a frame that follows another one, at most: ten days, and the hours before."""
HOUR = timedelta(hours=1)
_FIELDS = ("source_id", "purpose", "event_time", "ingest_time", "price", "score", "interval", "in_sample")
_MODEL = ("model_variant", "version")


class NewestForecasts(NamedTuple):
    """Forecasts of the source that published last.

    Attributes:
        frame: see `forecast_frame`.
        source_id, model_variant, version: of the newest forecast.
        ingest_time: of the newest forecasts, see `newest_ingest_time`.
    """

    frame: pd.DataFrame
    ingest_time: int
    source_id: str
    model_variant: str
    version: str


def newest_ingest_time(lake: Lake, product_id: str) -> int:
    """Return the `ingest_time` of the newest served forecast of a product, ns since 1970; 0 without any, drills apart.

    Raises:
        ValueError: the manifest is damaged.
    """
    return max((file.ingest_time for file in _files(lake, product_id)), default=0)


def _files(lake: Lake, product_id: str) -> list[ServedFile]:
    files = [file for file in read_manifest(lake, PREDICTIONS).files if file.product_id == product_id]
    return [file for file in files if set(file.sources.values()) != {"drill"}]


def newest_forecasts(
    lake: Lake, spec: FeatureSpec, product_id: str, judged_source: str = "", judged_hour: int = 0
) -> NewestForecasts | None:
    """Return the newest served forecasts of a product from the lake; None without any, drills apart.

    The frame has the `HOURS` of event time up to the newest row. For the source that was judged before, the frame goes
    back to the judged hour and `HOURS_BEFORE`, at most `MOST_HOURS`: a fast replay loses no hour.

    Args:
        judged_hour: begin of the newest hour of `judged_source` that was judged before, ns since 1970.

    Raises:
        ValueError: the manifest is damaged.

    In a notebook::

        newest_forecasts(Lake.open("var/lake"), FeatureSpec(), "BTC-USD").frame["score"].plot()
    """
    import pandas as pd  # noqa: PLC0415 - takes a second to import

    if not (files := _files(lake, product_id)):
        return None
    newest = max(files, key=lambda file: file.ingest_time)
    tail = timedelta(seconds=2 * spec.horizon_s + spec.gap_s)
    begin = to_datetime(newest.end // (3_600 * NS) * (3_600 * NS))
    source, model, frames = "", ("", ""), []
    back, hours = 0, HOURS
    # Hour by hour: a whole day of records takes more memory than all other processes together.
    while back < hours:
        columns = [*_FIELDS, *spec.columns, *(_MODEL if not source else ())]
        first = begin - back * HOUR
        rows = served_rows(lake, PREDICTIONS, product_id, first, first + HOUR + tail, columns)
        rows = rows[rows["purpose"] != "drill"]
        if not source and len(rows):
            last = rows.iloc[int(np.argmax(rows["ingest_time"]))]
            source, model = str(last["source_id"]), (str(last["model_variant"]), str(last["version"]))
            if source == judged_source:
                unjudged = (begin - to_datetime(judged_hour)) // HOUR
                hours = min(max(HOURS, unjudged + HOURS_BEFORE), MOST_HOURS)
        frame = forecast_frame(rows[rows["source_id"] == source], spec)
        frames.append(frame[frame.index < pd.Timestamp(first + HOUR)])
        back += 1
    return NewestForecasts(pd.concat(frames[::-1]), newest.ingest_time, source, *model) if source else None


def forecast_frame(predictions: pd.DataFrame, spec: FeatureSpec) -> pd.DataFrame:
    """Return the counted forecasts of one stream, with targets.

    The index is `event_time`, UTC. The columns are those of the spec, `score`, `lower`, `upper` and `target`:
    volatility per horizon. `target` is NaN where unknown, and where the model had seen the row in its training.

    Args:
        predictions: rows of `predictions`, in the order of their offsets, with the fields of the record.
    """
    import pandas as pd  # noqa: PLC0415 - takes a second to import

    event_time = np.maximum.accumulate(pd.DatetimeIndex(predictions["event_time"]).as_unit("ns").asi8)
    counted, target = np.empty(0, np.intp), np.empty(0)
    if len(event_time):
        counted = counted_rows(event_time, spec)
        target = target_volatility(event_time, predictions["price"].to_numpy(np.float64), spec)
        target[predictions["in_sample"].to_numpy(np.bool_)] = np.nan
    rows = predictions.iloc[counted]
    columns = {name: rows[name].to_numpy(np.float64) for name in (*spec.columns, "score")}
    interval = np.array([list(each) for each in rows["interval"]], np.float64).reshape(-1, 2)
    columns |= {"lower": interval[:, 0], "upper": interval[:, 1], "target": target[counted]}
    return pd.DataFrame(columns, pd.DatetimeIndex(event_time[counted], tz="UTC", name="event_time"))
