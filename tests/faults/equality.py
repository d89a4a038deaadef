"""Compare two sources of the same trades, record by record: what was lost, what is there twice, what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from data.settings import KafkaSettings
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PARTITIONS, PREDICTIONS, TRADES
from tests.faults.drill import DIFFERS
from tests.proofs import Proof

ALL = (TRADES, FEATURES, PREDICTIONS)

Row = tuple[str, int, bytes]
"""Product, trade id (-1: the end of the product), and the record without the fields that may differ."""


@dataclass
class Differences:
    """Counts over all topics.

    Attributes:
        lost: records of the undisturbed source that the disturbed source lacks.
        twice: records of the disturbed source beyond the first of each trade.
        different: records of one trade with other values.
        strange: records of trades that the undisturbed source lacks.
        rows: by topic, records of the disturbed source.
    """

    lost: int = 0
    twice: int = 0
    different: int = 0
    strange: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, topic: str, found: list[Row], expected: list[Row]) -> None:
        """Count the differences of one partition."""
        first = {(product_id, trade_id): value for product_id, trade_id, value in reversed(found)}
        wanted = {(product_id, trade_id): value for product_id, trade_id, value in expected}
        self.lost += len(wanted.keys() - first.keys())
        self.strange += len(first.keys() - wanted.keys())
        self.twice += len(found) - len(first)
        self.different += sum(wanted[key] != first[key] for key in wanted.keys() & first.keys())
        self.rows[topic] = self.rows.get(topic, 0) + len(found)


def same_records(
    servers: str, proof: Proof, disturbed: str = "disturbed", undisturbed: str = "undisturbed"
) -> Differences:
    """Compare all committed records of two ended sources, in the order of each partition, on three topics."""
    counts = Differences()
    compared: dict[str, list[tuple[list[Row], list[Row]]]] = {topic: [] for topic in ALL}
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=servers)) as reader:
        for topic in ALL:
            for partition in range(PARTITIONS):
                found, expected = rows_of(reader, topic, partition, disturbed, undisturbed)
                counts.add(topic, found, expected)
                if found != expected:  # kept until the counts of all topics are known
                    compared[topic].append((found, expected))
    proof.saw(lost=counts.lost + counts.strange, twice=counts.twice, different=counts.different, **counts.rows)
    for topic, partitions in compared.items():
        proof.equal([], [], topic)
        for found, expected in partitions:
            proof.equal(found, expected, topic)
    return counts


def rows_of(reader: TopicReader, topic: str, partition: int, *source_ids: str) -> list[list[Row]]:
    """Return the committed records of each source in one partition, in their order."""
    found: dict[str, list[Row]] = {source_id: [] for source_id in source_ids}
    for value in _values(reader, topic, partition):
        record = msgspec.json.decode(value)
        if (rows := found.get(record["source_id"])) is not None:
            product_id, trade_id = record["product_id"], record.get("trade_id", -1)
            kept = {name: each for name, each in record.items() if name not in DIFFERS}
            rows.append((product_id, trade_id, msgspec.json.encode(kept)))
    return [found[source_id] for source_id in source_ids]


def _values(reader: TopicReader, topic: str, partition: int) -> Iterator[bytes]:
    for block in reader.read(topic, partition):
        yield from block.values


def trades_on(servers: str, source_id: str) -> Counter[str]:
    """Return the number of a source's trades on the topic, by product."""
    counts: Counter[str] = Counter()
    with TopicReader(KafkaSettings(kafka_bootstrap_servers=servers)) as reader:
        for partition in range(PARTITIONS):
            (rows,) = rows_of(reader, TRADES, partition, source_id)
            counts.update(product_id for product_id, trade_id, _ in rows if trade_id >= 0)
    return counts
