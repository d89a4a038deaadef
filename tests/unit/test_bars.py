"""Bars of LEAN and CryptoDataDownload are read unchanged, oldest first; contradictory bars are rejected."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.recordings import lines
from data.recordings.dialects.bars.base import CONTRADICTION, NOT_RISING, BarBatch
from data.recordings.dialects.symbols import product_of
from data.recordings.readers import read_bars, read_trades
from data.recordings.recognition import recognize
from data.times import NS
from data.trades import Reject, StreamKey

MIDNIGHT = 17_625 * 86_400  # 2018-04-04: 48 years of 365 days, 12 leap days, 31 + 28 + 31 + 3 days
ADDRESS = "https://www.CryptoDataDownload.com\n"
HEADER = "id,unix,date,symbol,open,high,low,close,volto,volfrom\n"


def lean(folder: Path, content: str, name: str = "minute/btcusd/20180404_trade.zip", member: str = "any.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return path


def candle(start: int, base: str = "2", quote: str = "200", prices: str = "100,101,99,100") -> str:
    return f"1,{start},ignored,BTC/USD,{prices},{base},{quote}\n"


def candles(folder: Path, *rows: str, header: str = ADDRESS + HEADER, name: str = "candles.csv") -> Path:
    path = folder / name
    text = (header + "".join(rows)).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def read(path: Path | Sequence[Path], batch_rows: int = 65_536) -> list[BarBatch]:
    return list(read_bars(path, batch_rows=batch_rows))


def ends(batches: Sequence[BarBatch]) -> list[int]:
    return [int(time) // NS for batch in batches for time in batch.bars.event_time]


def rejects(batches: Sequence[BarBatch]) -> list[Reject]:
    return [reject for batch in batches for reject in batch.rejects]


def test_a_lean_bar_is_known_when_it_has_ended(tmp_path: Path) -> None:
    """CRLF, whole numbers without a point, and no line end behind the last line."""
    path = lean(tmp_path, "0,100,101.5,99,100.25,7.5\r\n120000,6778,6778,6778,6778,0")
    (batch,) = read(path)
    assert batch.bars.keys == (StreamKey("", "BTC-USD"),)
    assert batch.bars.step_s == 60
    assert ends([batch]) == [MIDNIGHT + 60, MIDNIGHT + 180]
    columns = [getattr(batch.bars, name).tolist() for name in ("open", "high", "low", "close", "volume")]
    assert columns == [[100, 6778], [101.5, 6778], [99, 6778], [100.25, 6778], [7.5, 0]]
    assert np.isnan(batch.bars.count).all()
    assert (batch.file, batch.line.tolist(), batch.rejects) == (str(path), [1, 2], [])


def test_lean_seconds_of_another_product(tmp_path: Path) -> None:
    (batch,) = read(lean(tmp_path, "3000,1,1,1,1,1\n", "second/ethbtc/20180404_trade.zip"))
    assert (batch.bars.keys[0].product_id, batch.bars.step_s, ends([batch])) == ("ETH-BTC", 1, [MIDNIGHT + 4])


@pytest.mark.parametrize(
    ("name", "member", "said"),
    [
        ("bars.zip", "any.csv", r"path must end like second/btcusd/20161007_trade.zip .* \(within, it is 'any.csv'\)"),
        ("minute/btcxyz/20180404_trade.zip", "any.csv", "symbol 'btcxyz' of its path must end with one of FDUSD"),
        ("minute/btcusd/20180434_trade.zip", "any.csv", "day 20180434 of its path is none"),
        (
            "minute/btcusd/20180404_trade.zip",
            "20180405_btcusd_minute_trade.csv",
            "says minute/btcusd/20180404 by its path, but the file within is '20180405",
        ),
    ],
)
def test_a_lean_path_without_product_and_day_is_refused(tmp_path: Path, name: str, member: str, said: str) -> None:
    path = lean(tmp_path, "0,1,1,1,1,1\n", name, member)
    with pytest.raises(ValueError, match=said) as refusal:
        read_bars(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_another_zip_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="starts with the bytes of a zip archive"):
        read_bars(lean(tmp_path, "hello"))
    path = tmp_path / "cut.zip"
    path.write_bytes(lean(tmp_path, "0,1,1,1,1,1\n").read_bytes()[:40])
    with pytest.raises(ValueError, match="starts as a zip archive, but cannot be read"):
        read_bars(path)


def test_a_zip_with_a_wrong_checksum_is_reported(tmp_path: Path) -> None:
    """The checksum is known only at the end: the rows before the last 64 KiB have been delivered."""
    rows = [f"{1_000 * second},1,1,1,1,1\n" for second in range(20_000)]
    path = lean(tmp_path, "".join(rows), "second/btcusd/20180404_trade.zip")
    with zipfile.ZipFile(path) as archive:
        crc = archive.infolist()[0].CRC.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(crc, b"\0\0\0\0"))
    batches = []
    with pytest.raises(ValueError, match=r"20180404_trade.zip: the zip is damaged .*CRC") as damage:
        for batch in read_bars(path):
            batches.append(batch)
    delivered = ends(batches)
    assert delivered == list(range(MIDNIGHT + 1, MIDNIGHT + 1 + len(delivered)))
    assert len("".join(rows[len(delivered) :])) <= (1 << 16) + len(rows[-1])
    assert f"after {len(delivered):,} whole rows" in str(damage.value)


@pytest.mark.parametrize("name", ["candles.csv", "candles.csv.gz"])
@pytest.mark.parametrize("block_bytes", [1, 80, 1 << 20])
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_candles_are_delivered_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_bytes: int, batch_rows: int
) -> None:
    """Newest first in the file, one minute missing: a hole stays a hole. Lines 1 and 2 are address and header."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    rows = [candle(MIDNIGHT + 60 * minute) for minute in (4, 3, 1, 0)]
    batches = read(candles(tmp_path, *rows, name=name), batch_rows)
    assert ends(batches) == [MIDNIGHT + 60 * minute for minute in (1, 2, 4, 5)]
    assert [line for batch in batches for line in batch.line.tolist()] == [6, 5, 4, 3]
    assert rejects(batches) == []
    assert {batch.bars.step_s for batch in batches} == {60}


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_candles_may_stand_oldest_first_and_in_parts_of_a_second(tmp_path: Path, unit: int) -> None:
    header = "Unix Timestamp,Date,Symbol,Open,High,Low,Close,Volume USD,Volume BTC,tradecount\n"
    rows = [f"{unit * (MIDNIGHT + 3_600 * hour)},x,BTCUSD,100,101,99,100,205,2,17\n" for hour in (0, 1)]
    (batch,) = read(candles(tmp_path, *rows, header=header))
    assert (ends([batch]), batch.bars.step_s) == ([MIDNIGHT + 3_600, MIDNIGHT + 7_200], 3_600)
    assert (batch.bars.volume.tolist(), batch.bars.count.tolist()) == ([2, 2], [17, 17])
    assert batch.line.tolist() == [2, 3]


def test_a_header_of_candles_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the header of candles and no row"):
        read_bars(candles(tmp_path))


@pytest.mark.parametrize(("base", "quote", "volume"), [("2", "200", 2), ("200", "2", 2), ("0.5", "51", 0.5)])
def test_the_numbers_identify_the_base_volume(tmp_path: Path, base: str, quote: str, volume: float) -> None:
    """The close is 100: a volume of a hundredth of the other is in the base currency, under any name."""
    rows = [candle(MIDNIGHT + 60 * minute, base, quote) for minute in range(3)]
    (batch,) = read(candles(tmp_path, *rows))
    assert batch.bars.volume.tolist() == [volume] * 3


@pytest.mark.parametrize(
    "row",
    [
        ("5", "5", "100,101,99,100"),  # neither is the other times the price
        ("5", "5", "1,1,1,1"),  # both may be
        ("0", "0", "100,101,99,100"),
    ],
)
def test_ambiguous_volumes_are_refused(tmp_path: Path, row: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="volumes do not tell which of them is the base currency's"):
        read_bars(candles(tmp_path, candle(MIDNIGHT, *row), candle(MIDNIGHT + 60, *row)))


def test_one_candle_has_no_known_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fewer than two times"):
        read_bars(candles(tmp_path, candle(MIDNIGHT)))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("60000,100,99,98,98.5,1", CONTRADICTION),
        ("60000,100,100,98,97,1", CONTRADICTION),
        ("60000,100,101,102,100,1", CONTRADICTION),
        ("60000,0,1,0,1,1", "open must be a finite number above 0, was '0'"),
        ("60000,1,1,1,inf,1", "close must be a finite number above 0, was 'inf'"),
        ("60000,1e200,1e200,1,1,1", "open must be from 1e-100 to 1e+100, was '1e200'"),
        ("60000,1,1,1,1,1e200", "volume must be at most 1e+100, was '1e200'"),
        ("60000,1,1,1,1,", "volume must be a finite number of at least 0, was ''"),
        ("60000,1,1,1,1,-1", "volume must be a finite number of at least 0, was '-1'"),
        ("60000,1,1,1,1", "expected 6 fields, found 5"),
        ("60001,1,1,1,1,1", "milliseconds since midnight must be a time at which a bar of 60 s starts"),
        ("86400000,1,1,1,1,1", "milliseconds since midnight must be a time at which a bar of 60 s starts"),
        ("-60000,1,1,1,1,1", "milliseconds since midnight must be a whole number from 0 to 2^63 - 1, was '-60000'"),
        ("0,1,1,1,1,1", NOT_RISING),
    ],
)
def test_a_bad_bar_is_rejected_alone_with_its_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    path = lean(tmp_path, f"0,1,1,1,1,1\n\n{row}\n180000,1,1,1,1,1\n")
    batches = read(path)
    assert ends(batches) == [MIDNIGHT + 60, MIDNIGHT + 240]
    (reject,) = rejects(batches)
    assert (reject.file, reject.line, reject.text) == (str(path), 3, row)
    assert reject.reason.startswith(reason)


def test_time_rises_over_all_files_of_a_product_in_each_by_itself(tmp_path: Path) -> None:
    btc = lean(tmp_path, "0,1,1,1,1,1\n60000,1,1,1,1,1\n")
    eth = lean(tmp_path, "0,1,1,1,1,1\n", "minute/ethusd/20180404_trade.zip")
    again = lean(tmp_path, "60000,1,1,1,1,1\n120000,1,1,1,1,1\n", "again/minute/btcusd/20180404_trade.zip")
    batches = read([btc, eth, again])
    assert [len(batch.bars) for batch in batches] == [2, 1, 1]
    assert [(reject.file, reject.line, reject.reason) for reject in rejects(batches)] == [(str(again), 1, NOT_RISING)]


def test_bars_of_two_lengths_are_two_sources(tmp_path: Path) -> None:
    minute = lean(tmp_path, "0,1,1,1,1,1\n")
    second = lean(tmp_path, "0,1,1,1,1,1\n", "second/btcusd/20180404_trade.zip")
    with pytest.raises(ValueError, match=r"bars of 60 s and .* of 1 s: read them as two sources"):
        read_bars([minute, second])


def test_bars_are_no_trades_and_trades_no_bars(tmp_path: Path) -> None:
    path = candles(tmp_path, candle(MIDNIGHT), candle(MIDNIGHT + 60))
    with pytest.raises(ValueError, match=r"candles.csv: holds bars, not trades \(CryptoData.*offline.evaluation"):
        read_trades(path)
    trades = tmp_path / "trades.csv"
    trades.write_text("timestamp,price,volume\n2025-01-01T00:00:00Z,1,1\n")
    with pytest.raises(ValueError, match=r"trades.csv: holds trades, not bars \(CSV with timestamp.*read_trades reads"):
        read_bars(trades)


@pytest.mark.parametrize(
    ("symbol", "product"),
    [("BTC/USD", "BTC-USD"), ("ethusdt", "ETH-USDT"), ("USDCUSD", "USDC-USD"), ("BTC-EUR", "BTC-EUR"), ("USD", "USD")],
)
def test_products_of_symbols(symbol: str, product: str) -> None:
    assert product_of(symbol) == product


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3) | st.sampled_from([b"\n", b'"'])), min_size=1),
    packed=st.booleans(),
    batch_rows=st.integers(1, 9),
)
def test_no_line_of_a_mutilated_file_is_lost(
    tmp_path: Path, changes: list[tuple[float, bytes]], packed: bool, batch_rows: int
) -> None:
    """Any bytes raise only ValueError, and each line is a bar or a reject."""
    if packed:
        path = lean(tmp_path, "".join(f"{60_000 * minute},1,1,1,1,1\n" for minute in range(9)))
    else:
        path = candles(tmp_path, *(candle(MIDNIGHT + 60 * minute) for minute in range(9, 0, -1)))
    content = bytearray(path.read_bytes())
    spared = 0 if packed else len(ADDRESS + HEADER)
    for place, piece in changes:
        start = spared + int(place * (len(content) - spared))
        content[start : start + len(piece)] = piece
    path.write_bytes(content)
    try:
        batches = read(path, batch_rows)
    except ValueError as error:
        assert str(error).startswith(f"{path}: "), "said by the reader, not by what it calls"
        return
    if not packed:
        found = [*(line for batch in batches for line in batch.line.tolist()), *(r.line for r in rejects(batches))]
        whole = [i for i, line in enumerate(bytes(content).split(b"\n"), start=1) if line.strip(b"\r") and i > 2]
        assert sorted(found) == whole


@pytest.mark.parametrize(
    ("name", "rows", "step_s", "product", "first_end", "last_end"),
    [
        ("second/btcusd/20161007", 4_063, 1, "BTC-USD", "2016-10-07T00:00:05", "2016-10-07T23:59:59"),
        ("second/btcusd/20161008", 3_453, 1, "BTC-USD", "2016-10-08T00:00:02", "2016-10-08T23:59:59"),
        ("minute/btcusd/20161007", 1_419, 60, "BTC-USD", "2016-10-07T00:01:00", "2016-10-08T00:00:00"),
        ("minute/btcusd/20180404", 1_007, 60, "BTC-USD", "2018-04-04T00:01:00", "2018-04-04T16:48:00"),
        ("minute/btcusd/20180405", 1_440, 60, "BTC-USD", "2018-04-05T00:01:00", "2018-04-06T00:00:00"),
        ("minute/ethusd/20180404", 1_009, 60, "ETH-USD", "2018-04-04T00:01:00", "2018-04-04T16:53:00"),
        ("minute/ethusd/20180405", 1_440, 60, "ETH-USD", "2018-04-05T00:01:00", "2018-04-06T00:00:00"),
    ],
)
def test_shared_lean_bars(
    shared: Path, name: str, rows: int, step_s: int, product: str, first_end: str, last_end: str
) -> None:
    """Rows of the seconds and whole minutes are stated with the files; the others were counted with unzip and grep."""
    batches = read(shared / "lean" / f"{name}_trade.zip")
    times = np.concatenate([batch.bars.event_time for batch in batches]).view("M8[ns]").astype("M8[s]")
    assert (len(times), rejects(batches)) == (rows, [])
    assert {(batch.bars.step_s, *batch.bars.keys) for batch in batches} == {(step_s, StreamKey("", product))}
    assert (str(times[0]), str(times[-1])) == (first_end, last_end)


def test_shared_candles(shared: Path) -> None:
    """The stated deviation and quantile of log returns; the one missing minute; and `volto` is BTC."""
    path = shared / "cryptodatadownload_coinbase_btcusd_1m_202011-12.csv.gz"
    batches = read(path)
    assert rejects(batches) == []
    times = np.concatenate([batch.bars.event_time for batch in batches])
    starts = (times - 60 * NS).view("M8[ns]").astype("M8[s]")
    assert (len(starts), str(starts[0]), str(starts[-1])) == (27_950, "2020-11-22T18:46:00", "2020-12-12T04:36:00")
    holes = np.flatnonzero(np.diff(times) != 60 * NS)
    assert [str(starts[hole] + np.timedelta64(60, "s")) for hole in holes] == ["2020-11-24T21:09:00"]
    close = np.concatenate([batch.bars.close for batch in batches])
    returns_bp = 1e4 * np.diff(np.log(close))
    assert round(float(returns_bp.std(ddof=1)), 1) == 11.3
    assert round(float(np.quantile(np.abs(returns_bp), 0.99))) == 38
    last = batches[-1].bars
    assert (last.close[-1], last.volume[-1]) == (18302.43, 0.13180145)
    assert "base volume in 'volto'" in recognize(path).name
