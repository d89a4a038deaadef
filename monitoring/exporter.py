"""Export live figures of the forecasts, and figures of batch jobs: `python -m monitoring.exporter`."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from data.names import Stopped
from data.process import catalog
from data.process.logs import configure_logs
from data.process.metrics import ProcessMetrics, serve_metrics
from data.process.running import REFUSED, end_if_set_back, until_stopped
from data.stream.clients import MAX_VALUE, UNUSED, ClientLog, checked, reader_config, refusal
from data.stream.codec import Records, decode_records
from data.stream.figures import FiguresReader
from data.stream.records import FIGURES, PARTITIONS, PREDICTIONS, prediction_type
from data.times import DAY_S
from monitoring.batch_figures import BatchFigures
from monitoring.live_truth import LiveTruth, Sample, named_versions
from monitoring.settings import ExporterSettings
from monitoring.versions import Versions

log = structlog.get_logger()

MOST_SERIES = 5_000
"""Series of figures that one scrape may have."""

HISTORY_S = DAY_S + 3_600
"""Wall time that a start reads back: windows reach back a day of event time."""
LEAST_OFFSETS = 200_000
"""Offsets of each partition that a start reads back at least: a replay may be slower than its recording, or pause."""

BATCH = 5_000
POLL_S = 0.2
LOOK_S = 1.0
"""Time between two readings of `figures`; each asks the broker."""
SILENT_S = 5.0
"""Time without an answer of the broker after which the exporter is not ready."""
RETRY_S = 1.0
TELL_S = 60.0
"""Time between two log lines about unreadable records; each unreadable record is counted."""


class Exporter(Collector):
    """Follows the topics in the thread of `run`, and exports the figures in the thread of each scrape."""

    def __init__(self, settings: ExporterSettings, metrics: ProcessMetrics, running: Callable[[], bool]) -> None:
        self._settings, self._running = settings, running
        self._lock = threading.Lock()  # one batch, or one scrape
        self._versions = Versions(settings)
        self._truth = self._new_truth()
        self._shown: LiveTruth | None = None
        self._figures = BatchFigures()
        self._next: dict[int, int] = {}  # by partition, the offset to read next
        self._answered = time.monotonic()  # or the start
        self._problem = ""
        self._told_unreadable = self._told_left_out = -math.inf
        self._decode = msgspec.json.Decoder(prediction_type(settings.spec())).decode
        self._tell = ClientLog()
        self._records_in = metrics.counter(catalog.MESSAGES_IN)
        self._rejects = metrics.counter(catalog.REJECTS)
        self._errors = metrics.counter(catalog.ERRORS)
        metrics.ready.set_function(self._is_ready)
        metrics.gauge(catalog.BROKER_AGE).set_function(lambda: time.monotonic() - self._answered)
        metrics.registry.register(self)

    def _new_truth(self) -> LiveTruth:
        return LiveTruth(self._settings.spec(), self._versions.facts)

    def _is_ready(self) -> float:
        return float(self._shown is not None and time.monotonic() - self._answered < SILENT_S)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return no metric: which there are depends on the topics."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Return the figures of the records read so far; no figure of forecasts before the history is read."""
        now = time.time_ns()
        with self._lock:
            blocks = [list(self._figures.samples(now))]
            if self._shown is not None:
                blocks += self._shown.samples(now)
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        count = left_out = 0
        for block in blocks:
            if count + len(block) > MOST_SERIES:
                left_out += 1
                continue
            count += len(block)
            for sample in block:
                _family(families, sample).add_metric(sample.labels, sample.value)
        if left_out and time.monotonic() >= self._told_left_out + TELL_S:
            self._told_left_out = time.monotonic()
            log.warning("too many series: the models with the oldest forecasts are left out", left_out=left_out)
        return families.values()

    def run(self) -> None:
        """Follow the topics while `running` is true; log an error once, and go on after the last record."""
        while self._running():
            try:
                self._follow()
            except Stopped:
                return
            except Exception as error:  # of any kind: a process that never reads again would be worse
                is_kafka = isinstance(error, KafkaException)
                problem = refusal(error.args[0], (PREDICTIONS, FIGURES), (UNUSED,)) if is_kafka else repr(error)
                if problem != self._problem:
                    log.warning("cannot follow", reason=problem, exc_info=None if is_kafka else error)
                self._problem = problem
                self._errors.labels("follow").inc()
                time.sleep(RETRY_S)

    def _follow(self) -> None:
        config = reader_config(self._settings) | {
            "reconnect.backoff.max.ms": 1_000,  # a broker that is back is read at once, not in ten seconds
            "queued.max.messages.kbytes": 16_384,  # bounds the memory of a start with much on the topic
            "error_cb": self._tell,
        }
        with FiguresReader(self._settings, self._running) as figures, Consumer(config) as consumer:
            self._read_figures(figures)  # waits for a broker that is away
            behind, looked = self._assign(consumer), time.monotonic()
            self._problem = ""
            while self._running():
                self._take(consumer.consume(BATCH, POLL_S), behind)
                if not behind and self._shown is not self._truth:
                    self._shown = self._truth
                    log.info("history is read", next_offsets=dict(sorted(self._next.items())))
                if time.monotonic() >= looked + LOOK_S:
                    self._read_figures(figures)
                    with self._lock:
                        self._truth.forget(time.time_ns())
                    self._versions.ask_again()
                    looked = time.monotonic()
                    if self._versions.are_late:
                        log.info(
                            "the registry knows a version that was judged without floor: reading the history again"
                        )
                        self._versions.are_late = False
                        self._truth, self._next = self._new_truth(), {}
                        return

    def _assign(self, consumer: Consumer) -> dict[int, int]:
        """Assign all partitions; return the end of each partition that is not read to its end."""
        since_ms = int(1e3 * (time.time() - HISTORY_S))
        times = [TopicPartition(PREDICTIONS, partition, since_ms) for partition in range(PARTITIONS)]
        since = {p.partition: p.offset for p in checked(consumer.offsets_for_times(times, timeout=SILENT_S))}
        behind, starts = {}, []
        for partition in range(PARTITIONS):
            first, end = consumer.get_watermark_offsets(TopicPartition(PREDICTIONS, partition), timeout=SILENT_S)
            history = min(since[partition] if since[partition] >= 0 else end, end - LEAST_OFFSETS)
            start = self._next.get(partition, max(first, history))
            starts.append(TopicPartition(PREDICTIONS, partition, start))
            if start < end:
                behind[partition] = end
        consumer.assign(starts)
        return behind

    def _take(self, messages: Sequence[Message], behind: dict[int, int]) -> None:
        values, places = [], []
        for message in messages:
            partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
            if error is None:
                self._next[partition] = offset + 1
                values.append((message.value() or b"")[:MAX_VALUE])
                places.append(f"{PREDICTIONS}[{partition}]@{offset}")
                if behind and offset + 1 >= behind.get(partition, 0):
                    behind.pop(partition, None)
            elif error.code() == KafkaError._PARTITION_EOF:
                behind.pop(partition, None)
            else:
                self._tell(error)
        if values:
            self._records_in.labels(PREDICTIONS).inc(len(values))
            found = decode_records(values, self._decode)
            found = found.reject(self._wrong(found))
            for version in named_versions(found.records):
                self._versions.facts(version)  # may wait for the registry, and no scrape shall wait
            with self._lock:
                self._truth.follow(found.records)
                for _, end in found.ends:
                    self._truth.end(end)
            for place, reason in found.unreadable:
                self._reject(places[place], reason)

    def _wrong(self, found: Records) -> dict[int, str]:
        """Return the reason against each forecast that may not be judged, by index."""
        wrong = {}
        for i, record in enumerate(found.records):
            try:
                self._truth.check(record)
            except ValueError as error:
                wrong[i] = str(error)
        return wrong

    def _read_figures(self, reader: FiguresReader) -> None:
        """Take the newest figures; waits while the broker is away."""
        found = reader.read()
        self._answered = time.monotonic()
        self._records_in.labels(FIGURES).inc(len(found.records))
        for figure in found.records:
            try:
                with self._lock:
                    self._figures.take(figure)
            except ValueError as error:
                self._reject(FIGURES, str(error))
        for _, reason in found.unreadable:
            self._reject(FIGURES, reason)

    def _reject(self, where: str, reason: str) -> None:
        self._rejects.labels("unreadable", catalog.UNKNOWN).inc()
        if time.monotonic() >= self._told_unreadable + TELL_S:
            self._told_unreadable = time.monotonic()
            log.warning("unreadable record", where=where, reason=reason[:200])


def _family(
    families: dict[str, GaugeMetricFamily | CounterMetricFamily], sample: Sample
) -> GaugeMetricFamily | CounterMetricFamily:
    """Return the family of a sample's metric; a new family is added to `families`."""
    metric = sample.metric
    if metric.name not in families:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        families[metric.name] = kind(metric.name, metric.meaning, labels=metric.labels)
    return families[metric.name]


def main() -> int:
    settings = ExporterSettings()
    configure_logs(settings)
    metrics = ProcessMetrics("exporter")
    running = until_stopped()
    end_if_set_back()
    exporter = Exporter(settings, metrics, running)
    try:
        with serve_metrics(metrics.registry, settings.host, settings.exporter_port, names=settings.host_names) as port:
            log.info("exporter", spec_id=settings.spec().spec_id, metrics_port=port)
            exporter.run()
    except OSError as error:
        log.error(f"{error.strerror}; EXPORTER_PORT names another port, HOST another address")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
