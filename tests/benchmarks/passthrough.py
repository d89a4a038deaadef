"""Records from one topic to another, exactly once, unread: the most that this broker and client can do.

Same client settings and same transactions as the feature service:
`python -m tests.benchmarks.passthrough SERVERS TOPIC`.
"""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, Producer

from data.topics import TRADES
from online.exactly_once.loop import MAX_BATCH
from online.kafka import consumer_config, spare_collector, transactional_config
from online.settings import KafkaSettings


def main(servers: str, topic: str) -> None:
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    consumer = Consumer(consumer_config(settings, "passthrough", 0))
    producer = Producer(transactional_config(settings, "passthrough", 0, 0))
    producer.init_transactions(30)
    consumer.subscribe(
        [TRADES],
        on_assign=lambda c, partitions: c.incremental_assign(partitions) if partitions else None,
    )
    spare_collector()
    while True:
        first = consumer.poll(0.2)
        if first is None:
            continue
        producer.begin_transaction()
        for message in (first, *consumer.consume(MAX_BATCH - 1, 0)):
            assert message.error() is None, message.error()
            while True:
                try:
                    place, at = message.partition() or 0, message.timestamp()[1]
                    producer.produce(topic, message.value(), message.key(), place, timestamp=at)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
        )
        producer.commit_transaction(30)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
