"""Send rejects again, as new sources: all trades, their ends and receipts in one Kafka transaction.

So a killed replay has sent nothing, and a reject with a receipt is never sent again. Of two replays at once, the broker
refuses the first: both have the same transactional id.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, Producer
from msgspec.structs import replace

from data.settings import KafkaSettings
from data.stream.clients import ANSWER_S, transactional_config
from data.stream.codec import encode
from data.stream.records import REJECTED, TRADES, End, Trade, partition_of
from online.rejects.choice import source_of
from online.rejects.kept import Kept
from online.rejects.repair import NoTrade, trade_of

TRANSACTIONS = "rejects"
"""Begin of the transactional id."""
MOST = 100_000
"""Most trades of one replay: the forecaster reads nothing behind an open transaction."""
SENT_S = 25.0
"""How long the broker may take for the records: less than the timeout of the transaction."""

REPLAYED = "replayed before"
TOO_MANY = f"more than {MOST:,} at once: start the replay again"


class PlannedTrade(NamedTuple):
    """A trade of a new source, and its reject, without the bytes."""

    trade: Trade
    kept: Kept


class Plan(NamedTuple):
    """What a replay sends.

    Attributes:
        sources: trades by the new source, by product and trade id.
        origins: by the new source, the source whose records were refused.
        left_out: numbers of rejects that are not sent, by reason.
    """

    sources: dict[str, list[PlannedTrade]]
    origins: dict[str, str]
    left_out: Counter[str]

    @property
    def trades(self) -> int:
        return sum(map(len, self.sources.values()))


def plan(chosen: Iterable[Kept], new_id: str, repaired: Mapping[str, dict[str, Any]]) -> Plan:
    """Return the trades to send: the rejects of each source become a source of their own.

    Args:
        new_id: begin of the names of the new sources.
        repaired: see `trade_of`.

    Raises:
        BadRepair: a repaired trade is none.
    """
    made = Plan({}, {}, Counter())
    names: dict[str, str] = {}
    planned = 0
    for kept in chosen:
        if kept.replayed_as is not None or planned >= MOST:
            made.left_out[REPLAYED if kept.replayed_as is not None else TOO_MANY] += 1
            continue
        origin = source_of(kept) or "unknown sources"
        source_id = names.get(origin, f"{new_id}-{len(names) + 1}")
        try:
            trade = trade_of(kept, source_id, repaired)
        except NoTrade as reason:
            made.left_out[str(reason)] += 1
            continue
        names[origin], made.origins[source_id] = source_id, origin
        without_bytes = kept._replace(reject=replace(kept.reject, original=None))
        made.sources.setdefault(source_id, []).append(PlannedTrade(trade, without_bytes))
        planned += 1
    for trades in made.sources.values():
        trades.sort(key=lambda each: (each.trade.product_id, each.trade.trade_id))
    return made


def replayer(settings: KafkaSettings) -> Producer:
    """Return a producer for `send`. From now on, an earlier replay can send nothing more.

    Raises:
        KafkaException: the broker refuses, or does not answer.
    """
    producer = Producer(transactional_config(settings, TRANSACTIONS, 0, 0))
    producer.init_transactions(5 * ANSWER_S)
    return producer


def send(made: Plan, producer: Producer) -> None:
    """Send all records of a plan, or none.

    Raises:
        KafkaException: the broker refuses, or another replay has begun; nothing is sent.
        RecordRefused: the broker refuses a record; nothing is sent.
    """
    now_ns = time.time_ns()
    producer.begin_transaction()
    try:
        for topic, partition, key, value in _records(made, now_ns):
            while True:
                try:
                    producer.produce(topic, value, key, partition, timestamp=now_ns // 1_000_000)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.commit_transaction(SENT_S)
    except BaseException:
        _abort(producer)
        raise


def _abort(producer: Producer) -> None:
    """End the transaction; a fenced producer cannot, and needs not."""
    with contextlib.suppress(KafkaException):
        producer.abort_transaction(ANSWER_S)


def _records(made: Plan, now_ns: int) -> Iterator[tuple[str, int, str, bytes]]:
    """Yield topic, partition, key and value of each record, each source with its ends before the next source."""
    for source_id, trades in made.sources.items():
        for trade, kept in trades:
            value = encode(replace(trade, ingest_time=now_ns))
            yield TRADES, partition_of(trade.product_id), trade.product_id, value
            receipt = replace(kept.reject, replayed_as=source_id, reject_offset=kept.offset)
            yield REJECTED, kept.partition, kept.reject.product_id or "", encode(receipt)
        purpose = trades[0].trade.purpose
        for product_id in sorted({each.trade.product_id for each in trades}):
            end = encode(End(source_id, product_id, purpose, now_ns, end=True))
            yield TRADES, partition_of(product_id), product_id, end
