"""Thousands of broken records on the topics, among the trades of a source: every process lives, keeps or counts each
bad record with its reason, and makes exactly the rows of an undisturbed run.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from confluent_kafka import KafkaError, Message, Producer
from prometheus_client.parser import text_string_to_metric_families

from data.features.spec import FeatureSpec
from data.recordings.readers import read_trades
from data.stream.clients import MAX_VALUE
from data.stream.codec import encode, encode_trades
from data.stream.records import FEATURES, PREDICTIONS, REJECTED, TRADES, End, Rejected, record_types
from data.trades import StreamKey
from offline.lake.store import Lake
from offline.served.columns import OTHERS
from offline.served.files import read_rows
from offline.served.manifest import read_manifest
from tests.faults.drill import Drill
from tests.faults.mutations import mutations
from tests.faults.test_sink import records_on
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

INGEST_TIME = 1_741_183_200_000_000_000
MOST_MIB = 400
PRODUCT = "ETH-USD"
LANDS_S = 300.0

Place = tuple[int, int]
"""Partition and offset."""


@dataclass
class Poisoner:
    """Writes to the topics, and notes where each broken record lies."""

    servers: str

    def __post_init__(self) -> None:
        config = {"bootstrap.servers": self.servers, "partitioner": "murmur2_random", "log_level": 0}
        self._producer = Producer(config | {"queue.buffering.max.kbytes": 65_536})
        self.broken: dict[str, dict[Place, bytes]] = {TRADES: {}, FEATURES: {}, PREDICTIONS: {}}

    def _produce(self, topic: str, value: bytes | None, key: str | None, on_delivery: Any = None) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=on_delivery)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def good(self, value: bytes) -> None:
        self._produce(TRADES, value, PRODUCT)

    def bad(self, topic: str, value: bytes | None, *, anywhere: bool) -> None:
        """Write a broken record to the partition of the good ones, or to any partition."""

        def landed(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            self.broken[topic][message.partition() or 0, message.offset() or 0] = value or b""

        self._produce(topic, value, None if anywhere else PRODUCT, landed)

    def flush(self) -> None:
        assert self._producer.flush(60) == 0


class Watched:
    """The largest memory of processes, in MiB, read while they live."""

    def __init__(self, *processes: Process) -> None:
        self._processes, self._over = processes, threading.Event()
        self.peak_mib: Counter[str] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.look()

    def look(self) -> None:
        for each in self._processes:
            status = Path(f"/proc/{each.process.pid}/status")
            lines = status.read_text().splitlines() if status.exists() else []
            for line in lines:
                if line.startswith("VmHWM:"):
                    name = each.module.rpartition(".")[2]
                    self.peak_mib[name] = max(self.peak_mib[name], int(line.split()[1]) // 1_024)


def is_trade(value: bytes) -> bool:
    """Return whether bytes are a trade or an end, by Python's own JSON and by the page of the topics.

    A field that nobody reads may hold anything, bytes that are no UTF-8 too.
    """
    try:
        found = json.loads(value.decode(errors="replace"))
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("source_id", "product_id")):
        return False
    if found.get("end") is True:
        return True
    price: Any = found.get("price")
    ids = [found.get(name) for name in ("trade_id", "event_time", "ingest_time")]
    is_number = isinstance(price, int | float) and not isinstance(price, bool)
    return is_number and 0 < price < float("inf") and all(type(each) is int for each in ids)


def outcomes(servers: str, own: dict[Place, bytes]) -> tuple[dict[Place, bytes], dict[Place, Rejected]]:
    """Return the forecaster's row or end of each trade, and its reject of each refused record, by the trade's place.

    Args:
        own: records that the test itself has written to `features`.
    """
    rows: dict[Place, bytes] = {}
    for place, value in records_on(servers, FEATURES).items():
        if place not in own:
            record = msgspec.json.decode(value)
            at = record["kafka_partition"], record["kafka_offset"]
            assert at not in rows, "one trade has two rows"
            rows[at] = value
    rejects: dict[Place, Rejected] = {}
    for value in records_on(servers, REJECTED).values():
        reject = msgspec.json.decode(value, type=Rejected)
        assert reject.kafka_partition is not None
        assert reject.kafka_offset is not None
        at = reject.kafka_partition, reject.kafka_offset
        assert at not in rejects, "one record has two rejects"
        rejects[at] = reject
    return rows, rejects


def scraped(url: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples of a page of metrics by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(httpx.get(url, timeout=30).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


class Poisoned:
    """A source among broken records on three topics, read by all processes that read topics."""

    def __init__(self, drill: Drill, recording: Path, folder: Path) -> None:
        self.drill, self._recording, self.folder = drill, recording, folder
        self.servers = drill.broker.bootstrap_servers
        self.environ = drill.environ | {"LAKE_URI": str(folder / "lake"), "API_PORT": "0", "EXPORTER_PORT": "0"}
        self.api = Process("online.api", self.environ, folder / "api.log")
        self.exporter = Process("monitoring.exporter", self.environ, folder / "exporter.log")
        self.poisoner = Poisoner(self.servers)
        self.memory = Watched(drill.forecaster, self.api, self.exporter)

    def write(self, count: int, *, kills: bool) -> None:
        """Write the trades of the source, and `count` broken records on each topic among them.

        Args:
            kills: whether the forecaster is killed amid the records, and started again.
        """
        self.drill.undisturbed(self._recording)
        [batch] = read_trades(self._recording)
        stamps = np.full(len(batch.trades), INGEST_TIME)
        good = encode_trades(
            replace(batch.trades, keys=(StreamKey("disturbed", PRODUCT),), ingest_time=stamps), "replay"
        )
        models = {
            TRADES: [value.replace(b'"disturbed"', b'"hostile"') for value in good[:500]],
            FEATURES: [encode(row | {"source_id": "hostile"}) for row in self.drill.features.rows("undisturbed")[:500]],
            PREDICTIONS: [
                encode(row | {"source_id": "hostile"}) for row in self.drill.predictions.rows("undisturbed")[:500]
            ],
        }
        broken = {topic: mutations(values, seed) for seed, (topic, values) in enumerate(models.items())}
        written = 0
        for place, value in enumerate(good):
            self.poisoner.good(value)
            while written < count * (place + 1) // len(good):
                for topic, values in broken.items():
                    self.poisoner.bad(topic, next(values), anywhere=written % 4 == 3)
                written += 1
            if kills and place == len(good) // 2:
                self.poisoner.flush()
                self.drill.await_rows("disturbed", len(good) // 4, LANDS_S)
                self.drill.forecaster.kill()
                self.drill.forecaster.start()
        self.poisoner.good(encode(End("disturbed", PRODUCT, "replay", INGEST_TIME, end=True)))
        self.poisoner.flush()
        self.drill.await_ends("disturbed", within_s=LANDS_S)

    def check_forecaster(self, proof: Proof) -> None:
        """Each record on `coinbase-trades` has one outcome; each reject has the bytes and a reason."""
        self.drill.same(proof)
        records = records_on(self.servers, TRADES)

        def all_have_outcomes() -> bool:
            rows, rejects = outcomes(self.servers, self.poisoner.broken[FEATURES])
            return len(rows) + len(rejects) >= len(records)

        wait_until(all_have_outcomes, "an outcome of each record", LANDS_S)
        rows, rejects = outcomes(self.servers, self.poisoner.broken[FEATURES])
        assert rows.keys() | rejects.keys() == records.keys()
        assert not rows.keys() & rejects.keys()
        for at, reject in rejects.items():
            assert reject.reason
            assert reject.original == self.poisoner.broken[TRADES][at][:MAX_VALUE]
        taken = [value for at, value in self.poisoner.broken[TRADES].items() if at in rows]
        assert [value for value in taken if not is_trade(value)] == []
        proof.saw(trades_rejected=len(rejects), still_trades=len(taken))

    def check_written(self) -> None:
        """What the forecaster itself wrote is readable, also for trades with absurd prices."""
        for topic in (FEATURES, PREDICTIONS):
            main = msgspec.json.Decoder(record_types(FeatureSpec())[topic])
            for place, value in records_on(self.servers, topic).items():
                if place not in self.poisoner.broken[topic] and b'"end":true' not in value:
                    main.decode(value)

    def check_sink(self, proof: Proof) -> None:
        """The lake has each record: rows, ends, and bad records with their bytes and reasons."""
        sink = Process("offline.served", self.environ, self.folder / "sink.log")
        with running(sink):
            watched = Watched(sink)
            with watched.watching():
                assert sink.process.wait(LANDS_S) == 0, sink.log.read_text()
        self.memory.peak_mib |= watched.peak_mib
        lake = Lake.open(self.folder / "lake")
        for topic in (TRADES, FEATURES, PREDICTIONS):
            manifest = read_manifest(lake, topic)
            assert sum(file.rows for file in manifest.files) == len(records_on(self.servers, topic))
            others = [
                row
                for file in manifest.files
                if file.product_id is None
                for row in read_rows(lake.objects, file.path, OTHERS).to_pylist()
            ]
            bad = {(row["record_partition"], row["record_offset"]): row for row in others if row["reason"] is not None}
            assert len(bad) == manifest.rejects
            assert bad.keys() <= self.poisoner.broken[topic].keys()
            assert all(row["value"] == self.poisoner.broken[topic][at][:MAX_VALUE] for at, row in bad.items())
            proof.saw(**{f"sink_rejects_{topic.rpartition('-')[2]}": len(bad)})

    def check_api(self, proof: Proof) -> None:
        """The API has read and counted all, answers with the newest forecast, and shows the source on the live page."""
        url = self.api.await_log(r"running on (http://\S+)").group(1)
        records = len(records_on(self.servers, PREDICTIONS))

        def read() -> float:
            return sum(scraped(f"{url}/metrics")["cryptovol_messages_in_total"].values())

        wait_until(lambda: read() >= records, f"the API has read {records} records", LANDS_S)
        rejected = scraped(f"{url}/metrics")["cryptovol_rejects_total"]
        proof.saw(api_rejects=int(sum(rejected.values())))
        wanted = self.drill.predictions.rows("disturbed")[-1]
        answer = httpx.get(f"{url}/predict/{PRODUCT}", params={"source_id": "disturbed"}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["trade_id"], answer.json()["score"]) == (wanted["trade_id"], wanted["score"])
        assert httpx.get(f"{url}/health", timeout=30).json()["checks"]["stream"]["ok"]
        with httpx.stream("GET", f"{url}/live/events?product_id={PRODUCT}&source_id=disturbed", timeout=30) as events:
            names = {line for line, _ in zip(events.iter_lines(), range(20), strict=False) if line.startswith("event:")}
        assert {"event: rows", "event: state"} <= names

    def check_exporter(self, proof: Proof) -> None:
        """The exporter has read all, and each figure is a number."""
        port = self.exporter.await_log(r'"metrics_port": ?(\d+)').group(1)
        url, records = f"http://127.0.0.1:{port}/metrics", len(records_on(self.servers, PREDICTIONS))

        def read() -> float:
            return scraped(url).get("cryptovol_messages_in_total", {}).get((("topic", PREDICTIONS),), 0.0)

        wait_until(lambda: read() >= records, f"the exporter has read {records} records", LANDS_S)
        found = scraped(url)
        broken = {name for name, samples in found.items() if not np.isfinite(list(samples.values())).all()}
        assert {name for name in broken if name.startswith("cryptovol_forecast")} == set()
        assert sum(found["cryptovol_errors_total"].values()) == 0
        proof.saw(exporter_rejects=int(sum(found["cryptovol_rejects_total"].values())))

    def check_processes(self, proof: Proof) -> None:
        """All live, none has said a stack trace, and none has needed more than 400 MiB."""
        self.memory.look()
        processes = (self.drill.forecaster, self.api, self.exporter)
        assert [each.process.poll() for each in processes] == [None] * 3
        logs = "".join(path.read_text() for path in self.folder.glob("*.log"))
        assert "Traceback" not in logs
        peaks = dict(self.memory.peak_mib)
        proof.saw(**{f"{name}_mib": peak for name, peak in peaks.items()})
        assert peaks.keys() == {"forecaster", "api", "exporter", "served"}
        assert max(peaks.values()) <= MOST_MIB


def poison(drill: Drill, recording: Path, folder: Path, proof: Proof, count: int, *, kills: bool) -> None:
    poisoned = Poisoned(drill, recording, folder)
    proof.disturbs(f"{count:,} broken records on each of 3 topics" + (", the forecaster killed amid them" * kills))
    with running(poisoned.api, poisoned.exporter), poisoned.memory.watching():
        poisoned.write(count, kills=kills)
        poisoned.check_forecaster(proof)
        poisoned.check_written()
        poisoned.check_sink(proof)
        poisoned.check_api(proof)
        poisoned.check_exporter(proof)
        poisoned.check_processes(proof)


def test_four_hundred_broken_records_on_each_topic_stop_nothing_and_change_no_row(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof
) -> None:
    poison(drill, recording, tmp_path, proof, 400, kills=False)


@pytest.mark.acceptance
def test_ten_thousand_broken_records_on_each_topic_stop_nothing_and_change_no_row(
    drill: Drill, recording: Path, tmp_path: Path, proof: Proof
) -> None:
    poison(drill, recording, tmp_path, proof, 10_000, kills=True)
