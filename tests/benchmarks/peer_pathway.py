"""Contract features with pathway, one worker.

In the environment of requirements-peers.txt: `python -m tests.benchmarks.peer_pathway SERVERS TOPIC`

Delivery: the connector writes without transactions, and the job keeps no snapshots. A start goes on after the group's
offsets, committed while reading, with empty windows: rows can come twice or never, and n starts at 0 again. The job
knows no segments, refuses no trade and writes no rejects: a malformed record ends the job.

Records are bytes to the connector, and Python parses them: with the connector's own JSON and a schema of the nine
columns the same job had 0.8 times the speed. The trade's id is a header, the only value the connector sorts by.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
import pathway as pw

from tests.benchmarks.peer_window import RunningWindow

COMMIT_MS = 100
BACKLOG = 50_000
"""Trades in the engine at once: without a limit the connector reads the whole topic before the first row comes out."""


@pw.reducers.stateful_many  # type: ignore[misc]
def roll(state: Any, batch: list[tuple[list[bytes], int]]) -> Any:
    """Return the window, and a row for each trade of the batch, sorted first: a batch has lost its order."""
    window = state[0].value if state else RunningWindow()
    trades = sorted((orjson.loads(value) for (value,), _ in batch), key=lambda trade: trade["trade_id"])
    rows = ((trade["trade_id"], orjson.dumps(trade | window.add(trade["price"]))) for trade in trades)
    return pw.wrap_py_object(window), tuple(rows)


@pw.udf  # type: ignore[misc]
def rows_of(state: tuple[Any, Any]) -> tuple[tuple[int, bytes], ...]:
    return tuple(state[1])


def main(servers: str, topic: str) -> None:
    trades = pw.io.kafka.read(
        {"bootstrap.servers": servers, "group.id": topic, "auto.offset.reset": "earliest"},
        "coinbase-trades",
        format="raw",
        autogenerate_key=True,
        autocommit_duration_ms=COMMIT_MS,
        max_backlog_size=BACKLOG,
    )
    states = trades.groupby(trades.key).reduce(trades.key, state=roll(trades.data))
    newest = states.to_stream().filter(pw.this.is_upsert)  # a state that another one replaces writes nothing
    rows = newest.select(newest.key, row=rows_of(newest.state)).flatten(pw.this.row)
    made = rows.select(rows.key, trade_id=rows.row[0], value=rows.row[1])
    config = {"bootstrap.servers": servers, "compression.type": "lz4", "linger.ms": "2"}
    order = [made.trade_id]
    pw.io.kafka.write(made, config, topic, format="raw", key=made.key, value=made.value, headers=order, sort_by=order)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
