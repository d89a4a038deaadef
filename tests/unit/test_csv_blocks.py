"""A block of CSV parsed at once, by type, gives the values of the block read line by line, or no values."""

from __future__ import annotations

import gzip
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.recordings.dialects.base import RowColumns
from data.recordings.dialects.tables.headers import table_of
from data.recordings.dialects.tables.text import CsvDialect
from data.recordings.fields import FIELDS, products
from data.recordings.lines import Lines
from data.recordings.readers import read_trades
from data.trades import MAX_PRICE, MIN_PRICE

HEADER = "source_id,product_id,trade_id,event_time,ingest_time,price,size,side"
TICKER = "type,note,product_id,price,side,time,trade_id,last_size"
GOOD = "s,BTC-USD,{},2025-01-06T00:00:01.5Z,,91749.99,0.25,buy"

Values = dict[str, tuple[list[Any] | bytes, bytes]]
"""By field, the values and the mask of allowed values, as bytes."""


def block(data: bytes, header: str = HEADER) -> tuple[CsvDialect, Lines]:
    names = header.split(",")
    found = table_of(names)
    assert found is not None
    return CsvDialect(found, names), Lines.of(data, 2)[0]


def values(rows: RowColumns) -> Values:
    found: Values = {}
    for field, column in rows.columns.items():
        if field == "product_id":
            named = products(column)
            found[field] = [named.names[i] for i in named.code], named.good.tobytes()
        else:
            parsed, good = FIELDS[field].parse(column)
            found[field] = parsed.tobytes(), good.tobytes()
    return found


def is_good(found: Values) -> bool:
    return all(all(good) for _, good in found.values())


def both_ways(data: bytes, header: str = HEADER) -> Values | None:
    """Return the values of a block that is parsed by type, equal to the values line by line; None for another block."""
    dialect, lines = block(data, header)
    typed = dialect.typed_rows(lines)
    if typed is None or not is_good(found := values(typed)):
        return None
    careful = dialect.rows(lines)
    assert found == values(careful)
    assert (typed.at.tolist(), typed.position.tolist()) == (careful.at.tolist(), careful.position.tolist())
    assert (careful.broken, careful.skipped.tolist(), typed.positions) == ({}, [], careful.positions)
    return found


def numbers(found: Values, field: str, dtype: type[np.generic]) -> list[Any]:
    parsed = found[field][0]
    assert isinstance(parsed, bytes)
    return list(np.frombuffer(parsed, dtype).tolist())


def test_columns_by_hand() -> None:
    found = both_ways(
        b"x,B-USD,7,1970-01-01T00:00:01.5Z,,2.5,1,buy\n"
        b",A-USD,08,1970-01-01T00:00:02Z,,3,,\n"
        b"NA,B-USD,9,1970-01-02T00:00:00.000000001Z,0x1,1e-3,0,sell\n"
    )
    assert found is not None
    assert found["product_id"][0] == ["B-USD", "A-USD", "B-USD"]
    assert numbers(found, "trade_id", np.int64) == [7, 8, 9]
    assert numbers(found, "event_time", np.int64) == [1_500_000_000, 2_000_000_000, 86_400_000_000_001]
    assert numbers(found, "price", np.float64) == [2.5, 3.0, 0.001]
    assert [numbers(found, "size", np.float64)[i] for i in (0, 2)] == [1.0, 0.0]
    assert math.isnan(numbers(found, "size", np.float64)[1])
    assert found["side"][0] == bytes([1, 0, 255])


@pytest.mark.parametrize(
    "line",
    ["s,B-USD,7,2025-01-06T00:00:01Z,,1,1", GOOD.format(7) + ",", GOOD.format(""), GOOD.format("-7"),
     GOOD.format("-0"), GOOD.format("0x1F"), GOOD.format("+7"), GOOD.format(2**63), GOOD.format("7") + "\r,",
     GOOD.format("7").replace("0.25", "nan"), GOOD.format("7").replace("0.25", "NaN"),
     GOOD.format("7").replace("0.25", "inf"), GOOD.format("7").replace("0.25", "NA"),
     GOOD.format("7").replace("0.25", " "), GOOD.format("7").replace("91749.99", "0x1F"),
     GOOD.format("7").replace("91749.99", "null"), GOOD.format("7").replace("01.5Z", "01.5"),
     GOOD.format("7").replace("2025-", " 2025-"), GOOD.format("7").replace("s,", '"s",'),
     GOOD.format("7").replace("s,", "s\udcff,")],
)  # fmt: skip
def test_an_unusual_line_leaves_the_block_to_the_reader_line_by_line(line: str) -> None:
    good = GOOD.format(7) + "\n"
    assert both_ways((good + good).encode()) is not None
    assert both_ways((good + line + "\n").encode(errors="surrogateescape")) is None


def test_a_column_may_hold_any_number_of_products() -> None:
    rows = [GOOD.format(i).replace("BTC", f"N{i}") for i in range(1_000)]
    found = both_ways("".join(row + "\n" for row in rows).encode())
    assert found is not None
    assert found["product_id"][0] == [f"N{i}-USD" for i in range(1_000)]


def test_numbers_are_pythons_and_times_are_exact() -> None:
    """Doubles of all exponents of a price, in 16 to 31 digits, and times with 0 to 9 digits of a second."""
    rng = random.Random(12)
    doubles = [math.ldexp(rng.uniform(0.5, 1), rng.randrange(-331, 333)) for _ in range(7_000)]
    doubles += [MIN_PRICE, MAX_PRICE, 0.1 + 0.2]
    texts = [
        f"{value:.{rng.choice((16, 16, 15, 20, 30))}e}" if i % 2 else repr(value) for i, value in enumerate(doubles)
    ]
    texts += [f"{rng.randrange(1, 10**17)}.{rng.randrange(10**8):08}" for _ in range(2_000)]
    times = [(rng.randrange(7_258_118_400), rng.randrange(10**digits), digits) for digits in range(10) for _ in texts]
    rng.shuffle(times)
    rows = []
    for i, (text, (s, part, digits)) in enumerate(zip(texts, times, strict=False)):
        fraction = f".{part:0{digits}}" if digits else ""
        rows.append(f"s,B-USD,{i},{np.datetime64(s, 's')}{fraction}Z,,{text},{text},\n")
    found = both_ways("".join(rows).encode())
    assert found is not None
    assert numbers(found, "price", np.float64) == numbers(found, "size", np.float64) == [float(text) for text in texts]
    ns = [s * 10**9 + part * 10 ** (9 - digits) for s, part, digits in times]
    assert numbers(found, "event_time", np.int64) == ns[: len(texts)]
    assert numbers(found, "trade_id", np.int64) == list(range(len(texts)))


SPECIAL = (
    "", " ", "1", " 1", "1 ", "\t2", "01", "+1", "-1", "-0", "-0.0", "+0", "0", "0x1", "0X1F", "-0x1", "1.5", ".5",
    "5.", "1e5", "1E+5", "1e-400", "1e400", "-1e-400", "1_0", "1f", "0x1p3", "nan", "NaN", "-nan", "nan(1)", "inf",
    "-inf", "Infinity", "NA", "N/A", "#N/A", "null", "NULL", "None", "9" * 18, "9" * 19, str(2**63), "0" * 30 + "7",
    "\N{FULLWIDTH DIGIT ONE}", "\N{ARABIC-INDIC DIGIT THREE}", "1\0", "\v1", "1\x85", "\ufeff1", '"1"', '1"', '"', "1,",
    "\r", "1\r", "\udcff", "é", "buy", "sell", "BUY", "BTC-USD", "10X-USD", "btc-usd", "BTC-USD ", "ticker",
    "2025-01-01", "2025-01-01T00:00:01Z", "2025-01-01T00:00:01.123456789Z", "2025-01-01T00:00:01.1234567891Z",
    "2025-01-01T00:00:01.Z", "2025-01-01 00:00:01Z", "2025-01-01T00:00:01",
    "2025-01-01t00:00:01z", " 2025-01-01T00:00:01Z", "2025-01-01T00:00:01Z ", "2025-01-01T24:00:00Z",
    "2025-01-01T00:00:60Z", "2025-01-01T00Z", "2025-01-01T00:00Z", "2025-01-01T00:00:01+02:00",
    "2025-01-01T00:00:01-02", "2025-02-30T00:00:00Z", "2300-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00+01:00", "2199-12-31T23:59:59.999999999Z", "2200-01-01T00:00:00Z", "20250101T000001Z",
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(SPECIAL),
    st.text("0123456789.eE+-xX naNif\t", max_size=12),
    st.text("0123456789-T:.Zz+ ", min_size=18, max_size=31),
    st.from_regex(r"20\d\d-[01]\d-[0-3]\d[T ][0-2]\d:[0-6]\d:[0-6]\d(\.\d{0,10})?[Z+-]?", fullmatch=True),
    st.text(max_size=6),
    st.floats().map(repr),
    st.integers().map(str),
)  # fmt: skip


@given(rows=st.lists(st.dictionaries(st.integers(0, 7), TEXTS, max_size=2), min_size=1, max_size=3))
@example(rows=[{6: "nan"}])
@example(rows=[{2: "-0"}])
@example(rows=[{2: "0x1F"}])
@example(rows=[{0: '"s'}, {}])
@example(rows=[{0: "\udcff"}])
@example(rows=[{2: "0" * 30 + "7"}])
@pytest.mark.parametrize(
    ("header", "good"),
    [(HEADER, GOOD.format(7)), (TICKER, "ticker,,BTC-USD,91749.99,buy,2025-01-06T00:00:01.5Z,7,0.25"),
     ("timestamp,price,volume,a,b,c,d,e", "2025-01-06T00:00:01.5Z,91749.99,0.25,,,,,")],
)  # fmt: skip
def test_any_texts_give_the_same_both_ways(header: str, good: str, rows: list[dict[int, str]]) -> None:
    lines = []
    for changes in rows:
        fields = good.split(",")
        for i, text in changes.items():
            fields[i] = text
        lines.append(",".join(fields) + "\n")
    both_ways("".join(lines).encode("utf-8", "surrogateescape" if "\udcff" in "".join(lines) else "replace"), header)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Rows of our own CSV, some of them with bytes changed, taken out or put in."""
    rows = []
    for i in range(draw(st.integers(1, 5))):
        row = bytearray(b"s,BTC-USD,%d,2025-01-06T00:00:0%d.123456Z,,91749.99,0.00915181,buy\n" % (i + 1, i))
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(row) - 2))
            row[at : at + draw(st.integers(0, 2))] = draw(
                st.sampled_from([b"", *(bytes([c]) for c in b"0159.eE+-,: TZnabuy")])
            )
        rows.append(bytes(row))
    return b"".join(rows)


@given(damaged())
def test_a_file_gives_the_same_whichever_way_it_is_read(tmp_path_factory: pytest.TempPathFactory, rows: bytes) -> None:
    """A quoted line at the end of the same block takes all of it the slower way."""
    folder = tmp_path_factory.mktemp("ways")
    quoted = b'"s","BTC-USD",1000000000,2025-01-07T00:00:00Z,,1,1,buy\n'
    found: list[object] = []
    for name, last in (("plain.csv.gz", quoted.replace(b'"', b"")), ("quoted.csv.gz", quoted)):
        path: Path = folder / name
        path.write_bytes(gzip.compress(HEADER.encode() + b"\n" + rows + last, 1))
        try:
            batches = list(read_trades(path))
        except ValueError as error:  # not one row is a trade
            found.append(str(error).partition(": ")[2].partition("; first in")[0])
            continue
        columns = ("trade_id", "event_time", "price", "size", "side")
        found.append(
            (
                [getattr(batch.trades, column).tobytes() for batch in batches for column in columns],
                [(reject.line, reject.reason) for batch in batches for reject in batch.rejects],
                [key.product_id for batch in batches for key in batch.trades.keys],
            )
        )
    assert found[0] == found[1]
