"""How far a source has come: what the topic holds of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import structlog
from confluent_kafka import Consumer, TopicPartition

from data.settings import KafkaSettings
from data.stream.clients import read_range, reader_config, retry
from data.stream.codec import decode_records, decode_trades
from data.stream.records import PARTITIONS, REJECTED, TRADES, Purpose, Rejected, partition_of
from online.replay.lease import SourceLease

log = structlog.get_logger()

T = TypeVar("T")

Offsets = dict[tuple[str, int], int]
"""By topic and partition."""


class PlaceUnknown(ValueError):
    """Nothing tells how far a source has come."""


@dataclass
class Place:
    """How far a source has come.

    Attributes:
        last: last delivered trade id and its event time, ns, a product.
        ended: products with an end record.
        rejected: where the rows stood that are on `trades-rejected`.
        purpose: of its newest trade; None without any.
        removed: partitions of `coinbase-trades` that may have held trades of the source which retention removed.
        note: of the source's beginning; empty without one.
    """

    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    purpose: Purpose | None = None
    removed: set[int] = field(default_factory=set)
    note: str = ""

    @property
    def is_finished(self) -> bool:
        return bool(self.ended) and self.ended >= set(self.last)

    def check_known(self, product_id: str) -> None:
        """Check that a product without a delivered trade is one that was not begun.

        Raises:
            PlaceUnknown: its trades may have been removed.
        """
        if product_id not in self.last and partition_of(product_id) in self.removed:
            raise PlaceUnknown(
                f"nothing tells how far {product_id} had come: {TRADES}[{partition_of(product_id)}] no longer holds "
                "what the source wrote first (retention); replay the recording under a new id"
            )


def find_place(
    settings: KafkaSettings,
    source_id: str,
    running: Callable[[], bool],
    lease: SourceLease,
    note: str | None,
    *,
    is_new: bool = False,
) -> Place:
    """Return how far a source has come, from where it began to the topic's end.

    The broker keeps a source's beginning as committed offsets of the source's group. A source without a beginning is
    looked for in all that the topics hold; one that is not there either is new, and begins here.

    Args:
        note: what a new source is made of, kept with the first of these offsets. None: nothing is committed.
        is_new: a source without a beginning is not looked for.

    Raises:
        Stopped: told to stop before the broker answered.
    """
    partitions = [TopicPartition(topic, partition) for topic in (TRADES, REJECTED) for partition in range(PARTITIONS)]
    consumer = lease.consumer

    def insisting(ask: Callable[[float], T]) -> T:
        return retry(ask, running, settings.kafka_bootstrap_servers)

    committed = insisting(lambda timeout_s: consumer.committed(partitions, timeout=timeout_s))
    spans = {(p.topic, p.partition): insisting(functools.partial(_span, consumer, p)) for p in partitions}
    oldest, ends = ({place: span[i] for place, span in spans.items()} for i in (0, 1))
    starts = {(p.topic, p.partition): p.offset for p in committed if p.offset >= 0}
    begins = {**oldest, **starts}
    place = Place(note=next((p.metadata for p in committed if p.metadata), ""))
    if starts or not is_new:
        if not starts:
            records = sum(ends[each] - oldest[each] for each in ends)
            log.info("no beginning of this source is known: looking through the topics", records=records)
        _read_source(place, settings, running, source_id, begins, ends)
        place.removed = {p for (topic, p), start in starts.items() if topic == TRADES and start < oldest[topic, p]}
    if note is not None and not starts:
        is_there = bool(place.last or place.ended or place.rejected)
        here = [TopicPartition(*each, offset) for each, offset in (oldest if is_there else ends).items()]
        here[0] = TopicPartition(here[0].topic, here[0].partition, here[0].offset, note)
        lease.commit(here)
    elif starts:
        lease.keep(next(p for p in committed if p.offset >= 0))
    return place


def _read_source(
    place: Place,
    settings: KafkaSettings,
    running: Callable[[], bool],
    source_id: str,
    starts: Offsets,
    ends: Offsets,
) -> None:
    """Read what both topics hold of a source."""
    mine = f'"source_id":"{source_id}"'.encode()
    decode_rejected = msgspec.json.Decoder(Rejected).decode
    reader = reader_config(settings)
    for (topic, partition), start in starts.items():
        for stretch in read_range(reader, running, topic, partition, start, ends[topic, partition]):
            values = [value for value in stretch.values if mine in value]
            if topic == REJECTED:
                place.rejected.update(found.where for found in decode_records(values, decode_rejected).records)
                continue
            found = decode_trades(values)
            columns = found.trades.stream, found.trades.trade_id, found.trades.event_time
            for stream, trade_id, time_ns in zip(*(column.tolist() for column in columns), strict=True):
                place.last[found.trades.keys[stream].product_id] = trade_id, time_ns
            place.purpose = next(iter(found.purposes.values()), place.purpose)
            place.ended.update(end.product_id for _, end in found.ends)


def _span(consumer: Consumer, place: TopicPartition, timeout_s: float) -> tuple[int, int]:
    low, high = consumer.get_watermark_offsets(place, timeout=timeout_s)
    return int(low), int(high)
