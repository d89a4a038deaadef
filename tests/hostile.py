"""Hostile recordings from seeds, in all dialects, and a process that reads files and tells its memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from data.files import CHECKOUT
from tests.unit.test_candles import TEXTS as CANDLES
from tests.unit.test_candles import market as candle_market
from tests.unit.test_dialects import PARQUET
from tests.venues import TEXTS, Row, market, texts

MOST_MB: Final = 400
"""Memory of a process that reads hostile recordings, 10 ** 6 bytes."""
TRADES: Final = 40

Mutation = Callable[[random.Random, bytes], bytes]


class Base(NamedTuple):
    """A whole recording of a dialect.

    Attributes:
        file: name of the file, which may tell the product.
        lines: whether each line of the file is a row, a message, or the header.
    """

    file: str
    content: bytes
    lines: bool


def bases() -> dict[str, Base]:
    """Return a recording of each dialect."""
    trades, candles = market(count=TRADES), candle_market()
    found = {}
    for name in TEXTS:
        file, text = texts(name, trades)
        found[name] = Base(file, text.encode(), not text.lstrip().startswith(("[", "{\n", "{ \n")))
    for name, (file, candles_text) in CANDLES.items():
        text = candles_text(candles)
        found[f"candles: {name}"] = Base(file, text.encode(), not text.startswith("["))
    for name, (file, table_of) in PARQUET.items():
        written = io.BytesIO()
        table = pa.table(table_of([Row(trades, i) for i in range(TRADES)]))
        pyarrow.parquet.write_table(table, written, row_group_size=16)
        found[f"Parquet: {name}"] = Base(file, written.getvalue(), False)
    return found


def _at(rng: random.Random, content: bytes) -> int:
    return rng.randrange(len(content) + 1)


def _insert(*pieces: bytes) -> Mutation:
    def insert(rng: random.Random, content: bytes) -> bytes:
        at = _at(rng, content)
        return content[:at] + rng.choice(pieces) * rng.choice((1, 1, 3)) + content[at:]

    return insert


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 4, 40))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(rng: random.Random, content: bytes) -> bytes:
    begin, size = _at(rng, content), rng.choice((1, 10, 1_000))
    return content[:begin] + content[begin + size :]


def _repeat(rng: random.Random, content: bytes) -> bytes:
    begin = _at(rng, content)
    piece = content[begin : begin + rng.randrange(1, 200)]
    return content[:begin] + piece * rng.choice((2, 2, 500)) + content[begin:]


def _end_early(rng: random.Random, content: bytes) -> bytes:
    return content[: _at(rng, content)]


def _line_ends(rng: random.Random, content: bytes) -> bytes:
    ends = (b"\n", b"\r\n", b"\r", b"\n\n", b"\r\r\n", b"\n\r")
    return b"".join(line + rng.choice(ends) for line in content.split(b"\n"))


def _shuffle(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _number(rng: random.Random, content: bytes) -> bytes:
    """Replace a number by one that no reader can hold, or that is none."""
    numbers = list(re.finditer(rb"\d+(\.\d+)?", content))
    if not numbers:
        return content
    found = rng.choice(numbers)
    hostile = (
        b"1e400", b"-1e400", b"NaN", b"-Infinity", b"9" * 400, b"0." + b"0" * 400 + b"1", b"0x10", b"-0", b"1_000",
        b"9223372036854775808", b"-9223372036854775809", "٣".encode(), b"", b"null", b"true", b"[1]", b"{}", b'"',
    )  # fmt: skip
    return content[: found.start()] + rng.choice(hostile) + content[found.end() :]


def _deep(rng: random.Random, content: bytes) -> bytes:
    at, deep = _at(rng, content), rng.choice((50, 2_000, 100_000))
    return content[:at] + rng.choice((b"[", b"{", b'{"a":', b"]", b"}", b'[{"a":')) * deep + content[at:]


def _long(rng: random.Random, content: bytes) -> bytes:
    at = _at(rng, content)
    return content[:at] + rng.choice((b"x", b",", b'"', b"\\", b" ", b"\0", b"9")) * 300_000 + content[at:]


MUTATIONS: Final[Sequence[Mutation]] = (
    _flip, _cut, _repeat, _end_early, _line_ends, _shuffle, _number, _number, _deep, _long,
    _insert(b"\0", b"\0\0\0\0"),
    _insert(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80", "\u2028\u202e".encode()),
    _insert(b'"', b'""', b"\\", b"'"),
    _insert(b"\x1b[2J\x1b]0;evil\x07", b"\x08\x7f\x9b"),
    _insert(b"\n", b"\r", b",", b",,,,,,", b"\t", b";"),
)  # fmt: skip


def mutated(folder: Path, count: int, seed: int) -> dict[Path, Base]:
    """Write mutated recordings, and return the original of each; equal seeds give equal files."""
    known = list(bases().values())
    found = {}
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        base = known[number % len(known)]
        content = base.content
        is_parquet = content.startswith(b"PAR1")
        for _ in range(rng.choice((1, 1, 2, 5))):
            content = rng.choice((_flip, _cut, _end_early) if is_parquet else MUTATIONS)(rng, content)
        path = folder / f"{number:04}" / base.file
        packing = "" if is_parquet else rng.choice(("", "", "", "gzip", "zip"))
        if packing == "gzip":
            content = gzip.compress(content, mtime=0)
        elif packing == "zip":
            content = _zipped(rng, base.file, content)
        if packing and rng.random() < 0.4:
            content = rng.choice((_flip, _cut, _end_early))(rng, content)
        path.parent.mkdir()
        path.write_bytes(content)
        found[path] = base
    return found


def _zipped(rng: random.Random, file: str, content: bytes) -> bytes:
    names = (file, f"../../{file}", f"/etc/{file}", f"C:\\x\\..\\{file}", f"a\n\x1b[31m{file}", "a" * 2_000, f"{file}/")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(rng.choice(names)), content)
    return packed.getvalue()


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        peak_mb: most memory that the process had at once, 10 ** 6 bytes.
    """

    code: int
    output: str
    errors: str
    peak_mb: float


_PEAK = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:  # not `ru_maxrss`, which begins with what the parent had
    held = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    print(f"peak of memory {held} kB", file=sys.stderr)
"""


def run_module(module: str, *arguments: str, within_s: float = 900.0, **settings: str) -> Ended:
    """Run a module as a command, in a process of its own.

    Args:
        settings: variables of the environment.
    """
    ours = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(CHECKOUT / "var" / "pycache")}
    ended = subprocess.run(
        [sys.executable, "-c", _PEAK, module, *arguments],
        cwd=CHECKOUT,
        env=os.environ | ours | settings,
        capture_output=True,
        timeout=within_s,
        check=False,
    )
    errors = ended.stderr.decode(errors="replace")
    peak = re.search(r"peak of memory (\d+) kB", errors)
    assert peak is not None, f"the process ended with {ended.returncode}: {errors[-2_000:]}"
    return Ended(ended.returncode, ended.stdout.decode(), errors, int(peak[1]) * 1_024 / 10**6)


def inspections(ended: Ended) -> list[dict[str, Any]]:
    """Return the summaries of `python -m data.recordings --json`; fail on a stack trace."""
    assert "Traceback" not in ended.errors, ended.errors[-3_000:]
    assert ended.code in (0, 2), ended.errors[-2_000:]
    found: list[dict[str, Any]] = json.loads(ended.output)
    return found
