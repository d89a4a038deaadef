"""The compiled pass over CSV lines, which gives up where anything is unusual."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.recordings.readers import read_trades
from data.recordings.scan import MAX_NAMES, Kind, scan

KINDS = {1: Kind.NAME, 2: Kind.INTEGER, 3: Kind.TIME, 4: Kind.NUMBER}


def test_columns_by_hand() -> None:
    data = b"x,B,7,1970-01-01T00:00:01.5Z,2.5\n,A,8,1970-01-01T00:00:02Z,\nyy,B,9,1970-01-02T00:00:00.000000001Z,1e-3\n"
    found = scan(data, 3, 5, KINDS)
    assert found is not None
    assert found.names == {1: [b"B", b"A"]}
    assert found.codes[1].tolist() == [0, 1, 0]
    assert found.integers[2].tolist() == [7, 8, 9]
    assert found.integers[3].tolist() == [1_500_000_000, 2_000_000_000, 86_400_000_000_001]
    assert found.numbers[4][[0, 2]].tolist() == [2.5, 0.001]
    assert np.isnan(found.numbers[4][1])


@pytest.mark.parametrize(
    "line",
    [b"x,B,7,1970-01-01T00:00:01Z", b"x,B,7,1970-01-01T00:00:01Z,1,2", b"x,B,07,1970-01-01T00:00:01Z,1",
     b"x,B,,1970-01-01T00:00:01Z,1", b"x,B,7,1970-01-01T00:00:01,1", b"x,B,7,1970-01-01T00:00:01Z,nan",
     b"x,B,7,1970-01-01T00:00:01Z,0x1F", b"x,B,7,1970-01-01T00:00:01Z, 1", b"x,B,-7,1970-01-01T00:00:01Z,1"],
)  # fmt: skip
def test_an_unusual_line_is_left_to_a_slower_reader(line: bytes) -> None:
    good = b"x,B,7,1970-01-01T00:00:01Z,1\n"
    assert scan(good * 2, 2, 5, KINDS) is not None
    assert scan(good + line + b"\n", 2, 5, KINDS) is None


def test_a_column_of_many_texts_is_none_of_names() -> None:
    lines = b"".join(b"n%d\n" % i for i in range(MAX_NAMES + 1))
    assert scan(lines, MAX_NAMES + 1, 1, {0: Kind.NAME}) is None
    fewer = lines[: lines.rindex(b"n")]
    found = scan(fewer, MAX_NAMES, 1, {0: Kind.NAME})
    assert found is not None
    assert found.codes[0].tolist() == list(range(MAX_NAMES))


HEADER = b"source_id,product_id,trade_id,event_time,ingest_time,price,size,side\n"
ROW = b"s,BTC-USD,%d,2025-01-06T00:00:0%d.123456Z,,91749.99,0.00915181,buy\n"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Rows of our own CSV, some of them with bytes changed, taken out or put in."""
    rows = []
    for i in range(draw(st.integers(1, 5))):
        row = bytearray(ROW % (i + 1, i))
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(row) - 2))
            row[at : at + draw(st.integers(0, 2))] = draw(
                st.sampled_from([b"", *(bytes([c]) for c in b"0159.eE+-,: TZnabuy")])
            )
        rows.append(bytes(row))
    return b"".join(rows)


@settings(deadline=None, max_examples=300)
@given(damaged())
def test_a_file_gives_the_same_whichever_way_it_is_read(tmp_path_factory: pytest.TempPathFactory, rows: bytes) -> None:
    """A quoted line at the end of the same block takes all of it the slower way."""
    folder = tmp_path_factory.mktemp("ways")
    quoted = b'"s","BTC-USD",1000000000,2025-01-07T00:00:00Z,,1,1,buy\n'
    found = []
    for name, last in (("plain.csv.gz", quoted.replace(b'"', b"")), ("quoted.csv.gz", quoted)):
        path: Path = folder / name
        path.write_bytes(gzip.compress(HEADER + rows + last, 1))
        batches = list(read_trades(path))
        columns = ("trade_id", "event_time", "price", "size", "side")
        found.append(
            (
                [getattr(batch.trades, column).tobytes() for batch in batches for column in columns],
                [(reject.line, reject.reason) for batch in batches for reject in batch.rejects],
                [key.product_id for batch in batches for key in batch.trades.keys],
            )
        )
    assert found[0] == found[1]
