"""Contract features with bytewax. Without transactions in bytewax, rows can come twice.

In the environment of requirements-peers.txt: `python -m tests.benchmarks.peer_bytewax SERVERS TOPIC`
"""

from __future__ import annotations

import sys
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from tests.benchmarks.peer_window import RunningWindow

Keyed = tuple[str, Any]


def keyed(message: KafkaSourceMessage[bytes, bytes]) -> Keyed:
    trade = orjson.loads(message.value)
    return trade["product_id"], trade


def features(window: RunningWindow | None, trade: dict[str, Any]) -> tuple[RunningWindow, dict[str, Any]]:
    window = window or RunningWindow()
    return window, trade | window.add(trade["price"])


def outgoing(made: Keyed) -> KafkaSinkMessage[bytes, bytes]:
    return KafkaSinkMessage(made[0].encode(), orjson.dumps(made[1]))


def main(servers: str, topic: str) -> None:
    flow = Dataflow("features")
    source = KafkaSource([servers], ["coinbase-trades"], batch_size=10_000)
    trades = op.map("read", op.input("trades", flow, source), keyed)
    made = op.stateful_map("features", trades, features)
    config = {"compression.type": "lz4", "linger.ms": "2", "queue.buffering.max.messages": "1000000"}
    op.output("out", op.map("write", made, outgoing), KafkaSink([servers], topic, add_config=config))
    run_main(flow)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
