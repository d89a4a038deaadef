"""Tools of a drill: a broker, the forecaster, and a reader's view of each source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from data.process.running import AGAIN
from data.stream.records import FEATURES, PARTITIONS, PREDICTIONS
from tests.broker import Broker
from tests.pipeline import Process, environment, replay, running, wait_until
from tests.proofs import Proof

DIFFERS = {"source_id", "ingest_time", "ts", "kafka_partition", "kafka_offset"}
"""Fields that may differ between two runs of the same trades."""


def equal_columns(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in DIFFERS} for record in records]


class Tail:
    """Reader of a topic, `read_committed`, over any fault of the broker.

    Attributes:
        records: of each source, in the order of each partition; ends too.
        unreadable: values without a JSON object or without a source.
    """

    def __init__(self, servers: str, topic: str, *, from_now: bool = False) -> None:
        config = {"bootstrap.servers": servers, "group.id": "unused", "isolation.level": "read_committed"}
        quiet = {"log_level": 0, "error_cb": lambda _: None, "reconnect.backoff.max.ms": 500}
        self._consumer = Consumer(config | quiet | {"enable.auto.commit": False})
        places = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)]
        if from_now:
            for place in places:
                place.offset = self._consumer.get_watermark_offsets(place, timeout=10)[1]
        self._consumer.assign(places)
        self.records: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.unreadable: list[bytes] = []

    def read(self) -> None:
        """Read all new records."""
        for message in self._consumer.consume(10_000, 0.1):
            if (error := message.error()) is not None:
                assert error.retriable() or error.code() == KafkaError._ALL_BROKERS_DOWN, error
                continue
            value = message.value() or b""
            try:
                record = msgspec.json.decode(value)
                self.records[record["source_id"]].append(record)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
                self.unreadable.append(value)

    def rows(self, source_id: str) -> list[dict[str, Any]]:
        """Return the read rows of a source without ends, by product."""
        rows = [record for record in self.records[source_id] if not record.get("end")]
        return sorted(rows, key=lambda row: str(row["product_id"]))

    def ends(self, source_id: str) -> int:
        return sum(record.get("end", False) for record in self.records[source_id])

    def close(self) -> None:
        self._consumer.close()


class Drill:
    """The forecaster on a broker of its own.

    Attributes:
        supervised: restart a forecaster that ended with code `AGAIN`, as the supervisor of `make run` does.
        restarts: how many restarts happened.
    """

    def __init__(self, broker: Broker, models: Path, folder: Path, **settings: str) -> None:
        self.broker, self.folder = broker, folder
        self.supervised, self.restarts = False, 0
        self.environ = environment(broker.bootstrap_servers, models, **settings)
        self.forecaster = Process("online.forecaster", self.environ, folder / "forecaster.log")
        self.features, self.predictions = (Tail(broker.bootstrap_servers, topic) for topic in (FEATURES, PREDICTIONS))

    def read(self) -> None:
        """Read all new records of both topics, and look after the forecaster."""
        for tail in (self.features, self.predictions):
            tail.read()
        self.supervise()

    def supervise(self) -> None:
        """Restart an ended forecaster if the drill is supervised."""
        if self.supervised and self.forecaster.process.poll() == AGAIN:
            self.restarts += 1
            self.forecaster.start()

    @contextmanager
    def services(self) -> Iterator[None]:
        """Run the forecaster, ready at the start of the block and ended after it."""
        try:
            with running(self.forecaster):
                self.forecaster.await_log('"event": ?"assigned"')
                yield
        finally:
            self.features.close()
            self.predictions.close()

    def replay(self, source_id: str, *recordings: Path, **settings: str) -> Process:
        """Return the ingestor of a source, not yet started."""
        return replay(self.environ, self.folder, source_id, *recordings, **settings)

    def undisturbed(self, recording: Path, source_id: str = "undisturbed") -> int:
        """Replay a recording as an undisturbed source; return the number of rows."""
        with running(ingestor := self.replay(source_id, recording)):
            assert ingestor.process.wait(60) == 0, ingestor.log.read_text()
        self.await_ends(source_id)
        return len(self.predictions.rows(source_id))

    def await_rows(self, source_id: str, rows: int, within_s: float = 60.0) -> None:
        """Wait for a number of forecasts of a source."""

        def seen() -> bool:
            self.read()
            return len(self.predictions.rows(source_id)) >= rows

        wait_until(seen, f"{rows} forecasts of {source_id}", within_s)

    def await_ends(self, *source_ids: str, products: int = 1, within_s: float = 60.0) -> None:
        """Wait until the ends of all sources have gone through both topics."""

        def ended() -> bool:
            self.read()
            return all(
                tail.ends(source_id) == products
                for tail in (self.features, self.predictions)
                for source_id in source_ids
            )

        wait_until(ended, f"ends of {', '.join(source_ids[:3])}", within_s)

    def same(self, proof: Proof, disturbed: str = "disturbed", undisturbed: str = "undisturbed") -> None:
        """Compare all features and predictions of two ended sources."""
        for name, tail in ((FEATURES, self.features), (PREDICTIONS, self.predictions)):
            proof.equal(equal_columns(tail.rows(disturbed)), equal_columns(tail.rows(undisturbed)), name)
        proof.saw(rows=len(self.predictions.rows(disturbed)))
