"""Trades in, feature rows out: `python -m online.feature_service`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby, repeat
from operator import itemgetter

import numpy as np
import structlog
from confluent_kafka import Consumer, Producer
from numpy.typing import NDArray

from data.admission import FALLEN_TIME, PASSED_ID, REASONS, TAKEN
from data.features import Windows, compile_kernel, feature_rows
from data.spec import FeatureSpec
from data.topics import (
    FEATURES,
    TRADES,
    Purpose,
    TradeRecords,
    decode_trades,
    encode,
    encode_features,
)
from data.trades import Int64s, StreamKey, Trades
from online.exactly_once import Record, rejected, serve
from online.kafka import (
    Incoming,
    Stretch,
    consumer_config,
    read_range,
    reader_config,
    transactional_config,
    until_stopped,
)
from online.logs import configure_logs
from online.metrics import Metrics, serve_metrics
from online.settings import FeatureSettings

log = structlog.get_logger()

GROUP = "feature-service"

MAX_SOURCES = 64
"""Open at once in a partition."""

MAX_STREAMS = 300
"""Open at once in a partition: what the windows take of memory, and a note of an offset, is known beforehand."""

MAX_NOTE = 4_000
"""Characters of the note in a committed offset; brokers take 4,096 bytes by default. Room for `MAX_STREAMS`."""

NAME_BYTES, NEED_BYTES = 5, 5
"""Of each stream in a note: 40 bits tell apart the few that are open in a partition."""

_PARTITION, _OFFSET, _VALUE, _TIME = map(itemgetter, range(1, 5))
"""The fields of `Incoming`: as callables they cost half of what an attribute does."""

STATUS_LABELS = {PASSED_ID: "passed_id", FALLEN_TIME: "fallen_time"}


class _Partition:
    """The open streams of one partition."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.windows = Windows(spec)
        self.purposes: dict[StreamKey, Purpose] = {}
        self._told: set[str] = set()

    def open(self, key: StreamKey, purpose: Purpose) -> str | None:
        """Open a stream, or return why not."""
        if key in self.purposes:
            return None
        sources = {known.source_id for known in self.purposes}
        if key.source_id not in sources and len(sources) >= MAX_SOURCES:
            refusal = f"{MAX_SOURCES} sources are open in this partition"
        elif len(self.purposes) >= MAX_STREAMS:
            refusal = f"{MAX_STREAMS} products of sources are open in this partition"
        else:
            self.purposes[key] = purpose
            return None
        refusal += "; wait until one has ended, or end one whose ingestor is gone: python -m online.ingestor --end ID"
        if key.source_id not in self._told and len(self._told) < MAX_SOURCES:
            self._told.add(key.source_id)
            log.warning("source refused", source_id=key.source_id, reason=refusal, open=sorted(sources))
        return refusal

    def close(self, key: StreamKey) -> None:
        self.windows.drop(key)
        self.purposes.pop(key, None)
        self._told.clear()


class FeatureStage:
    """Feature rows from trades, with windows that a start rebuilds from the topic.

    Args:
        read: gives the records of (partition, start, end) of the trades topic, in batches.
    """

    topic = TRADES

    def __init__(self, spec: FeatureSpec, read: Callable[[int, int, int], Iterable[Stretch]], metrics: Metrics) -> None:
        self._spec, self._read, self._metrics = spec, read, metrics
        self._partitions: dict[int, _Partition] = {}
        self._written: list[tuple[Purpose, Int64s]] = []

    def restore(self, partition: int, offset: int, note: str) -> None:
        """Feed each open stream the trades that its window still needs, and write nothing."""
        try:
            needed = _read_note(note, offset)
        except ValueError as error:
            log.error("the note of the committed offset is none: windows start empty", note=note, error=str(error))
            self._metrics.errors.labels("window_incomplete").inc()
            return
        if not needed:
            return
        state = self._partitions[partition] = _Partition(self._spec)
        expected = min(needed.values())
        for stretch in self._read(partition, expected, offset):
            if stretch.offsets[0] > expected:
                self._incomplete(partition, expected)
            expected = stretch.offsets[-1] + 1
            found = decode_trades(stretch.values)
            offsets = np.array(stretch.offsets, np.int64)[found.places]
            # A stream that the note does not name had ended, or was refused.
            first = np.array([needed.get(_short(key), offset) for key in found.trades.keys], np.int64)
            rows = offsets >= first[found.trades.stream]
            kept = found.trades.take(rows)
            for stream in np.unique(kept.stream):
                state.open(key := kept.keys[stream], found.purposes[key])
            feature_rows(kept, state.windows, offsets[rows])
        if expected < offset:
            self._incomplete(partition, expected)

    def _incomplete(self, partition: int, offset: int) -> None:
        log.error("the topic no longer holds all that the windows need", partition=partition, missing_from=offset)
        self._metrics.errors.labels("window_incomplete").inc()

    def drop(self, partition: int) -> None:
        self._partitions.pop(partition, None)

    def note(self, partition: int, offset: int) -> str:
        """Name, for each open stream, how many records before `offset` its window still needs."""
        state = self._partitions.get(partition)
        if state is None:
            return ""
        needs = ((key, offset - state.windows.oldest_needed(key)) for key in state.windows.open_streams)
        entries = (_short(key) + records.to_bytes(NEED_BYTES, "big") for key, records in needs)
        return base64.urlsafe_b64encode(b"".join(entries)).decode()

    def process(self, messages: list[Incoming]) -> list[Record]:
        records: list[Record] = []
        self._written.clear()
        for partition, group in groupby(sorted(messages, key=_PARTITION), key=_PARTITION):
            self._process(partition, list(group), records)
        return records

    def committed(self) -> None:
        for purpose, ingest_time in self._written:
            self._metrics.saw_rows(purpose, ingest_time)
            self._metrics.messages_out.labels(FEATURES).inc(len(ingest_time))
        self._metrics.open_streams.set(sum(len(state.purposes) for state in self._partitions.values()))

    def _process(self, partition: int, messages: list[Incoming], records: list[Record]) -> None:
        """Handle one partition's records, an end in its turn: what comes after it starts anew."""
        state = self._partitions.setdefault(partition, _Partition(self._spec))
        found = decode_trades(list(map(_VALUE, messages)))
        for place, reason in found.unreadable:
            records.append(self._reject(messages[place], "unreadable", reason, None))
        start = 0
        for place, end in [*found.ends, (len(messages), None)]:
            rows = (found.places >= start) & (found.places < place)
            self._rows(state, messages, found, rows, records)
            if end is not None:
                state.close(end.key)
                records.append((FEATURES, partition, end.product_id, encode(end), messages[place].ingest_time_ms))
            start = place + 1

    def _rows(
        self,
        state: _Partition,
        messages: list[Incoming],
        found: TradeRecords,
        rows: NDArray[np.bool_],
        records: list[Record],
    ) -> None:
        """Write the feature rows of some of a batch's trades, and reject those that their stream does not take."""
        trades, places = found.trades.take(rows), found.places[rows]
        for stream in _occurring(trades):
            key = trades.keys[stream]
            if refusal := state.open(key, found.purposes[key]):
                refused = trades.stream == stream
                for place in places[refused]:
                    records.append(self._reject(messages[place], "too_many_sources", refusal, key))
                trades, places = trades.take(~refused), places[~refused]
        offsets = np.fromiter(map(_OFFSET, messages), np.int64, len(messages))[places]
        made = feature_rows(trades, state.windows, offsets)
        for row in np.flatnonzero(made.status):
            status, key = int(made.status[row]), trades.keys[trades.stream[row]]
            records.append(self._reject(messages[places[row]], STATUS_LABELS[status], REASONS[status], key))
        taken = made.status == TAKEN
        partition = messages[0].partition
        values = encode_features(made, self._spec, found.purposes, np.full(len(made.values), partition), offsets[taken])
        product_ids = [key.product_id for key in trades.keys]
        keys = [product_ids[stream] for stream in made.trades.stream.tolist()]
        times = list(map(_TIME, messages))
        if len(values) < len(messages):
            times = [times[place] for place in places[taken].tolist()]
        records.extend(zip(repeat(FEATURES), repeat(partition), keys, values, times, strict=False))
        for stream in _occurring(made.trades):
            ingest_time = made.trades.ingest_time[made.trades.stream == stream]
            self._written.append((found.purposes[trades.keys[stream]], ingest_time))

    def _reject(self, message: Incoming, label: str, reason: str, key: StreamKey | None) -> Record:
        self._metrics.rejects.labels(label).inc()
        return rejected("feature_service", message, reason, key)


def _occurring(trades: Trades) -> list[int]:
    """Return the streams that have a trade."""
    streams: list[int] = np.flatnonzero(np.bincount(trades.stream, minlength=len(trades.keys))).tolist()
    return streams


def _short(key: StreamKey) -> bytes:
    """Name a stream in few bytes."""
    return hashlib.blake2b("/".join(key).encode(), digest_size=NAME_BYTES).digest()


def _read_note(note: str, offset: int) -> dict[bytes, int]:
    """Return the first offset that each stream of a note still needs.

    Raises:
        ValueError: it is no note.
    """
    content = base64.b64decode(note, altchars=b"-_", validate=True)
    size = NAME_BYTES + NEED_BYTES
    if len(content) % size:
        raise ValueError(f"a note must have {size} bytes for each stream, this one has {len(content)}")
    entries = [content[at : at + size] for at in range(0, len(content), size)]
    return {entry[:NAME_BYTES]: offset - int.from_bytes(entry[NAME_BYTES:], "big") for entry in entries}


def main() -> None:
    settings = FeatureSettings()
    configure_logs(settings)
    metrics = Metrics()
    running = until_stopped()
    spec = settings.spec()
    stage = FeatureStage(spec, partial(read_range, reader_config(settings), running, TRADES), metrics)
    with serve_metrics(metrics, settings.host, settings.feature_service_port) as port:
        log.info("feature service", spec_id=spec.spec_id, window_size=spec.window_size, metrics_port=port)
        compile_kernel(spec)
        consumer = Consumer(consumer_config(settings, GROUP, settings.slot) | {"stats_cb": metrics.read_statistics})
        producer = Producer(transactional_config(settings, GROUP, settings.slot))
        serve(consumer, producer, stage, running, metrics, settings.kafka_bootstrap_servers)


if __name__ == "__main__":
    main()
