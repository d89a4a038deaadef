"""Feature rows in, forecasts out: `python -m online.scorer`."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from operator import itemgetter

import numpy as np
import structlog
from confluent_kafka import Consumer, Producer
from numpy.typing import NDArray

from data.spec import FeatureSpec
from data.topics import (
    FEATURES,
    PREDICTIONS,
    FeatureRecords,
    Forecaster,
    decode_features,
    encode,
    encode_predictions,
)
from data.trades import Int64s, StreamKey
from online.exactly_once import Record, rejected, serve
from online.kafka import Incoming, consumer_config, transactional_config, until_stopped
from online.logs import configure_logs
from online.metrics import Metrics, serve_metrics
from online.model_watch import ModelVersion, ModelWatch
from online.settings import ScorerSettings

log = structlog.get_logger()

GROUP = "scorer"
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class ScoreStage:
    """Forecasts from feature rows. It remembers nothing between batches.

    Args:
        serving: gives the model that answers now; a batch ends with the one with which it began.
    """

    topic = FEATURES

    def __init__(self, spec: FeatureSpec, serving: Callable[[], ModelVersion], metrics: Metrics) -> None:
        self._spec, self._serving, self._metrics = spec, serving, metrics
        self._take(serving())
        self._written: list[tuple[str, Int64s]] = []

    def _take(self, served: ModelVersion) -> None:
        self._served = served
        # In whole microseconds, as Python's datetimes are.
        self._train_end_ns = (served.model.train_end - EPOCH) // dt.timedelta(microseconds=1) * 1_000
        self._columns = [self._spec.columns.index(column) for column in served.model.columns]

    def restore(self, partition: int, offset: int, note: str) -> None:
        """Nothing is remembered, so nothing is rebuilt."""

    def drop(self, partition: int) -> None:
        """Nothing is remembered, so nothing is forgotten."""

    def note(self, partition: int, offset: int) -> str:  # noqa: ARG002 - nothing is remembered
        return ""

    def process(self, messages: list[Incoming]) -> list[Record]:
        if (served := self._serving()) is not self._served:
            self._take(served)
        found = decode_features([message.value for message in messages], self._spec)
        records = [self._reject(messages[place], "unreadable", reason, None) for place, reason in found.unreadable]
        for place, row in found.other_spec:
            reason = f"the row is of feature spec {row.spec_id}, the model was trained on {self._spec.spec_id}"
            key = StreamKey(row.source_id, row.product_id)
            records.append(self._reject(messages[place], "other_spec", reason, key))
        purposes = np.array(found.purposes)
        self._written = [(purpose, found.ingest_time[purposes == purpose]) for purpose in np.unique(purposes).tolist()]
        product_ids = [key.product_id for key in found.keys]
        answers = list(zip(found.places, product_ids, self._score(found), strict=True))
        if found.ends:
            answers.extend((place, end.product_id, encode(end)) for place, end in found.ends)
            answers.sort(key=itemgetter(0))
        for place, product_id, value in answers:
            message = messages[place]
            records.append((PREDICTIONS, message.partition, product_id, value, message.ingest_time_ms))
        return records

    def committed(self) -> None:
        for purpose, ingest_time in self._written:
            self._metrics.saw_rows(purpose, ingest_time)
            self._metrics.messages_out.labels(PREDICTIONS).inc(len(ingest_time))

    def _score(self, found: FeatureRecords) -> list[bytes]:
        """Return each row with its forecast as a record of `predictions`."""
        if not found.places:
            return []
        model = self._served.model
        scores = model.score(found.values[:, self._columns])
        return encode_predictions(
            found.texts,
            time.time_ns(),
            model.horizon_s,
            scores.score,
            np.column_stack((scores.lower, scores.upper)),
            Forecaster(model.variant, self._served.version, model.digest),
            found.event_time <= self._train_end_ns,
            self._missing_texts(scores.missing),
        )

    def _missing_texts(self, missing: NDArray[np.bool_]) -> list[bytes]:
        """Return the names of each row's missing columns as JSON; rows that miss the same share one text."""
        patterns, of_row = np.unique(missing, axis=0, return_inverse=True)
        names = np.array(self._served.model.columns, object)
        texts = [encode(names[pattern].tolist()) for pattern in patterns]
        return [texts[pattern] for pattern in of_row.ravel().tolist()]

    def _reject(self, message: Incoming, label: str, reason: str, key: StreamKey | None) -> Record:
        self._metrics.rejects.labels(label).inc()
        return rejected("scorer", message, reason, key)


def main() -> None:
    settings = ScorerSettings()
    configure_logs(settings)
    metrics = Metrics()
    running = until_stopped()
    with serve_metrics(metrics, settings.host, settings.scorer_port) as port:
        log.info("scorer", model_variant=settings.model_variant, metrics_port=port)
        models = ModelWatch(settings, metrics)
        models.start()
        try:
            served = models.await_model(running)
            if served is None:
                return
            stage = ScoreStage(settings.spec(), lambda: models.served or served, metrics)
            consumer = Consumer(consumer_config(settings, GROUP, settings.slot) | {"stats_cb": metrics.read_statistics})
            producer = Producer(transactional_config(settings, GROUP, settings.slot))
            serve(consumer, producer, stage, running, metrics, settings.kafka_bootstrap_servers)
        finally:
            models.stop()


if __name__ == "__main__":
    main()
