"""Live figures: the figures of the same forecasts offline, window by window, whatever the batches."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from data.features.spec import FeatureSpec
from data.process import catalog
from data.simulator.day import simulate_day
from data.stream.records import End, Shadow, prediction_type
from data.times import DAY_S, NS
from data.trades import Floats, Int64s
from data.truth.counting import counted_rows
from data.truth.losses import bias, coverage, qlike
from data.truth.significance import LAGS, diebold_mariano, mincer_zarnowitz
from data.truth.targets import target_volatility
from monitoring import live_truth
from monitoring.live_truth import MOST_STREAMS, LiveTruth, Sample, Subject
from monitoring.versions import UNKNOWN, VersionFacts, VersionKey
from monitoring.window_sums import LEAST_HORIZONS

SPEC = FeatureSpec()
FLOOR = 1e-10
BOUNDS = (3e-4, 5e-4)
FACTS = VersionFacts(FLOOR, "ewma_variance_300", BOUNDS, 1_600_000_000 * NS, {("qlike", "0.5"): 0.2})
RECORD = prediction_type(SPEC)
NO_COLUMNS: dict[str, Any] = dict.fromkeys(SPEC.columns) | {"n": 0}
BTC = Subject("BTC-USD", "ml", "7", "champion", "replay", "false")


def record(event_time: int, price: float, score: float, **fields: Any) -> Any:
    """Return a forecast; its interval is from half to one and a half of the score."""
    usual: dict[str, Any] = {
        "source_id": "s",
        "product_id": "BTC-USD",
        "purpose": "replay",
        "trade_id": 1,
        "ingest_time": event_time,
        "kafka_partition": 0,
        "kafka_offset": 0,
        "spec_id": SPEC.spec_id,
        "ts": event_time,
        "horizon_s": 60,
        "interval": (0.5 * score, 1.5 * score),
        "model_variant": "ml",
        "version": "7",
        "digest": "ab" * 32,
        "in_sample": False,
        "missing": [],
        "shadow": [],
    }
    return RECORD(**(NO_COLUMNS | usual | {"event_time": event_time, "price": price, "score": score} | fields))


@dataclass
class Market:
    """Rows of a stream with scores of two models."""

    event_time: Int64s
    price: Floats
    score: Floats
    other: Floats

    def records(self, **fields: Any) -> list[Any]:
        """Return forecasts by `ml`, with the baseline as shadow."""
        columns = zip(
            self.event_time.tolist(), self.price.tolist(), self.score.tolist(), self.other.tolist(), strict=True
        )
        return [
            record(t, p, s, **({"shadow": [Shadow("baseline", "3", o, (0.4 * o, 2 * o))]} | fields))
            for t, p, s, o in columns
        ]

    def judged(self) -> tuple[Int64s, Floats, Floats, Floats]:
        """Return event time, realized variance, score and other score of the counted forecasts with a target."""
        rows = counted_rows(self.event_time, SPEC)
        targets = target_volatility(self.event_time, self.price, SPEC)[rows]
        rows, targets = rows[~np.isnan(targets)], targets[~np.isnan(targets)]
        return self.event_time[rows], np.maximum(targets**2, FLOOR), self.score[rows], self.other[rows]


@cache
def market(hours: int = 2, seed: int = 1) -> Market:
    trades = simulate_day("BTC-USD", dt.date(2025, 3, 7), seed, hours=(0, hours)).take(slice(None, None, 10))
    rng = np.random.default_rng(seed)
    scores = 4e-4 * np.exp(rng.normal(0, 0.4, (2, len(trades))))
    return Market(trades.event_time, trades.price, *scores)


def follow(
    records: Sequence[Any], cuts: Iterable[int] = (), facts: VersionFacts = FACTS, ends: int | None = None
) -> LiveTruth:
    """Return the state after records, in batches; `ends`: wall time of the stream's end."""
    truth = LiveTruth(SPEC, lambda _: facts)
    for begin, end in pairwise([0, *cuts, len(records)]):
        truth.follow(records[begin:end])
    if ends is not None:
        truth.end(End("s", "BTC-USD", "replay", ends, end=True))
    return truth


def samples(truth: LiveTruth, now: int = 0) -> list[Sample]:
    return [sample for block in truth.samples(now) for sample in block]


def value(truth: LiveTruth, metric: Any, *labels: str, now: int = 0) -> float:
    """Return the value of a series."""
    [found] = [sample.value for sample in samples(truth, now) if sample.metric is metric and sample.labels == labels]
    return found


def test_figures_are_those_of_the_same_forecasts_offline() -> None:
    truth = follow(market().records(), cuts=range(7, 5_000, 333), ends=0)
    event_time, realized, score, other = market().judged()
    newest = int(market().event_time[-1])
    for window, minutes in (("15m", 15), ("1h", 60), ("1d", 1_440)):
        mine = event_time // (60 * NS) > newest // (60 * NS) - minutes
        r, s, o = realized[mine], score[mine], other[mine]
        assert 100 < len(r) <= 12 * minutes
        loss = qlike(r, s**2, 0.0)
        expected = {
            catalog.FORECAST_QLIKE: np.mean(loss),
            catalog.FORECAST_BIAS: bias(np.sqrt(r), s),
            catalog.FORECAST_QLIKE_DIFFERENCE: np.mean(loss - qlike(r, o**2, 0.0)),
            catalog.FORECAST_INTERVAL_LOG_WIDTH: math.log(3),
            catalog.FORECAST_MINCER_ZARNOWITZ_SLOPE: mincer_zarnowitz(r, s**2).slope,
            catalog.FORECAST_HORIZONS: len(r) / 12,
        }
        for metric, wanted in expected.items():
            assert value(truth, metric, *BTC, window) == pytest.approx(wanted, abs=1e-9), (metric.name, window)
        shares = [value(truth, catalog.FORECAST_SHARE, *BTC, window, side) for side in ("below", "inside", "above")]
        assert shares[1] == pytest.approx(coverage(np.sqrt(r), 0.5 * s, 1.5 * s), abs=1e-12)
        assert shares[0] == pytest.approx(np.mean(np.sqrt(r) < 0.5 * s), abs=1e-12)
        assert sum(shares) == pytest.approx(1)
    assert value(truth, catalog.JUDGED_FORECASTS, *BTC) == len(realized)


def test_losses_are_equal_forecast_by_forecast() -> None:
    found: list[tuple[Subject, Int64s, Floats]] = []
    truth = LiveTruth(
        SPEC, lambda _: FACTS, lambda subject, rows, of: found.append((subject, rows.event_time, of.qlike))
    )
    records = market().records()
    for begin, end in pairwise(range(0, len(records) + 500, 500)):
        truth.follow(records[begin:end])
    truth.end(End("s", "BTC-USD", "replay", 0, end=True))
    event_time, realized, score, _ = market().judged()
    mine = [(times, losses) for subject, times, losses in found if subject == BTC]
    assert np.concatenate([times for times, _ in mine]).tolist() == event_time.tolist()
    assert np.concatenate([losses for _, losses in mine]).tobytes() == qlike(realized, score**2, 0.0).tobytes()


def test_a_shadow_has_figures_of_its_own_and_a_score_alone_has_no_interval() -> None:
    _, realized, _, other = market().judged()
    shadow = Subject("BTC-USD", "baseline", "3", "shadow", "replay", "false")
    truth = follow(market().records(), ends=0)
    wanted = np.mean(qlike(realized, other**2, 0.0))
    assert value(truth, catalog.FORECAST_QLIKE, *shadow, "1d") == pytest.approx(wanted, abs=1e-9)
    inside = coverage(np.sqrt(realized), 0.4 * other, 2 * other)
    assert value(truth, catalog.FORECAST_SHARE, *shadow, "1d", "inside") == pytest.approx(inside, abs=1e-12)
    assert catalog.FORECAST_QLIKE_DIFFERENCE not in metrics_of(truth, shadow)  # the baseline is its own rival

    alone = follow(market().records(shadow=[Shadow("ml", "8", 4e-4)]), ends=0)
    challenger = shadow._replace(model_variant="ml", version="8")
    assert value(alone, catalog.FORECAST_HORIZONS, *challenger, "1h") > 50
    assert catalog.FORECAST_SHARE not in metrics_of(alone, challenger)
    assert catalog.FORECAST_QLIKE_DIFFERENCE not in metrics_of(alone, BTC)  # no baseline in the record


def metrics_of(truth: LiveTruth, subject: Subject) -> set[Any]:
    return {sample.metric for sample in samples(truth) if sample.labels[: len(subject)] == subject}


def test_in_sample_forecasts_are_apart_and_count_for_no_sum() -> None:
    records = market().records()
    half = len(records) // 2
    truth = follow([*(replace(each, in_sample=True) for each in records[:half]), *records[half:]], ends=0)
    known = BTC._replace(in_sample="true")
    counts = [value(truth, catalog.JUDGED_FORECASTS, *each) for each in (known, BTC)]
    assert sum(counts) == len(market().judged()[0])
    assert min(counts) > 100
    event_time, realized, score, other = market().judged()
    fresh = event_time >= records[half].event_time
    differences = qlike(realized, score**2, 0.0) - qlike(realized, other**2, 0.0)
    total = value(truth, catalog.FORECAST_QLIKE_DIFFERENCE_SUM, "BTC-USD", "replay")
    assert total == pytest.approx(np.sum(differences[fresh]), abs=1e-9)


def test_a_version_without_floor_has_coverage_and_no_qlike() -> None:
    truth = follow(market().records(), facts=UNKNOWN, ends=0)
    found = metrics_of(truth, BTC)
    absent = {catalog.FORECAST_QLIKE, catalog.FORECAST_BIAS, catalog.FORECAST_QLIKE_DIFFERENCE}
    assert not found & absent
    assert {catalog.FORECAST_SHARE, catalog.FORECAST_MINCER_ZARNOWITZ_SLOPE, catalog.FORECAST_HORIZONS} <= found


WIDE, FAR = (1e-9, 1.0), (1.0, 2.0)
"""An interval that holds each target, and one that holds none."""


@pytest.mark.parametrize(("promised", "hours"), [(0.8, 2), (0.5, 1), (0.05, 0)])
def test_hours_of_low_coverage_are_counted_in_a_row(promised: float, hours: int) -> None:
    """No target lies inside from 2:30 on: hours 2 and 3 have coverages of a half and of none, hour 4 is not closed.

    The limit is the promise less .05.
    """
    facts = FACTS._replace(promises={("coverage", "0.05"): promised})
    begin = int(market(5).event_time[0]) // (3_600 * NS) * 3_600 * NS
    records = [
        replace(each, interval=FAR if each.event_time >= begin + 9_000 * NS else WIDE) for each in market(5).records()
    ]
    truth = follow(records, facts=facts, ends=0)
    assert value(truth, catalog.FORECAST_LOW_COVERAGE_HOURS, *BTC) == hours
    horizons = value(truth, catalog.FORECAST_LOW_COVERAGE_HORIZONS, *BTC)
    assert 0.95 * 60 * hours <= horizons <= 60 * hours
    assert catalog.FORECAST_HIGH_QLIKE_HOURS not in metrics_of(truth, BTC), "no such promise"
    truth.follow([replace(each, source_id="t") for each in records])
    assert value(truth, catalog.FORECAST_LOW_COVERAGE_HOURS, *BTC) == hours
    assert value(truth, catalog.FORECAST_LOW_COVERAGE_HORIZONS, *BTC) == pytest.approx(2 * horizons, abs=0.2)


@pytest.mark.parametrize(("promised", "hours"), [(0.0, 4), (99.0, 0)])
def test_hours_of_high_qlike_are_counted_in_a_row(promised: float, hours: int) -> None:
    truth = follow(market(5).records(), facts=FACTS._replace(promises={("qlike", "0.95"): promised}))
    assert value(truth, catalog.FORECAST_HIGH_QLIKE_HOURS, *BTC) == hours
    assert catalog.FORECAST_LOW_COVERAGE_HOURS not in metrics_of(truth, BTC), "no such promise"


def test_an_hour_closes_when_its_last_forecast_is_judged() -> None:
    """Hour 0 ends at 1:00; its last forecast is judged at 1:01."""
    facts = FACTS._replace(promises={("qlike", "0.95"): 0.0})
    records = market(5).records()
    hour = int(market(5).event_time[0]) // (3_600 * NS) + 1
    for seconds, hours in ((50, 0), (70, 1)):
        until = (3_600 * hour + seconds) * NS
        truth = follow([each for each in records if each.event_time < until], facts=facts)
        assert value(truth, catalog.FORECAST_HIGH_QLIKE_HOURS, *BTC) == hours


def test_terciles_are_of_the_reference_column_at_the_models_bounds() -> None:
    """A third of the rows at each of 2e-4, 4e-4 and 8e-4 of volatility; the bounds lie between."""
    records = [
        replace(each, ewma_variance_300=variance)
        for each, variance in zip(market().records(), np.resize([4e-8, 1.6e-7, 6.4e-7], 10**6), strict=False)
    ]
    truth = follow(records, ends=0)
    rows = counted_rows(market().event_time, SPEC)
    known = ~np.isnan(target_volatility(market().event_time, market().price, SPEC)[rows])
    _, realized, score, _ = market().judged()
    for tercile in range(3):
        mine = rows[known] % 3 == tercile
        found = value(truth, catalog.FORECAST_TERCILE_QLIKE, *BTC, str(tercile))
        assert found == pytest.approx(np.mean(qlike(realized[mine], score[mine] ** 2, 0.0)), abs=1e-9)
        inside = value(truth, catalog.FORECAST_TERCILE_SHARE, *BTC, str(tercile), "inside")
        assert inside == pytest.approx(coverage(np.sqrt(realized), 0.5 * score, 1.5 * score), abs=0.15)


def test_the_p_value_is_offlines_and_needs_four_hours() -> None:
    shorter = follow(market().records(), ends=0)
    assert catalog.FORECAST_WORSE_P not in metrics_of(shorter, BTC)
    longer = market(hours=5)
    truth = follow(longer.records(), ends=0)
    _, realized, score, other = longer.judged()
    assert len(realized) >= 12 * LEAST_HORIZONS
    difference = qlike(realized, other**2, 0.0) - qlike(realized, score**2, 0.0)
    wanted = diebold_mariano(difference, LAGS).p_one_sided
    assert value(truth, catalog.FORECAST_WORSE_P, *BTC) == pytest.approx(wanted, abs=1e-9)


def test_a_day_that_is_replayed_twice_is_evidence_once() -> None:
    """The replay `t` is published later, with other scores: its forecasts count where both have one."""
    first = market(hours=5).records()
    again = [replace(each, source_id="t", ingest_time=each.ingest_time + DAY, score=0.5 * each.score) for each in first]
    alone = follow(again)
    alone.follow([replace(each, source_id="u", ingest_time=0) for each in first[:50]])
    both, equal = follow([*first, *again]), follow([*first, *(replace(each, source_id="t") for each in first)])
    assert value(both, catalog.FORECAST_WORSE_P, *BTC) == value(alone, catalog.FORECAST_WORSE_P, *BTC)
    assert value(equal, catalog.FORECAST_WORSE_P, *BTC) == value(follow(first), catalog.FORECAST_WORSE_P, *BTC)


def test_two_short_replays_of_the_same_hours_have_no_p_value() -> None:
    records = market(hours=3).records()
    twice = follow([*records, *(replace(each, source_id="t") for each in records)])
    assert value(twice, catalog.FORECAST_HORIZONS, *BTC, "1d") >= LEAST_HORIZONS
    assert catalog.FORECAST_WORSE_P not in metrics_of(twice, BTC)


def test_a_p_value_is_computed_after_new_forecasts_and_at_most_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def worse_p(differences: Floats) -> float:
        computed.append(len(differences))
        return 0.5

    monkeypatch.setattr(live_truth, "worse_p", worse_p)
    records = market(hours=2).records(shadow=[])
    truth = follow(records[:-4_000])
    for seconds in range(0, 300, 5):
        assert value(truth, catalog.FORECAST_WORSE_P, *BTC, now=seconds * NS) == 0.5
    assert len(computed) == 1, "no forecast is new"
    for number, seconds in enumerate(range(300, 420, 5)):
        truth.follow(records[-4_000:][number * 100 : (number + 1) * 100])
        samples(truth, now=seconds * NS)
    assert len(computed) == 3, "at 300 s, and at 360 s"


def test_batches_and_a_second_reading_change_no_figure() -> None:
    records = market().records()
    other = [record(each.event_time, each.price, each.score, source_id="t", product_id="ETH-USD") for each in records]
    mixed = [each for pair in zip(records, other, strict=True) for each in pair]
    once = follow(mixed)
    again = follow(mixed, cuts=range(1, len(mixed), 1_009))
    assert samples(once) == samples(again)
    alone = [sample for sample in samples(follow(records)) if sample.labels[:1] == ("BTC-USD",)]
    assert alone == [sample for sample in samples(once) if sample.labels[:1] == ("BTC-USD",)]


def test_two_sources_of_a_product_share_their_figures() -> None:
    """Each source has a clock of its own: a replay of another day moves no window of the first."""
    records = market().records()
    later = [
        RECORD(
            **({f: getattr(r, f) for f in r.__struct_fields__} | {"source_id": "t", "event_time": r.event_time + DAY})
        )
        for r in records
    ]
    one, both = follow(records), follow([*records, *later])
    for metric in (catalog.FORECAST_QLIKE, catalog.FORECAST_BIAS):
        assert value(both, metric, *BTC, "1h") == pytest.approx(value(one, metric, *BTC, "1h"))
    assert value(both, catalog.FORECAST_HORIZONS, *BTC, "1h") == 2 * value(one, catalog.FORECAST_HORIZONS, *BTC, "1h")
    assert value(both, catalog.OPEN_SOURCES, "replay") == 2


DAY = DAY_S * NS


def test_an_ended_source_is_not_open_and_is_forgotten_an_hour_later() -> None:
    end = 1_800_000_000 * NS
    truth = follow(market().records(), ends=end)
    assert value(truth, catalog.OPEN_SOURCES, "replay") == 0
    truth.forget(end + 3_600 * NS)
    assert catalog.FORECAST_QLIKE in metrics_of(truth, BTC)
    truth.forget(end + 3_601 * NS)
    assert {sample.metric for sample in samples(truth)} == {catalog.OPEN_SOURCES}


def test_the_age_of_the_newest_forecast_is_of_open_sources() -> None:
    records = market().records()
    truth = follow(records)
    now = records[-1].ingest_time + 7 * NS
    assert value(truth, catalog.NEWEST_FORECAST_AGE, "BTC-USD", "replay", now=now) == 7
    truth.end(End("s", "BTC-USD", "replay", now, end=True))
    assert catalog.NEWEST_FORECAST_AGE not in {sample.metric for sample in samples(truth, now)}


def test_a_silent_source_is_seen_beside_a_source_that_goes_on() -> None:
    """The source `t` has its newest forecast 500 s later; the source `s` is open until its end."""
    records = market().records()[:2_000]
    newest = records[-1].ingest_time
    truth = follow(records)
    truth.follow([replace(each, source_id="t", ingest_time=each.ingest_time + 500 * NS) for each in records])
    now = newest + 507 * NS
    assert value(truth, catalog.NEWEST_FORECAST_AGE, "BTC-USD", "replay", now=now) == 507
    truth.end(End("s", "BTC-USD", "replay", now, end=True))
    assert value(truth, catalog.NEWEST_FORECAST_AGE, "BTC-USD", "replay", now=now) == 7


def test_a_version_is_forgotten_a_day_of_event_time_after_its_last_forecast() -> None:
    records = market().records(shadow=[])[:4_000]
    later = [replace(each, event_time=each.event_time + DAY, version="8") for each in records]
    truth = follow(records)
    versions = {sample.labels[1] for sample in samples(truth) if sample.metric is catalog.MODEL_SERVES_SINCE}
    assert versions == {"7"}
    truth.follow(later)
    truth.forget(0)
    found = samples(truth)
    assert {sample.labels[1] for sample in found if sample.metric is catalog.MODEL_SERVES_SINCE} == {"8"}
    assert {sample.labels[2] for sample in found if sample.metric is catalog.JUDGED_FORECASTS} == {"8"}


def test_promises_and_times_of_a_version_are_exported() -> None:
    records = market().records()
    truth = follow(records)
    assert value(truth, catalog.PROMISED_QLIKE, "ml", "7", "0.5") == 0.2
    assert value(truth, catalog.MODEL_TRAIN_END, "ml", "7") == 1_600_000_000
    since = value(truth, catalog.MODEL_SERVES_SINCE, "ml", "7")
    assert records[0].ts / NS <= since <= records[0].ts / NS + 5


def test_the_newest_judged_forecast_is_shown_with_its_band_and_target() -> None:
    truth = follow(market().records(), ends=0)
    _, realized, score, _ = market().judged()
    shown = "BTC-USD", "replay"
    assert value(truth, catalog.FORECAST_VOLATILITY, *shown) == score[-1]
    assert value(truth, catalog.FORECAST_LOWER, *shown) == 0.5 * score[-1]
    assert value(truth, catalog.FORECAST_UPPER, *shown) == 1.5 * score[-1]
    assert value(truth, catalog.FORECAST_REALIZED, *shown) == pytest.approx(math.sqrt(realized[-1]))


def test_no_forecast_is_judged_before_its_horizon_has_passed() -> None:
    """The first forecast is judged with the first row that is later than its 60 grid steps."""
    records = market().records()
    truth = LiveTruth(SPEC, lambda _: FACTS)
    for each in records:
        truth.follow([each])
        counted = [sample.value for sample in samples(truth) if sample.metric is catalog.JUDGED_FORECASTS]
        if counted:
            break
    begins = -(-records[0].event_time // (5 * NS)) * 5 * NS  # the last row up to here is the first that counts
    assert begins + 55 * NS < each.event_time <= begins + 70 * NS


def test_equal_forecasts_have_no_slope_and_zero_targets_no_infinity() -> None:
    times = np.arange(1_700_000_000, 1_700_000_300) * NS
    truth = follow([record(int(t), 100.0, 4e-4) for t in times], ends=0)
    assert catalog.FORECAST_MINCER_ZARNOWITZ_SLOPE not in metrics_of(truth, BTC)
    assert all(math.isfinite(sample.value) for sample in samples(truth))


def test_a_forecast_with_another_horizon_or_a_bad_name_is_refused() -> None:
    truth = LiveTruth(SPEC, lambda _: FACTS)
    good = record(NS, 1.0, 1e-4)
    truth.check(good)
    for fields, reason in (
        ({"horizon_s": 3_600}, "horizon_s must be 60, was 3600"),
        ({"product_id": "bitcoin"}, "product_id must match"),
        ({"source_id": ""}, "source_id must match"),
        ({"source_id": "s\n"}, "source_id must match"),
        ({"model_variant": "../ml"}, "a model must be named like ml 7, was '../ml' '7'"),
        ({"version": "7\x00"}, "a model must be named"),
        ({"shadow": [Shadow("baseline", "", 1e-4)]}, "a model must be named"),
        ({"score": 1e300}, "score and interval must be above 0, below 1e\\+06 and in order"),
        ({"interval": (-1e-4, 2e-4)}, "score and interval must be above 0"),
        ({"interval": (2e-4, 1e-4)}, "in order, were 0.0001, 0.0002 to 0.0001"),
        ({"shadow": [Shadow("baseline", "1", 1e7)]}, "score and interval must be above 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            truth.check(replace(good, **fields))


def test_memory_is_bounded_by_the_models_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each forecast names another version, as a foreign program may."""
    monkeypatch.setattr(live_truth, "MOST_SUBJECTS", 3)
    times = np.arange(1_700_000_000, 1_700_000_900) * NS
    truth = follow([record(int(t), 100.0, 4e-4, version=str(i)) for i, t in enumerate(times)], ends=0)
    judged = [sample for sample in samples(truth) if sample.metric is catalog.JUDGED_FORECASTS]
    assert len(judged) == 3


def test_memory_is_bounded_by_streams() -> None:
    truth = LiveTruth(SPEC, lambda _: FACTS)
    for number in range(MOST_STREAMS + 50):
        truth.follow([record(NS + number, 1.0, 1e-4, source_id=f"s{number}")])
    assert value(truth, catalog.OPEN_SOURCES, "replay") == MOST_STREAMS


def test_a_clock_that_stepped_back_costs_no_stream_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source of a clock an hour further back: the newest forecast, and the places, go to those heard of last."""
    monkeypatch.setattr("monitoring.live_truth.MOST_STREAMS", 2)
    truth = LiveTruth(SPEC, lambda _: FACTS)
    for number in range(3):
        fields = {"source_id": f"s{number}", "ingest_time": (10 - number) * 3_600 * NS}
        truth.follow([record(second * NS, 1.0, 1e-4 + number, **fields) for second in range(1, 122)])
        assert value(truth, catalog.FORECAST_VOLATILITY, "BTC-USD", "replay") == 1e-4 + number
    assert {key.source_id for key in truth._streams} == {"s1", "s2"}


def test_facts_are_asked_by_the_versions_that_a_record_names() -> None:
    asked: set[VersionKey] = set()

    def facts(key: VersionKey) -> VersionFacts:
        asked.add(key)
        return FACTS

    LiveTruth(SPEC, facts).follow(market().records())
    assert asked == {
        VersionKey("ml", "7", "ab" * 32, SPEC.spec_id),
        VersionKey("baseline", "3", "", SPEC.spec_id),
    }
