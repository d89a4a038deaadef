"""Contract features with quixstreams, exactly once, state in its own store.

In the environment of requirements-peers.txt: `python -m tests.benchmarks.peer_quixstreams SERVERS TOPIC`
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory
from typing import Any

from quixstreams import Application, State

from tests.benchmarks.peer_window import RunningWindow


def features(trade: dict[str, Any], state: State) -> dict[str, Any]:
    kept = state.get("window")
    window = RunningWindow(**kept) if kept else RunningWindow()
    made = trade | window.add(trade["price"])
    state.set("window", {"price": window.price, "returns": window.returns, "total": window.total,
                         "squares": window.squares})  # fmt: skip
    return made


def main(servers: str, topic: str) -> None:
    with TemporaryDirectory() as folder:
        app = Application(
            broker_address=servers,
            consumer_group=topic,
            auto_offset_reset="earliest",
            processing_guarantee="exactly-once",
            commit_interval=1.0,
            state_dir=folder,
            loglevel="WARNING",
            producer_extra_config={"compression.type": "lz4", "linger.ms": 2},
        )
        trades = app.topic("coinbase-trades", key_deserializer="string", value_deserializer="json")
        made = app.topic(topic, key_serializer="string", value_serializer="json")
        app.dataframe(trades).apply(features, stateful=True).to_topic(made)
        app.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
