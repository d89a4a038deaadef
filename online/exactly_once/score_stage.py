"""Make forecasts from feature rows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import repeat

import numpy as np
import structlog

from data.features.spec import FeatureSpec
from data.models.served import Scores
from data.stream.codec import encode_predictions
from data.stream.records import PREDICTIONS, Forecaster
from data.times import to_ns
from data.trades import StreamKey
from data.truth.adaptation import Adaptations, RawForecasts, teaching, version_number
from online.exactly_once.feature_stage import EndedStream, FeatureColumns, StreamTail
from online.exactly_once.loop import Record
from online.exactly_once.resumption import PublishedForecasts, ReadPredictions
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion

log = structlog.get_logger()


class ScoreStage:
    """Make forecasts from feature rows, adapted to each stream by its past forecasts.

    Args:
        serving: returns the model that serves now; one model scores a whole batch.
        read: see `ReadPredictions`.
    """

    def __init__(
        self, spec: FeatureSpec, serving: Callable[[], ModelVersion], read: ReadPredictions, metrics: ForecasterMetrics
    ) -> None:
        self._spec, self._serving, self._metrics = spec, serving, metrics
        self._published = PublishedForecasts(spec, read)
        self._partitions = defaultdict[int, Adaptations](lambda: Adaptations(spec))
        self._take(serving())

    def restore(self, partition: int, tails: dict[StreamKey, StreamTail]) -> None:
        """Resume the adaptation of open streams from their published forecasts.

        Args:
            tails: of the open streams, see `FeatureStage.restore`.
        """
        if not tails:
            return
        found, absent = self._published.find(partition, tails)
        if absent:
            log.error("newest forecasts are not on the topic", partition=partition, streams=absent)
            self._metrics.errors.labels("adaptation_incomplete").inc()
        states = self._partitions[partition] = Adaptations(self._spec)
        for key, published in found.items():
            states.resume(key, published)

    def drop(self, partition: int) -> None:
        """Forget a partition: its streams start afresh."""
        self._partitions.pop(partition, None)

    def _take(self, served: ModelVersion) -> None:
        self._served = served
        self._train_end_ns = to_ns(served.model.train_end)
        self._version = version_number(served.model.digest)
        self._columns = self._spec.places(served.model.columns)

    def process(self, parts: list[FeatureColumns | EndedStream]) -> list[Record]:
        """Return the records of `predictions`, in the order of the rows and ends."""
        if (served := self._serving()) is not self._served:
            self._take(served)
        records: list[Record] = []
        scores, ts, start = self._score([part for part in parts if isinstance(part, FeatureColumns)]), time.time_ns(), 0
        for part in parts:
            states = self._partitions[part.partition]
            if isinstance(part, EndedStream):
                states.drop(part.key)
                records.append((PREDICTIONS, part.partition, part.key.product_id, part.text, part.ingest_time_ms))
            elif scores is not None:
                mine = scores.take(slice(start, start := start + len(part.texts)))
                texts = self._texts(part, mine, states, ts)
                where = repeat(PREDICTIONS), repeat(part.partition)
                records.extend(zip(*where, part.product_ids, texts, part.ingest_time_ms, strict=False))
        return records

    def _score(self, rows: list[FeatureColumns]) -> Scores | None:
        """Return the model's own scores of all rows; None without rows."""
        if not rows:
            return None
        values = np.concatenate([part.values for part in rows])[:, self._columns]
        return self._served.model.score(values, [name for part in rows for name in part.product_ids])

    def _texts(self, part: FeatureColumns, scores: Scores, states: Adaptations, ts: int) -> list[bytes]:
        """Return each row with its forecast as a record of `predictions`."""
        model, trades = self._served.model, part.trades
        teaches = teaching(part.values, trades.event_time, self._train_end_ns, self._spec)
        return encode_predictions(
            part.texts,
            ts,
            model.horizon_s,
            scores.score,
            states.adapt(trades.keys, RawForecasts.of(trades, scores, teaches), self._version),
            Forecaster(model.variant, self._served.version, model.digest),
            trades.event_time <= self._train_end_ns,
            model.columns,
            scores.missing,
        )
