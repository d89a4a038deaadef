"""Make the missing topics: `python -m data.stream.topics`, from the root."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta

from confluent_kafka import KafkaException

from data.names import NotRead
from data.settings import TopicSettings
from data.stream.clients import client_config
from data.stream.records import FIGURES, PARTITIONS, TOPICS
from data.stream.topics.creation import create_topics, keeps_newest


def main() -> int:
    """Make the missing topics, and check the number of partitions of the others."""
    parser = argparse.ArgumentParser(
        prog="python -m data.stream.topics",
        description=main.__doc__,
        epilog="The broker is KAFKA_BOOTSTRAP_SERVERS. TOPIC_RETENTION_DAYS, TOPIC_MAX_MB and "
        "KAFKA_REPLICATION_FACTOR are for new topics. Exit code: 0 all topics are there, 1 the broker does not answer, "
        "or refuses, 2 a topic has another number of partitions.",
    )
    parser.parse_args()
    settings = TopicSettings()
    retention, replication = timedelta(days=settings.topic_retention_days), settings.kafka_replication_factor
    try:
        kafka = client_config(settings)
        created = create_topics(
            kafka, retention=retention, partition_bytes=settings.topic_max_mb * 10**6, replication=replication
        )
    except NotRead as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KafkaException, TimeoutError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        print(f"error: the broker at {settings.kafka_bootstrap_servers}: {reason}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in (*TOPICS, FIGURES):
        partitions = "1 partition" if name == FIGURES else f"{PARTITIONS} partitions"
        print(f"{name}: {'made' if name in created else 'found'}, {partitions}")
    if not keeps_newest(kafka, FIGURES):
        print(f"warning: {FIGURES} is not compacted: the broker forgets figures that are older than its retention",
              file=sys.stderr)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
