"""The certificate that the lake's rows equal the published rows, on a real broker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from data.recordings.readers import read_trades, write_csv
from data.settings import KafkaSettings
from data.stream.reader import TopicReader
from data.stream.records import FEATURES
from data.times import NS
from data.trades import Trades
from offline.checks.parity import certify
from offline.days.staging import ingest
from offline.lake.store import Lake
from tests.days import DAY, MIDNIGHT, rough_times, trades_at, without
from tests.pipeline import replay, running, wait_until
from tests.proofs import Proof
from tests.seaweed import Lakes
from tests.unit.test_parity import HOUR, NEXT, SPEC, made


def rough_recording(path: Path, products: list[str], start: int, end: int, mean_s: float) -> int:
    """Write trades of several products with ties, holes, duplicates and late rows; return how many lines."""
    parts = []
    for seed, product in enumerate(products):
        trades = trades_at(rough_times(start, end, mean_s, seed), product, seed, first_id=1 + 10**6 * seed)
        hole = start + (end - start) // 3 + seed * 60 * NS
        parts.append(without(trades, [(hole, hole + (301 + seed) * NS)]))
    joined = Trades.join(parts)
    joined = joined.take(np.argsort(joined.event_time, kind="stable"))
    rng = np.random.default_rng(7)
    rows = np.arange(len(joined))
    again = rng.choice(rows, len(rows) // 50)  # the same line once more, up to 2,000 lines later
    late = rng.choice(rows, len(rows) // 100)  # a trade that comes 500 to 2,000 lines after its time, its id unused
    place = np.concatenate(
        [rows, again + rng.integers(0, 2_000, len(again)), late + rng.integers(500, 2_000, len(late))]
    )
    order = np.argsort(place, kind="stable")
    written = joined.take(np.concatenate([rows, again, late])[order])
    is_late = np.concatenate([rows < 0, again < 0, late >= 0])[order]
    ids = written.trade_id.copy()
    for stream in range(len(written.keys)):
        mine = np.flatnonzero(written.stream == stream)
        newest = np.maximum.accumulate(np.where(is_late[mine], 0, ids[mine]))
        ids[mine] = np.where(is_late[mine], newest + 5, ids[mine])
    write_csv(path, [replace(written, trade_id=ids)])
    return len(written)


def published(environ: dict[str, str], folder: Path, source_id: str, recording: Path, within_s: float) -> None:
    """Replay a recording as fast as possible, and wait until its features end."""
    products = {key.product_id for batch in read_trades(recording) for key in batch.trades.keys}
    with running(ingestor := replay(environ, folder, source_id, recording)):
        assert ingestor.process.wait(within_s) == 0, ingestor.log.read_text()
    mine, ended = f'"source_id":"{source_id}"'.encode(), set()
    with TopicReader(kafka(environ)) as reader:
        read_to = dict.fromkeys(reader.partitions(FEATURES), 0)

        def all_ended() -> bool:
            for partition, start in read_to.items():
                for stretch in reader.read(FEATURES, partition, start):
                    read_to[partition] = stretch.offsets[-1] + 1
                    for value in stretch.values:
                        if value is not None and mine in value and b'"end":true' in value:
                            ended.add(msgspec.json.decode(value)["product_id"])
            return ended == products

        wait_until(all_ended, f"features of {source_id} end", within_s)


def kafka(environ: dict[str, str]) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=environ["KAFKA_BOOTSTRAP_SERVERS"])


def prove_parity(
    proof: Proof, lake: Lake, environ: dict[str, str], folder: Path, products: list[str], mean_s: float, within_s: float
) -> None:
    """A recording of 24 hours over midnight passes through the broker and through the lake."""
    source_id = folder.name
    lines = rough_recording(folder / "r.csv", products, MIDNIGHT + 10 * HOUR, MIDNIGHT + 34 * HOUR, mean_s)
    proof.disturbs("ties, small falls, holes, duplicates and late rows in one recording, over midnight")
    rejects = ingest(lake, folder / "r.csv").rejects
    for product in products:
        made(lake, product, DAY, NEXT)
    published(environ, folder, source_id, folder / "r.csv", within_s)
    certificates = [certify(lake, SPEC, p, day, kafka(environ), source_id) for p in products for day in (DAY, NEXT)]
    proof.saw(
        lines=lines,
        product_days=len(certificates),
        **{
            name: sum(getattr(each, name) for each in certificates)
            for name in ("equal", "missing", "extra", "different")
        },
        rejected_as_duplicate=rejects["trade id was already taken or passed"],
        rejected_as_late=rejects["event time falls by more than 1 s"],
    )
    assert [each.first_difference for each in certificates] == [""] * len(certificates)
    assert all(each.holds and each.has_ended and each.lake_hash == each.published_hash for each in certificates)
    assert sum(each.equal for each in certificates) + sum(rejects.values()) == lines


def test_what_the_service_published_is_what_the_lake_has(
    online: dict[str, str], lakes: Lakes, tmp_path: Path, proof: Proof
) -> None:
    prove_parity(proof, Lake.open(lakes.uri()), online, tmp_path, ["LKA-USD", "LKB-USD"], 12, 60)


@pytest.mark.acceptance
def test_a_million_trades_are_the_same_through_broker_and_lake(
    online: dict[str, str], lakes: Lakes, tmp_path: Path, proof: Proof
) -> None:
    products = [f"LK{letter}-EUR" for letter in "ABCDEFGHIJKL"]
    prove_parity(proof, Lake.open(lakes.uri()), online, tmp_path, products, 1.46, 400)
    assert int(proof.figures["lines"]) >= 1_000_000
