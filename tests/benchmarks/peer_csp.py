"""Contract features with csp: csp's own statistics over 50 ticks, all in C++.

In the environment of requirements-peers.txt: `python -m tests.benchmarks.peer_csp SERVERS TOPIC`

Delivery: the connector knows no transactions and commits nothing here. A start reads the topic from the beginning and
writes every row again. A row without room in the client's queue is lost, and only the status series reports the loss.
The job knows no segments, refuses no trade and writes no rejects: a malformed record, or a record with size or side
null, is a line of the status. Products are named beforehand. n is written as 50.0, and missing values are left out.
"""
# No `from __future__ import annotations` here: csp reads the real types.

import sys
from datetime import timedelta

import csp
from csp import stats
from csp.adapters.kafka import JSONTextMessageMapper, KafkaAdapterManager, KafkaStartOffset
from csp.utils.datetime import utc_now

WINDOW = 50
PRODUCTS = ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD", "ADA-USD", "LTC-USD", "LINK-USD", "AVAX-USD",
            "DOT-USD", "UNI-USD", "AAVE-USD"]  # fmt: skip


class Trade(csp.Struct):  # type: ignore[misc]
    source_id: str
    product_id: str
    purpose: str
    trade_id: int
    event_time: int
    ingest_time: str
    price: float
    size: float
    side: str


class Row(Trade):
    n: float
    ret_mean: float
    ret_std: float


@csp.graph  # type: ignore[misc]
def features(servers: str, topic: str) -> None:
    kafka = KafkaAdapterManager(
        servers,
        start_offset=KafkaStartOffset.EARLIEST,
        # With the default the client pauses for a second each time that its queue is full.
        rd_kafka_consumer_conf_options={"fetch.queue.backoff.ms": "5"},
        rd_kafka_producer_conf_options={"compression.type": "lz4", "linger.ms": "2"},
    )
    mapper = JSONTextMessageMapper()
    # All keys in one subscription. Subscriptions by key wait for the end of each partition, and have the whole topic in
    # memory before the first row comes out. NON_COLLAPSING: without it the newest of several waiting trades is kept.
    trades = kafka.subscribe(Trade, mapper, "coinbase-trades", push_mode=csp.PushMode.NON_COLLAPSING)
    for product, trade in csp.demultiplex(trades, trades.product_id, PRODUCTS).items():
        log_return = csp.diff(csp.ln(trade.price), 1)
        row = Row.collectts(
            **{name: getattr(trade, name) for name in Trade.metadata()},
            n=stats.count(log_return, WINDOW, 0, trigger=trade),
            ret_mean=stats.mean(log_return, WINDOW, 1),
            ret_std=stats.stddev(log_return, WINDOW, 2),
        )
        kafka.publish(mapper, topic, product, row)
    csp.print("status", kafka.status())


def main(servers: str, topic: str) -> None:
    csp.run(features, servers, topic, starttime=utc_now(), endtime=timedelta(days=365), realtime=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
