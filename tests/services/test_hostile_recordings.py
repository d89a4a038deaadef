"""Recordings that are made to harm end no process: each bad row is kept with its reason, or the file is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features.spec import FeatureSpec
from data.process.precompile import precompile
from data.stream.records import REJECTED
from tests.broker import Broker
from tests.hostile import MOST_MB, Base, inspections, mutated, run_module
from tests.pipeline import environment, read_topic, replay, running
from tests.proofs import Proof

HEADER = "product_id,trade_id,event_time,price,size,side\n"
AT_ONCE = 125
"""Files for a process."""


def row(number: int, product: str = "BTC-USD") -> str:
    return (
        f"{product},{number},2025-01-06T{number // 3_600:02}:{number // 60 % 60:02}:{number % 60:02}Z,100.5,0.1,buy\n"
    )


GOOD = HEADER + "".join(map(row, range(1, 101)))


def zipped(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def lying(at: int, size: int) -> bytes:
    """Return a zip whose directory has another size: of the packed file (20) or of the file (24)."""
    packed = bytearray(zipped("a.csv", GOOD.encode()))
    entry = packed.find(b"PK\x01\x02")
    packed[entry + at : entry + at + 4] = struct.pack("<I", size)
    return bytes(packed)


def parquet(columns: dict[str, Any], rows: int, **options: Any) -> bytes:
    """Return a Parquet file with trades whose columns are replaced by others."""
    number = np.arange(rows)
    names = {name: pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([name_of]))
             for name, name_of in (("product_id", "BTC-USD"), ("side", "buy"))}  # fmt: skip
    times = pa.array(1_736_121_600 * 10**9 + number * 10**6, pa.timestamp("ns", "UTC"))
    plain = {"trade_id": number + 1, "event_time": times, "price": np.full(rows, 100.5), "size": np.full(rows, 0.1)}
    written = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(names | plain | columns), written, compression="zstd", **options)
    return written.getvalue()


def same(value: Any, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def candles_of(note: str, rows: int) -> bytes:
    """Return a Parquet file of candles with a note in each row."""
    prices = {name: np.full(rows, 1.0) for name in ("open", "high", "low", "close", "volume")}
    columns = {"time": 1_736_121_600 + 60 * np.arange(rows), **prices, "note": same(note, rows)}
    written = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), written, compression="zstd")
    return written.getvalue()


def empty_lines() -> bytes:
    return GOOD.encode() + b"\n" * 70_000_000


OUTSIDE = Path(tempfile.gettempdir(), "planted.csv")
"""File that a reading of a zip must not write."""
TOO_DENSE = "200 times as many, the limit RECORDING_MAX_RATIO"
PLANTED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip bomb": ("a.csv.gz", lambda: gzip.compress(empty_lines(), 9), TOO_DENSE),
    "zip bomb": ("a.zip", lambda: zipped("a.csv", empty_lines()), TOO_DENSE),
    "zip within a zip": ("a.zip", lambda: zipped("b.zip", zipped("a.csv", GOOD.encode())), "is packed, too: unpack it"),
    "gzip within a zip": ("a.zip", lambda: zipped("b.gz", gzip.compress(GOOD.encode())), "is packed, too: unpack it"),
    "gzip within a gzip": ("a.gz", lambda: gzip.compress(gzip.compress(GOOD.encode())), "is packed already: unpack it"),
    "zip that says less": ("a.zip", lambda: lying(24, 100), "starts as a zip archive, but cannot be read"),
    "zip that says no byte": ("a.zip", lambda: lying(20, 0), "starts as a zip archive, but cannot be read"),
    "zip that says 4 GB": ("a.zip", lambda: lying(24, 2**32 - 2), ""),
    "zip that packs 4 GB": ("a.zip", lambda: lying(20, 2**32 - 2), ""),
    "zip that climbs": ("a.zip", lambda: zipped("../../planted.csv", GOOD.encode()), ""),
    "zip of a whole path": ("a.zip", lambda: zipped(str(OUTSIDE), GOOD.encode()), ""),
    "zip of Windows": ("a.zip", lambda: zipped("C:\\x\\..\\planted.csv", GOOD.encode()), ""),
    "line of 100 MB": (
        "a.csv",
        lambda: GOOD.encode() + b"x" * 100_000_000 + b"\n" + row(101).encode(),
        "a line has more than 16 MB, the limit RECORDING_MAX_LINE_MB, .*100 whole rows before were read",
    ),
    "first line of 100 MB": ("a.csv", lambda: b"x" * 100_000_000 + GOOD.encode(), "without a known header"),
    "JSON value of 20 MB": (
        "a.json",
        lambda: b'[{"trade_id":1,"time":"2025-01-06T00:00:00Z","price":"1","size":"1","side":"buy"},{"a":"'
        + b"x" * 20_000_000,
        "a JSON value has more than 16 MB, the limit RECORDING_MAX_LINE_MB",
    ),
    "many products": (
        "a.csv",
        lambda: (HEADER + "".join(row(1, f"A{number}-USD") for number in range(5_001))).encode(),
        "more than 5,000 products, the limit RECORDING_MAX_PRODUCTS",
    ),
    "Parquet of one long text": (
        "a.parquet",
        lambda: parquet({"side": same("x" * 10**6, 60_000)}, 60_000),
        "the limit RECORDING_MAX_(RATIO|LINE_MB)",
    ),
    "Parquet of one long text in a large row group": (
        "a.parquet",
        lambda: parquet({"side": same("x" * 10**6, 200_000)}, 200_000),
        "the limit RECORDING_MAX_(RATIO|LINE_MB)",
    ),
    "Parquet of candles with a long text": (
        "a.parquet",
        lambda: candles_of("x" * 10**6, 200_000),
        "the limit RECORDING_MAX_(RATIO|LINE_MB)",
    ),
    "Parquet of many long texts": (
        "a.parquet",
        lambda: parquet({"side": pa.array(["x" * 4_000] * 200_000)}, 200_000, use_dictionary=False),
        "the limit RECORDING_MAX_RATIO",
    ),
    "Parquet of one value": (
        "a.parquet",
        lambda: parquet(dict.fromkeys(("trade_id", "event_time"), np.full(9_000_000, 1_736_121_600)), 9_000_000),
        TOO_DENSE,
    ),
    "Parquet of long values": (
        "a.parquet",
        lambda: parquet({"side": pa.array(["buy"] * 9 + ["x" * 50_000_000])}, 10, use_dictionary=False),
        "the limit is 4,096 for each value",
    ),
}  # fmt: skip
"""Recordings, and a pattern of their refusal; of "", all 100 rows are read."""


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    """Compile all code: the compiler's memory is none of a recording's."""
    precompile(FeatureSpec())


def test_planted_recordings_are_refused_by_a_named_limit_or_read(tmp_path: Path, proof: Proof) -> None:
    proof.disturbs(f"{len(PLANTED)} planted recordings: bombs, lying sizes, long lines, paths in zips")
    files = {}
    for number, (name, (file, content, _)) in enumerate(PLANTED.items()):
        path = tmp_path / "in" / str(number) / file
        path.parent.mkdir(parents=True)
        path.write_bytes(content())
        files[name] = path
    before = sorted(tmp_path.rglob("*"))
    paths, summaries, peak_mb = list(map(str, files.values())), [], 0.0
    for first in range(0, len(paths), 5):
        ended = run_module("data.recordings", "--json", *paths[first : first + 5])
        summaries += inspections(ended)
        peak_mb = max(peak_mb, ended.peak_mb)
    for (name, (_, _, pattern)), found in zip(PLANTED.items(), summaries, strict=True):
        if pattern:
            assert re.search(pattern, found["error"] or ""), (name, found["error"], found["rows"])
        else:
            assert (found["error"], found["rows"]) == (None, 100), name
    assert sorted(tmp_path.rglob("*")) == before
    assert not OUTSIDE.exists()
    assert peak_mb <= MOST_MB
    proof.saw(recordings=len(PLANTED), peak_mb=peak_mb)


def test_the_newest_row_first_in_one_large_row_group_takes_little_memory(tmp_path: Path) -> None:
    rows = 3_000_000
    number = np.arange(rows)[::-1]
    times = pa.array(1_736_121_600 * 10**9 + number * 10**6, pa.timestamp("ns", "UTC"))
    content = parquet({"trade_id": number, "event_time": times}, rows, row_group_size=rows)
    (tmp_path / "a.parquet").write_bytes(content)
    ended = run_module("data.recordings", "--json", str(tmp_path / "a.parquet"))
    (found,) = inspections(ended)
    assert (found["rows"], found["rejected"], found["newest_first"], found["error"]) == (rows, 0, True, None)
    assert ended.peak_mb <= MOST_MB


def test_rows_that_no_reader_understands_are_rejected_one_by_one(tmp_path: Path) -> None:
    """50,000 quotation marks that are never closed, and 5,000 objects that are never closed."""
    quotes = tmp_path / "quotes.csv"
    quotes.write_text(HEADER + "".join('"' + row(number) for number in range(1, 50_001)) + row(50_001))
    whole = '{"trade_id":%d,"time":"2025-01-06T00:00:%02dZ","price":"1","size":"1","side":"buy"}'
    broken = tmp_path / "broken.json"
    broken.write_text("[" + whole % (1, 1) + "," + '{"trade_id":{"b":1},' * 5_000 + whole % (2, 2) + "]")
    deep = tmp_path / "deep.ndjson"
    deep.write_text("\n".join([whole % (1, 1), '{"trade_id":' + "[" * 100_000, '{"x":' * 100_000, whole % (2, 2)]))
    brackets = tmp_path / "brackets.json"
    brackets.write_text(
        "[[1735689600000,1,1,1,1,1],[1735689660000,1,1,1,1,1]" + "]" * 300_000 + "[1735689720000,1,1,1,1,1]]"
    )
    found = inspections(run_module("data.recordings", "--json", *map(str, (quotes, broken, deep, brackets))))
    assert [(each["error"], each["rows"], each["rejected"]) for each in found] == [
        (None, 1, 50_000),
        (None, 2, 5_000),
        (None, 2, 2),
        (None, 3, 0),
    ]
    assert found[0]["rejects"][0]["reason"] == "a quotation mark is not closed on its line"
    assert "its values lie too deep in each other" in str(found[2]["rejects"])


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe would be waited for without end, and a device would never end."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "circle.csv").symlink_to(tmp_path / "circle.csv")
    (tmp_path / "good.csv").symlink_to(tmp_path / "real.csv")
    (tmp_path / "real.csv").write_text(GOOD)
    paths = [str(tmp_path / f"{name}.csv") for name in ("pipe", "zero", "circle", "good")]
    found = inspections(run_module("data.recordings", "--json", *paths, within_s=120))
    assert ["no regular file" in (each["error"] or "") for each in found] == [True, True, False, False]
    assert "does not exist" in found[2]["error"]
    assert found[3]["rows"] == 100


def test_neither_a_name_nor_a_row_writes_control_characters_to_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31mb.csv"
    path.write_text(GOOD + "BTC-USD,101,2025-01-06T01:00:00Z,\x1b]0;evil\x07,1,buy\n")
    odd = os.fsencode(tmp_path) + b"/\xff.csv"
    Path(os.fsdecode(odd)).write_text(GOOD)
    ended = run_module("data.recordings", str(path), os.fsdecode(odd))
    assert "Traceback" not in ended.errors, ended.errors
    assert ended.code == 2
    assert all(each.isprintable() for each in ended.output.split("\n"))
    assert "a\\n\\x1b[31mb.csv" in ended.output
    assert "\\x1b]0;evil\\x07" in ended.output
    assert "\\udcff.csv: holds no trades: it has a name that is no UTF-8: rename it" in ended.output


def lines_of(path: Path, base: Base) -> int | None:
    """Return the number of filled lines of a plain text; None for other files."""
    content = path.read_bytes()
    if not base.lines or content[:2] in (b"\x1f\x8b", b"PK"):
        return None
    return sum(line != b"" for line in re.sub(rb"\r+\n", b"\n", content).split(b"\n"))


@pytest.mark.parametrize("count", [80, pytest.param(1_000, marks=pytest.mark.acceptance)])
def test_mutated_recordings_of_all_dialects_lose_no_row_without_a_reason(
    tmp_path: Path, broker: Broker, models: Path, count: int, proof: Proof
) -> None:
    """Each file goes through `python -m data.recordings` and into a lake, and some go onto the topic."""
    proof.disturbs(f"{count:,} mutated recordings of all dialects")
    (tmp_path / "in").mkdir()
    files = mutated(tmp_path / "in", count, seed=18)
    paths, found, taken, peak_mb = list(files), [], [], 0.0
    for first in range(0, count, AT_ONCE):
        some = [str(path) for path in paths[first : first + AT_ONCE]]
        looked = run_module("data.recordings", "--json", "--product", "BTC-USDT", *some)
        found += inspections(looked)
        ingested = run_module("tests.ingesting", str(tmp_path / f"lake {first}"), *some)
        assert "Traceback" not in ingested.errors, ingested.errors[-3_000:]
        taken += [json.loads(line) for line in ingested.output.splitlines() if line.startswith("{")]
        peak_mb = max(peak_mb, looked.peak_mb, ingested.peak_mb)
    assert len(found) == len(taken) == count
    for path, one, staged in zip(paths, found, taken, strict=True):
        if one["error"] is not None:
            assert str(path) in one["error"]
            assert "Error(" not in one["error"]
        elif (lines := lines_of(path, files[path])) is not None:
            assert one["rows"] + one["rejected"] + one["skipped"] >= lines - 2, f"{path}: a header has at most 2 lines"
        if one["holds"] == "trades":
            assert (staged["error"] is None) == (one["error"] is None), (path, one["error"], staged["error"])
            if one["error"] is None:
                assert (staged["rows"], staged["rejected"]) == (one["rows"], one["rejected"]), path
        else:
            assert staged["error"], path
    assert peak_mb <= MOST_MB

    replayed = [i for i, one in enumerate(found) if one["holds"] == "trades" and one["rejected"] < 500][
        : 3 + count // 50
    ]
    environ = environment(broker.bootstrap_servers, models) | {"PRODUCT_ID": "BTC-USDT"}
    for i in replayed:
        source_id = f"mutated-{count}-{i}"
        process = replay(environ, tmp_path, source_id, paths[i])
        with running(process):
            code = process.process.wait(120)
        log = process.log.read_text()
        assert code == (0 if found[i]["error"] is None else 2), (paths[i], found[i]["error"], log)
        assert "Traceback" not in log, log
        assert len(read_topic(broker.bootstrap_servers, REJECTED, source_id)) == found[i]["rejected"], paths[i]
    refused = sum(one["error"] is not None for one in found)
    proof.saw(recordings=count, refused=refused, rows_taken=sum(one["rows"] for one in found))
    proof.saw(rows_rejected=sum(one["rejected"] for one in found), replayed=len(replayed), peak_mb=peak_mb)
