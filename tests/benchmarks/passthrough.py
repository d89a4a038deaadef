"""Benchmark of trades unread, two records for each, exactly once: the limit of broker and client.

The pass-through has the client settings and the transactions of the forecaster, and writes under the same keys, to the
same partitions, with the same timestamps. Its records are real records of other trades, made before the first trade is
consumed: they have the sizes of the forecaster's records, and compress like them.
`python -m tests.benchmarks.passthrough SERVERS`.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterable
from itertools import cycle

import numpy as np
from confluent_kafka import Consumer, Message, Producer

from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.settings import KafkaSettings
from data.stream.clients import consumer_config, transactional_config
from data.stream.codec import Forecasts, encode_features, encode_predictions
from data.stream.records import FEATURES, PREDICTIONS, TRADES, Forecaster, Purpose
from data.trades import StreamKey
from data.truth.adaptation import Adaptations, RawForecasts, teaching
from online.exactly_once.loop import MAX_BATCH, tune_garbage_collector
from online.forecaster import TURNS
from tests.benchmarks.market import mixed_day
from tests.models import model_bytes

SPEC = FeatureSpec()
DAY = dt.date(2025, 1, 6)
SKIPPED = 100_000
"""Trades without records here: while windows fill, rows have nulls, and are shorter than most."""
KEPT = 20_000
"""Trades with records here, some 200 of the rarest product: lz4 does not look back as far as a repetition."""

Pair = tuple[bytes, bytes]
"""Records for one trade: a record of `features` and a record of `predictions`."""


def pairs_by_key() -> dict[bytes, cycle[Pair]]:
    """Return the records of each product, over and over."""
    trades = mixed_day(DAY).take(slice(0, SKIPPED + KEPT))
    made = feature_rows(trades, Windows(SPEC))
    purposes: dict[StreamKey, Purpose] = dict.fromkeys(trades.keys, "replay")
    stream = made.trades.stream
    rows = encode_features(made, SPEC, purposes, 0, np.arange(len(made.values)))
    pairs: list[list[Pair]] = [[] for _ in trades.keys]
    for place, row, forecast in list(zip(stream.tolist(), rows, forecasts(rows, made), strict=True))[-KEPT:]:
        pairs[place].append((row, forecast))
    return {key.product_id.encode(): cycle(of_product) for key, of_product in zip(trades.keys, pairs, strict=True)}


def forecasts(rows: list[bytes], made: FeatureRows) -> list[bytes]:
    """Return the records of `predictions` for feature rows."""
    model = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    scores = model.score(made.values[:, [SPEC.columns.index(column) for column in model.columns]])
    teaches = teaching(made.values, made.trades.event_time, 0, SPEC)
    raw = RawForecasts.of(made.trades, scores, teaches)
    adapted = Adaptations(SPEC).adapt(made.trades.keys, raw)
    forecaster = Forecaster(model.variant, "1", model.digest)
    in_sample = np.zeros(len(rows), np.bool_)
    return encode_predictions(
        rows,
        time.time_ns(),
        model.horizon_s,
        Forecasts(forecaster, scores.score, adapted, in_sample),
        model.columns,
        scores.missing,
    )


def produce(producer: Producer, messages: Iterable[Message], pairs: dict[bytes, cycle[Pair]]) -> None:
    """Hand two records for each trade to the client, waiting while the client's queue is full."""
    for message in messages:
        assert message.error() is None, message.error()
        key, partition, ingest_time_ms = message.key() or b"", message.partition() or 0, message.timestamp()[1]
        for topic, value in zip((FEATURES, PREDICTIONS), next(pairs[key]), strict=True):
            while True:
                try:
                    producer.produce(topic, value, key, partition, timestamp=ingest_time_ms)
                    break
                except BufferError:
                    producer.poll(0.1)


def main(servers: str) -> None:
    pairs = pairs_by_key()
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    consumer = Consumer(consumer_config(settings, "passthrough", 0) | {"auto.offset.reset": "earliest"})
    producers = [Producer(transactional_config(settings, "passthrough", 0, turn)) for turn in range(TURNS)]
    for producer in producers:
        producer.init_transactions(30)
    consumer.subscribe(
        [TRADES],
        on_assign=lambda c, partitions: c.incremental_assign(partitions) if partitions else None,
    )
    tune_garbage_collector()
    for producer in cycle(producers):
        while (first := consumer.poll(0.2)) is None:
            pass
        producer.begin_transaction()
        produce(producer, (first, *consumer.consume(MAX_BATCH - 1, 0)), pairs)
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
        )
        producer.commit_transaction(30)


if __name__ == "__main__":
    main(sys.argv[1])
