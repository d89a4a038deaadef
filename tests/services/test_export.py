"""Export of topics without change: sorted by product, whole, and readable again."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet
import pytest
from confluent_kafka import Producer

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.files import CHECKOUT
from data.recordings.readers import read_trades, write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream import export as exporting
from data.stream import reader as topic_reader
from data.stream.codec import encode, encode_features, encode_trades
from data.stream.export import BadRequest, ExportRequest, export, main, read_topic
from data.stream.records import ADAPTATION_FIELDS, FEATURES, PREDICTIONS, TRADES, End, Shadow, prediction_type
from data.times import NS
from data.trades import StreamKey, Trades
from tests.broker import Broker

DAY = dt.date(2025, 1, 6)
SPEC = FeatureSpec()


def mixed_trades(source_id: str, n: int = 400) -> Trades:
    """Trades of two products in turns, the later name first; unknown sizes and sides among them."""
    one, other = (simulate_day(product, DAY, hours=(0, 1)).take(slice(0, n // 2)) for product in ("ETH-USD", "BTC-USD"))
    order = np.argsort(np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)]))
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])[order]
        for name in ("trade_id", "event_time", "price", "size", "side")
    }
    columns["size"][::7], columns["side"][::5] = np.nan, 0
    keys = (StreamKey(source_id, "ETH-USD"), StreamKey(source_id, "BTC-USD"))
    stream = np.repeat(np.arange(2, dtype=np.int32), n // 2)[order]
    return Trades(keys, stream, ingest_time=np.full(n, 1_800_000_000 * NS + 5), **columns)


def sorted_by_product(trades: Trades) -> Trades:
    name = np.array([key.product_id for key in trades.keys])[trades.stream]
    return trades.take(np.argsort(name, kind="stable"))


def end(source_id: str, product_id: str) -> bytes:
    return encode(End(source_id, product_id, "replay", NS, end=True))


def of(values: Sequence[bytes | None], size: int = 150) -> Any:
    """Return a topic with these records, read in batches."""

    def read() -> Iterator[Sequence[bytes | None]]:
        for start in range(0, len(values), size):
            yield values[start : start + size]

    return read


def produce(broker: Broker, topic: str, keys: Sequence[str], values: Sequence[bytes], commit: bool = True) -> None:
    """Write records in one transaction."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": "test-export"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for key, value in zip(keys, values, strict=True):
        producer.produce(topic, value, key)
    producer.flush(30)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


MIDNIGHT = 1_736_208_000_000_000_000
"""2025-01-07T00:00:00Z, ns since 1970."""


def prediction(source_id: str, product_id: str = "BTC-USD", **changes: Any) -> Any:
    columns: dict[str, Any] = dict.fromkeys(SPEC.columns, 0.25) | {"n": 7, "ret_std": None}
    fields = {
        "source_id": source_id,
        "product_id": product_id,
        "purpose": "replay",
        "trade_id": 2**62,
        "event_time": MIDNIGHT - 1,
        "ingest_time": 1_767_225_600_000_000_001,
        "price": 0.1 + 0.2,
        "kafka_partition": 3,
        "kafka_offset": 2**40,
        "spec_id": SPEC.spec_id,
        **columns,
        "ts": 1_767_225_600_000_000_002,
        "horizon_s": 60,
        "score": 1e-4,
        "interval": (5e-5, 2e-4),
        "model_variant": "baseline",
        "version": "7",
        "digest": "ab" * 32,
        "in_sample": False,
        "missing": ["ret_std", "x"],
        "shadow": [
            Shadow("ml", "3", 2e-4),
            Shadow("ml", "4", 3e-4, (1e-4, 6e-4), 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, "cd" * 32, in_sample=True),
        ],
        **changes,
    }
    return prediction_type(SPEC)(**fields)


def test_exported_trades_are_the_own_csv_and_can_be_replayed(broker: Broker, tmp_path: Path) -> None:
    """Run the command in a process of its own on a real broker. Aborted rows and other sources are left out."""
    trades = mixed_trades("export-1")
    names = [trades.keys[i].product_id for i in trades.stream]
    produce(broker, TRADES, names, encode_trades(trades, "replay"))
    produce(broker, TRADES, names, encode_trades(replace(trades, price=trades.price * 2), "replay"), commit=False)
    produce(broker, TRADES, names[:9], encode_trades(mixed_trades("export-2").take(slice(0, 9)), "drill"))
    produce(broker, TRADES, ["ETH-USD", "BTC-USD"], [end("export-1", "ETH-USD"), end("export-1", "BTC-USD")])
    out = tmp_path / "new" / "trades.csv"
    command = [sys.executable, "-m", "data.stream.export", "trades", "--source", "export-1", "--out", str(out)]
    environment = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment, check=True)
    assert done.stdout.splitlines() == [
        "BTC-USD: 200 rows",
        "ETH-USD: 200 rows",
        f"{out}: 400 rows of source export-1",
    ]
    assert done.stderr == ""
    write_csv(tmp_path / "expected.csv", [sorted_by_product(trades)])
    assert out.read_bytes() == (tmp_path / "expected.csv").read_bytes()
    (batch,) = read_trades(out)
    for name in ("trade_id", "event_time", "price", "size", "side"):
        assert getattr(batch.trades, name).tobytes() == getattr(sorted_by_product(trades), name).tobytes(), name
    assert batch.rejects == []
    assert [path.name for path in out.parent.iterdir()] == ["trades.csv"]


def test_trades_in_parquet_are_read_back(tmp_path: Path) -> None:
    trades = mixed_trades("s")
    out = tmp_path / "trades.parquet"
    seen = export(ExportRequest(TRADES, "s", None, None), out, of(encode_trades(trades, "drill")))
    assert seen.rows == {"BTC-USD": 200, "ETH-USD": 200}
    assert set(pyarrow.parquet.read_table(out)["purpose"].to_pylist()) == {"drill"}
    (batch,) = read_trades(out)
    for name in ("trade_id", "event_time", "price", "size", "side"):
        assert getattr(batch.trades, name).tobytes() == getattr(sorted_by_product(trades), name).tobytes(), name


def test_many_products_stay_sorted_however_often_memory_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PART_ROWS", 7)
    values = encode_trades(mixed_trades("s"), "replay")
    export(ExportRequest(TRADES, "s", None, None), tmp_path / "parts.csv", of(values, 11))
    monkeypatch.undo()
    export(ExportRequest(TRADES, "s", None, None), tmp_path / "whole.csv", of(values))
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_feature_rows_are_those_of_the_kernel(broker: Broker, tmp_path: Path) -> None:
    trades = sorted_by_product(mixed_trades("export-3"))
    rows = feature_rows(trades, Windows(SPEC))
    places = np.arange(len(trades))
    purposes: Any = dict.fromkeys(trades.keys, "replay")
    values = encode_features(rows, SPEC, purposes, 0, places)
    produce(broker, FEATURES, [trades.keys[i].product_id for i in trades.stream], values)
    config = KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)
    out = tmp_path / "features.parquet"
    export(ExportRequest(FEATURES, "export-3", None, None), out, lambda: read_topic(FEATURES, config))
    table = pyarrow.parquet.read_table(out)
    found = np.column_stack([table[name].cast("double").to_numpy() for name in SPEC.columns])
    assert np.array_equal(found, rows.values, equal_nan=True)
    assert table["kafka_offset"].to_pylist() == places.tolist()
    times = np.array(table["event_time"].cast("int64").to_pylist())
    assert times.tolist() == rows.trades.event_time.tolist()
    assert str(table.schema.field("event_time").type) == "timestamp[ns, tz=UTC]"


def test_a_prediction_keeps_its_lists(tmp_path: Path) -> None:
    values = [encode(prediction("s")), encode(prediction("s", "A-USD", missing=[], shadow=[]))]
    export(ExportRequest(PREDICTIONS, "s", None, None), tmp_path / "p.parquet", of(values))
    first, second = pyarrow.parquet.read_table(tmp_path / "p.parquet").drop_columns(["event_time"]).to_pylist()
    assert (first["product_id"], first["missing"], first["shadow"]) == ("A-USD", [], [])
    assert second["interval"] == [5e-5, 2e-4]
    assert second["missing"] == ["ret_std", "x"]
    later = {**dict.fromkeys(ADAPTATION_FIELDS, 0.5), "interval": [1e-4, 6e-4], "digest": "cd" * 32, "in_sample": True}
    named = {"model_variant": "ml", "version": "4", "score": 3e-4}
    assert second["shadow"][0] == {**dict.fromkeys(later), **named, "version": "3", "score": 2e-4}
    assert second["shadow"][1] == {**later, **named}
    assert (second["n"], second["ret_std"], second["ret_mean"]) == (7, None, 0.25)
    assert (second["trade_id"], second["price"], second["in_sample"]) == (2**62, 0.1 + 0.2, False)

    export(ExportRequest(PREDICTIONS, "s", None, None), tmp_path / "p.csv.gz", of(values))
    rows = list(csv.DictReader(gzip.decompress((tmp_path / "p.csv.gz").read_bytes()).decode().splitlines()))
    assert [row["product_id"] for row in rows] == ["A-USD", "BTC-USD"]
    assert json.loads(rows[1]["shadow"]) == second["shadow"]
    assert (json.loads(rows[1]["interval"]), json.loads(rows[0]["missing"])) == ([5e-5, 2e-4], [])
    assert (rows[1]["event_time"], rows[1]["ret_std"]) == ("2025-01-06T23:59:59.999999999Z", "")
    assert float(rows[1]["price"]) == 0.1 + 0.2


def test_a_day_is_of_event_time_and_takes_all_sources(tmp_path: Path) -> None:
    """A nanosecond before midnight belongs to the day, midnight to the next day."""
    values = [
        encode(prediction("a", event_time=MIDNIGHT - 1)),
        encode(prediction("b", event_time=MIDNIGHT - 86_400 * NS, trade_id=1)),
        encode(prediction("a", event_time=MIDNIGHT)),
        encode(prediction("a", "ETH-USD", event_time=MIDNIGHT - 43_200 * NS)),
    ]
    seen = export(ExportRequest(PREDICTIONS, None, DAY, "BTC-USD"), tmp_path / "day.parquet", of(values))
    assert (seen.rows, seen.sources) == ({"BTC-USD": 2}, {"a", "b"})
    assert pyarrow.parquet.read_table(tmp_path / "day.parquet")["trade_id"].to_pylist() == [2**62, 1]


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    bad_time = msgspec.structs.replace(prediction("s"), ts="yesterday")
    bad_name = prediction("s", "btc,usd")
    values = [encode(prediction("s")), b"{", b"", encode(bad_time), encode(bad_name), end("s", "BTC-USD")]
    seen = export(ExportRequest(PREDICTIONS, "s", None, None), tmp_path / "x.csv", of(values))
    assert (seen.rows, seen.unreadable, seen.ended) == ({"BTC-USD": 1}, 4, {StreamKey("s", "BTC-USD")})


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (ExportRequest(TRADES, "nobody", None, None), "has no rows of source nobody; it has rows of the sources s"),
        (ExportRequest(TRADES, None, dt.date(2024, 1, 1), None), r"no rows of 2024-01-01 \(UTC, event time\)"),
        (ExportRequest(TRADES, "s", None, "XRP-USD"), "no rows of source s, XRP-USD"),
    ],
)
def test_nothing_to_export_leaves_the_old_file(tmp_path: Path, wanted: ExportRequest, said: str) -> None:
    out = tmp_path / "old.csv"
    out.write_text("old")
    with pytest.raises(BadRequest, match=said):
        export(wanted, out, of(encode_trades(mixed_trades("s", 10), "replay")))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.csv", "old")]


def test_an_empty_topic_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="coinbase-trades holds no rows at all: replay a recording first"):
        export(ExportRequest(TRADES, "s", None, None), tmp_path / "x.csv", of([]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.txt", "--out must end in .csv, .csv.gz, .parquet, was"),
        ("file/out.csv", "cannot be written .*choose another path with --out"),
        ("folder.csv", "folder.csv cannot be written .*it is a directory"),
    ],
)
def test_a_path_that_cannot_be_written_is_said(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadRequest, match=said):
        export(
            ExportRequest(TRADES, "s", None, None), tmp_path / name, of(encode_trades(mixed_trades("s", 10), "replay"))
        )


def run(monkeypatch: pytest.MonkeyPatch, servers: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    return main()


def test_a_broker_that_is_away_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(topic_reader, "PATIENCE_S", 0.5)
    with socket.socket() as nobody:  # bound, not listening
        nobody.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert run(monkeypatch, servers, "trades", "--source", "s", "--out", str(tmp_path / "x.csv")) == 2
    assert f"error: no broker answers at {servers}: is the stack up (`make run`)?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_open_or_unknown_is_said(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = mixed_trades("export-4", 20)
    values = encode_trades(trades, "replay")
    produce(broker, TRADES, [trades.keys[i].product_id for i in trades.stream], values)
    out = ("--out", str(tmp_path / "x.parquet"))
    assert run(monkeypatch, broker.bootstrap_servers, "trades", "--source", "export-4", *out) == 0
    assert "warning: the source has not ended" in capsys.readouterr().err
    assert run(monkeypatch, broker.bootstrap_servers, "trades", "--source", "export-5", *out) == 2
    assert "error: coinbase-trades has no rows of source export-5" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--source", "s", "--day", "2025-01-06"), (), ("--day", "2025-13-01")])
def test_one_source_or_one_day_is_asked_for(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "127.0.0.1:9", "trades", "--out", "x.csv", *arguments)
