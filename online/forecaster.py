"""Turn trades into feature rows and forecasts: `python -m online.forecaster`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product

import structlog
from confluent_kafka import Consumer, KafkaException, Producer

from data.features.spec import FeatureSpec
from data.features.windows import compile_kernel
from data.names import NotRead
from data.process.catalog import PURPOSES
from data.process.logs import configure_logs
from data.process.metrics import SIDE_BY_SIDE, serve_metrics
from data.process.running import REFUSED, end_if_set_back, until_stopped
from data.stream.clients import ClientLog, Incoming, consumer_config, reader_config, transactional_config
from data.stream.reader import RecordBlock, TopicReader
from data.stream.records import FEATURES, PARTITIONS, PREDICTIONS, TRADES
from data.trades import Int64s
from data.truth.adaptation import compile_adaptation
from online.exactly_once.feature_stage import EndedStream, FeatureColumns, FeatureStage
from online.exactly_once.loop import LostPlace, Record, serve
from online.exactly_once.lost_offsets import await_empty_group, check_never_read, commit_places, find_place
from online.exactly_once.offset_note import GROUP
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelWatch
from online.settings import ForecasterSettings
from online.shadow_watch import ShadowWatch

log = structlog.get_logger()

TURNS = 2
"""Number of producers; `serve` has the reason."""

MEMBER_GONE_S = 60.0
"""How long `--find-place` waits for the end of a forecaster: a forecaster with a slot stays in its group for 45 s after
its process has ended."""


class Forecasting:
    """Run both stages as one: the feature stage hands the rows of a batch to the score stage in memory."""

    def __init__(self, features: FeatureStage, scores: ScoreStage, metrics: ForecasterMetrics) -> None:
        self._features, self._scores, self._metrics = features, scores, metrics
        self.note = features.note
        for purpose, place in product(PURPOSES, range(PARTITIONS)):
            metrics.open_streams.labels(purpose, place).set_function(partial(features.open_streams, purpose, place))

    def restore(self, partition: int, offset: int, note: str, low: int) -> None:
        self._scores.restore(partition, self._features.restore(partition, offset, note, low))

    def drop(self, partition: int) -> None:
        self._features.drop(partition)
        self._scores.drop(partition)

    def cut(self, partition: int) -> None:
        self._features.cut(partition)
        self._scores.drop(partition)

    def process(self, messages: list[Incoming]) -> tuple[list[Record], Callable[[], None]]:
        made = self._features.process(messages)
        return made.records + self._scores.process(made.parts), partial(self._count, made.parts)

    def _count(self, parts: list[FeatureColumns | EndedStream]) -> None:
        for rows in (part for part in parts if isinstance(part, FeatureColumns)):
            ingest_time: Int64s = rows.trades.ingest_time
            for stream in set(rows.trades.stream.tolist()):
                mine = ingest_time[rows.trades.stream == stream]
                self._metrics.saw_rows(rows.purposes[rows.trades.keys[stream]], mine)
            for topic in (FEATURES, PREDICTIONS):
                self._metrics.messages_out.labels(topic).inc(len(ingest_time))


def forecast(settings: ForecasterSettings, metrics: ForecasterMetrics, running: Callable[[], bool]) -> None:
    """Run the forecaster while `running` is true; no transaction begins before a model serves.

    Raises:
        SystemExit: see `serve`.
    """
    spec = settings.spec()
    models, shadows = ModelWatch(settings, metrics), ShadowWatch(settings, metrics)
    # A producer that is asked before it is connected looks for its coordinator again only after half a second.
    producers = [Producer(transactional_config(settings, GROUP, settings.slot, turn)) for turn in range(TURNS)]
    models.start()
    shadows.start()
    try:
        compile_kernel(spec)  # while the model is fetched
        compile_adaptation(spec)
        if models.served is None:
            log.info("waiting for the first model", model_variant=settings.model_variant)
        served = models.await_model(running)
        if served is None:
            return

        def check_new(partitions: list[int]) -> None:
            with TopicReader(settings, running=running) as reader:
                for partition in partitions:
                    if partition < PARTITIONS:  # partitions that somebody added have no outcomes
                        check_never_read(reader, partition)

        def read_trades(partition: int, start: int, end: int) -> Iterator[RecordBlock]:
            with TopicReader(settings, running=running) as reader:
                yield from reader.read(TRADES, partition, start, end)

        def read_predictions(partition: int, since_ms: int, most: int | None) -> Iterator[RecordBlock]:
            with TopicReader(settings, running=running) as reader:
                start = reader.offset_at(PREDICTIONS, partition, since_ms)
                if most is not None:
                    start = max(start, reader.span(PREDICTIONS, partition)[1] - most)
                yield from reader.read(PREDICTIONS, partition, start)

        features = FeatureStage(spec, read_trades, metrics)
        shadows.await_first_look()
        scores = ScoreStage(spec, lambda: models.served or served, read_predictions, metrics, lambda: shadows.shadows)
        stage = Forecasting(features, scores, metrics)
        client_log = ClientLog()
        callbacks = {"stats_cb": metrics.lag.read_statistics, "error_cb": client_log}
        consumer = Consumer(consumer_config(settings, GROUP, settings.slot) | callbacks)
        address = settings.kafka_bootstrap_servers
        serve(consumer, producers, stage, check_new, client_log.missed_topic, running, metrics, address)
    finally:
        models.stop()
        shadows.stop()


def find_places(settings: ForecasterSettings, spec: FeatureSpec, *, anew: bool) -> int:
    """Commit a found offset for each partition whose offset was lost; return the exit code.

    Args:
        anew: see `find_place`.
    """
    until = time.monotonic() + MEMBER_GONE_S
    try:
        while True:
            with TopicReader(settings, GROUP) as reader:
                known = reader.committed(TRADES, range(PARTITIONS))
                places = _lost_places(reader, spec, known, anew=anew)
            if not places:
                log.info("no place is lost: nothing was changed", known=sorted(known))
                return 0
            if commit_places(reader_config(settings) | {"group.id": GROUP}, places):
                break
            await_empty_group(settings, until)
            # The places are read again: a forecaster was in the group meanwhile.
    except (LostPlace, NotRead) as error:
        log.error(str(error))
        return REFUSED
    except KafkaException as error:
        log.error("the broker does not take the places", error=str(error))
        return REFUSED
    log.info("places found", next_offsets={partition: offset for partition, (offset, _) in sorted(places.items())})
    return 0


def _lost_places(
    reader: TopicReader, spec: FeatureSpec, known: dict[int, tuple[int, str]], *, anew: bool
) -> dict[int, tuple[int, str]]:
    """Return offset and note of each partition whose place was lost.

    Args:
        known: offset and note that the group has committed, by partition.

    Raises:
        LostPlace: the place of a partition cannot be found.
        NotRead: the broker does not answer.
    """
    places = {}
    for partition in range(PARTITIONS):
        low, high = reader.span(TRADES, partition)
        if partition in known and known[partition][0] <= high:
            continue
        if (place := find_place(reader, spec, partition, anew=anew)) is not None:
            places[partition] = place
        elif partition in known:
            places[partition] = low, ""  # a place beyond the end, and no row: both topics were made anew
    return places


def main() -> int:
    parser = argparse.ArgumentParser(description="Turn trades into feature rows and forecasts.")
    parser.add_argument(
        "--find-place",
        action="store_true",
        help="find lost offsets of the group from the topics, commit them, and end",
    )
    parser.add_argument(
        "--anew", action="store_true", help="with --find-place: if windows cannot be made again, start new segments"
    )
    arguments = parser.parse_args()
    if arguments.anew and not arguments.find_place:
        parser.error("--anew goes with --find-place")
    settings = ForecasterSettings()
    configure_logs(settings)
    if arguments.find_place:
        try:
            return find_places(settings, settings.spec(), anew=arguments.anew)
        except KeyboardInterrupt:
            log.warning("stopped before a place was found")
            return 1
    metrics = ForecasterMetrics()
    running = until_stopped()
    end_if_set_back()
    with ExitStack() as served:
        ports = SIDE_BY_SIDE if settings.slot is None else 1  # a replica with a slot has a port that others know
        try:
            port = served.enter_context(
                serve_metrics(
                    metrics.registry, settings.host, settings.forecaster_port, ports=ports, names=settings.host_names
                )
            )
        except OSError as error:
            log.error(f"{error.strerror}; FORECASTER_PORT names another port, HOST another address")
            return REFUSED
        log.info("forecaster", spec_id=settings.spec().spec_id, model_variant=settings.model_variant, metrics_port=port)
        forecast(settings, metrics, running)
    return 0


if __name__ == "__main__":
    sys.exit(main())
