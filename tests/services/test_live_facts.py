"""The slow facts of the live page, asked of a real broker."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from data.settings import KafkaSettings
from data.stream.clients import GroupMembers, client_config
from data.stream.origin import group_of
from data.stream.records import TRADES
from online.exactly_once.offset_note import GROUP
from online.live.facts import SlowFacts
from online.replay.share import NOTED_AT, write_share
from tests.broker import Broker
from tests.pipeline import wait_until

BACK_S = 10.0
"""Limit until each fact is known again, from a broker's start on."""


def commit(settings: KafkaSettings, group: str, place: TopicPartition) -> None:
    consumer = Consumer(client_config(settings) | {"group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=[place], asynchronous=False)
    consumer.close()


def test_each_fact_is_known_again_soon_after_a_broker_was_killed_and_started(own_broker: Broker) -> None:
    settings = KafkaSettings(_env_file=None, kafka_bootstrap_servers=own_broker.bootstrap_servers)
    producer = Producer(client_config(settings))
    for _ in range(5):
        producer.produce(TRADES, b"trade", partition=3)
    producer.flush()
    commit(settings, GROUP, TopicPartition(TRADES, 3, 2))
    commit(settings, group_of("open"), TopicPartition(*NOTED_AT, 0, write_share(0.5)))
    sources = [{"source_id": "open", "has_ended": False}]
    view: Any = type("View", (), {"summary": lambda _: sources})()
    unused: Any = None
    facts, group = SlowFacts(settings, view, unused, {}, list), GroupMembers(settings, group_of("open"))

    def are_known() -> bool:
        facts.shares = {}
        try:
            facts._ask_lag()
            facts._ask_shares()
            members = group.members(2.0)
        except KafkaException:
            return False
        return facts.trades_behind == 3 and facts.shares == {"open": 0.5} and members == []

    wait_until(are_known, "all facts are known", within_s=BACK_S)
    own_broker.kill()
    for _ in range(3):
        for ask in (facts._ask_lag, facts._ask_shares, lambda: group.members(0.5)):
            with pytest.raises(KafkaException):
                ask()
    own_broker.start()
    wait_until(are_known, "all facts are known again", within_s=BACK_S)
