"""Where a partition was read to, as the topics tell: for a group whose offsets were lost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from data.spec import FeatureSpec
from data.topic_reader import TopicReader
from data.topics import FEATURES, REJECTED, TRADES, Rejected, decode_records
from online.exactly_once.feature_stage import FeatureColumns, FeatureStage
from online.exactly_once.loop import LostPlace
from online.kafka import Incoming
from online.metrics import Metrics

log = structlog.get_logger()

LOOK_BACK = 5_000
"""Offsets that are read at once, from the end of a topic back."""

_WHERE = re.compile(rf"{TRADES}\[(\d+)\]@(\d+)")


class _Outcome(Struct, frozen=True, gc=False):
    """Where the trade, or the end, of a record of `features` stands on `coinbase-trades`."""

    kafka_partition: int
    kafka_offset: int


_decode_outcome = msgspec.json.Decoder(_Outcome).decode
_decode_rejected = msgspec.json.Decoder(Rejected).decode


def check_never_read(reader: TopicReader, partition: int) -> None:
    """Check that a partition for which the group has no offset was never read.

    Raises:
        LostPlace: the partition was read.
        NotRead: the broker does not answer.
    """
    newest = newest_outcome(reader, partition)
    if newest is None and reader.span(FEATURES, partition)[0] == 0:
        return
    known = "its rows have expired" if newest is None else f"its newest outcome is of offset {newest}"
    raise LostPlace(
        f"the broker has no offset for {TRADES}[{partition}], though this partition was read: {known}. The offset was "
        "deleted or has expired, and a start from the beginning would write all rows again. "
        "`python -m online.forecaster --find-place` finds where to go on"
    )


def newest_outcome(reader: TopicReader, partition: int) -> int | None:
    """Return the offset of the newest record of `coinbase-trades`[partition] that was processed, None if none was.

    Each trade and each end has one outcome, on `features` or on `trades-rejected`, and a transaction holds those of
    consecutive records: all records up to the newest outcome are done.

    Raises:
        NotRead: the broker does not answer.
    """
    newest = (_newest(reader, topic, partition) for topic in (FEATURES, REJECTED))
    return max((offset for offset in newest if offset is not None), default=None)


def _newest(reader: TopicReader, topic: str, partition: int) -> int | None:
    """Return the newest outcome on one topic, read from its end back."""
    low, end = reader.span(topic, partition)
    while end > low:
        start = max(low, end - LOOK_BACK)
        found = _outcomes(
            topic, partition, [v for part in reader.read(topic, partition, start, end) for v in part.values]
        )
        if found:
            return max(found)
        end = start
    return None


def _outcomes(topic: str, partition: int, values: Sequence[bytes | None]) -> dict[int, bytes | None]:
    """Return records of `features` or `trades-rejected` by the offset of their trade."""
    if topic == FEATURES:
        found = decode_records(values, _decode_outcome)
        return {
            record.kafka_offset: values[place]
            for record, place in zip(found.records, found.places, strict=True)
            if record.kafka_partition == partition
        }
    found = decode_records(values, _decode_rejected)
    places = zip((_WHERE.fullmatch(record.where) for record in found.records), found.places, strict=True)
    return {int(at[2]): values[place] for at, place in places if at is not None and int(at[1]) == partition}


def find_place(reader: TopicReader, spec: FeatureSpec, partition: int, *, anew: bool) -> tuple[int, str] | None:
    """Return offset and note of a partition whose place was lost, as the topics tell; None if it was never read.

    The windows are made again from all trades that the topic holds, and the rows that they give are compared with the
    newest rows of `features`.

    Args:
        anew: leave the windows empty; each stream starts anew.

    Raises:
        LostPlace: the rows differ, as some of the trades that they were made from are gone.
        NotRead: the broker does not answer.
    """
    newest = newest_outcome(reader, partition)
    low, high = reader.span(TRADES, partition)
    if newest is None:
        return None
    if newest >= high:
        return low, ""  # the topic was made anew, nothing of it was read
    place = newest + 1
    if anew:
        return place, ""
    stage = FeatureStage(spec, lambda *_: (), Metrics())
    published = _published(reader, partition)
    since = min(published, default=place)
    remade: dict[int, bytes | None] = {}
    for messages in _trades(reader, partition, low, place):
        texts: list[bytes | None] = []
        for part in stage.process(messages).parts:
            texts.extend(part.texts if isinstance(part, FeatureColumns) else [part.text])
        if messages[-1].offset >= since:
            remade |= _outcomes(FEATURES, partition, texts)
    differing = [offset for offset, text in published.items() if remade.get(offset) != text]
    if differing or any(offset not in published for offset in remade if offset >= since):
        raise LostPlace(
            f"{TRADES}[{partition}] was read up to offset {place}, but its windows cannot be made again: "
            f"{len(differing)} of the newest {len(published)} rows come out otherwise (the topic's oldest offset is "
            f"{low}). With `--anew`, each open stream starts a new segment there"
        )
    return place, stage.note(partition, place)


def _published(reader: TopicReader, partition: int) -> dict[int, bytes | None]:
    """Return the newest rows and ends of a partition, by the offset of their trade."""
    low, end = reader.span(FEATURES, partition)
    values = [v for part in reader.read(FEATURES, partition, max(low, end - LOOK_BACK), end) for v in part.values]
    return _outcomes(FEATURES, partition, values)


def _trades(reader: TopicReader, partition: int, start: int, end: int) -> Iterator[list[Incoming]]:
    for stretch in reader.read(TRADES, partition, start, end):
        pairs = zip(stretch.offsets, stretch.values, strict=True)
        yield [Incoming(TRADES, partition, offset, value or b"", 0) for offset, value in pairs]


def commit_places(config: dict[str, object], places: dict[int, tuple[int, str]]) -> None:
    """Commit offsets and notes for a group that has no member.

    Raises:
        LostPlace: the group has a member.
        KafkaException: the broker refuses, or does not answer.
    """
    consumer = Consumer(config)
    try:
        offsets = [TopicPartition(TRADES, partition, *place) for partition, place in places.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS):
            raise LostPlace(
                "a forecaster is running, or was killed a moment ago: stop it first, then try again"
            ) from error
        raise
    finally:
        consumer.close()
