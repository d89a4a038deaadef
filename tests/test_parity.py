"""The certificate that the lake's rows are the published ones, and that it can fail."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from data.export import read_topic
from data.lake import Lake
from data.readers import read_trades, write_csv
from data.spec import FeatureSpec
from data.topics import FEATURES
from data.trades import NS, Trades
from offline.days import FEATURE_ROWS, ingest, make_feature_rows, make_trades
from offline.parity import Certificate, certify
from tests.days import DAY, MIDNIGHT, rough_times, trades_at, without
from tests.pipeline import replay, running, wait_until
from tests.proofs import Proof

SPEC = FeatureSpec()
HOUR = 3_600 * NS
NEXT = DAY + dt.timedelta(days=1)


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


def made(lake: Lake, product: str, *days: dt.date) -> None:
    for day in days:
        make_trades(lake, product, day)
        make_feature_rows(lake, product, day, SPEC)


def published(environ: dict[str, str], folder: Path, source_id: str, recording: Path, within_s: float) -> None:
    """Replay a recording as fast as possible, and wait until its features end."""
    config = {"bootstrap.servers": environ["KAFKA_BOOTSTRAP_SERVERS"]}
    products = {key.product_id for batch in read_trades(recording) for key in batch.trades.keys}
    with running(ingestor := replay(environ, folder, source_id, recording)):
        assert ingestor.process.wait(within_s) == 0, ingestor.log.read_text()
    end = f'"source_id":"{source_id}"'.encode()

    def ended() -> bool:
        seen = set()
        for batch in read_topic(FEATURES, config):
            for value in batch:
                if value is not None and end in value and b'"end":true' in value:
                    seen.add(msgspec.json.decode(value)["product_id"])
        return seen == products

    wait_until(ended, f"features of {source_id} end", within_s)


def check_parity(lake: Lake, environ: dict[str, str], source_id: str) -> list[Certificate]:
    """Return the certificates of all product-days of the lake."""
    config = {"bootstrap.servers": environ["KAFKA_BOOTSTRAP_SERVERS"]}
    return [certify(lake, SPEC, place.product_id, place.day, config, source_id) for place in lake.places(FEATURE_ROWS)]


def test_what_the_service_published_is_what_the_lake_has(online: dict[str, str], tmp_path: Path, proof: Proof) -> None:
    products = ["LKA-USD", "LKB-USD"]
    lines = rough_recording(tmp_path / "r.csv", products, MIDNIGHT + 20 * HOUR, MIDNIGHT + 28 * HOUR, 3)
    lake = Lake.open(tmp_path / "lake")
    ingested = ingest(lake, tmp_path / "r.csv")
    proof.disturbs("ties, holes, duplicates and late rows in one recording, over midnight")
    for product in products:
        made(lake, product, DAY, NEXT)
    published(online, tmp_path, "parity-quick", tmp_path / "r.csv", 60)
    certificates = check_parity(lake, online, "parity-quick")
    assert [(each.product_id, each.day) for each in certificates] == [(p, d) for p in products for d in (DAY, NEXT)]
    assert [each.first_difference for each in certificates] == [""] * 4
    assert [(each.missing, each.extra, each.different) for each in certificates] == [(0, 0, 0)] * 4
    assert all(each.lake_hash == each.published_hash and each.holds and each.is_whole for each in certificates)
    equal = sum(each.equal for each in certificates)
    assert equal + sum(ingested.rejects.values()) == lines
    assert len(ingested.rejects) == 2
    proof.saw(lines=lines, equal=equal, rejected=sum(ingested.rejects.values()), product_days=4)
