"""Make forecasts from feature rows: by the serving model, and by its shadows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import repeat

import numpy as np
import structlog

from data.features.spec import FeatureSpec
from data.models.served import Scores
from data.stream.codec import encode_predictions
from data.stream.records import PREDICTIONS
from data.trades import Floats, StreamKey
from online.exactly_once.feature_stage import EndedStream, FeatureColumns, StreamTail
from online.exactly_once.loop import Record
from online.exactly_once.resumption import PublishedForecasts, ReadPredictions
from online.exactly_once.scorers import Scorer, StreamStates
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion

log = structlog.get_logger()


class ScoreStage:
    """Make forecasts from feature rows, adapted to each stream by the model's past forecasts.

    Shadows forecast the same rows, in the same records. A failed shadow is left out of the batch, and counted.

    Args:
        serving: returns the model that serves now; the same model scores a whole batch.
        read: see `ReadPredictions`.
        shadows: returns the models that forecast beside; a new tuple where a shadow has changed.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        serving: Callable[[], ModelVersion],
        read: ReadPredictions,
        metrics: ForecasterMetrics,
        shadows: Callable[[], tuple[ModelVersion, ...]] = tuple,
    ) -> None:
        self._spec, self._metrics = spec, metrics
        self._serving, self._shadows = serving, shadows
        self._published = PublishedForecasts(spec, read)
        self._partitions = defaultdict[int, StreamStates](lambda: StreamStates(spec))
        self._failed: set[str] = set()  # digests of shadows whose failure is logged
        self._take(serving(), shadows())

    def restore(self, partition: int, tails: dict[StreamKey, StreamTail]) -> None:
        """Resume the adaptations of open streams from their published forecasts.

        Args:
            tails: of the open streams, see `FeatureStage.restore`.
        """
        if not tails:
            return
        found, absent = self._published.find(partition, tails)
        if absent:
            log.error("newest forecasts are not on the topic", partition=partition, streams=absent)
            self._metrics.errors.labels("adaptation_incomplete").inc()
        states = self._partitions[partition] = StreamStates(self._spec)
        for key, digest, published in found:
            states.resume(key, digest, published)

    def drop(self, partition: int) -> None:
        """Forget a partition: its streams start afresh."""
        self._partitions.pop(partition, None)

    def _take(self, served: ModelVersion, shadows: tuple[ModelVersion, ...]) -> None:
        """Take over models; a shadow with the file of another model is left out."""
        self._models = served, shadows
        self._served = Scorer(served, self._spec)
        others = {each.model.digest: each for each in shadows if each.model.digest != served.model.digest}
        self._beside = [Scorer(each, self._spec) for each in others.values()]

    def process(self, parts: list[FeatureColumns | EndedStream]) -> list[Record]:
        """Return the records of `predictions`, in the order of the rows and ends."""
        served, shadows = self._serving(), self._shadows()
        if served is not self._models[0] or shadows is not self._models[1]:
            self._take(served, shadows)
        records: list[Record] = []
        scored, ts, start = self._score([part for part in parts if isinstance(part, FeatureColumns)]), time.time_ns(), 0
        for part in parts:
            states = self._partitions[part.partition]
            if isinstance(part, EndedStream):
                states.drop(part.key)
                records.append((PREDICTIONS, part.partition, part.key.product_id, part.text, part.ingest_time_ms))
            elif scored:
                rows = slice(start, start := start + len(part.texts))
                texts = self._texts(part, [(scorer, scores.take(rows)) for scorer, scores in scored], states, ts)
                where = repeat(PREDICTIONS), repeat(part.partition)
                records.extend(zip(*where, part.product_ids, texts, part.ingest_time_ms, strict=False))
        return records

    def _score(self, rows: list[FeatureColumns]) -> list[tuple[Scorer, Scores]]:
        """Return each model with its own scores of all rows, the serving model first; empty without rows."""
        if not rows:
            return []
        values = np.concatenate([part.values for part in rows])
        product_ids = [name for part in rows for name in part.product_ids]
        scored = [(self._served, self._served.score(values, product_ids))]
        for shadow in self._beside:
            if (scores := self._score_beside(shadow, values, product_ids)) is not None:
                scored.append((shadow, scores))
        return scored

    def _score_beside(self, shadow: Scorer, values: Floats, product_ids: Sequence[str]) -> Scores | None:
        """Return the scores of a shadow; None, counted and logged once, if the shadow fails."""
        try:
            scores = shadow.score(values, product_ids)
            unusable = int(np.sum(~scores.are_usable()))
            if not unusable:
                return scores
            reason = f"{unusable} of {len(values)} scores are not finite, above 0 and inside their interval"
        except Exception as error:  # of any kind, as onnxruntime raises unrelated classes: no forecast may be lost
            reason = repr(error)
        variant, version, digest = shadow.forecaster
        self._metrics.shadow_failures.labels(variant, version).inc()
        if digest not in self._failed:
            self._failed.add(digest)
            log.error("a shadow failed", model_variant=variant, version=version, reason=reason)
        return None

    def _texts(
        self, part: FeatureColumns, scored: Sequence[tuple[Scorer, Scores]], states: StreamStates, ts: int
    ) -> list[bytes]:
        """Return each row with its forecasts as a record of `predictions`."""
        served, *shadows = states.adapt(part, scored)
        model, missing = scored[0][0].model, scored[0][1].missing
        return encode_predictions(part.texts, ts, model.horizon_s, served, model.columns, missing, shadows)
