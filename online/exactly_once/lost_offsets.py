"""Find the lost offsets of the forecaster's group from the topics."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from data.features.spec import FeatureSpec
from data.settings import KafkaSettings
from data.stream.clients import GroupMembers, Incoming
from data.stream.codec import decode_records
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, REJECTED, TRADES, Rejected
from data.trades import StreamKey
from online.exactly_once.feature_stage import FeatureColumns, FeatureStage
from online.exactly_once.loop import FIND_PLACE, LostPlace
from online.exactly_once.offset_note import GROUP, MAX_ENDED, read_note, short_name, write_note
from online.metrics import ForecasterMetrics

log = structlog.get_logger()

LOOK_BACK = 5_000
"""Offsets in one read, from the end of a topic backwards."""

LOOK_AGAIN_S = 0.25
MEMBERS_S = 10.0
"""How long the broker may take to name the members of a group."""

_WHERE = re.compile(rf"{TRADES}\[(\d+)\]@(\d+)")


class _Outcome(Struct, frozen=True, gc=False):
    """Read from a record of `features` the place of its trade, or end, and whether the record ends its stream."""

    kafka_partition: int
    kafka_offset: int
    source_id: str = ""
    product_id: str = ""
    end: bool = False


_decode_outcome = msgspec.json.Decoder(_Outcome).decode
_decode_rejected = msgspec.json.Decoder(Rejected).decode


def check_never_read(reader: TopicReader, partition: int) -> None:
    """Check that a partition for which the group has no offset was never read.

    Raises:
        LostPlace: the partition was read.
        NotRead: the broker does not answer.
    """
    newest = newest_outcome(reader, partition)
    if newest is None and not _rows_have_expired(reader, partition):
        return
    known = "its rows have expired" if newest is None else f"its newest outcome is of offset {newest}"
    raise LostPlace(
        f"the broker has no offset for {TRADES}[{partition}], though this partition was read: {known}. The offset was "
        "deleted or has expired, and a start from the beginning would write all rows again. "
        f"{FIND_PLACE} finds where to go on"
    )


def _rows_have_expired(reader: TopicReader, partition: int) -> bool:
    return reader.span(FEATURES, partition)[0] > 0


def newest_outcome(reader: TopicReader, partition: int) -> int | None:
    """Return the offset of the newest processed record of `coinbase-trades`[partition], None without any.

    Each trade and each end has one outcome, on `features` or on `trades-rejected`, and a transaction holds the outcomes
    of consecutive records: all records up to the newest outcome are done.

    Raises:
        NotRead: the broker does not answer.
    """
    newest = (_newest(reader, topic, partition) for topic in (FEATURES, REJECTED))
    return max((offset for offset in newest if offset is not None), default=None)


def _newest(reader: TopicReader, topic: str, partition: int) -> int | None:
    """Return the newest outcome on a topic, reading backwards from the topic's end."""
    low, end = reader.span(topic, partition)
    for stop in range(end, low, -LOOK_BACK):
        if found := _outcomes_before(reader, topic, partition, low, stop):
            return max(found)
    return None


def _outcomes_before(reader: TopicReader, topic: str, partition: int, low: int, end: int) -> dict[int, bytes]:
    """Return the outcomes among the last `LOOK_BACK` offsets before `end`, none before `low`."""
    blocks = reader.read(topic, partition, max(low, end - LOOK_BACK), end)
    return _outcomes(topic, partition, [value for block in blocks for value in block.values])


def _outcomes(topic: str, partition: int, values: Sequence[bytes]) -> dict[int, bytes]:
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
    """Return the lost offset and note of a partition, found from the topics; None if the partition was never read.

    The windows are made again from all trades on the topic, and the new rows are compared with the newest rows of
    `features`.

    Args:
        anew: if the windows cannot be made again, leave the windows empty: each stream starts anew, and the known ended
            streams are kept. If all rows have expired, begin at the topic's oldest offset.

    Raises:
        LostPlace: the rows differ, as some of their trades are gone, or all rows have expired.
        NotRead: the broker does not answer.
    """
    newest = newest_outcome(reader, partition)
    low, high = reader.span(TRADES, partition)
    if newest is None and not _rows_have_expired(reader, partition):
        return None
    if newest is None and not anew:
        raise LostPlace(
            f"{TRADES}[{partition}] was read, but its rows have expired: nothing tells up to where. With `--anew`, the "
            f"forecaster begins at offset {low}, the oldest that the topic holds"
        )
    if newest is None or newest >= high:
        return low, ""  # if not expired, the topic was made anew, and nothing of it was read
    place = newest + 1
    stage = FeatureStage(spec, lambda *_: (), ForecasterMetrics())
    published = _published(reader, partition)
    since = min(published, default=place)
    remade: dict[int, bytes] = {}
    for messages in _trades(reader, partition, low, place):
        texts: list[bytes] = []
        for part in stage.process(messages).parts:
            texts.extend(part.texts if isinstance(part, FeatureColumns) else [part.text])
        if messages[-1].offset >= since:
            remade |= _outcomes(FEATURES, partition, texts)
    differing = [offset for offset, text in published.items() if remade.get(offset) != text]
    is_remade = not differing and all(offset in published for offset in remade if offset >= since)
    if not is_remade and not anew:
        raise LostPlace(
            f"{TRADES}[{partition}] was read up to offset {place}, but its windows cannot be made again: "
            f"{len(differing)} of the newest {len(published)} rows come out otherwise (the topic's oldest offset is "
            f"{low}). With `--anew`, each open stream starts a new segment there"
        )
    note = stage.note(partition, place)
    if is_remade:
        return place, note
    ended = read_note(note, place)[1]
    older = [name for name in _ended_names(published) if name not in ended]
    log.warning("windows cannot be made again: each open stream of this partition starts anew", partition=partition)
    return place, write_note((), [*older, *ended][-MAX_ENDED:])


def _ended_names(published: dict[int, bytes]) -> list[bytes]:
    """Return the short names of the streams with an end in `published`, the oldest end first."""
    records = decode_records([published[offset] for offset in sorted(published)], _decode_outcome).records
    return [short_name(StreamKey(record.source_id, record.product_id)) for record in records if record.end]


def _published(reader: TopicReader, partition: int) -> dict[int, bytes]:
    """Return the newest rows and ends of a partition, by the offset of their trade."""
    return _outcomes_before(reader, FEATURES, partition, *reader.span(FEATURES, partition))


def _trades(reader: TopicReader, partition: int, start: int, end: int) -> Iterator[list[Incoming]]:
    for block in reader.read(TRADES, partition, start, end):
        pairs = zip(block.offsets, block.values, strict=True)
        yield [Incoming(TRADES, partition, offset, value, 0) for offset, value in pairs]


def commit_places(config: dict[str, object], places: dict[int, tuple[int, str]]) -> bool:
    """Commit offsets and notes for a group without a member; return False if the group has a member.

    Args:
        config: of a consumer of the group.
        places: by partition, offset and note.

    Raises:
        KafkaException: the broker refuses, or does not answer.
    """
    offsets = [TopicPartition(TRADES, partition, *place) for partition, place in places.items()]
    with Consumer(config) as consumer:
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS):
                return False
            raise
    return True


def await_empty_group(settings: KafkaSettings, until: float) -> None:
    """Wait until the forecaster's group has no member.

    Args:
        until: deadline in seconds of `time.monotonic`.

    Raises:
        LostPlace: the group has a member at the deadline.
        KafkaException: the broker does not answer.
    """
    watch = GroupMembers(settings, GROUP)
    is_told = False
    while members := watch.members(MEMBERS_S):
        forecaster = members[0]
        if time.monotonic() > until:
            raise LostPlace(f"a forecaster is running: {forecaster}. Stop it first, then try again")
        if not is_told:
            is_told = True
            log.info(
                "waiting until the broker forgets a forecaster that was stopped or killed: with a SLOT up to 45 s",
                forecaster=forecaster,
            )
        time.sleep(LOOK_AGAIN_S)
