"""Candles of every venue give the same bars; all rows decide what a file is, and holes are segments."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.features.spec import FeatureSpec
from data.models.registry import Registry, Version
from data.models.served import ServedModel
from data.names import ModelRefused
from data.recordings.dialects.bars.base import BarBatch
from data.recordings.readers import read_bars, read_trades
from data.recordings.recognition import recognize
from data.times import NS
from data.trades import StreamKey
from offline.history import read_history
from offline.promotion.gate import fetch_model
from tests.models import model_bytes

MIDNIGHT = 17_625 * 86_400  # 2018-04-04: 48 years of 365 days, 12 leap days, 31 + 28 + 31 + 3 days
PRODUCT = "BTC-USDT"

Candle = tuple[int, float, float, float, float, float]
"""Start in seconds, open, high, low, close, volume."""


def market(count: int = 50, step_s: int = 60) -> list[Candle]:
    rng = random.Random(3)
    price, found = 100.0, []
    for i in range(count):
        close = round(price + rng.uniform(-1, 1), 2)
        high, low = round(max(price, close) + 0.5, 2), round(min(price, close) - 0.5, 2)
        found.append((MIDNIGHT + step_s * i, price, high, low, close, round(rng.uniform(0.1, 9), 4)))
        price = close
    return found


def kline(c: Candle) -> list[Any]:
    s, o, h, low, close, volume = c
    return [1_000 * s, f"{o:.2f}", f"{h:.2f}", f"{low:.2f}", f"{close:.2f}", f"{volume}", 1_000 * s + 59_999,
            "9", 7, "1", "1", "0"]  # fmt: skip


def text_of(row: Callable[[Candle], Sequence[Any]], header: str = "") -> Callable[[list[Candle]], str]:
    return lambda candles: header + "".join(",".join(map(str, row(c))) + "\n" for c in candles)


def coinbase(c: Candle) -> list[Any]:
    return [c[0], c[3], c[2], c[1], c[4], c[5]]


def iso(c: Candle, text: str = "%Y-%m-%d %H:%M:%S") -> str:
    return dt.datetime.fromtimestamp(c[0], dt.UTC).strftime(text)


TEXTS: dict[str, tuple[str, Callable[[list[Candle]], str]]] = {
    "Coinbase with header": ("a", text_of(coinbase, "time,low,high,open,close,volume\n")),
    "Coinbase, start": ("a", text_of(coinbase, "start,low,high,open,close,volume\n")),
    "Coinbase without header": ("a", text_of(coinbase)),
    "Coinbase REST, newest first": ("a", lambda candles: json.dumps([coinbase(c) for c in reversed(candles)])),
    "OHLCV": ("a", text_of(lambda c: [iso(c), *c[1:]], "Timestamp,Open,High,Low,Close,Volume\n")),
    "OHLCV, ISO": ("a", text_of(lambda c: [iso(c, "%Y-%m-%dT%H:%M:%SZ"), *c[1:]], "date,open,high,low,close,volume\n")),
    "OHLCV without header": ("a", text_of(lambda c: [1_000 * c[0], *c[1:]])),
    "OHLCV in JSON": ("BTC_USDT-1m.json", lambda candles: json.dumps([[1_000 * c[0], *c[1:]] for c in candles])),
    "Binance klines": ("BTCUSDT-1m-2018-04.csv", text_of(kline)),
    "Binance klines in us": ("BTCUSDT-1m-2025-01.csv", text_of(lambda c: [1_000_000 * c[0], *kline(c)[1:]])),
    "Binance klines with header": (
        "a",
        text_of(
            kline,
            "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
            "taker_buy_quote_volume,ignore\n",
        ),
    ),
    "Binance REST": ("a", lambda candles: json.dumps([kline(c) for c in candles])),
    "Kraken": ("BTCUSDT_1.csv", text_of(lambda c: [*c, 12])),
    "Bitfinex REST": ("a", lambda candles: json.dumps([[c[0] * 1_000, c[1], c[4], c[2], c[3], c[5]] for c in candles])),
    "Gate": ("a", text_of(lambda c: [c[0], c[5], c[4], c[2], c[3], c[1]])),
    "KuCoin": ("a", text_of(lambda c: [c[0], c[1], c[4], c[2], c[3], c[5], f"{c[4] * c[5]:.4f}"])),
    "Bybit": ("a", text_of(lambda c: [1_000 * c[0], *c[1:], f"{c[4] * c[5]:.4f}"])),
    "CryptoDataDownload, older": (
        "a",
        text_of(
            lambda c: [iso(c), "BTCUSDT", *c[1:]],
            "https://www.CryptoDataDownload.com\nDate,Symbol,Open,High,Low,Close,Volume BTC\n",
        ),
    ),
}


def columns(batches: Sequence[BarBatch]) -> dict[str, list[float]]:
    names = ("event_time", "open", "high", "low", "close", "volume")
    return {name: np.concatenate([getattr(batch.bars, name) for batch in batches]).tolist() for name in names}


def expected(candles: list[Candle], step_s: int = 60) -> dict[str, list[float]]:
    s, *values = zip(*candles, strict=True)
    return {
        "event_time": [(start + step_s) * NS for start in s],
        **dict(zip(("open", "high", "low", "close", "volume"), map(list, values), strict=True)),
    }


def write(folder: Path, name: str, candles: list[Candle]) -> Path:
    file, text = TEXTS[name]
    path = folder / file
    path.write_text(text(candles))
    return path


@pytest.mark.parametrize("name", TEXTS)
def test_each_venue_gives_the_same_bars(tmp_path: Path, name: str) -> None:
    candles = market()
    batches = list(read_bars(write(tmp_path, name, candles), product_id=PRODUCT))
    assert {(batch.bars.step_s, *batch.bars.keys) for batch in batches} == {(60, StreamKey("", PRODUCT))}
    assert [batch.rejects for batch in batches] == [[]] * len(batches)
    assert columns(batches) == expected(candles)


def test_a_turnover_is_no_number_of_trades(tmp_path: Path) -> None:
    batches = list(read_bars(write(tmp_path, "Bybit", market()), product_id=PRODUCT))
    assert np.isnan(np.concatenate([batch.bars.count for batch in batches])).all()


@pytest.mark.parametrize(
    "header",
    [
        "close_time,open,high,low,close,volume\n",  # ends, where starts are read without a header
        "# downloaded today\nclose_time,open,high,low,close,volume\n",
        "startTime,openPrice,highPrice,lowPrice,closePrice,volume,turnover\n",
    ],
)
def test_rows_below_unknown_names_are_not_read_by_their_form(tmp_path: Path, header: str) -> None:
    row = text_of(lambda c: [*c, 1] if "turnover" in header else c)
    (tmp_path / "a").write_text(header + row(market()))
    with pytest.raises(ValueError, match="holds no trades"):
        read_bars(tmp_path / "a")


def test_times_that_are_not_understood_are_told(tmp_path: Path) -> None:
    text = text_of(lambda c: [iso(c, "%d/%m/%Y"), *c[1:]], "Date,Open,High,Low,Close,Volume\n")
    (tmp_path / "a").write_text(text(market()))
    with pytest.raises(ValueError, match="no time is understood: a time must be a number of s, ms, us or ns since"):
        read_bars(tmp_path / "a")


def test_a_file_without_any_bar_is_an_error(tmp_path: Path) -> None:
    text = text_of(lambda c: [c[0], c[1], c[3], c[2], c[4], c[5]], "time,open,high,low,close,volume\n")
    (tmp_path / "a").write_text(text(market()))  # the columns of high and low are exchanged
    with pytest.raises(ValueError, match="no row is a bar: 50 rows are rejected, reason: high, low, open and close"):
        list(read_bars(tmp_path / "a"))


@pytest.mark.parametrize("is_typed", [True, False])
def test_candles_in_parquet(tmp_path: Path, is_typed: bool) -> None:
    candles = market()
    s, *values = map(list, zip(*candles, strict=True))
    times = pa.array([1_000 * start for start in s], pa.timestamp("ms", "UTC") if is_typed else pa.int64())
    names = ("open", "high", "low", "close", "volume")
    table = pa.table({"timestamp": times, **dict(zip(names, values, strict=True)), "note": pa.array([[1]] * len(s))})
    pyarrow.parquet.write_table(table, tmp_path / "a")
    batches = list(read_bars(tmp_path / "a", product_id=PRODUCT))
    assert columns(batches) == expected(candles)
    assert recognize(tmp_path / "a").unread == ("note",)


def test_a_zip_of_klines_is_read_like_its_file(tmp_path: Path) -> None:
    candles = market()
    path = tmp_path / "BTCUSDT-1m-2018-04.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BTCUSDT-1m-2018-04.csv", TEXTS["Binance klines"][1](candles))
    batches = list(read_bars(path, product_id="ETH-USD"))
    assert (batches[0].bars.keys, columns(batches)) == ((StreamKey("", PRODUCT),), expected(candles))
    assert "the name of the file tells the product BTC-USDT" in recognize(path).name


def test_times_of_twelve_hours(tmp_path: Path) -> None:
    """12-AM is midnight and 12-PM is noon."""
    header = "Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n"
    times = ["2018-04-04 12-AM", "2018-04-04 01-AM", "2018-04-04 11-AM", "2018-04-04 12-PM", "2018-04-04 01-PM"]
    (tmp_path / "a").write_text(header + "".join(f"{time},BTCUSD,100,101,99,100,2,200\n" for time in times))
    (batch,) = read_bars(tmp_path / "a")
    starts = [(time // NS - batch.bars.step_s - MIDNIGHT) // 3_600 for time in batch.bars.event_time.tolist()]
    assert (batch.bars.step_s, starts) == (3_600, [0, 1, 11, 12, 13])


def minutes(folder: Path, starts: Sequence[int], header: str = "time,open,high,low,close,volume\n") -> Path:
    path = folder / "minutes.csv"
    path.write_text(header + "".join(f"{start},100,101,99,100,1\n" for start in starts))
    return path


def test_the_length_is_the_greatest_common_step_of_all_rows(tmp_path: Path) -> None:
    """The commonest step is two minutes; the candles have one minute and end 60 s after their start."""
    quiet = (0, 2, 4, 6, 7, 9, 11, 13, 14, 16)
    (batch,) = read_bars(minutes(tmp_path, [MIDNIGHT + 60 * minute for minute in quiet]))
    assert batch.bars.step_s == 60
    assert [time // NS - MIDNIGHT for time in batch.bars.event_time.tolist()] == [60 * m + 60 for m in quiet]


def test_the_first_rows_do_not_decide_alone(tmp_path: Path) -> None:
    """The first 4,000 rows, more than the head of a file, are two minutes apart."""
    starts = [MIDNIGHT + 120 * i for i in range(4_000)]
    starts += [starts[-1] + 60 * i for i in range(1, 400)]
    assert {batch.bars.step_s for batch in read_bars(minutes(tmp_path, starts))} == {60}


def test_rows_in_us_above_rows_in_ms_have_one_length_and_the_change_is_told(tmp_path: Path) -> None:
    path = minutes(
        tmp_path,
        [1_000_000 * (MIDNIGHT + 60 * i) for i in range(10)] + [1_000 * (MIDNIGHT + 60 * i) for i in range(10, 20)],
    )
    (batch,) = read_bars(path)
    assert (batch.bars.step_s, batch.rejects) == (60, [])
    assert [time // NS - MIDNIGHT for time in batch.bars.event_time.tolist()] == [60 * i + 60 for i in range(20)]
    assert "times in us and ms, each row in its own" in recognize(path).name


def test_rare_wrong_times_are_rejected_and_do_not_change_the_length(tmp_path: Path) -> None:
    starts = [MIDNIGHT + 60 * i for i in range(1_000)]
    starts[500] += 7
    batches = list(read_bars(minutes(tmp_path, starts)))
    assert (batches[0].bars.step_s, sum(len(batch.bars) for batch in batches)) == (60, 999)
    assert [reject.line for batch in batches for reject in batch.rejects] == [502]


@pytest.mark.parametrize(
    "steps",
    [[60, 60, 67, 53, 60], [86_400 * days for days in (31, 28, 31, 30, 31, 30, 31, 31, 30, 31)]],
    ids=["a wrong time", "months"],
)
def test_times_that_do_not_tell_a_length_are_refused(tmp_path: Path, steps: list[int]) -> None:
    starts = MIDNIGHT + np.cumsum([0, *steps])
    with pytest.raises(ValueError, match="whose times do not tell their length"):
        read_bars(minutes(tmp_path, starts.tolist()))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("time,open,high,low,close", "0 columns of volumes"),
        ("time,open,high,low,close,Volume USD", "one volume, 'Volume USD', which is in the quote currency"),
        ("time,open,high,low,close,volume,open", "more than one column 'open'"),
    ],
)
def test_candles_without_a_base_volume_are_refused(tmp_path: Path, header: str, said: str) -> None:
    row = ",".join(["1522800000", "100", "101", "99", "100", "1", "100"][: header.count(",") + 1])
    (tmp_path / "a").write_text(f"{header}\n{row}\n")
    with pytest.raises(ValueError, match=said):
        read_bars(tmp_path / "a")


@pytest.mark.parametrize(("folder", "step_s", "times"), [
    ("hour", 3_600, ["20180404 00:00", "20180404 01:00"]), ("daily", 86_400, ["20180404 00:00", "20180405 00:00"]),
])  # fmt: skip
def test_lean_hours_and_days(tmp_path: Path, folder: str, step_s: int, times: list[str]) -> None:
    path = tmp_path / folder / "btcusd_trade.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("btcusd.csv", "".join(f"{time},100,101,99,100,5\n" for time in times))
    (batch,) = read_bars(path)
    assert (batch.bars.step_s, batch.bars.keys) == (step_s, (StreamKey("", "BTC-USD"),))
    assert [time // NS - MIDNIGHT for time in batch.bars.event_time.tolist()] == [step_s, 2 * step_s]


@pytest.mark.parametrize("name", TEXTS)
def test_no_line_of_a_mutilated_copy_is_lost(tmp_path: Path, name: str) -> None:
    candles = market(12)
    path = write(tmp_path, name, candles)
    content = path.read_bytes()
    skipped = content[:200].count(b"\n", 0, content.find(b"100")) if b"olume" in content else 0
    head = content.find(b"olume") + 1
    rng = random.Random(name)
    for _ in range(40):
        changed = bytearray(content)
        at = rng.randrange(content.find(b"\n", head) + 1 if head else 0, len(changed))
        changed[at : at + rng.choice((0, 1, 2))] = rng.choice((b"", b"x", b'"', b"\n", b",", b"]", b"9"))
        path.write_bytes(changed)
        try:
            batches = list(read_bars(path, product_id=PRODUCT))
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        seen = [i for b in batches for i in b.line.tolist()] + [r.line for b in batches for r in b.rejects]
        if content[:1] != b"[":
            lines = [i for i, line in enumerate(bytes(changed).split(b"\n"), 1) if line.strip(b"\r")]
            assert sorted(seen) == lines[skipped:]
        else:
            assert sorted(seen) == list(range(1, len(seen) + 1))


def test_candles_are_evaluated_on_their_grid_and_a_hole_is_a_segment(tmp_path: Path) -> None:
    """Six hours of minutes with an hour missing: two segments on the grid of 60 s."""
    candles = market(360)
    path = write(tmp_path, "Coinbase with header", candles[:150] + candles[210:])
    history = read_history([path], "BTC-USD")
    assert (history.spec.grid_step_s, history.spec.horizon_s) == (60, 3_600)
    assert sorted(set(history.grid.segment.tolist())) == [0, 1]
    assert history.products == ("BTC-USD",)


def test_hours_are_for_inspection_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "OHLCV", market(10, 3_600))
    with pytest.raises(ValueError, match="bars of 3600 s; bars of 1 s and of 60 s can be evaluated"):
        read_history([path])


def test_a_replay_of_candles_is_refused_and_names_the_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path, "Binance klines", market())
    with pytest.raises(ValueError, match=r"holds bars, not trades .*python -m offline\.evaluation"):
        read_trades(path)


@pytest.mark.parametrize("step_s", [60, 3_600])
@pytest.mark.parametrize("horizon_s", ["60", "3600"])
def test_a_model_of_candles_is_no_served_model(step_s: int, horizon_s: str) -> None:
    """A model is of candles by its feature spec, whatever its horizon, and whatever the rows are that it would score.

    What does not load is never registered: a candidate is loaded.
    """
    spec = FeatureSpec.for_candles(step_s)
    content = model_bytes(spec_id=spec.spec_id, horizon_s=horizon_s)
    for asked in (spec, FeatureSpec()):
        with pytest.raises(ModelRefused, match=f"of candles of {step_s} s .*never registered or served") as refused:
            ServedModel.load(content, spec_id=asked.spec_id)
        assert refused.value.kind == "spec"


def test_the_gate_refuses_a_version_of_candles_in_words() -> None:
    content = model_bytes(spec_id=FeatureSpec.for_candles(60).spec_id, horizon_s="3600")
    registry = cast(Registry, SimpleNamespace(download=lambda *_: content))
    held = Version("volatility-ml", "1", {"digest": hashlib.sha256(content).hexdigest()}, "")
    fetched = fetch_model(registry, held, FeatureSpec())
    assert fetched.model is None
    (loads,) = (each for each in fetched.conditions if not each.is_met)
    assert loads.name == "loads"
    assert "candles of 60 s" in loads.found


def test_rows_above_a_header_are_rows(tmp_path: Path) -> None:
    """As of files that were joined wrongly; a first line that is no row is a comment, other lines are rejects."""
    rows = text_of(lambda c: [iso(c), *c[1:]])(market(6)).splitlines()
    header = "date,open,high,low,close,volume"
    (tmp_path / "rows").write_text("\n".join([*rows[:2], header, *rows[2:]]))
    (tmp_path / "comments").write_text("\n".join(["https://example.org", "of today", header, *rows]))
    found = [list(read_bars(tmp_path / name, product_id=PRODUCT)) for name in ("rows", "comments")]
    assert [columns(each) for each in found] == [expected(market(6))] * 2
    rejects = [[(reject.line, reject.reason) for batch in each for reject in batch.rejects] for each in found]
    assert rejects == [[], [(2, "expected 6 fields, found 1")]]


# Closes of 200 and 400; 3 and 5 units of the base currency, so 600 and 2,000 of the quote currency.
@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("time,open,close,low,high,amount,vol,count", ["200,200,200,200,3,600,7", "400,400,400,400,5,2000,7"]),
        ("date,high,low,open,close,volume,quoteVolume", ["200,200,200,200,600,3", "400,400,400,400,2000,5"]),
        ("time,open,high,low,close,volume,base_volume", ["200,200,200,200,600,3", "400,400,400,400,2000,5"]),
        ("time,open,high,low,close,volume,turnover", ["200,200,200,200,3,600", "400,400,400,400,5,2000"]),
        ("time,open,high,low,close,vol,volCcyQuote", ["200,200,200,200,3,600", "400,400,400,400,5,2000"]),
        ("time,open,high,low,close,volume,turnover", ["200,200,200,200,3,9", "400,400,400,400,5,9"]),
    ],
    ids=["HTX", "Poloniex", "base named", "Bybit", "OKX", "a turnover of something else"],
)
def test_the_numbers_tell_the_base_volume_of_two(tmp_path: Path, header: str, rows: list[str]) -> None:
    (tmp_path / "a").write_text(f"{header}\n{MIDNIGHT},{rows[0]}\n{MIDNIGHT + 60},{rows[1]}\n")
    (batch,) = read_bars(tmp_path / "a")
    assert (batch.bars.volume.tolist(), batch.rejects) == ([3.0, 5.0], [])


@pytest.mark.parametrize(
    "header", ["", "open_time,open,high,low,close,volume,close_time,quote_volume,count,a,b,ignore\n"]
)
def test_klines_of_coin_contracts_have_the_volume_of_the_coin(tmp_path: Path, header: str) -> None:
    """6 contracts of 100 USD at 200 USD are 3 coins, and 20 contracts at 400 USD are 5 coins."""
    rows = ["200,200,200,200,6,1,3,7,1,1,0", "400,400,400,400,20,1,5,7,1,1,0"]
    (tmp_path / "a").write_text(f"{header}{MIDNIGHT}000,{rows[0]}\n{MIDNIGHT + 60}000,{rows[1]}\n")
    (batch,) = read_bars(tmp_path / "a")
    assert batch.bars.volume.tolist() == [3.0, 5.0]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("Adj Close", "Yahoo Finance"),
        ("Dividends", "Yahoo Finance"),
        ("Market Cap", "CoinMarketCap"),
        ("homeNotional,foreignNotional", "BitMEX, whose times are ends"),
    ],
)
def test_candles_of_venues_with_other_volumes_are_refused(tmp_path: Path, column: str, said: str) -> None:
    (tmp_path / "a").write_text(f"Date,Open,High,Low,Close,Volume,{column}\n2025-01-06,1,1,1,1,9,1,1\n")
    with pytest.raises(ValueError, match=said):
        read_bars(tmp_path / "a")


@pytest.mark.parametrize("flags", [("closed", "False", "True"), ("confirm", "0", "1"), ("is_final", "false", "true")])
def test_a_row_that_its_flag_calls_unfinished_is_rejected(tmp_path: Path, flags: tuple[str, str, str]) -> None:
    """Each candle stands there twice: half of its volume before its end, and all."""
    name, no, yes = flags
    starts = [MIDNIGHT, MIDNIGHT + 60]
    text = "".join(f"{s},1,1,1,1,2,{no}\n{s},1,1,1,1,4,{yes}\n" for s in starts)
    (tmp_path / "a").write_text(f"time,open,high,low,close,volume,{name}\n{text}")
    (batch,) = read_bars(tmp_path / "a")
    assert batch.bars.volume.tolist() == [4.0, 4.0]
    assert [(r.line, r.reason) for r in batch.rejects] == [
        (i, f"{name} must be true or 1: another candle is not finished, was {no!r}") for i in (2, 4)
    ]


def test_a_date_of_digits_is_a_day_and_no_number_of_seconds(tmp_path: Path) -> None:
    """20180404 s after 1970 would be a day in August 1970."""
    rows = "".join(f"{day},1,1,1,1,2\n" for day in (20180404, 20180405, 20180406))
    (tmp_path / "a").write_text("date,open,high,low,close,volume\n" + rows)
    (batch,) = read_bars(tmp_path / "a")
    assert batch.bars.step_s == 86_400
    assert [time // NS - MIDNIGHT for time in batch.bars.event_time.tolist()] == [86_400, 2 * 86_400, 3 * 86_400]
    (tmp_path / "a").write_text("date,open,high,low,close,volume\n201804040000,1,1,1,1,2\n201804040001,1,1,1,1,2\n")
    with pytest.raises(ValueError, match="no time is understood"):
        read_bars(tmp_path / "a")
