"""Judge live forecasts: records of `predictions` in; figures of the last 15 minutes, hour and day of event time out."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.names import check_names
from data.process import catalog
from data.process.declarations import Metric
from data.stream.codec import check_forecast
from data.stream.records import End
from data.times import NS
from data.trades import Int64s, StreamKey
from data.truth.counting import TWELFTH
from data.truth.judging import Judge, Judged
from data.truth.losses import TERCILES
from data.truth.streaming import Horizon
from monitoring.versions import VersionFacts, VersionKey
from monitoring.window_sums import (
    DAY_MINUTES,
    TERCILE_SUMS,
    UNKNOWN_TERCILE,
    Judgements,
    Losses,
    WindowSums,
    losses_of,
    merge,
    slope,
    worse_p,
)

WINDOWS = {"15m": 15, "1h": 60, "1d": DAY_MINUTES}
"""Minutes of event time of each window."""

COVERAGE_MARGIN = 0.05
"""How far below its version's promised 5 % quantile the coverage of an hour counts as low."""

WORSE_P_EACH_S = 60
"""Wall time between two computations of a p-value, which takes a millisecond: a scrape may have a hundred subjects."""

KEPT_AFTER_END_S = 3_600
"""Wall time for which the figures of a stream stay after its end."""

MOST_STREAMS = 1_000
"""Streams in memory; the stream whose newest forecast is the oldest goes first."""

MOST_SUBJECTS = 64
"""Subjects of a stream: forecasts of further versions are not judged."""

BASELINE = "baseline"


class Subject(NamedTuple):
    """What figures are about: the labels that all figures of judged forecasts have."""

    product_id: str
    model_variant: str
    version: str
    role: str
    purpose: str
    in_sample: str


class Sample(NamedTuple):
    """One value of a metric."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


class Newest(NamedTuple):
    """The newest judged forecast of a stream, volatilities per horizon."""

    score: float
    lower: float
    upper: float
    target: float


class WorseP(NamedTuple):
    """The last p-value of a subject.

    Attributes:
        evidence: number of the subject's judged forecasts, and of its streams.
        at: wall time, ns since 1970.
        p: None with too little evidence.
    """

    evidence: tuple[int, int]
    at: int
    p: float | None


class Stream:
    """The state of a stream.

    Attributes:
        newest_event, newest_ingest: of the newest forecast, ns since 1970.
        heard: number of forecasts of all streams up to the newest one of this stream: a place in the order of reading.
        ended_at: wall time of the end, ns since 1970; None while the stream is open.
    """

    def __init__(self, spec: FeatureSpec, purpose: str) -> None:
        self.judge, self.purpose = Judge(spec), purpose
        self.newest_event = self.newest_ingest = self.heard = 0
        self.ended_at: int | None = None
        self.newest: Newest | None = None
        self.sums: dict[Subject, WindowSums] = {}


_Row = tuple[int, float, float, float, float, float, int]
"""A field for each of `Judgements`."""

OnLosses = Callable[[Subject, Judgements, Losses], None]
"""Is called with each batch of judged forecasts."""


class LiveTruth:
    """Follows any number of streams.

    Args:
        facts: returns what is known of a version.
        on_losses: see `OnLosses`.
    """

    def __init__(
        self, spec: FeatureSpec, facts: Callable[[VersionKey], VersionFacts], on_losses: OnLosses | None = None
    ) -> None:
        self._spec, self._facts, self._on_losses = spec, facts, on_losses
        horizon = Horizon.of(spec)
        self._twelfth = horizon.twelfth
        self._unjudged_ns = spec.horizon_s * NS + self._twelfth  # before the newest forecast
        self._streams: dict[StreamKey, Stream] = {}
        self._judged: Counter[Subject] = Counter()
        self._worse_p: dict[Subject, WorseP] = {}
        self._difference_sum: dict[tuple[str, str], float] = {}  # by product and purpose
        self._serves_since: dict[tuple[str, str], int] = {}  # by variant and version
        self._versions: dict[tuple[str, str], VersionKey] = {}
        self._followed = 0  # forecasts

    def follow(self, records: Sequence[Any]) -> None:
        """Take forecasts, of any streams, in the order of the topic.

        Args:
            records: of `prediction_type`, with names and horizon that `check` accepts.
        """
        by_stream: defaultdict[StreamKey, list[Any]] = defaultdict(list)
        heard: dict[StreamKey, int] = {}
        for number, record in enumerate(records, self._followed + 1):
            key = StreamKey(record.source_id, record.product_id)
            by_stream[key].append(record)
            heard[key] = number
        self._followed += len(records)
        for key, mine in by_stream.items():
            stream = self._streams.get(key)
            if stream is None:
                self._make_room()
                stream = self._streams[key] = Stream(self._spec, mine[0].purpose)
            forecasts = np.empty(len(mine), object)
            forecasts[:] = mine
            event_time = np.array([record.event_time for record in mine], np.int64)
            price = np.array([record.price for record in mine], np.float64)
            stream.newest_event, stream.newest_ingest = mine[-1].event_time, mine[-1].ingest_time
            stream.heard = heard[key]
            self._take(stream, key.product_id, stream.judge.follow(event_time, price, forecasts))

    def end(self, end: End) -> None:
        """Take the end of a stream: the stream's last forecasts are judged."""
        if (stream := self._streams.get(end.key)) is not None and stream.ended_at is None:
            stream.ended_at = end.ingest_time
            self._take(stream, end.product_id, stream.judge.end())

    def check(self, record: Any) -> None:
        """Raise ValueError for a forecast with other names, figures or another horizon than allowed."""
        if record.horizon_s != self._spec.horizon_s:
            raise ValueError(f"horizon_s must be {self._spec.horizon_s}, was {record.horizon_s}")
        check_forecast(record)
        if (key := StreamKey(record.source_id, record.product_id)) not in self._streams:
            check_names(key)

    def forget(self, now: int) -> None:
        """Forget streams that ended an hour ago, and versions without a judged forecast in the last day of event time.

        Args:
            now: wall time, ns since 1970.
        """
        for key, stream in list(self._streams.items()):
            if stream.ended_at is not None and now - stream.ended_at > KEPT_AFTER_END_S * NS:
                del self._streams[key]
            for subject, sums in list(stream.sums.items()):
                if not sums.has_forecasts(stream.newest_event):
                    del stream.sums[subject]
        subjects = {subject for stream in self._streams.values() for subject in stream.sums}
        versions = {(subject.model_variant, subject.version) for subject in subjects}
        shown = {(subject.product_id, subject.purpose) for subject in subjects}
        self._judged = Counter({subject: count for subject, count in self._judged.items() if subject in subjects})
        self._worse_p = {subject: last for subject, last in self._worse_p.items() if subject in subjects}
        self._difference_sum = {key: value for key, value in self._difference_sum.items() if key in shown}
        self._serves_since = {key: value for key, value in self._serves_since.items() if key in versions}
        self._versions = {key: value for key, value in self._versions.items() if key in versions}

    def _make_room(self) -> None:
        if len(self._streams) >= MOST_STREAMS:
            del self._streams[min(self._streams, key=lambda key: self._streams[key].heard)]

    def _take(self, stream: Stream, product_id: str, judged: Judged) -> None:
        """Add judged forecasts to the sums of each of their models."""
        rows: defaultdict[Subject, list[_Row]] = defaultdict(list)
        facts: dict[Subject, VersionFacts] = {}
        for record, target in zip(judged.forecasts, judged.target.tolist(), strict=True):
            rival = _rival(record)
            for role, model in (("champion", record), *(("shadow", shadow) for shadow in record.shadow)):
                in_sample = record.in_sample if model.in_sample is None else model.in_sample
                names = product_id, model.model_variant, model.version, role, stream.purpose
                subject = Subject(*names, "true" if in_sample else "false")
                if subject not in stream.sums and subject not in rows and len(stream.sums) + len(rows) >= MOST_SUBJECTS:
                    continue
                if subject not in facts:
                    facts[subject] = self._known(model, record.spec_id)
                lower, upper = model.interval or (np.nan, np.nan)
                is_rival = model.model_variant == BASELINE
                rows[subject].append(
                    (
                        record.event_time,
                        target,
                        model.score,
                        lower,
                        upper,
                        np.nan if is_rival else rival,
                        _tercile(record, facts[subject]),
                    )
                )
            key = record.model_variant, record.version
            self._serves_since[key] = min(record.ts, self._serves_since.get(key, record.ts))
            lower, upper = record.interval
            stream.newest = Newest(record.score, lower, upper, target)
        for subject, mine in rows.items():
            self._add(stream, subject, _judgements(mine), facts[subject].floor)

    def _known(self, model: Any, spec_id: str) -> VersionFacts:
        key = _version_key(model, spec_id)
        self._versions[key.model_variant, key.version] = key
        return self._facts(key)

    def _add(self, stream: Stream, subject: Subject, judged: Judgements, floor: float | None) -> None:
        losses = losses_of(judged, floor)
        if subject not in stream.sums:
            stream.sums[subject] = WindowSums(self._twelfth)
        stream.sums[subject].add(judged, losses)
        self._judged[subject] += len(judged.score)
        differences = losses.difference[~np.isnan(losses.difference)]
        if subject.role == "champion" and subject.in_sample == "false" and len(differences):
            key = subject.product_id, subject.purpose
            for difference in differences.tolist():  # in order, so that no batch changes a bit
                self._difference_sum[key] = self._difference_sum.get(key, 0.0) + difference
        if self._on_losses is not None:
            self._on_losses(subject, judged, losses)

    # Figures

    def samples(self, now: int) -> Iterator[list[Sample]]:
        """Yield the values of all metrics in blocks, the most important first; a block is exported whole or not at all.

        Args:
            now: wall time, ns since 1970.
        """
        yield list(self._sources(now))
        yield list(self._models())
        yield list(self._products())
        by_subject: defaultdict[Subject, list[Stream]] = defaultdict(list)
        for stream in sorted(self._streams.values(), key=lambda stream: -stream.heard):
            for subject in stream.sums:
                by_subject[subject].append(stream)
        for subject, streams in by_subject.items():
            yield list(self._subject(subject, streams, now))

    def _sources(self, now: int) -> Iterator[Sample]:
        """Yield the open sources, and the age of the newest forecast of the source that is silent the longest."""
        silent_since: dict[tuple[str, str], int] = {}
        sources: defaultdict[str, set[str]] = defaultdict(set)
        for key, stream in self._streams.items():
            if stream.ended_at is None:
                sources[stream.purpose].add(key.source_id)
                shown = key.product_id, stream.purpose
                silent_since[shown] = min(stream.newest_ingest, silent_since.get(shown, stream.newest_ingest))
        for purpose in catalog.PURPOSES:
            yield Sample(catalog.OPEN_SOURCES, (purpose,), len(sources[purpose]))
        for shown, ingest_time in silent_since.items():
            yield Sample(catalog.NEWEST_FORECAST_AGE, shown, (now - ingest_time) / NS)

    def _models(self) -> Iterator[Sample]:
        for version, key in self._versions.items():
            facts = self._facts(key)
            for (promise, quantile), value in facts.promises.items():
                metric = catalog.PROMISED_QLIKE if promise == "qlike" else catalog.PROMISED_COVERAGE
                yield Sample(metric, (*version, quantile), value)
            if facts.train_end is not None:
                yield Sample(catalog.MODEL_TRAIN_END, version, facts.train_end / NS)
        for version, ts in self._serves_since.items():
            yield Sample(catalog.MODEL_SERVES_SINCE, version, ts / NS)

    def _products(self) -> Iterator[Sample]:
        """Yield the newest judged forecast of each product, of the source that published last."""
        newest: dict[tuple[str, str], Newest] = {}
        for key, stream in sorted(self._streams.items(), key=lambda item: item[1].heard):
            if stream.newest is not None:
                newest[key.product_id, stream.purpose] = stream.newest
        metrics = (
            catalog.FORECAST_VOLATILITY,
            catalog.FORECAST_LOWER,
            catalog.FORECAST_UPPER,
            catalog.FORECAST_REALIZED,
        )
        for shown, forecast in newest.items():
            yield from (Sample(metric, shown, value) for metric, value in zip(metrics, forecast, strict=True))
        for shown, total in self._difference_sum.items():
            yield Sample(catalog.FORECAST_QLIKE_DIFFERENCE_SUM, shown, total)

    def _subject(self, subject: Subject, streams: Sequence[Stream], now: int) -> Iterator[Sample]:
        """Yield the figures of one subject, over all of its streams, the stream with the newest forecast first."""
        facts = self._facts(self._versions[subject.model_variant, subject.version])
        has_floor = facts.floor is not None
        yield Sample(catalog.JUDGED_FORECASTS, subject, self._judged[subject])
        sums: dict[str, float] = {}
        for window, minutes in WINDOWS.items():
            parts = [stream.sums[subject].over(minutes, stream.newest_event) for stream in streams]
            sums = {name: sum(part[name] for part in parts) for name in parts[0]}
            yield from _figures(subject, window, sums, has_floor=has_floor)
        for tercile in range(TERCILES):
            mine = {name: sums[f"{name}_{tercile}"] for name in TERCILE_SUMS}
            labels = (*subject, str(tercile))
            if mine["forecasts"] and has_floor:
                yield Sample(catalog.FORECAST_TERCILE_QLIKE, labels, mine["qlike"] / mine["forecasts"])
            yield from _shares(catalog.FORECAST_TERCILE_SHARE, labels, mine)
        if (p := self._p(subject, streams, now)) is not None:
            yield Sample(catalog.FORECAST_WORSE_P, subject, p)
        yield from self._broken_promises(subject, streams, facts)

    def _p(self, subject: Subject, streams: Sequence[Stream], now: int) -> float | None:
        """Return `worse_p`, computed after new judged forecasts, and at most each `WORSE_P_EACH_S`."""
        evidence, last = (self._judged[subject], len(streams)), self._worse_p.get(subject)
        if last is not None:
            is_young = last.p is not None and now - last.at < WORSE_P_EACH_S * NS
            if is_young or last.evidence == evidence:
                return last.p
        p = worse_p(merge([stream.sums[subject].differences(stream.newest_event) for stream in streams]))
        self._worse_p[subject] = WorseP(evidence, now, p)
        return p

    def _broken_promises(self, subject: Subject, streams: Sequence[Stream], facts: VersionFacts) -> Iterator[Sample]:
        """Yield for how many closed hours in a row the forecasts are worse than their version promises."""
        names = ("forecasts", "qlike", "intervals", "below", "above")
        ends = ((stream.sums[subject], stream.newest_event - self._unjudged_ns) for stream in streams)
        n, loss, intervals, below, above = np.sum([sums.by_closed_hour(end, *names) for sums, end in ends], axis=0)
        if (promised := facts.promises.get(("coverage", "0.05"))) is not None:
            hours = _first_run(intervals - below - above < (promised - COVERAGE_MARGIN) * intervals)
            yield Sample(catalog.FORECAST_LOW_COVERAGE_HOURS, subject, hours)
            yield Sample(catalog.FORECAST_LOW_COVERAGE_HORIZONS, subject, intervals[:hours].sum() / TWELFTH)
        if facts.floor is not None and (promised := facts.promises.get(("qlike", "0.95"))) is not None:
            yield Sample(catalog.FORECAST_HIGH_QLIKE_HOURS, subject, _first_run(loss > promised * n))


def _first_run(is_broken: NDArray[np.bool_]) -> int:
    """Return the number of true values before the first false one.

    >>> _first_run(np.array([True, True, False, True])), _first_run(np.array([True]))
    (2, 1)
    """
    return len(is_broken) if is_broken.all() else int(np.argmin(is_broken))


def _figures(subject: Subject, window: str, sums: dict[str, float], *, has_floor: bool) -> Iterator[Sample]:
    labels, n = (*subject, window), sums["forecasts"]
    yield Sample(catalog.FORECAST_HORIZONS, labels, n / TWELFTH)
    if not n:
        return
    if has_floor:
        yield Sample(catalog.FORECAST_QLIKE, labels, sums["qlike"] / n)
        yield Sample(catalog.FORECAST_BIAS, labels, sums["bias"] / n)
    if sums["differences"]:
        yield Sample(catalog.FORECAST_QLIKE_DIFFERENCE, labels, sums["difference"] / sums["differences"])
    if (steepness := slope(sums)) is not None:
        yield Sample(catalog.FORECAST_MINCER_ZARNOWITZ_SLOPE, labels, steepness)
    if sums["intervals"]:
        yield Sample(catalog.FORECAST_INTERVAL_LOG_WIDTH, labels, sums["log_width"] / sums["intervals"])
    yield from _shares(catalog.FORECAST_SHARE, labels, sums)


def _shares(metric: Metric, labels: tuple[str, ...], sums: dict[str, float]) -> Iterator[Sample]:
    n, below, above = sums["intervals"], sums["below"], sums["above"]
    if n:
        for side, count in (("below", below), ("inside", n - below - above), ("above", above)):
            yield Sample(metric, (*labels, side), count / n)


def named_versions(records: Sequence[Any]) -> set[VersionKey]:
    """Return the versions that forecasts and their shadows name."""
    models = [(record, record.spec_id) for record in records]
    models += [(shadow, record.spec_id) for record in records for shadow in record.shadow]
    return {_version_key(model, spec_id) for model, spec_id in models}


def _version_key(model: Any, spec_id: str) -> VersionKey:
    return VersionKey(model.model_variant, model.version, model.digest or "", spec_id)


def _rival(record: Any) -> float:
    """Return the baseline's score of a record; NaN without one."""
    models = (record, *record.shadow)
    return next((model.score for model in models if model.model_variant == BASELINE), np.nan)


def _tercile(record: Any, facts: VersionFacts) -> int:
    variance = getattr(record, facts.reference, None) if facts.reference is not None else None
    if facts.tercile_bounds is None or variance is None:
        return UNKNOWN_TERCILE
    return bisect_left(facts.tercile_bounds, math.sqrt(variance))


def _judgements(rows: Sequence[_Row]) -> Judgements:
    event_time, *floats, tercile = zip(*rows, strict=True)
    target, score, lower, upper, rival = np.array(floats, np.float64)
    times: Int64s = np.array(event_time, np.int64)
    return Judgements(times, target, score, lower, upper, rival, np.array(tercile, np.intp))
