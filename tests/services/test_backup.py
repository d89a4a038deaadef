"""Backups of a running system, each restored to an empty folder, answer as the system did."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import BASELINE
from data.settings import KafkaSettings
from data.stream.records import FEATURES, PREDICTIONS, TRADES, partition_of
from data.stream.topics.creation import create_topics
from offline.explain.remake import Explainer
from offline.lake.store import Lake
from offline.promotion.ledger import Entry, history, served_at
from offline.served.compaction import compact
from offline.served.kept.begins import keep_begins
from offline.served.sink import sink, topic_reader
from orchestration.backup.__main__ import checked, restore, save
from orchestration.backup.copies import SUMS, made_whole
from orchestration.backup.registry import registry_in
from orchestration.local.settings import StackSettings
from tests.broker import Broker, running_broker
from tests.mlflow_server import MlflowServer, running_mlflow
from tests.models import baseline, forced, model_bytes, put_version, roll_back_here
from tests.proofs import Proof
from tests.served import records_of
from tests.services.test_explain import five_hours, made_forecasts, note_begin, outcomes, produce
from tests.services.test_kept import texts

SPEC = FeatureSpec()
BACKUPS = 4
"""Taken while versions are promoted and rolled back, and while the sink writes."""
LONG_MS = 10**15
"""In place of now: each day of the lake has ended."""


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="the command sha256sum is not here")
def test_the_usual_command_checks_a_backup(tmp_path: Path) -> None:
    with made_whole(tmp_path / "jörg's") as copies:
        copies.add_bytes("lake/ö b", b"1")
    done = subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=tmp_path / "jörg's", check=False)
    assert done.returncode == 0
    (tmp_path / "jörg's" / "lake" / "ö b").write_bytes(b"2")
    done = subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=tmp_path / "jörg's", check=False)
    assert done.returncode == 1


class Market:
    """A broker, a registry and a lake in `var`, and forecasts of two sources."""

    def __init__(self, broker: Broker, server: MlflowServer, var: Path) -> None:
        self.broker, self.server, self.var = broker, server, var
        self.registry, self.lake = Registry(server.uri), Lake.open(var / "lake")
        self.settings = StackSettings(var_dir=var, mlflow_port=server.port)
        self.kafka = KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)

    def sink(self) -> None:
        with topic_reader(self.kafka) as reader:
            for topic in (TRADES, FEATURES, PREDICTIONS):
                sink(self.lake, reader, topic)
        keep_begins(self.lake, self.kafka)

    def move(self, rng: np.random.Generator, number: int) -> None:
        """Register and promote a version, or roll back."""
        if rng.random() < 0.7:
            content = model_bytes(baseline(scale=4.0 + number / 100))
            forced(self.registry, BASELINE, put_version(self.server.uri, BASELINE, content))
        else:
            roll_back_here(self.registry, BASELINE)

    def forecast(self, source_id: str, n: int) -> None:
        """Write trades and forecasts of a source."""
        trades = five_hours(source_id, "KEEP-USD", seed=n).take(slice(0, n))
        produce(self.broker, PREDICTIONS, partition_of("KEEP-USD"), made_forecasts(self.broker, trades))


@contextmanager
def disturbed(market: Market, seed: int) -> Iterator[dict[str, int]]:
    """Promote, roll back, write, sink and merge in other threads while the block runs; yield what was done."""
    over, done = Event(), {"moves": 0, "sinks": 0}
    rng = np.random.default_rng(seed)

    def moves() -> None:
        while not over.is_set():
            market.move(rng, done["moves"])
            done["moves"] += 1

    def sinks() -> None:
        while not over.is_set():
            market.forecast(f"during-{done['sinks']}", 200)
            market.sink()
            for topic in (TRADES, PREDICTIONS):
                compact(market.lake, topic, LONG_MS)
            done["sinks"] += 1

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(moves), pool.submit(sinks)]
        try:
            yield done
        finally:
            over.set()
            for each in running:
                each.result()


def moved(entries: list[Entry]) -> dict[str, Entry]:
    """Return the entries that moved an alias, by id."""
    return {entry.entry_id: entry for entry in entries if entry.at is not None}


def test_each_backup_of_a_running_system_answers_as_the_system_did(
    jars: list[Path], models: Path, tmp_path: Path, proof: Proof
) -> None:
    """Explained are five forecasts, from the topics before, and from a restored lake without any broker afterwards."""
    proof.disturbs(f"{BACKUPS} backups while versions move and the sink writes")
    var = tmp_path / "var"
    (var / "mlflow").mkdir(parents=True)
    with running_broker(tmp_path / "kafka", jars) as broker, running_mlflow(var / "mlflow") as server:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        market = Market(broker, server, var)
        forced(market.registry, BASELINE, put_version(server.uri, BASELINE, model_bytes()))
        trades = five_hours("kept-1", "KEEP-USD")
        note_begin(broker, "kept-1", "not a note of recordings")
        produce(broker, PREDICTIONS, partition_of("KEEP-USD"), made_forecasts(broker, trades))
        asked = [1, 2, 700, 9_000, len(trades)]
        explainer = Explainer(market.kafka, market.registry, models, SPEC)
        found = explainer.explain(trades.keys[0], asked)
        assert all(set(outcomes(each).values()) == {"equal", "expired"} for each in found), "but for the recording"
        assert all(outcomes(each)["promotion"] == outcomes(each)["model"] == "equal" for each in found)
        before = texts(found)
        market.sink()
        began, seconds = list[datetime](), list[float]()
        with disturbed(market, seed=7) as done:
            for number in range(BACKUPS):
                began.append(datetime.now(UTC))
                started = time.monotonic()
                save(tmp_path / f"backup-{number}", market.settings)
                seconds.append(time.monotonic() - started)
        ledger = history(market.registry)
        champions = [served_at(market.registry, when) for when in began]
        kept = {topic: records_of(market.lake, topic) for topic in (TRADES, PREDICTIONS)}
    proof.saw(moves=done["moves"], sinks=done["sinks"], backup_max_s=round(max(seconds), 2))
    for number in range(BACKUPS):
        backup, new = tmp_path / f"backup-{number}", tmp_path / f"new-{number}"
        assert "files are whole" in checked(backup)
        started = time.monotonic()
        restore(backup, StackSettings(var_dir=new), replaces=False)
        proof.saw(restore_s=round(time.monotonic() - started, 2), backup_mb=round(size_mb(backup), 1))
        assert registry_in(new / "mlflow").without_file == []
        lake = Lake.open(new / "lake")
        for topic, rows in kept.items():
            restored = records_of(lake, topic)
            assert restored.items() <= rows.items()
            assert len(restored) >= len(trades)
        with running_mlflow(new / "mlflow") as again:
            registry = Registry(again.uri)
            assert served_at(registry, began[number]) == champions[number]
            entries = history(registry)
            assert moved(entries).items() <= moved(ledger).items()
            assert [entry.entry_id for entry in entries] == [entry.entry_id for entry in ledger][: len(entries)]
            nobody = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9")
            after = texts(Explainer(nobody, registry, tmp_path / "none", SPEC, lake).explain(trades.keys[0], asked))
            proof.equal([text.replace(again.uri, server.uri) for text in after], before, f"answers of backup {number}")
            newest = registry.champion(BASELINE)
            assert newest is not None
            registry.fetch(newest)


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
