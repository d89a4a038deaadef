"""Records from one topic to another, exactly once, unread: the most that this broker and client can do.

Same client settings and same transactions as the feature service:
`python -m tests.benchmarks.passthrough SERVERS TOPIC`.
"""

from __future__ import annotations

import sys
import time

from confluent_kafka import Consumer, Producer

from data.topics import TRADES
from online.exactly_once import MAX_BATCH, MIN_TRANSACTION_S
from online.kafka import consumer_config, spare_collector, transactional_config
from online.settings import KafkaSettings


def main(servers: str, topic: str) -> None:
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    consumer = Consumer(consumer_config(settings, "passthrough", 0))
    producer = Producer(transactional_config(settings, "passthrough", 0))
    producer.init_transactions(30)
    consumer.subscribe(
        [TRADES],
        on_assign=lambda c, partitions: c.incremental_assign(partitions) if partitions else None,
    )
    spare_collector()
    next_at = 0.0
    while True:
        time.sleep(max(0.0, next_at - time.monotonic()))
        first = consumer.poll(0.2)
        if first is None:
            continue
        next_at = time.monotonic() + MIN_TRANSACTION_S
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
