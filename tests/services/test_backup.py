"""Backups of a running system, each restored to an empty folder, answer as the system did."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import BASELINE
from data.settings import KafkaSettings
from data.stream.records import FEATURES, PREDICTIONS, TRADES, partition_of
from data.stream.topics.creation import create_topics
from data.trades import StreamKey
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
from tests.pipeline import wait_until
from tests.proofs import Proof
from tests.served import records_of
from tests.services.test_explain import five_hours, made_forecasts, note_begin, outcomes, produce
from tests.services.test_kept import texts

SPEC = FeatureSpec()
BACKUPS = 3
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
        self.in_effect = 0  # promotions that no rollback has undone

    def sink(self) -> None:
        with topic_reader(self.kafka) as reader:
            for topic in (TRADES, FEATURES, PREDICTIONS):
                sink(self.lake, reader, topic)
        keep_begins(self.lake, self.kafka)

    def move(self, rng: np.random.Generator, number: int) -> None:
        """Register and promote a version, or roll back if a version is there to go back to."""
        if self.in_effect < 2 or rng.random() < 0.6:
            content = model_bytes(baseline(scale=4.0 + number / 100))
            forced(self.registry, BASELINE, put_version(self.server.uri, BASELINE, content))
            self.in_effect += 1
        else:
            roll_back_here(self.registry, BASELINE)
            self.in_effect -= 1

    def forecast(self, source_id: str, n: int) -> None:
        """Write trades and forecasts of a source."""
        trades = five_hours(source_id, "KEEP-USD", seed=n).take(slice(0, n))
        produce(self.broker, PREDICTIONS, partition_of("KEEP-USD"), made_forecasts(self.broker, trades))


@contextmanager
def disturbed(market: Market, seed: int) -> Iterator[dict[str, int]]:
    """Promote, roll back, write, sink and merge in other threads while the block runs; yield what was done."""
    over, done = Event(), {"moves": 0, "sinks": 0, "failures": 0}
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

    def counted(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            done["failures"] += 1
            raise

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(counted, moves), pool.submit(counted, sinks)]
        try:
            yield done
        finally:
            over.set()
            for each in running:
                each.result()


def moved(entries: list[Entry]) -> dict[str, Entry]:
    """Return the entries that moved an alias, by id."""
    return {entry.entry_id: entry for entry in entries if entry.at is not None}


def are_done(done: dict[str, int], moves: int, sinks: int) -> bool:
    assert not done["failures"], "the threads have ended, and their error follows"
    return done["moves"] >= moves and done["sinks"] >= sinks


class Answers(NamedTuple):
    """Answers of the running system.

    Attributes:
        explained: of the forecasts, as texts.
        began: a while before each backup, so that the entries of moves until then are closed in the backup.
        champions: entry of the champion by model, at each of `began`.
        rows: all records in the lake at the end, by topic, partition and offset.
    """

    uri: str
    key: StreamKey
    asked: list[int]
    explained: list[str]
    began: list[datetime]
    ledger: list[Entry]
    champions: list[dict[str, Entry]]
    rows: dict[str, dict[tuple[int, int], bytes]]


def first_answers(market: Market, models: Path) -> tuple[StreamKey, list[int], list[str]]:
    """Promote a version, write forecasts, and explain three of them from the topics."""
    market.move(np.random.default_rng(0), 0)
    trades = five_hours("kept-1", "KEEP-USD").take(slice(0, 5_000))
    note_begin(market.broker, "kept-1", "not a note of recordings")
    produce(market.broker, PREDICTIONS, partition_of("KEEP-USD"), made_forecasts(market.broker, trades))
    asked = [1, 700, len(trades)]
    found = Explainer(market.kafka, market.registry, models, SPEC).explain(trades.keys[0], asked)
    expected = {"model": "equal", "promotion": "equal", "trades": "equal", "row": "equal", "score": "equal"}
    assert all(outcomes(each) == expected | {"recording": "expired"} for each in found)
    market.sink()
    return trades.keys[0], asked, texts(found)


def backed_up(market: Market, models: Path, folder: Path, proof: Proof) -> Answers:
    """Make backups while versions move and the sink writes; return the answers of the running system."""
    key, asked, explained = first_answers(market, models)
    began, seconds = list[datetime](), list[float]()
    with disturbed(market, seed=7) as done:
        for number in range(BACKUPS):
            wait_until(partial(are_done, done, done["moves"] + 3, done["sinks"] + 1), "versions moved, rows were sunk")
            began.append(datetime.now(UTC) - timedelta(seconds=5))
            started = time.monotonic()
            save(folder / f"backup-{number}", market.settings)
            seconds.append(time.monotonic() - started)
    proof.saw(moves=done["moves"], sinks=done["sinks"], backup_max_s=round(max(seconds), 2))
    champions = [served_at(market.registry, when) for when in began]
    rows = {topic: records_of(market.lake, topic) for topic in (TRADES, PREDICTIONS)}
    return Answers(market.server.uri, key, asked, explained, began, history(market.registry), champions, rows)


@pytest.mark.acceptance
def test_each_backup_of_a_running_system_answers_as_the_system_did(
    jars: list[Path], models: Path, tmp_path: Path, proof: Proof
) -> None:
    """Forecasts are explained from the topics before, and from a restored lake without any broker afterwards."""
    proof.disturbs(f"{BACKUPS} backups while versions move and the sink writes")
    var = tmp_path / "var"
    (var / "mlflow").mkdir(parents=True)
    with running_broker(tmp_path / "kafka", jars) as broker, running_mlflow(var / "mlflow") as server:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        before = backed_up(Market(broker, server, var), models, tmp_path, proof)
    for number in range(BACKUPS):
        backup, new = tmp_path / f"backup-{number}", tmp_path / f"new-{number}"
        assert "files are whole" in checked(backup)
        started = time.monotonic()
        restore(backup, StackSettings(var_dir=new), replaces=False)
        proof.saw(restore_s=round(time.monotonic() - started, 2), backup_mb=round(size_mb(backup), 1))
        assert registry_in(new / "mlflow").without_file == []
        lake = Lake.open(new / "lake")
        for topic, rows in before.rows.items():
            assert records_of(lake, topic).items() <= rows.items()
        with running_mlflow(new / "mlflow") as server:
            registry = Registry(server.uri)
            assert served_at(registry, before.began[number]) == before.champions[number]
            entries = history(registry)
            assert moved(entries).items() <= moved(before.ledger).items()
            assert [each.entry_id for each in entries] == [each.entry_id for each in before.ledger][: len(entries)]
            nobody = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9")
            after = Explainer(nobody, registry, tmp_path / "none", SPEC, lake).explain(before.key, before.asked)
            found = [text.replace(server.uri, before.uri) for text in texts(after)]
            proof.equal(found, before.explained, f"answers of backup {number}")
            newest = registry.champion(BASELINE)
            assert newest is not None
            registry.fetch(newest)


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
