"""Frames for notebooks and drift reports: served forecasts with targets, and the rows of a training."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from data.stream.records import PREDICTIONS
from data.times import NS
from offline.frames.serving import newest_forecasts, newest_ingest_time
from offline.frames.training import training_frame
from offline.lake.store import Lake
from offline.promotion.provenance import LakeRows, SimulatedRows
from offline.served.sink import sink
from tests.days import MIDNIGHT
from tests.models import model_bytes
from tests.served import PRODUCT, FakeTopic, record

SPEC = FeatureSpec()
HOUR = 3_600 * NS
DAY = dt.date(2010, 1, 4)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path)


@pytest.fixture
def topic() -> FakeTopic:
    return FakeTopic({0: []})


def forecasts(lake: Lake, topic: FakeTopic, begin: int, prices: list[float], **more: object) -> None:
    """Take forecasts of every second from `begin` on into the lake."""
    records = [
        record(PREDICTIONS, i, begin + i * NS, price=price, **more)  # type: ignore[arg-type]
        for i, price in enumerate(prices, 1)
    ]
    topic.records[0] += records
    sink(lake, topic.reader, PREDICTIONS)


def test_served_forecasts_are_counted_and_judged(lake: Lake, topic: FakeTopic) -> None:
    """One move of 1 % between the 70th and the 71st second: targets of the rows up to 70 s and from 11 s on see it."""
    forecasts(lake, topic, MIDNIGHT + HOUR - 60 * NS, [100.0] * 70 + [101.0] * 130, in_sample=False)
    found = newest_forecasts(lake, SPEC, PRODUCT)
    assert found is not None
    frame = found.frame
    second = (frame.index.as_unit("ns").asi8 - (MIDNIGHT + HOUR - 60 * NS)) // NS
    assert second.tolist() == list(range(5, 201, 5))
    sees = (second >= 11) & (second <= 70)
    assert frame["target"][sees].tolist() == pytest.approx([np.log(1.01)] * int(sees.sum()))
    assert frame["target"][~sees & (second <= 140)].tolist() == [0.0] * int((~sees & (second <= 140)).sum())
    assert frame["target"][second > 140].isna().all()
    assert set(SPEC.columns) <= set(frame.columns)
    assert found.source_id == "one"
    assert newest_ingest_time(lake, PRODUCT) == found.ingest_time


def test_rows_of_the_training_have_no_target(lake: Lake, topic: FakeTopic) -> None:
    forecasts(lake, topic, MIDNIGHT + HOUR, [100.0] * 200, in_sample=True)
    found = newest_forecasts(lake, SPEC, PRODUCT)
    assert found is not None
    assert found.frame["target"].isna().all()
    assert len(found.frame) == 40


def test_the_source_that_published_last_is_taken_and_no_drill(lake: Lake, topic: FakeTopic) -> None:
    """The second source replays an older day, and is published later; the drill is published last."""
    forecasts(lake, topic, MIDNIGHT + 30 * HOUR, [100.0] * 70, source_id="one", ingest_time=10)
    forecasts(lake, topic, MIDNIGHT + 2 * HOUR, [100.0] * 70, source_id="two", ingest_time=20)
    forecasts(lake, topic, MIDNIGHT + 40 * HOUR, [100.0] * 70, source_id="three", purpose="drill", ingest_time=30)
    found = newest_forecasts(lake, SPEC, PRODUCT)
    assert found is not None
    assert (found.source_id, found.ingest_time) == ("two", 20)
    assert found.frame.index[-1] < found.frame.index[0] + dt.timedelta(hours=1)
    assert newest_forecasts(lake, SPEC, "ETH-USD") is None


def test_a_fast_replay_loses_no_hour_after_its_first_frame(lake: Lake, topic: FakeTopic) -> None:
    """The newest row is of hour 40; a frame alone begins 28 hours before, at hour 12."""
    for hour in (1, 3, 8, 40):
        forecasts(lake, topic, MIDNIGHT + hour * HOUR, [100.0] * 70)

    def hours(source_id: str, judged: int) -> list[int]:
        found = newest_forecasts(lake, SPEC, PRODUCT, source_id, MIDNIGHT + judged * HOUR)
        assert found is not None
        return sorted({int(each) for each in (found.frame.index.as_unit("ns").asi8 - MIDNIGHT) // HOUR})

    assert hours("", 0) == [40]
    assert hours("another", 8) == [40]
    assert hours("one", 8) == [8, 40]
    assert hours("one", 7) == [3, 8, 40]
    assert hours("one", 39) == [40]
    assert hours("one", -9_000) == [1, 3, 8, 40], "at most ten days"


def test_training_rows_of_simulated_days(lake: Lake) -> None:
    rows = SimulatedRows(seed=0, products=("SOL-USD", "BTC-USD"), days=(DAY,), hours=(0, 2))
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id, known_columns=SPEC.columns)
    frame = training_frame(lake, SPEC, rows, "SOL-USD", model)
    assert frame.index.is_monotonic_increasing
    assert frame.index.is_unique
    assert (frame["lower"] <= frame["score"]).all()
    assert frame["target"].notna().all()
    with pytest.raises(ValueError, match="trained on SOL-USD, BTC-USD, without ETH-USD"):
        training_frame(lake, SPEC, rows, "ETH-USD")


def test_training_rows_that_are_gone_are_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match=f"training rows of BTC-USD on {DAY} are gone"):
        training_frame(lake, SPEC, LakeRows(content_hashes={"BTC-USD": {DAY: "x"}}), "BTC-USD")
