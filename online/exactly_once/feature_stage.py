"""Make feature rows from trades, with windows that a start rebuilds from the topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby, repeat
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import structlog
from msgspec.structs import replace

from data.features.admission import FALLEN_TIME, PASSED_ID, REASONS, TAKEN
from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.process.catalog import UNKNOWN
from data.stream.clients import Incoming
from data.stream.codec import TradeRecords, decode_trades, encode, encode_features
from data.stream.reader import RecordBlock
from data.stream.records import FEATURES, End, Purpose
from data.trades import Floats, Int64s, StreamKey, Trades
from data.truth.adaptation import reach_ns
from online.exactly_once.loop import Record, rejected
from online.exactly_once.offset_note import MAX_ENDED, MAX_STREAMS, read_note, short_name, write_note
from online.metrics import ForecasterMetrics

log = structlog.get_logger()

MAX_SOURCES = 64
"""Most sources that are open at once in a partition."""

_PARTITION, _OFFSET, _VALUE, _TIME = map(itemgetter, range(1, 5))
"""Getters of the fields of `Incoming`: a getter costs half the time of an attribute."""

STATUS_LABELS = {PASSED_ID: "passed_id", FALLEN_TIME: "fallen_time"}

ENDED = "its source has ended"


class FeatureColumns(NamedTuple):
    """Hold n feature rows of one partition, in the order of their trades.

    Attributes:
        texts: n records of `features`, JSON.
        product_ids: n, of each row.
        ingest_time_ms: n, of each row, ms since 1970.
        trades: shape (n,), see `FeatureRows.trades`.
        values: shape (n, columns of the spec), NaN where a feature is missing.
        purposes: by stream.
    """

    partition: int
    texts: list[bytes]
    product_ids: list[str]
    ingest_time_ms: list[int]
    trades: Trades
    values: Floats
    purposes: dict[StreamKey, Purpose]


class EndedStream(NamedTuple):
    """Mark the end of a stream, between the rows before and the rows after.

    Attributes:
        text: the record of the end, JSON.
    """

    partition: int
    text: bytes
    key: StreamKey
    ingest_time_ms: int


class StreamTail(NamedTuple):
    """Name the trades of a stream from whose forecasts its adaptation can be resumed.

    Attributes:
        since_ms: an ingest time not later than theirs, ms since 1970.
        first, last: offsets of the first and the newest of these trades.
    """

    since_ms: int
    first: int
    last: int


class FeatureBatch(NamedTuple):
    """Hold the outcome of a batch of trades.

    Attributes:
        records: of `features` and `trades-rejected`.
        parts: feature rows and ends, in order, for the next stage.
    """

    records: list[Record]
    parts: list[FeatureColumns | EndedStream]


class _Tail:
    """Collect the newest trades of a stream."""

    def __init__(self) -> None:
        self._columns = np.empty((3, 0), np.int64)

    def add(self, trades: Trades, offsets: Int64s, reach: int) -> None:
        """Add taken trades, and forget the trades more than `reach` ns before the newest."""
        both = np.concatenate([self._columns, [trades.event_time, trades.ingest_time, offsets]], axis=1)
        self._columns = both[:, both[0] >= both[0, -1] - reach]

    def named(self) -> StreamTail:
        _, ingest_time, offsets = self._columns
        return StreamTail(int(ingest_time.min()) // 1_000_000, int(offsets[0]), int(offsets[-1]))


class _Partition:
    """Hold the open streams of one partition, and the names of the newest ended streams."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.windows = Windows(spec)
        self.purposes: dict[StreamKey, Purpose] = {}
        self.ended: dict[bytes, None] = {}
        self._logged: set[str] = set()

    def open(self, key: StreamKey, purpose: Purpose) -> tuple[str, str] | None:
        """Open a stream; return None, or the label and the reason of a refusal."""
        if key in self.purposes:
            return None
        if short_name(key) in self.ended:
            return "ended", ENDED
        sources = {known.source_id for known in self.purposes}
        if key.source_id not in sources and len(sources) >= MAX_SOURCES:
            refusal = f"{MAX_SOURCES} sources are open in this partition"
        elif len(self.purposes) >= MAX_STREAMS:
            refusal = f"{MAX_STREAMS} products of sources are open in this partition"
        else:
            self.purposes[key] = purpose
            return None
        refusal += "; wait until one has ended, or end one whose ingestor is gone: python -m online.ingestor --end ID"
        if key.source_id not in self._logged and len(self._logged) < MAX_SOURCES:
            self._logged.add(key.source_id)
            log.warning("source refused", source_id=key.source_id, reason=refusal, open=sorted(sources))
        return "too_many_sources", refusal

    def close(self, key: StreamKey) -> bool:
        """End a stream; return False if the stream had ended before."""
        name = short_name(key)
        if name in self.ended and key not in self.purposes:
            return False
        self.windows.drop(key)
        self.purposes.pop(key, None)
        self._logged.clear()
        self.ended[name] = None
        if len(self.ended) > MAX_ENDED:
            del self.ended[next(iter(self.ended))]
        return True


class FeatureStage:
    """Make feature rows from trades.

    Args:
        read: called with (partition, start, end), returns the records of the trades topic in [start, end), in batches.
    """

    def __init__(
        self, spec: FeatureSpec, read: Callable[[int, int, int], Iterable[RecordBlock]], metrics: ForecasterMetrics
    ) -> None:
        self._spec, self._read, self._metrics = spec, read, metrics
        self._partitions: dict[int, _Partition] = {}

    def open_streams(self, purpose: str, partition: int) -> int:
        """Return the number of open streams of a partition with a purpose; another thread may ask."""
        state = self._partitions.get(partition)
        return 0 if state is None else sum(each == purpose for each in list(state.purposes.values()))

    def restore(self, partition: int, offset: int, note: str, low: int) -> dict[StreamKey, StreamTail]:
        """Rebuild the windows of the open streams from the topic, and write nothing.

        Args:
            low: the oldest offset on the topic. Streams that need older trades start anew at `low`.

        Returns:
            the tail of each open stream.
        """
        tails: dict[StreamKey, _Tail] = {}
        try:
            needed, ended = read_note(note, offset)
        except ValueError as error:
            log.error(
                "the note of the committed offset cannot be read: windows start empty", note=note, error=str(error)
            )
            self._metrics.errors.labels("window_incomplete").inc()
            return {}
        if not needed and not ended:
            return {}
        state = self._partitions[partition] = _Partition(self._spec)
        state.ended = dict.fromkeys(ended)
        if not needed or low > offset:
            return {}
        expected = min(needed.values())
        if expected < low:
            self._incomplete(partition, expected)
            expected = low
        for block in self._read(partition, expected, offset):
            expected = block.offsets[-1] + 1
            found = decode_trades(block.values)
            offsets = np.array(block.offsets, np.int64)[found.places]
            # A stream that the note does not name had ended, or was refused.
            first = np.array([needed.get(short_name(key), offset) for key in found.trades.keys], np.int64)
            rows = offsets >= first[found.trades.stream]
            kept = found.trades.take(rows)
            for stream in np.unique(kept.stream):
                state.open(key := kept.keys[stream], found.purposes[key])
            found_rows = feature_rows(kept, state.windows, offsets[rows])
            taken = offsets[rows][found_rows.status == TAKEN]
            for stream in np.unique(found_rows.trades.stream):
                mine = found_rows.trades.stream == stream
                tail = tails.setdefault(kept.keys[stream], _Tail())
                tail.add(found_rows.trades.take(mine), taken[mine], reach_ns(self._spec))
        if expected < offset:
            self._incomplete(partition, expected)
        return {key: tail.named() for key, tail in tails.items()}

    def _incomplete(self, partition: int, offset: int) -> None:
        log.error("the topic no longer holds all that the windows need", partition=partition, missing_from=offset)
        self._metrics.errors.labels("window_incomplete").inc()

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        self._partitions.pop(partition, None)

    def cut(self, partition: int) -> None:
        """Close all streams of a partition: their next trades start anew."""
        if (state := self._partitions.get(partition)) is not None:
            self._partitions[partition] = _Partition(self._spec)
            self._partitions[partition].ended = state.ended

    def note(self, partition: int, offset: int) -> str:
        """Return the note at `offset`: the open streams with their needs, and the ended streams."""
        state = self._partitions.get(partition)
        if state is None:
            return ""
        needs = ((key, offset - state.windows.oldest_needed(key)) for key in state.windows.open_streams)
        return write_note(needs, state.ended)

    def process(self, messages: list[Incoming]) -> FeatureBatch:
        """Return the feature rows of the next trades, of any partitions, and the rejected trades."""
        made = FeatureBatch([], [])
        for partition, group in groupby(sorted(messages, key=_PARTITION), key=_PARTITION):
            self._process(partition, list(group), made)
        return made

    def _process(self, partition: int, messages: list[Incoming], made: FeatureBatch) -> None:
        """Process one partition's records, each end in its turn."""
        state = self._partitions.setdefault(partition, _Partition(self._spec))
        found = decode_trades(list(map(_VALUE, messages)))
        for place, reason in found.unreadable:
            made.records.append(self._reject(messages[place], "unreadable", reason, None, UNKNOWN))
        start = 0
        for place, end in found.ends:
            self._rows(state, messages, found, slice(start, place), made)
            self._end(state, messages[place], end, made)
            start = place + 1
        self._rows(state, messages, found, slice(start, len(messages)), made)

    def _end(self, state: _Partition, message: Incoming, end: End, made: FeatureBatch) -> None:
        """Close a stream, and pass on the end with its partition and offset."""
        if not state.close(end.key):
            made.records.append(self._reject(message, "ended", ENDED, end.key, end.purpose))
            return
        text = encode(replace(end, kafka_partition=message.partition, kafka_offset=message.offset))
        record = FEATURES, message.partition, end.product_id, text, message.ingest_time_ms
        made.records.append(record)
        made.parts.append(EndedStream(message.partition, text, end.key, message.ingest_time_ms))

    def _rows(
        self, state: _Partition, messages: list[Incoming], found: TradeRecords, part: slice, made: FeatureBatch
    ) -> None:
        """Make the feature rows of a part of a batch, and reject trades that their stream refuses."""
        rows = slice(*np.searchsorted(found.places, (part.start, part.stop)))
        trades, places = found.trades.take(rows), found.places[rows]
        if not len(trades):
            return
        for stream in np.flatnonzero(np.bincount(trades.stream)):
            key = trades.keys[stream]
            if refusal := state.open(key, found.purposes[key]):
                refused = trades.stream == stream
                purpose = found.purposes[key]
                made.records.extend(self._reject(messages[place], *refusal, key, purpose) for place in places[refused])
                trades, places = trades.take(~refused), places[~refused]
        offsets = np.fromiter(map(_OFFSET, messages), np.int64, len(messages))[places]
        found_rows = feature_rows(trades, state.windows, offsets)
        for row in np.flatnonzero(found_rows.status):
            status, key = int(found_rows.status[row]), trades.keys[trades.stream[row]]
            message, purpose = messages[places[row]], found.purposes[key]
            made.records.append(self._reject(message, STATUS_LABELS[status], REASONS[status], key, purpose))
        taken = found_rows.status == TAKEN
        if not taken.any():
            return
        partition = messages[0].partition
        texts = encode_features(found_rows, self._spec, found.purposes, partition, offsets[taken])
        names = [key.product_id for key in trades.keys]
        product_ids = [names[stream] for stream in found_rows.trades.stream.tolist()]
        times = list(map(_TIME, messages))
        if len(texts) < len(messages):
            times = [times[place] for place in places[taken].tolist()]
        made.records.extend(zip(repeat(FEATURES), repeat(partition), product_ids, texts, times, strict=False))
        columns = found_rows.trades, found_rows.values, found.purposes
        made.parts.append(FeatureColumns(partition, texts, product_ids, times, *columns))

    def _reject(self, message: Incoming, label: str, reason: str, key: StreamKey | None, purpose: str) -> Record:
        self._metrics.rejects.labels(label, purpose).inc()
        return rejected(message, reason, key)
