"""Find the progress of a source from the topics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from confluent_kafka import TopicPartition

from data.settings import KafkaSettings
from data.stream.codec import decode_records, decode_trades, mark_of
from data.stream.reader import TopicReader
from data.stream.records import PARTITIONS, REJECTED, TRADES, Purpose, Rejected, partition_of
from online.replay.lease import SourceLease
from online.replay.share import NOTED_AT

log = structlog.get_logger()

Offsets = dict[tuple[str, int], int]
"""Offset by topic and partition."""


class ProgressUnknown(ValueError):
    """The topics do not tell the progress of a source."""


@dataclass
class SourceProgress:
    """Hold the progress of a source.

    Attributes:
        last: by product, the last delivered trade id and its event time, ns since 1970.
        ended: products with an end record.
        rejected: file and line of each row on `trades-rejected`.
        purpose: of the newest trade; None without a trade.
        removed: partitions of `coinbase-trades` from which retention may have removed trades of the source.
        note: of the source's beginning; empty without a note.
        noted_at: offset of the source's beginning that takes the note of `online.replay.share`; None: not committed.
    """

    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    purpose: Purpose | None = None
    removed: set[int] = field(default_factory=set)
    note: str = ""
    noted_at: TopicPartition | None = None

    @property
    def is_finished(self) -> bool:
        """Return whether each product of a begun source has an end record."""
        return bool(self.ended) and self.ended >= set(self.last)

    def check_known(self, product_id: str) -> None:
        """Check that a product without a delivered trade was never begun.

        Raises:
            ProgressUnknown: the product's trades may have been removed.
        """
        if product_id not in self.last and partition_of(product_id) in self.removed:
            raise ProgressUnknown(
                f"nothing tells how far {product_id} had come: {TRADES}[{partition_of(product_id)}] no longer holds "
                "what the source wrote first (retention); replay the recording under a new id"
            )


def find_progress(
    settings: KafkaSettings,
    source_id: str,
    running: Callable[[], bool],
    lease: SourceLease,
    note: str | None,
    *,
    is_new: bool = False,
) -> SourceProgress:
    """Return the progress of a source, read from the source's beginning to the end of the topics.

    The broker keeps a source's beginning as committed offsets of the source's group. A source without a beginning is
    searched on the whole topics; a source without any record is new, and begins at the end of the topics.

    Args:
        note: description of a new source's recordings, committed with the first offset of the beginning. None: nothing
            is committed.
        is_new: a source without a beginning is not searched.

    Raises:
        ProgressUnknown: `coinbase-trades` was deleted after the source had begun.
        SourceTaken: this process may not write the source.
        Stopped: told to stop before the broker answered.
        KafkaException: the broker refuses.
    """
    with TopicReader(settings, lease.group, running=running) as reader:
        both = (TRADES, REJECTED)
        begun = {(topic, p): at for topic in both for p, at in reader.committed(topic, range(PARTITIONS)).items()}
        spans = {(topic, p): reader.span(topic, p) for topic in both for p in range(PARTITIONS)}
        oldest, ends = ({at: span[i] for at, span in spans.items()} for i in (0, 1))
        starts = {at: offset for at, (offset, _) in begun.items()}
        if starts and not any(topic == TRADES for topic, _ in starts):
            raise ProgressUnknown(  # the broker forgets a topic's offsets with the topic; the outcomes are still there
                f"{TRADES} was deleted after this source had begun, and its first trades have outcomes already: replay "
                "the recording under a new id"
            )
        progress = SourceProgress(note=next((text for at, (_, text) in begun.items() if text and at != NOTED_AT), ""))
        if starts or not is_new:
            if not starts:
                records = sum(ends[each] - oldest[each] for each in ends)
                log.info("no beginning of this source is known: looking through the topics", records=records)
            _read_source(progress, reader, source_id, {**oldest, **starts}, ends)
    progress.removed = {p for (topic, p), start in starts.items() if topic == TRADES and start < oldest[topic, p]}
    if note is not None and not starts:
        is_there = bool(progress.last or progress.ended or progress.rejected)
        here = [TopicPartition(*each, offset) for each, offset in (oldest if is_there else ends).items()]
        here[0] = TopicPartition(here[0].topic, here[0].partition, here[0].offset, note)
        lease.commit(here)
        starts = {(each.topic, each.partition): each.offset for each in here}
    elif starts:
        at, place = next(iter(begun.items()))
        lease.beginning = TopicPartition(*at, *place)
    if NOTED_AT in starts:
        progress.noted_at = TopicPartition(*NOTED_AT, starts[NOTED_AT])
    return progress


def _read_source(progress: SourceProgress, reader: TopicReader, source_id: str, starts: Offsets, ends: Offsets) -> None:
    """Add the records of a source on both topics to its progress."""
    mine = mark_of(source_id)
    decode_rejected = msgspec.json.Decoder(Rejected).decode
    for (topic, partition), start in starts.items():
        for block in reader.read(topic, partition, start, ends[topic, partition]):
            values = [value for value in block.values if mine in value]
            if topic == REJECTED:
                progress.rejected.update(found.where for found in decode_records(values, decode_rejected).records)
                continue
            found = decode_trades(values)
            columns = found.trades.stream, found.trades.trade_id, found.trades.event_time
            for stream, trade_id, time_ns in zip(*(column.tolist() for column in columns), strict=True):
                progress.last[found.trades.keys[stream].product_id] = trade_id, time_ns
            progress.purpose = next(iter(found.purposes.values()), progress.purpose)
            progress.ended.update(end.product_id for _, end in found.ends)
