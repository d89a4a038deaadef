"""Forecasts of the score stage, in random batches and over restarts, against forecasts made offline in one go."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.simulator.day import simulate_day
from data.stream.codec import encode_features
from data.stream.published import published_type
from data.stream.reader import RecordBlock
from data.stream.records import AdaptedBy, Purpose
from data.times import to_ns
from data.trades import Floats, StreamKey, Trades
from data.truth.adaptation import adapted, reach_ns, teaching
from online.exactly_once.feature_stage import FeatureColumns, StreamTail
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from tests.models import baseline, model_bytes
from tests.proofs import Proof

SPEC = FeatureSpec()
PARTITION = 5
MAX_BATCH = 10_000
KEPT = 100_000
"""Newest forecasts on the topic: more than a restart reads."""
NAMES = ("score", "lower", "upper", "raw_score", *AdaptedBy.__struct_fields__)


class Forecast(msgspec.Struct, gc=False):
    """Figures of a published forecast."""

    score: float
    interval: tuple[float, float]
    raw_score: float
    weighted_sum: float
    weight: float
    offset_low: float
    offset_high: float
    judged_horizons: float


def market(rows: int) -> Trades:
    """Return the trades of two products, mixed by time."""
    hours = (0, 24) if rows > 100_000 else (0, 1)
    days = [simulate_day(product, dt.date(2026, 3, 20), hours=hours) for product in ("BTC-USD", "ETH-USD")]
    trades = Trades.join([replace(day, keys=(StreamKey("s", day.keys[0].product_id),)) for day in days])
    assert len(trades) >= rows
    return trades.take(np.argsort(trades.event_time, kind="stable")[:rows])


def version(number: str, scale: float) -> ModelVersion:
    model = ServedModel.load(model_bytes(baseline(scale=scale)), spec_id=SPEC.spec_id)
    return ModelVersion(model, "volatility-baseline", number, "disk")


class Topic:
    """The newest records of `predictions`, with the offsets of their trades."""

    def __init__(self) -> None:
        self.values: deque[bytes] = deque(maxlen=KEPT)

    def read(self, *_: int | None) -> Iterator[RecordBlock]:
        values = list(self.values)
        yield RecordBlock(list(range(len(values))), values)


def tails(trades: Trades, end: int) -> dict[StreamKey, StreamTail]:
    """Return the tail of each stream before a row."""
    found = {}
    for stream, key in enumerate(trades.keys):
        mine = np.flatnonzero(trades.stream[:end] == stream)
        since = trades.event_time[mine[-1]] - reach_ns(SPEC)
        first = mine[np.searchsorted(trades.event_time[mine], since)]
        found[key] = StreamTail(0, int(first), int(mine[-1]))
    return found


def prove(proof: Proof, rows: int, restarts: int, seed: int) -> None:
    """Forecast `rows` trades in random batches, with a new version in the middle, and compare all figures."""
    rng = np.random.default_rng(seed)
    made = feature_rows(market(rows), Windows(SPEC))
    trades = made.trades
    purposes: dict[StreamKey, Purpose] = dict.fromkeys(trades.keys, "replay")
    versions = [version("1", 4.0), version("2", 0.7)]
    swap = int(rng.integers(rows // 3, rows // 2))
    sizes = np.exp(rng.uniform(0, np.log(min(rows // 20, MAX_BATCH)), rows)).astype(np.int64)
    ends = np.cumsum(sizes)
    cuts = np.unique([0, swap, *ends[ends < rows], rows])
    restarted = set(rng.choice(cuts[(cuts > rows // 20) & (cuts < rows)], restarts, replace=False).tolist())
    topic, metrics, serving = Topic(), ForecasterMetrics(), [versions[0]]
    found: dict[str, Floats] = {name: np.empty(rows) for name in NAMES}
    decode = msgspec.json.Decoder(Forecast).decode
    stage = ScoreStage(SPEC, lambda: serving[0], topic.read, metrics)
    for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        serving[0] = versions[start >= swap]
        if start in restarted:
            stage = ScoreStage(SPEC, lambda: serving[0], topic.read, metrics)
            stage.restore(PARTITION, tails(trades, start))
        some = made._replace(trades=trades.take(slice(start, end)), values=made.values[start:end])
        texts = encode_features(some, SPEC, purposes, PARTITION, np.arange(start, end))
        n = end - start
        part = FeatureColumns(PARTITION, texts, ["X"] * n, [0] * n, some.trades, some.values, purposes)
        values = [record[3] for record in stage.process([part])]
        topic.values.extend(values)
        forecasts = list(map(decode, values))
        found["lower"][start:end], found["upper"][start:end] = np.array([each.interval for each in forecasts]).T
        for name in ("score", *NAMES[3:]):
            found[name][start:end] = [getattr(each, name) for each in forecasts]
    different = 0
    for stream in range(len(trades.keys)):
        for number, served in enumerate(versions):
            mine = np.flatnonzero((trades.stream == stream) & ((np.arange(rows) >= swap) == number))
            model = served.model
            scores = model.score(made.values[mine][:, [SPEC.columns.index(name) for name in model.columns]])
            times = trades.event_time[mine]
            teaches = teaching(made.values[mine], times, to_ns(model.train_end), SPEC)
            offline = adapted(times, trades.price[mine], scores, teaches, SPEC)
            expected = offline._asdict() | {"raw_score": scores.score}
            for name in NAMES:
                different += int(np.sum(found[name][mine].view(np.int64) != expected[name].view(np.int64)))
    proof.disturbs(f"{restarts} restarts, {len(cuts) - 1:,} batches, 2 versions")
    proof.saw(forecasts=rows, different=different, judged_horizons=float(found["judged_horizons"].max()))
    assert different == 0
    assert found["judged_horizons"].max() > 1
    assert metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "adaptation_incomplete"}) == 0


def test_forecasts_are_the_same_online_and_offline(proof: Proof) -> None:
    prove(proof, 20_000, 5, seed=1)


@pytest.mark.acceptance
def test_a_million_forecasts_are_the_same_online_and_offline(proof: Proof) -> None:
    prove(proof, 1_000_000, 40, seed=2)


def test_the_published_fields_are_those_that_a_restart_reads() -> None:
    names = set(published_type(SPEC).__struct_fields__)
    assert set(NAMES) - {"score", "lower", "upper"} <= names
