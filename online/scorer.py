"""Feature rows in, forecasts out: `python -m online.scorer`."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, Producer

from data.spec import FeatureSpec
from data.topics import FEATURES, PREDICTIONS, decode_records, encode, feature_type, prediction_type
from data.trades import Int64s, StreamKey, iso_times, parse_times
from online.exactly_once import Record, rejected, serve
from online.kafka import Incoming, consumer_config, transactional_config, until_stopped
from online.logs import configure_logs
from online.metrics import Metrics, serve_metrics
from online.registry import ModelVersion, await_model
from online.settings import ScorerSettings

log = structlog.get_logger()

GROUP = "scorer"


class ScoreStage:
    """Forecasts from feature rows. It remembers nothing between batches."""

    topic = FEATURES

    def __init__(self, spec: FeatureSpec, served: ModelVersion, metrics: Metrics) -> None:
        self._spec, self._served, self._metrics = spec, served, metrics
        self._decode = msgspec.json.Decoder(feature_type(spec)).decode
        self._prediction = prediction_type(spec)
        self._columns = [spec.columns.index(column) for column in served.model.columns]
        self._written: list[tuple[str, Int64s]] = []

    def restore(self, partition: int, offset: int, note: str) -> None:
        """Nothing is remembered, so nothing is rebuilt."""

    def drop(self, partition: int) -> None:
        """Nothing is remembered, so nothing is forgotten."""

    def note(self, partition: int, offset: int) -> str:  # noqa: ARG002 - nothing is remembered
        return ""

    def process(self, messages: list[Incoming]) -> list[Record]:
        self._written = []
        found = decode_records([message.value for message in messages], self._decode)
        records = [self._reject(messages[place], "unreadable", reason, None) for place, reason in found.unreadable]
        rows, places = [], []
        times_are_good = _are_times([row.ingest_time for row in found.records])
        for place, row in zip(found.places, found.records, strict=True):
            key = StreamKey(row.source_id, row.product_id)
            if row.spec_id != self._spec.spec_id:
                reason = f"the row is of feature spec {row.spec_id}, the model was trained on {self._spec.spec_id}"
                records.append(self._reject(messages[place], "other_spec", reason, key))
            elif not times_are_good and not _are_times([row.ingest_time]):
                reason = f"ingest_time must be RFC 3339 in UTC, was {row.ingest_time[:40]!r}"
                records.append(self._reject(messages[place], "unreadable", reason, key))
            else:
                rows.append(row)
                places.append(place)
        answers: list[tuple[int, str, bytes]] = []
        if rows:
            scored = zip(places, (row.product_id for row in rows), self._score(rows), strict=True)
            answers.extend(scored)
        answers.extend((place, end.product_id, encode(end)) for place, end in found.ends)
        for place, product_id, value in sorted(answers):
            message = messages[place]
            records.append(Record(PREDICTIONS, message.partition, product_id, value, message.ingest_time_ms))
        return records

    def committed(self) -> None:
        for purpose, ingest_time in self._written:
            self._metrics.saw_rows(purpose, ingest_time)
            self._metrics.messages_out.labels(PREDICTIONS).inc(len(ingest_time))

    def _score(self, rows: list[Any]) -> list[bytes]:
        """Return each row with its forecast as a record of `predictions`."""
        model, version = self._served.model, self._served.version
        table = [msgspec.structs.astuple(row) for row in rows]
        first = len(table[0]) - len(self._spec.columns)
        values = np.array([row[first:] for row in table], np.float64)
        scores = model.score(values[:, self._columns])
        names = np.array(model.columns, object)
        train_end = f"{model.train_end:%Y-%m-%dT%H:%M:%S.%f}000Z"  # nine digits, as times on the topic have
        ts = iso_times(np.array([time.time_ns()]))[0]
        ingest_time = parse_times([row.ingest_time for row in rows])
        purposes = np.array([row.purpose for row in rows])
        self._written = [(purpose, ingest_time[purposes == purpose]) for purpose in np.unique(purposes).tolist()]
        answered = (ts, model.horizon_s)
        by_model = (model.variant, version, model.digest)
        return [
            encode(
                self._prediction(
                    *row, *answered, score, (lower, upper), *by_model, event_time <= train_end, names[gone].tolist(), []
                )
            )
            for row, event_time, score, lower, upper, gone in zip(
                table,
                (row.event_time for row in rows),
                scores.score.tolist(),
                scores.lower.tolist(),
                scores.upper.tolist(),
                scores.missing,
                strict=True,
            )
        ]

    def _reject(self, message: Incoming, label: str, reason: str, key: StreamKey | None) -> Record:
        self._metrics.rejects.labels(label).inc()
        return rejected("scorer", message, reason, key)


def _are_times(texts: list[str]) -> bool:
    try:
        parse_times(texts)
    except ValueError:
        return False
    return True


def main() -> None:
    settings = ScorerSettings()
    configure_logs(settings)
    metrics = Metrics()
    running = until_stopped()
    with serve_metrics(metrics, settings.host, settings.scorer_port) as port:
        log.info("scorer", model_variant=settings.model_variant, metrics_port=port)
        served = await_model(settings, running)
        if served is None:
            return
        metrics.model.labels(served.model.variant, served.version, served.model.digest).set(1)
        stage = ScoreStage(settings.spec(), served, metrics)
        consumer = Consumer(consumer_config(settings, GROUP, settings.slot) | {"stats_cb": metrics.read_statistics})
        serve(consumer, Producer(transactional_config(settings, GROUP, settings.slot)), stage, running, metrics)


if __name__ == "__main__":
    main()
